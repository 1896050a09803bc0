"""The migrations make what the models say, on both databases, also when several processes upgrade at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect
from sqlmodel import SQLModel

from nightmill.errors import SchemaOutdated, StorageUnavailable
from nightmill.settings import DatabaseSettings
from nightmill.storage import schema
from nightmill.storage.engine import Database, open_database


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/made/on/demand.db"
    server = request.getfixturevalue("postgres")
    url: str = server.url(server.new_database())
    return url


def test_the_migrated_schema_is_what_the_models_say(database: Database) -> None:
    with database.reading() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []
        tables = set(inspect(session.connection()).get_table_names()) - {"alembic_version"}
    assert (
        tables == set(SQLModel.metadata.tables) >= {"batches", "outcomes", "documents", "hosts", "crawls", "slicings"}
    )


def test_each_version_can_be_taken_back(empty_url: str) -> None:
    db = open_database(empty_url, DatabaseSettings())
    schema.upgrade(db)
    with db.engine.execution_options(nightmill_writes=True).begin() as connection:
        command.downgrade(schema._config(connection), "0001")
        assert not {"documents", "hosts"} & set(inspect(connection).get_table_names())
        command.downgrade(schema._config(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
    schema.upgrade(db)
    schema.check(db)
    db.close()


def test_a_missing_schema_is_refused_with_the_command_that_mends_it(empty_url: str) -> None:
    db = open_database(empty_url, DatabaseSettings())
    with pytest.raises(SchemaOutdated, match=r"is empty.*nightmill db upgrade"):
        schema.check(db)
    schema.upgrade(db)
    schema.check(db)
    assert schema.current_revision(db) == schema.head_revision()
    db.close()


def test_a_schema_of_a_later_release_is_left_alone(database: Database) -> None:
    with database.transaction() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for call in (schema.check, schema.upgrade):
        with pytest.raises(SchemaOutdated, match="later release"):
            call(database)


def test_upgrades_at_the_same_time_wait_for_each_other(empty_url: str) -> None:
    databases = [open_database(empty_url, DatabaseSettings()) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(schema.upgrade, db) for db in databases]:
            done.result()
    for db in databases:
        schema.check(db)
        db.close()


def test_an_upgrade_does_not_wait_in_line_behind_a_long_reader(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_LOCKS_WITHIN", "100ms")
    url = postgres.url(postgres.new_database())
    db, reader = (open_database(url, DatabaseSettings()) for _ in range(2))
    schema.upgrade(db)
    with db.engine.begin() as connection:
        command.downgrade(schema._config(connection), "0004")
    with reader.reading() as session:
        session.connection().exec_driver_sql("SELECT count(*) FROM batches")
        with pytest.raises(StorageUnavailable):
            schema.upgrade(db)
    schema.upgrade(db)
    schema.check(db)
    for each in (db, reader):
        each.close()


def test_an_upgrade_leaves_foreign_keys_on_in_sqlite(tmp_path: Path) -> None:
    db = open_database(f"sqlite:///{tmp_path}/fresh.db", DatabaseSettings(pool_size=1))
    schema.upgrade(db)
    with db.reading() as session:
        assert session.connection().exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    db.close()


def test_large_columns_are_compressed_with_lz4_where_the_server_has_it(postgres_url: str) -> None:
    db = open_database(postgres_url, DatabaseSettings())
    with db.reading() as session:
        connection = session.connection()
        query = "SELECT 'lz4' = ANY(enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
        known = connection.exec_driver_sql(query).scalar()
        query = "SELECT attrelid::regclass::text FROM pg_attribute WHERE attcompression = 'l' AND attname IN ("
        query += "'text', 'output', 'tool_calls', 'raw', 'content') ORDER BY 1"
        found = [row[0] for row in connection.exec_driver_sql(query)]
        assert found == (["document_versions", *["outcomes"] * 4] if known else [])
        assert "outcomes" in inspect(connection).get_table_names()
    db.close()
