"""What is late is found, page by page, and what has ended or is not late costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, inspect

from nightmill.contracts import TERMINAL, BatchStatus, Subject
from nightmill.recovery.model import Candidate
from nightmill.storage.candidates import CandidateReads
from nightmill.storage.engine import Database
from nightmill.storage.models import BatchRow, ProviderBatchRow

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
GRACE = timedelta(minutes=5)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

Add = Callable[..., int]


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


@pytest.fixture
def add(database: Database) -> Add:
    """Stores a batch, ten hours old and in progress, and a provider batch for each given dict; returns its key."""

    def store(batch_id: str, *parts: dict[str, Any], **columns: Any) -> int:
        given: dict[str, Any] = {"status": BatchStatus.IN_PROGRESS, "created_at": ago(600), "max_age": 3600.0} | columns
        batch = BatchRow(id=batch_id, provider="openai", model="gpt-x", poll_schedule=[60.0], **given)
        with database.transaction() as session:
            session.add(batch)
            session.flush()
            for number, part in enumerate(parts):
                values: dict[str, Any] = {"part": number, "first": 0, "last": 0, "requests": 1, "bytes": 1} | part
                session.add(ProviderBatchRow(batch_key=batch.key or 0, provider="openai", model="gpt-x", **values))
        return batch.key or 0

    return store


def late(database: Database, *, after: str | None = None, limit: int = 100) -> list[Candidate]:
    reads = CandidateReads(database)
    return reads.batches(after=after, limit=limit, now=NOW, grace=GRACE, pending_ttl=7 * DAY)


def expired(database: Database, *, after: str | None = None, limit: int = 100) -> list[Candidate]:
    return CandidateReads(database).past_deadline(after=after, limit=limit, now=NOW, expiry_margin=HOUR)


def late_parts(database: Database, *, after: str | None = None, limit: int = 100) -> list[Candidate]:
    return CandidateReads(database).parts(after=after, limit=limit, now=NOW, grace=GRACE)


def ids(found: list[Candidate]) -> list[str]:
    return [candidate.id for candidate in found]


SUBMITTED = {"provider_batch_id": "pb1", "create_sent_at": ago(60), "submitted_at": ago(60)}


def test_a_batch_is_late_when_its_poll_is_by_more_than_the_grace(database: Database, add: Add) -> None:
    add("due", next_poll_at=ago(4.9))
    key = add("late", {"next_poll_at": ago(5.1), "status": BatchStatus.IN_PROGRESS} | SUBMITTED, next_poll_at=ago(5.1))
    add("planned", next_poll_at=NOW + HOUR)
    (found,) = late(database)
    assert found == Candidate(
        subject=Subject.BATCH,
        id="late",
        workflow_id="batch/late",
        after=str(key),
        due_at=ago(5.1),
        asked_at=ago(600),
        submitted=True,
        deadline=NOW,
        facts={
            "status": "in_progress",
            "next_poll_at": ago(5.1).isoformat(),
            "provider_batch_id": "pb1",
            "provider": "openai",
            "model": "gpt-x",
        },
    )


@pytest.mark.parametrize(
    ("columns", "calls"),
    [
        ({"completion_handler": {"kind": "activity"}, "dispatches": 1}, True),
        ({"completion_handler": {"kind": "activity"}, "dispatches": 0}, False),
        ({"completion_handler": {"kind": "webhook"}, "dispatches": 1}, False),
        ({"completion_handler": None}, False),
    ],
)
def test_a_handler_that_was_called_may_be_at_work_if_it_is_an_activity(
    database: Database, add: Add, columns: dict[str, Any], calls: bool
) -> None:
    add("told", status=BatchStatus.ENDED, ended_at=ago(30), results_fetched_at=ago(30), **columns)
    (found,) = late(database)
    assert (found.calls_host, found.ended_at) == (calls, ago(30))


def test_a_batch_with_nothing_planned_is_late_since_it_was_made(database: Database, add: Add) -> None:
    add("new", created_at=ago(4.9), status=BatchStatus.PENDING)
    add("old", created_at=ago(5.1), status=BatchStatus.PENDING)
    add("canceling", {}, created_at=ago(5.1), status=BatchStatus.CANCELING)
    found = late(database)
    assert ids(found) == ["old", "canceling"]
    assert [(each.due_at, each.asked_at, each.submitted, each.deadline) for each in found] == [
        (None, ago(5.1), False, None)
    ] * 2


def test_a_batch_whose_last_part_was_settled_just_now_is_about_to_go_on(database: Database, add: Add) -> None:
    add("closing", {"settled_at": ago(300)}, {"settled_at": ago(4.9)})
    add("stuck", {"settled_at": ago(300)}, {"settled_at": ago(5.1)})
    assert ids(late(database)) == ["stuck"]


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_batch_that_has_ended_is_late_while_a_gate_is_open(database: Database, add: Add, status: BatchStatus) -> None:
    ended = {"status": status, "ended_at": ago(6)}
    add("told", **ended, results_fetched_at=ago(6), handler_dispatched_at=ago(6))
    add("just ended", status=status, ended_at=ago(4), results_fetched_at=ago(4))
    add("untold", **ended, results_fetched_at=ago(6))
    add("without results", **ended, handler_dispatched_at=ago(6))
    found = late(database)
    assert ids(found) == ["untold", "without results"]
    assert all(each.terminal and each.due_at is None for each in found)


def test_a_batch_is_too_old_where_nothing_of_it_was_ever_submitted(database: Database, add: Add) -> None:
    old = {"created_at": NOW - 7 * DAY - MINUTE, "status": BatchStatus.PENDING}
    add("waits", {}, **old | {"created_at": NOW - 7 * DAY + MINUTE})
    add("too old", {}, **old)
    add("too old, without a plan", **old)
    add("created", {}, {"create_sent_at": ago(9_000), "settled_at": ago(8_000)}, **old)
    add("submitted", SUBMITTED, **old | {"status": BatchStatus.SUBMITTED})
    found = {candidate.id: candidate for candidate in late(database)}
    assert [name for name, each in found.items() if each.too_old] == ["too old", "too old, without a plan"]
    assert [name for name, each in found.items() if each.submitted] == ["created", "submitted"]


def test_what_waits_for_an_operator_says_so_for_the_batch_or_a_part(database: Database, add: Add) -> None:
    add("batch", needs_attention="the handler fails")
    add("part", {}, {"attention": "no key"}, {"attention": "once", "settled_at": ago(99)})
    add("neither", {"attention": "once", "settled_at": ago(99)})
    assert [each.attention for each in late(database)] == ["the handler fails", "no key", None]


def test_the_deadline_is_that_of_the_part_that_was_submitted_last(database: Database, add: Add) -> None:
    parts = [
        {"submitted_at": ago(70)},
        {"submitted_at": ago(50), "provider_batch_id": "p2"},
        {"submitted_at": ago(10), "settled_at": ago(9), "provider_batch_id": "p3"},
        {},
    ]
    add("some", *parts, next_poll_at=ago(6))
    (found,) = late(database)
    assert found.deadline == NOW + timedelta(minutes=10)
    assert found.facts["provider_batch_id"] == "p2"


def test_parts_are_late_by_themselves_where_their_round_has_several(database: Database, add: Add) -> None:
    overdue = {"next_poll_at": ago(6), **SUBMITTED}
    add("one", overdue)
    add(
        "several",
        overdue | {"provider_batch_id": "s0", "attention": "no key"},
        {"next_poll_at": ago(4), "provider_batch_id": "s1"},
        overdue | {"provider_batch_id": "s2", "settled_at": ago(1)},
        {},
    )
    add("past round", overdue | {"provider_batch_id": "r0"}, {}, *({"round": 1, "part": n} for n in (0, 1)), round=1)
    add("ended", overdue | {"provider_batch_id": "e0"}, {}, status=BatchStatus.FAILED)
    (found,) = late_parts(database)
    assert (found.subject, found.id, found.workflow_id) == (Subject.PART, "several/0/0", "batch/several/0/0")
    assert (found.due_at, found.asked_at, found.deadline) == (ago(6), ago(600), NOW)
    assert (found.attention, found.submitted, found.facts["provider_batch_id"]) == ("no key", True, "s0")


def test_a_batch_is_past_its_deadline_when_a_part_is_by_more_than_the_margin(database: Database, add: Add) -> None:
    past, within = {"submitted_at": ago(120.1)}, {"submitted_at": ago(119.9)}
    add("past", within, past)
    add("within the margin", within)
    add("settled", past | {"settled_at": ago(1)}, within)
    add("longer", past, max_age=7_210.0)
    add("to the second", {"submitted_at": ago(120) - timedelta(milliseconds=100)})
    add("not submitted", {})
    add("ended", past, status=BatchStatus.EXPIRED)
    found = expired(database)
    assert ids(found) == ["past", "to the second"]
    assert [each.deadline for each in found] == [ago(59.9), ago(60) - timedelta(milliseconds=100)]
    assert not any(each.too_old for each in found)


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ({"needs_attention": "a key"}, False),
        ({"next_poll_at": ago(-1)}, True),
        ({"status": BatchStatus.ENDED}, True),
        ({"results_fetched_at": NOW, "handler_dispatched_at": NOW}, True),
    ],
)
def test_it_is_noticed_when_a_batch_goes_on_while_it_is_looked_at(
    database: Database, add: Add, change: dict[str, Any], moved: bool
) -> None:
    key = add("a", {"next_poll_at": ago(9)}, {"next_poll_at": ago(9)}, next_poll_at=ago(9))
    [batch], [part, other] = late(database), late_parts(database)
    with database.transaction() as session:
        row = session.get(BatchRow, key)
        assert row is not None
        row.sqlmodel_update(change)
    with database.transaction() as session:
        settled = session.get(ProviderBatchRow, int(part.after))
        assert settled is not None
        settled.settled_at = NOW
    reads = CandidateReads(database)
    assert reads.has_moved(batch) is moved
    assert [reads.has_moved(part), reads.has_moved(other)] == [True, False]


@pytest.mark.parametrize("read", [late, late_parts, expired])
def test_pages_follow_each_other_without_a_gap(
    database: Database, add: Add, read: Callable[..., list[Candidate]]
) -> None:
    part = {"next_poll_at": ago(600), "submitted_at": ago(600)}
    for number in range(7):
        add(f"b{number}", part, part, next_poll_at=ago(600))
        add(f"ended{number}", part, part, status=BatchStatus.ENDED, next_poll_at=ago(600))
    whole = ids(read(database))
    assert len(whole) == (14 if read is late_parts else 7)
    pages: list[list[Candidate]] = [read(database, limit=3)]
    while len(pages[-1]) == 3:
        pages.append(read(database, after=pages[-1][-1].after, limit=3))
    assert ids([each for page in pages for each in page]) == whole


NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)",
    "postgresql": "WITH n AS (SELECT generate_series(1, 10000) AS i)",
}


def test_what_has_ended_is_never_read(database: Database, add: Add) -> None:
    part = {"next_poll_at": ago(600), "submitted_at": ago(600)}
    add("late", part, part, next_poll_at=ago(600))
    past = {"created_at": ago(999), "results_fetched_at": ago(999), "handler_dispatched_at": ago(999)}
    add("ended", {"settled_at": ago(999)}, status=BatchStatus.ENDED, **past)
    with database.transaction() as session:
        connection = session.connection()
        for row, id_ in ((BatchRow, "id = 'ended'"), (ProviderBatchRow, "settled_at IS NOT NULL")):
            names = [column.name for column in inspect(row).columns if column.name != "key"]
            copied = ["'x' || i" if name == "id" else "i" if name == "part" else name for name in names]
            connection.exec_driver_sql(
                f"INSERT INTO {inspect(row).local_table} ({', '.join(names)})"
                f" {NUMBERS[database.dialect]} SELECT {', '.join(copied)}"
                f" FROM n, {inspect(row).local_table} WHERE {id_}"
            )
        connection.exec_driver_sql("ANALYZE")
    for read, index in (
        (late, "ix_batches_open"),
        (late_parts, "ix_provider_batches_unsettled"),
        (expired, "ix_batches_open"),
    ):
        plans = explained(database, partial(read, database))
        assert index in plans[0]
        assert not [plan for plan in plans if "SCAN batches" in plan or "SCAN provider_batches" in plan]
        assert not [plan for plan in plans if "Seq Scan" in plan]


def explained(database: Database, read: Callable[[], object]) -> list[str]:
    """Return how the database answers each query of a read."""
    asked: list[tuple[str, Any]] = []
    listener = lambda _c, _cur, statement, values, _ctx, _many: asked.append((statement, values))  # noqa: E731
    event.listen(database.engine, "before_cursor_execute", listener)
    read()
    event.remove(database.engine, "before_cursor_execute", listener)
    explain = "EXPLAIN QUERY PLAN " if database.dialect == "sqlite" else "EXPLAIN "
    with database.reading() as session:
        connection = session.connection()
        return [
            "\n".join(str(row[-1]) for row in connection.exec_driver_sql(explain + statement, values))
            for statement, values in asked
            if statement.startswith("SELECT")
        ]
