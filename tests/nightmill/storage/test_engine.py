"""The database says "not now" in one way, whatever the driver raised, and works again afterwards."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from nightmill.errors import NotConfigured, StorageFull, StorageUnavailable
from nightmill.settings import DatabaseSettings
from nightmill.storage.engine import Database, open_database

IMPATIENT = DatabaseSettings(
    pool_size=2,
    pool_timeout=timedelta(milliseconds=200),
    connect_timeout=timedelta(seconds=2),
    busy_timeout=timedelta(milliseconds=300),
)


@pytest.fixture
def impatient(database_url: str) -> Iterator[Database]:
    db = open_database(database_url, IMPATIENT)
    with db.transaction() as session:
        session.connection().execute(text("CREATE TABLE notes (word VARCHAR(20) PRIMARY KEY)"))
    yield db
    db.close()


def add(db: Database, word: str) -> None:
    with db.transaction() as session:
        session.connection().execute(text("INSERT INTO notes VALUES (:word)"), {"word": word})


def words(db: Database) -> set[str]:
    with db.reading() as session:
        return set(session.connection().execute(text("SELECT word FROM notes")).scalars())


def test_a_transaction_is_kept_whole_or_not_at_all(impatient: Database) -> None:
    add(impatient, "one")

    def half_way() -> None:
        with impatient.transaction() as session:
            session.connection().execute(text("INSERT INTO notes VALUES ('two')"))
            raise KeyError("stop")

    with pytest.raises(KeyError):
        half_way()
    assert words(impatient) == {"one"}


def test_an_error_that_time_does_not_mend_stays_what_it_is_and_shows_no_values(impatient: Database) -> None:
    add(impatient, "secret-prompt")
    with pytest.raises(IntegrityError) as caught:
        add(impatient, "secret-prompt")
    assert "[parameters" not in str(caught.value)


def test_a_reader_sees_one_moment_only(impatient: Database) -> None:
    with impatient.reading() as session:
        count = text("SELECT count(*) FROM notes")
        before = session.connection().execute(count).scalar()
        add(impatient, "meanwhile")
        assert session.connection().execute(count).scalar() == before
    assert words(impatient) == {"meanwhile"}


def test_an_exhausted_pool_is_transient(impatient: Database) -> None:
    with impatient.reading() as first, impatient.reading() as second:
        first.connection()
        second.connection()
        with pytest.raises(StorageUnavailable, match="every connection"):
            words(impatient)
    assert words(impatient) == set()


def test_many_threads_write_one_after_another(database_url: str) -> None:
    settings = DatabaseSettings(pool_size=4)
    db = open_database(database_url, settings)
    with db.transaction() as session:
        session.connection().execute(text("CREATE TABLE counter (number INTEGER)"))
        session.connection().execute(text("INSERT INTO counter VALUES (0)"))

    def count() -> None:
        for _ in range(25):
            with db.transaction() as session:
                session.connection().execute(text("UPDATE counter SET number = number + 1"))

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with db.reading() as session:
        assert session.connection().execute(text("SELECT number FROM counter")).scalar() == 200
    db.close()


def test_a_durable_sqlite_transaction_is_on_the_disk_when_it_ends_and_others_may_not_be(sqlite_url: str) -> None:
    db = open_database(sqlite_url, IMPATIENT)
    levels = []
    for durable in (False, True, True, False):
        with db.transaction(durable=durable) as session:
            levels.append(session.connection().exec_driver_sql("PRAGMA synchronous").scalar_one())
    with db.reading() as session:
        levels.append(session.connection().exec_driver_sql("PRAGMA synchronous").scalar_one())
    db.close()
    assert levels == [1, 2, 2, 1, 1]


def test_a_locked_sqlite_file_is_transient_and_free_again_later(sqlite_url: str) -> None:
    db = open_database(sqlite_url, IMPATIENT)
    with db.transaction() as session:
        session.connection().execute(text("CREATE TABLE notes (word TEXT)"))
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageUnavailable, match="locked"):
        add(db, "one")
    assert words(db) == set()  # readers go on
    other.execute("ROLLBACK")
    other.close()
    add(db, "one")
    assert words(db) == {"one"}
    db.close()


def test_a_full_disk_is_told_apart_and_the_file_stays_whole(sqlite_url: str) -> None:
    db = open_database(sqlite_url, IMPATIENT)
    with db.transaction() as session:
        connection = session.connection()
        connection.execute(text("CREATE TABLE notes (word TEXT)"))
    with db.reading() as session:
        pages = session.connection().exec_driver_sql("PRAGMA page_count").scalar()

    def grow(limit: Any) -> None:
        with db.transaction() as session:
            session.connection().exec_driver_sql(f"PRAGMA max_page_count = {limit}")
            session.connection().execute(text("INSERT INTO notes VALUES (:word)"), {"word": "x" * 1_000_000})

    with pytest.raises(StorageFull, match="full"):
        grow(pages)
    grow(pages * 1000)
    assert words(db) == {"x" * 1_000_000}
    db.close()


def test_a_really_full_disk_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    """A process whose files must not grow over 256 KiB stands for a full disk, without being root."""
    script = """
import resource, sys
from sqlalchemy import text
from nightmill.errors import StorageUnavailable
from nightmill.settings import DatabaseSettings
from nightmill.storage.engine import open_database
db = open_database(sys.argv[1], DatabaseSettings())
with db.transaction() as session:
    session.connection().execute(text("CREATE TABLE notes (word TEXT)"))
resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, resource.RLIM_INFINITY))
kept = 0
try:
    while True:
        with db.transaction() as session:
            session.connection().execute(text("INSERT INTO notes VALUES (:word)"), {"word": "x" * 20_000})
        kept += 1
except StorageUnavailable as error:
    print(type(error).__name__)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
with db.transaction() as session:
    session.connection().execute(text("INSERT INTO notes VALUES ('again')"))
with db.reading() as session:
    connection = session.connection()
    assert connection.execute(text("SELECT count(*) FROM notes")).scalar() == kept + 1 > 1
    assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
"""
    command = [sys.executable, "-c", script, f"sqlite:///{tmp_path}/small.db"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {"StorageUnavailable", "StorageFull"}


def test_a_restarted_postgresql_is_transient_and_back_afterwards(postgres: Any, postgres_url: str) -> None:
    db = open_database(postgres_url, IMPATIENT)
    with db.transaction() as session:
        session.connection().execute(text("CREATE TABLE notes (word TEXT)"))
    add(db, "before")

    def interrupted() -> None:
        with db.transaction() as session:
            session.connection().execute(text("INSERT INTO notes VALUES ('lost')"))
            postgres.crash()
            session.connection().execute(text("INSERT INTO notes VALUES ('never')"))

    with pytest.raises(StorageUnavailable):
        interrupted()
    with pytest.raises(StorageUnavailable):
        words(db)
    postgres.start()
    add(db, "after")  # the pool notices that its connections are dead
    assert words(db) == {"before", "after"}
    db.close()


def test_no_password_is_ever_shown() -> None:
    db = open_database("postgresql://user:hunter2@127.0.0.1:1/name", IMPATIENT)
    with pytest.raises(StorageUnavailable) as caught, db.reading() as session:
        session.connection()
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "127.0.0.1/name" in str(caught.value)
    db.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://u:hunter2@h/d", "no url: hunter2", ""])
def test_a_url_that_cannot_be_used_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(NotConfigured, match="database_url") as caught:
        open_database(url, IMPATIENT)
    assert "hunter2" not in str(caught.value)
