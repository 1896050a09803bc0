"""The database's schema: which version it has, and how it gets the one that this program needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from nightmill.errors import SchemaOutdated

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

_MIGRATIONS = Path(__file__).parent / "migrations"

_LOCKS_WITHIN = "5s"
_UPGRADE_LOCK = 7_110_415_108_105
"""Key of the PostgreSQL advisory lock of an upgrade; any number that no other program uses there."""


def upgrade(db: Database) -> None:
    """Bring the database to the version that this program needs. Doing it again changes nothing.

    One transaction: it succeeds or leaves no trace. Upgrades at the same time wait for each other.

    Raises:
        StorageUnavailable: The database is away, or another upgrade or a long reader holds it for too long.
        SchemaOutdated: The database is newer than this program.
    """
    if current_revision(db) != head_revision():
        check_known(db)
        with _exclusive(db) as connection:
            command.upgrade(_config(connection), "head")


def check(db: Database) -> None:
    """Make sure that the database has the version that this program needs.

    Raises:
        SchemaOutdated: It has another one; the message says what to do.
        StorageUnavailable: The database is away.
    """
    current, head = current_revision(db), head_revision()
    if current != head:
        check_known(db)
        has = f"has version {current}" if current else "is empty"
        raise SchemaOutdated(f"the database {has}, this program needs {head}: run `nightmill db upgrade`")


def check_known(db: Database) -> None:
    """Make sure that the database was not made by a later release, which `upgrade` could not mend.

    Raises:
        SchemaOutdated: It was.
        StorageUnavailable: The database is away.
    """
    current = current_revision(db)
    if current is not None and current not in {script.revision for script in _scripts().walk_revisions()}:
        raise SchemaOutdated(f"the database has version {current}, of a later release: install that or a newer one")


def current_revision(db: Database) -> str | None:
    """Return the version that the database has, None where it is empty.

    Raises:
        StorageUnavailable: The database is away.
    """
    with db.reading() as session:
        return MigrationContext.configure(session.connection()).get_current_revision()


def head_revision() -> str:
    """Return the version that this program needs."""
    head = _scripts().get_current_head()
    if head is None:
        raise AssertionError("no migrations are installed")
    return head


@contextmanager
def _exclusive(db: Database) -> Iterator[Connection]:
    """Hold a transaction that keeps every other upgrade out."""
    with db.errors_translated():
        if db.dialect == "postgresql":
            with db.engine.begin() as connection:
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_UPGRADE_LOCK,))
                # A change of a table that waits for a long reader, such as a backup, keeps everybody else out of it.
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCKS_WITHIN}'")
                yield connection
            return
        with db.engine.execution_options(nightmill_writes=True).connect() as connection:
            # Alembic rebuilds a table by dropping it, and with foreign keys on that would empty the tables that point
            # to it. SQLite reads this switch outside of transactions only, hence below SQLAlchemy.
            driver = connection.connection.driver_connection
            assert driver is not None  # noqa: S101 - a connection that was just checked out has one
            driver.execute("PRAGMA foreign_keys=OFF")
            try:
                with connection.begin():
                    yield connection
                    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
                    if broken:
                        raise AssertionError(f"a migration leaves {len(broken)} rows that point nowhere")
            finally:
                driver.execute("PRAGMA foreign_keys=ON")


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
