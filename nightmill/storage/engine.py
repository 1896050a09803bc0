"""A database that several threads and processes use at once: PostgreSQL, or one SQLite file in WAL mode.

What the drivers raise for "not now" leaves here as `StorageUnavailable` or `StorageFull`; the rest is a bug or the
caller's. Drivers are told apart by error code and SQLSTATE, never by text.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session

from nightmill.errors import NotConfigured, StorageFull, StorageUnavailable

if TYPE_CHECKING:
    from nightmill.settings import DatabaseSettings

_WRITES = {"nightmill_writes": True}
_DURABLE = {"nightmill_durable": True}

# Primary result codes (sqlite.org/rescode.html): the file is locked, out of reach, read-only or failing right now.
_SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
# postgresql.org/docs/18/errcodes-appendix.html: connection exceptions, serialization, resources, operator intervention,
# system errors; and a standby after a failover (25006), a lock not to be had (55P03).
_POSTGRES_AWAY = ("08", "40", "53", "57", "58", "25006", "55P03")
_POSTGRES_FULL = "53100"


class Database:
    """One database. Any thread may use it; each transaction belongs to one thread. Made by `open_database`.

    Attributes:
        dialect: `sqlite` or `postgresql`.
        engine: SQLAlchemy's engine, for migrations.
    """

    def __init__(self, engine: Engine, settings: DatabaseSettings) -> None:
        self.engine = engine
        self.dialect: Literal["sqlite", "postgresql"] = "sqlite" if engine.dialect.name == "sqlite" else "postgresql"
        self._name = _shown(engine.url)
        self._patience = settings.busy_timeout
        # SQLite's own busy handler sleeps and tries again, which starves some of many threads; a lock wakes one.
        self._writer = threading.Lock() if self.dialect == "sqlite" else None
        self._writing = engine.execution_options(**_WRITES)
        self._reading = engine
        if self.dialect == "postgresql":
            self._reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[Session]:
        """Open a session that writes: the end of the block commits everything, an exception keeps nothing.

        SQLite takes its write lock at the first statement, so that a transaction never fails half-way for another one.

        Args:
            durable: Whether it outlives a power cut that comes right after it, with all that was written before. On
                PostgreSQL every one does, on SQLite others may not.

        Raises:
            StorageUnavailable: The database is away, locked, or has no connection left.
            StorageFull: No space is left; nothing of this transaction was kept.
        """
        engine = self._writing.execution_options(**_DURABLE) if durable else self._writing
        with self.errors_translated(), self._turn(), Session(engine, expire_on_commit=False) as session:
            yield session
            session.commit()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a session that sees one moment's state and must not write. Rows stay usable afterwards.

        Raises:
            StorageUnavailable: The database is away, locked, or has no connection left.
        """
        with self.errors_translated(), Session(self._reading, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def errors_translated(self) -> Iterator[None]:
        """Turn what the drivers raise for "not now" into `StorageUnavailable` or `StorageFull`."""
        try:
            yield
        except PoolTimeout as error:
            raise StorageUnavailable(f"{self._name}: every connection of the pool is in use") from error
        except (DBAPIError, sqlite3.Error, psycopg.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            kind = means_later(error)
            if kind is None:
                raise
            raise kind(f"{self._name}: {_first_line(cause)}") from error

    def close(self) -> None:
        """Close all connections that are not in use. Calling it again does nothing."""
        self.engine.dispose()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for this process's turn to write."""
        if self._writer is None:
            yield
            return
        if not self._writer.acquire(timeout=self._patience.total_seconds()):
            raise StorageUnavailable(f"{self._name}: another thread has been writing for {self._patience}")
        try:
            yield
        finally:
            self._writer.release()


def open_database(url: str, settings: DatabaseSettings) -> Database:
    """Return the database at `sqlite:///FILE` or `postgresql://…`, without connecting yet.

    The folder of a SQLite file is made if there is none. The schema is not touched: see `nightmill.storage.schema`.

    Raises:
        NotConfigured: The URL cannot be used.
        StorageUnavailable: The folder cannot be made.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The text is not shown: what cannot be read may still hold a password.
        raise NotConfigured("database_url: use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return Database(_sqlite_engine(parsed, settings), settings)
    if backend == "postgresql":
        return Database(_postgres_engine(parsed, settings), settings)
    raise NotConfigured(f"database_url: {backend} is not supported, use sqlite:///FILE or postgresql://…")


def _sqlite_engine(url: URL, settings: DatabaseSettings) -> Engine:
    if not url.database or url.database == ":memory:":
        raise NotConfigured("database_url: sqlite needs a file, as in sqlite:///nightmill.db")
    path = Path(url.database)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageUnavailable(f"database folder {path.parent}: {error.strerror}") from error
    engine = create_engine(
        url.set(drivername="sqlite"),
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_timeout.total_seconds(),
        connect_args={"timeout": settings.busy_timeout.total_seconds(), "isolation_level": None},
        hide_parameters=True,  # parameters are prompts and answers, and an exception ends up in logs
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        # Rows of 2 KB waste and spill less on large pages: a third less CPU. A file that exists keeps its size.
        connection.execute("PRAGMA page_size=16384")
        connection.execute("PRAGMA cache_size=-8000")  # 8 MB a connection
        _switch_to_wal(connection, settings.busy_timeout.total_seconds())
        # NORMAL: a power cut may lose the last commits but never corrupts. Every step here can be done again, but one.
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # The driver would begin before the first write only, and a reader that turns writer can fail at once.
        options = connection.get_execution_options()
        level = "FULL" if options.get("nightmill_durable", False) else "NORMAL"
        if connection.info.setdefault("synchronous", "NORMAL") != level:
            connection.exec_driver_sql(f"PRAGMA synchronous={level}")
            connection.info["synchronous"] = level
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("nightmill_writes", False) else "BEGIN")

    return engine


def _switch_to_wal(connection: sqlite3.Connection, patience: float) -> None:
    """Switch to WAL; nothing changes where the file is in that mode already.

    While two processes make the same file, SQLite refuses the switch at once instead of waiting as it does elsewhere.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _postgres_engine(url: URL, settings: DatabaseSettings) -> Engine:
    patience = settings.connect_timeout.total_seconds()
    network: dict[str, Any] = {
        "connect_timeout": max(1, int(patience)),
        # A peer that vanished without a word is noticed after 30 + 3 * 10 s of silence, or as soon as data stays
        # unacknowledged for the network timeout.
        "keepalives": 1,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": int(patience * 1000),
        "application_name": "nightmill",
    }
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_timeout.total_seconds(),
        pool_pre_ping=True,
        # Prepared statements break behind a pooler that shares connections between transactions.
        connect_args={k: v for k, v in network.items() if k not in url.query} | {"prepare_threshold": None},
        hide_parameters=True,
    )


def means_later(error: BaseException | None) -> type[StorageUnavailable] | None:
    """Return what an error of SQLAlchemy or of a driver means, None for everything that trying again does not mend."""
    if isinstance(error, DBAPIError):
        error = error.orig
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
        if code == sqlite3.SQLITE_FULL:
            return StorageFull
        return StorageUnavailable if code in _SQLITE_AWAY else None
    if isinstance(error, psycopg.Error):
        state = error.sqlstate
        if state == _POSTGRES_FULL:
            return StorageFull
        if state is not None:
            return StorageUnavailable if state.startswith(_POSTGRES_AWAY) else None
        # Without SQLSTATE the server did not speak: the connection is lost or was never made.
        return StorageUnavailable if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) else None
    return None


def _shown(url: URL) -> str:
    """Return where the database is, without user, password or options."""
    if url.get_backend_name() == "sqlite":
        return f"database {url.database}"
    return f"database {url.host or url.query.get('host') or 'localhost'}/{url.database}"


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
