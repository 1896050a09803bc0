"""How everything stands, in numbers: what waits and what is late is counted, what has ended is not looked at."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, text
from sqlmodel import SQLModel

from nightmill.contracts import BatchStatus, SlicingStatus, SyncStatus
from nightmill.storage.document_models import AccountRow, DocumentRow
from nightmill.storage.engine import Database
from nightmill.storage.gauge_reads import MOST, DueDocuments, GaugeReads
from nightmill.storage.models import BatchRow
from nightmill.storage.slicing_models import SlicingRow

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ENDED = {"results_fetched_at": NOW, "handler_dispatched_at": NOW, "status": BatchStatus.ENDED}
_numbers = itertools.count()


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def store(database: Database, *rows: SQLModel) -> None:
    with database.transaction() as session:
        session.add_all(rows)


def batch(**columns: Any) -> BatchRow:
    given: dict[str, Any] = {
        "id": f"b{next(_numbers)}", "provider": "openai", "model": "gpt-x", "poll_schedule": [60.0], "max_age": 3600.0,
        "status": BatchStatus.IN_PROGRESS, "created_at": ago(10),
    }  # fmt: skip
    return BatchRow(**given | columns)


def account(name: str, **columns: Any) -> AccountRow:
    return AccountRow(**{"name": name, "plan": "daily", "created_at": ago(999)} | columns)


def documents(database: Database, **columns: Any) -> DueDocuments:
    """Store a document of the account `acme`, and return how documents stand."""
    with database.transaction() as session:
        row = account("acme")
        session.add(row)
        session.flush()
        session.add(document(row, **columns))
    return due(database)


def document(owner: AccountRow, **columns: Any) -> DocumentRow:
    link = f"https://example.org/{next(_numbers)}"
    given: dict[str, Any] = {
        "id": f"d{next(_numbers)}", "account_key": owner.key, "collection": "c", "external_link": link, "link": link,
        "host": "example.org:443", "created_at": ago(999), "sync_status": SyncStatus.SYNCED, "next_sync_at": ago(30),
    }  # fmt: skip
    return DocumentRow(**given | columns)


def due(database: Database) -> DueDocuments:
    return GaugeReads(database).documents(NOW, has_interval=lambda plan: plan == "daily")


def test_an_empty_database_has_nothing_to_show(database: Database) -> None:
    assert GaugeReads(database).batches() == ({}, {}, None, 0, {})
    assert due(database) == (0, None, {}, 0)
    assert GaugeReads(database).slicings() == {}


def test_batches_that_have_not_ended_are_counted_by_provider_and_status(database: Database) -> None:
    store(
        database,
        batch(created_at=ago(30), next_poll_at=ago(3)),
        batch(created_at=ago(90), next_poll_at=ago(-5), account="acme"),
        batch(status=BatchStatus.CANCELING),
        batch(provider="xai", created_at=ago(7)),
        batch(created_at=ago(9_999), **ENDED),
    )
    found = GaugeReads(database).batches()
    assert found.numbers == {("openai", "in_progress"): 2, ("openai", "canceling"): 1, ("xai", "in_progress"): 1}
    assert found.oldest == {"openai": ago(90), "xai": ago(7)}
    assert found.due == ago(3)


def test_a_batch_whose_handler_was_not_told_has_ended_but_may_need_attention(database: Database) -> None:
    untold = ENDED | {"handler_dispatched_at": None}
    store(
        database,
        batch(needs_attention="handler: 500", next_poll_at=ago(60), **untold),
        batch(needs_attention="no key"),
        batch(),
    )
    found = GaugeReads(database).batches()
    assert found.numbers == {("openai", "in_progress"): 2}
    assert (found.attention, found.due) == (2, None)


def test_the_backlog_of_accounts_is_what_is_not_submitted_yet(database: Database) -> None:
    pending = {"status": BatchStatus.PENDING}
    store(database, *(batch(account=f"a{n}", **pending) for n in range(MOST + 3)))
    store(database, batch(account="a11", **pending), batch(**pending), batch(**pending), batch(**pending))
    store(database, batch(account="busy"))
    waiting = GaugeReads(database).batches().waiting
    assert len(waiting) == MOST
    assert list(waiting.items())[:2] == [(None, 3), ("a11", 2)]


def test_a_status_that_a_later_release_wrote_is_counted_as_it_is(database: Database) -> None:
    store(database, batch())
    with database.transaction() as session:
        session.execute(text("UPDATE batches SET status = 'resting'"))
    assert GaugeReads(database).batches().numbers == {("openai", "resting"): 1}


@pytest.mark.parametrize(
    ("columns", "number"),
    [
        ({}, 1),
        ({"next_sync_at": None, "sync_status": None, "created_at": ago(30)}, 1),
        ({"sync_status": SyncStatus.FAILED}, 1),
        ({"queued_until": ago(-60)}, 1),  # taken by a sweep and still not synced
        ({"next_sync_at": ago(-1)}, 0),
        ({"enabled": False}, 0),
        ({"sync_status": SyncStatus.SYNCING}, 0),
    ],
)
def test_a_document_is_due_when_its_time_has_come_and_nobody_syncs_it(
    database: Database, columns: dict[str, Any], number: int
) -> None:
    found = documents(database, **columns)
    assert (found.number, found.since, found.waiting) == ((1, ago(30), {"acme": 1}) if number else (0, None, {}))


def test_documents_without_a_plan_or_automatic_sync_are_never_due_unless_they_have_an_interval_of_their_own(
    database: Database,
) -> None:
    owners = [account("off", auto_sync=False), account("planless", plan=None), account("odd", plan="whenever")]
    store(database, *owners)
    store(database, *(document(owner) for owner in owners))
    assert due(database).number == 0
    store(database, *(document(owner, interval=3600.0) for owner in owners))
    assert due(database).waiting == {"planless": 1, "odd": 1}


def test_of_many_accounts_the_ones_with_most_due_documents_are_named_and_all_are_counted(database: Database) -> None:
    owners = [account(f"a{n:02}") for n in range(MOST + 5)]
    store(database, *owners)
    store(database, *(document(owner) for n, owner in enumerate(owners) for _ in range(1 + n % 3)))
    store(database, document(owners[0], next_sync_at=ago(600), sync_status=None))
    found = due(database)
    assert (found.number, found.since) == (31, ago(600))
    assert list(found.waiting.values()) == [3, 3, 3, 3, 3, 2, 2, 2, 2, 2]


def test_documents_that_wait_for_a_person_are_counted_whether_or_not_they_are_due(database: Database) -> None:
    assert documents(database, needs_attention="the page is gone", next_sync_at=ago(-60)).attention == 1


def test_slicings_that_are_queued_or_parked_are_counted_by_profile(database: Database) -> None:
    def slicing(number: int, profile: str, status: SlicingStatus) -> SlicingRow:
        return SlicingRow(
            sha256=f"{number:064}", profile=profile, status=status, name="x", source="x", queued_at=NOW, created_at=NOW
        )

    statuses = [(name, status) for name in ("gazette", "outline") for status in SlicingStatus]
    store(database, *(slicing(n, *each) for n, each in enumerate(statuses)))
    assert GaugeReads(database).slicings() == {"gazette": 2, "outline": 2}


def store_many(database: Database, row: BatchRow | DocumentRow, number: int) -> None:
    """Store copies of a row under other names."""
    values = row.model_dump(exclude={"key", "id"})
    unique = [
        {"id": f"copy{n}"} | ({"link": f"https://example.org/copy{n}"} if "link" in values else {})
        for n in range(number)
    ]
    with database.transaction() as session:
        session.connection().execute(insert(type(row)), [values | each for each in unique])


def test_no_look_reads_through_what_has_ended_or_is_not_due(database: Database) -> None:
    """With hundreds of rows, of which few are of interest, every question is answered by an index."""
    store(database, acme := account("acme"))
    store(database, batch(), document(acme, needs_attention="x"))
    store_many(database, batch(**ENDED), 600)
    store_many(database, document(acme, next_sync_at=ago(-60)), 600)
    if database.dialect == "postgresql":
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))
    asked: list[tuple[str, Any]] = []
    if database.dialect == "postgresql":
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))

    @event.listens_for(database.engine, "before_cursor_execute")
    def remember(_c: Any, _cursor: Any, statement: str, values: Any, *_rest: Any) -> None:
        if statement.startswith("SELECT") and "DISTINCT" not in statement:  # plans of accounts: all of them
            asked.append((statement, values))

    GaugeReads(database).batches()
    due(database)
    event.remove(database.engine, "before_cursor_execute", remember)
    assert len(asked) == 3
    explain = "EXPLAIN QUERY PLAN " if database.dialect == "sqlite" else "EXPLAIN "
    with database.engine.connect() as connection:
        plans = [
            str(row[-1]) for one, values in asked for row in connection.exec_driver_sql(explain + one, values).all()
        ]
    whole = ("Seq Scan on batches", "Seq Scan on documents", "SCAN batches", "SCAN documents", "SCAN d")
    assert not [line for line in plans if line.lstrip(" ->").split("  (")[0] in whole], "\n".join(plans)
