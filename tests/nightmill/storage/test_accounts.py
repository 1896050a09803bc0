"""Accounts are made once a name, and what they have is counted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from nightmill.contracts import SyncStatus
from nightmill.errors import AccountNotFound, InvalidInput
from nightmill.storage.accounts import AccountRepository
from nightmill.storage.engine import Database

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def test_a_second_call_changes_the_account_that_is_there(database: Database, given: Any) -> None:
    accounts = AccountRepository(database)
    first = accounts.add("acme", "daily", change_handler=given.handler, now=NOW)
    second = accounts.add("acme", "Weekly", auto_sync=False, now=NOW)
    assert (second.key, second.plan, second.auto_sync, second.change_handler) == (first.key, "Weekly", False, None)
    assert first.change_handler == {"kind": "webhook", "url": "https://host.example/changes", "on": []}
    assert [row.name for row in accounts.all()] == ["acme"]
    assert accounts.get("acme").created_at == NOW


def test_a_handler_that_is_not_there_is_null_in_sql(database: Database) -> None:
    AccountRepository(database).add("acme", None, now=NOW)
    with database.reading() as session:
        query = text("SELECT count(*) FROM accounts WHERE change_handler IS NULL")
        assert session.connection().execute(query).scalar() == 1


def test_an_account_that_is_not_there_is_an_error_that_says_how_to_make_one(database: Database) -> None:
    with pytest.raises(AccountNotFound, match="nightmill account add"):
        AccountRepository(database).get("nobody\0")


@pytest.mark.parametrize("name", ["", "x" * 65, "two\nlines"])
def test_a_name_that_cannot_be_used_is_refused_alike_on_both_databases(database: Database, name: str) -> None:
    with pytest.raises(InvalidInput):
        AccountRepository(database).add(name, "daily", now=NOW)
    with pytest.raises(InvalidInput, match="at most 64"):
        AccountRepository(database).add("acme", "p" * 65, now=NOW)


def test_documents_are_counted_by_account_and_status(database: Database, add_document: Any) -> None:
    AccountRepository(database).add("empty", None, now=NOW)
    for number in range(3):
        add_document(f"d{number}")
    add_document("other", account="other")
    with database.transaction() as session:
        session.connection().execute(text("UPDATE documents SET sync_status = 'synced' WHERE id IN ('d0', 'd1')"))
    assert AccountRepository(database).counts() == {
        "acme": {SyncStatus.SYNCED: 2, None: 1},
        "empty": {},
        "other": {None: 1},
    }
