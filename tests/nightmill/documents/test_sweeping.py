"""The sweep over many accounts: fair, capped, and quick enough for ten thousand documents."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import bindparam, insert, text

from nightmill.contracts import SweepTaken, SyncStatus, TakeInput
from nightmill.documents.sweeping import Sweeper
from nightmill.errors import AccountNotFound
from nightmill.settings import DocumentSettings
from nightmill.storage.accounts import AccountRepository
from nightmill.storage.columns import UtcDateTime
from nightmill.storage.document_models import DocumentRow
from nightmill.storage.documents import DocumentRepository
from nightmill.storage.engine import Database
from nightmill.storage.sweeps import SweepRepository

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def at(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


def sweeper(database: Database, **settings: Any) -> Sweeper:
    return Sweeper(SweepRepository(database), DocumentSettings.model_validate(settings))


def add(database: Database, account: str, documents: int, *, plan: str | None = "daily", **columns: Any) -> None:
    row = AccountRepository(database).add(account, plan, now=NOON)
    some = DocumentRow(account_key=row.key or 0, collection="help", host="h", created_at=NOON, **columns)
    given = {name: value for name, value in some.model_dump(exclude={"key"}).items() if value is not None}
    values = [
        given | dict.fromkeys(("id", "link", "external_link"), f"{account}-{number:05}") for number in range(documents)
    ]
    with database.transaction() as session:
        session.connection().execute(insert(DocumentRow), values)


def ids(found: Sweeper, sweep_id: str, count: int = 100_000) -> list[str]:
    return [pick.document_id for pick in found.picks(sweep_id, first=0, count=count, now=NOON)]


def test_ten_thousand_documents_of_one_account_do_not_starve_a_hundred_and_fifty_small_ones(database: Database) -> None:
    add(database, "huge", 10_000, plan="hourly")
    for number in range(150):
        add(database, f"small{number:03}", 5)
    found = sweeper(database)
    taken = found.take(TakeInput(sweep_id="s1"), now=NOON)
    assert taken == SweepTaken(
        accounts_scanned=151,
        accounts_enabled=151,
        accounts_scheduled=151,
        taken=800,
        capacity_left=200,
        cap_hit=True,
    )
    accounts = [document_id.partition("-")[0] for document_id in ids(found, "s1")]
    assert Counter(accounts) == {"huge": 50, **{f"small{number:03}": 5 for number in range(150)}}
    assert len(set(accounts[:151])) == 151
    assert [each for each in ids(found, "s1") if each.startswith("huge")] == [f"huge-{n:05}" for n in range(50)]
    again = found.take(TakeInput(sweep_id="s2"), now=at(1))
    assert (again.taken, again.accounts_scheduled, again.cap_hit) == (50, 1, True)
    assert ids(found, "s2")[0] == "huge-00050"


def test_limits_hold_and_what_is_left_is_said(database: Database) -> None:
    for name in "abc":
        add(database, name, 4)
    found = sweeper(database, account_limit=2, sweep_limit=100)
    taken = found.take(TakeInput(sweep_id="s1", limit=5), now=NOON)
    assert (taken.taken, taken.capacity_left, taken.cap_hit) == (5, 0, True)
    assert ids(found, "s1") == ["a-00000", "b-00000", "c-00000", "a-00001", "b-00001"]
    rest = found.take(TakeInput(sweep_id="s2", account="c"), now=at(0.1))
    assert (rest.accounts_scanned, rest.taken, rest.capacity_left, rest.cap_hit) == (1, 2, 98, True)
    last = found.take(TakeInput(sweep_id="s3", account="c"), now=at(0.2))
    assert (last.taken, last.cap_hit) == (1, False)
    with pytest.raises(AccountNotFound):
        found.take(TakeInput(sweep_id="s4", account="nobody"), now=NOON)


def test_accounts_are_counted_with_and_without_automatic_sync(database: Database) -> None:
    add(database, "planned", 1, plan="DAILY")
    add(database, "unplanned", 1, plan=None)
    add(database, "unknown", 1, plan="enterprise")
    add(database, "off", 1)
    AccountRepository(database).add("off", "daily", auto_sync=False, now=NOON)
    found = sweeper(database)
    taken = found.take(TakeInput(sweep_id="s1"), now=NOON)
    assert (taken.accounts_scanned, taken.accounts_enabled, taken.accounts_scheduled) == (4, 1, 1)
    assert ids(found, "s1") == ["planned-00000"]


def test_what_is_due_before_the_next_sweep_is_taken_with_a_delay_where_there_is_room(database: Database) -> None:
    add(database, "ahead", 3, plan="hourly", sync_status=SyncStatus.SYNCED, next_sync_at=at(0.75))
    add(database, "due", 3, sync_status=SyncStatus.SYNCED, next_sync_at=at(-1))
    found = sweeper(database)
    taken = found.take(TakeInput(sweep_id="s1", limit=5), now=NOON)
    assert (taken.taken, taken.cap_hit) == (5, False)
    picks = found.picks("s1", first=0, count=10, now=at(0.25))
    assert [(pick.account, pick.delay, pick.weight) for pick in picks] == [
        *[("due", timedelta(0), 2.0)] * 3,
        *[("ahead", timedelta(hours=0.5), 4.0)] * 2,
    ]
    assert found.picks("s1", first=4, count=10, now=at(9))[0].delay == timedelta(0)


def test_the_limit_of_an_account_holds_for_what_is_due_and_ahead_together(database: Database) -> None:
    add(database, "acme", 3)
    with database.transaction() as session:
        statement = text("UPDATE documents SET sync_status = 'synced', next_sync_at = :soon WHERE id <> 'acme-00002'")
        soon = bindparam("soon", at(0.5), type_=UtcDateTime())
        session.connection().execute(statement.bindparams(soon))
    found = sweeper(database, account_limit=2)
    assert found.take(TakeInput(sweep_id="s1"), now=NOON).taken == 2
    assert ids(found, "s1") == ["acme-00002", "acme-00000"]


def test_a_plan_that_gets_another_interval_moves_its_documents(database: Database) -> None:
    add(database, "acme", 2, sync_status=SyncStatus.SYNCED, last_sync_attempted_at=at(-3), last_synced_at=at(-3))
    add(database, "fails", 1, sync_status=SyncStatus.FAILED, last_sync_attempted_at=at(-3), consecutive_failures=3)
    plans = {"daily": {"interval": "P1D"}}
    found = sweeper(database, plans=plans)
    assert found.take(TakeInput(sweep_id="s1"), now=NOON).taken == 0
    documents = DocumentRepository(database)
    assert documents.get("acme-00000").row.next_sync_at == at(21)
    assert documents.get("fails-00000").row.next_sync_at == at(-3 + 4 * 24)
    quicker = sweeper(database, plans={"daily": {"interval": "PT2H"}})
    assert quicker.take(TakeInput(sweep_id="s2"), now=NOON).taken == 2
    with database.transaction() as session:
        session.connection().execute(text("UPDATE documents SET next_sync_at = NULL, queued_until = NULL"))
    assert quicker.take(TakeInput(sweep_id="s3"), now=NOON).taken == 3  # nothing is computed without a change


def test_documents_that_are_synced_already_are_passed_by_until_they_are_not(database: Database) -> None:
    add(database, "acme", 3)
    found = sweeper(database)
    found.take(TakeInput(sweep_id="s1"), now=NOON)
    found.settle(["acme-00001"])
    assert ids(found, "s1") == ["acme-00000", "acme-00002"]
    found.give_back(["acme-00002"])
    assert found.take(TakeInput(sweep_id="s2"), now=at(1)).taken == 1
    assert found.take(TakeInput(sweep_id="s3"), now=at(2)).taken == 2
