"""A repair is recorded once for an epoch, however many reconcilers there are; what became of it is never lost."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nightmill.contracts import Action, Finding, RepairState, Subject
from nightmill.storage.engine import Database
from nightmill.storage.recovery_models import RepairRow
from nightmill.storage.repairs import Intent, RepairRepository

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)


@pytest.fixture
def repairs(database: Database) -> RepairRepository:
    return RepairRepository(database)


def intent(number: int | str = 1, *, run: str = "r1", **changes: Any) -> Intent:
    wanted = Intent(
        subject=Subject.BATCH,
        subject_id=f"b{number}",
        workflow_id=f"batch/b{number}",
        epoch=f"reset/{run}",
        finding=Finding.TERMINATED,
        action=Action.RESET,
        run_id=run,
        build="v1",
        tick="t1",
    )
    return replace(wanted, **changes)


def asked(repairs: RepairRepository, wanted: Intent | None = None, *, now: datetime = NOON) -> int:
    key = repairs.intend(wanted or intent(), now=now)
    assert key is not None
    return key


def only(repairs: RepairRepository) -> RepairRow:
    (row,) = repairs.newest()
    return row


def fail(repairs: RepairRepository, error: str = "boom", *, number: int = 1, now: datetime = NOON) -> bool:
    return repairs.record_failure(
        subject=Subject.BATCH, subject_id=f"b{number}", workflow_id=f"batch/b{number}", error=error, tick="t", now=now
    )


def test_a_repair_is_recorded_with_all_that_is_known_before_it_is_carried_out(repairs: RepairRepository) -> None:
    key = asked(repairs, intent(reason="somebody\0 terminated it"))
    row = only(repairs)
    assert row.model_dump() == {
        "key": key,
        "subject": Subject.BATCH,
        "subject_id": "b1",
        "workflow_id": "batch/b1",
        "epoch": "reset/r1",
        "finding": Finding.TERMINATED,
        "action": Action.RESET,
        "state": RepairState.ASKED,
        "reason": "somebody terminated it",
        "run_id": "r1",
        "event_id": None,
        "new_run_id": None,
        "build": "v1",
        "tick": "t1",
        "error": None,
        "asked_at": NOON,
        "ended_at": None,
    }


def test_of_many_reconcilers_one_gets_to_repair_a_run(repairs: RepairRepository) -> None:
    barrier, keys = threading.Barrier(6), []

    def ask() -> None:
        barrier.wait()
        keys.append(repairs.intend(intent(), now=NOON))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [key for key in keys if key is not None] == [only(repairs).key]


def test_an_epoch_is_a_workflows_own(repairs: RepairRepository) -> None:
    asked(repairs)
    asked(repairs, intent(2))
    assert repairs.intend(intent(action=Action.START_AFRESH), now=LATER) is None
    long = "w" * 1_000  # as long as Temporal takes them: what differs at the end only is another workflow
    asked(repairs, intent(workflow_id=long, epoch="e"))
    asked(repairs, intent(workflow_id=long[:-1] + "x", epoch="e"))


def test_what_was_carried_out_keeps_its_epoch_and_names_the_run_that_goes_on(repairs: RepairRepository) -> None:
    key = asked(repairs)
    repairs.done(key, new_run_id="r2", event_id=7, now=LATER)
    repairs.done(key, reason="looked at again", now=LATER)
    row = only(repairs)
    assert (row.state, row.new_run_id, row.event_id, row.ended_at) == (RepairState.DONE, "r2", 7, LATER)
    assert row.reason == "looked at again"
    assert repairs.intend(intent(), now=LATER) is None


@pytest.mark.parametrize("epoch", ["reset/r1", "e" * 300])
def test_what_failed_or_is_void_gives_its_epoch_back(repairs: RepairRepository, epoch: str) -> None:
    first = asked(repairs, intent(epoch=epoch))
    assert repairs.failed(first, "no answer", now=LATER)
    second = asked(repairs, intent(epoch=epoch))
    repairs.void(second, "another run by now", now=LATER)
    third = asked(repairs, intent(epoch=epoch))
    rows = repairs.newest()
    assert [(row.key, row.state) for row in rows] == [
        (third, RepairState.ASKED),
        (second, RepairState.VOID),
        (first, RepairState.FAILED),
    ]
    assert (rows[1].reason, rows[2].error, rows[2].ended_at) == ("another run by now", "no answer", LATER)
    assert len({row.epoch for row in rows}) == 3


def test_a_repair_that_has_ended_does_not_end_another_way(repairs: RepairRepository) -> None:
    key = asked(repairs)
    repairs.done(key, new_run_id="r2", now=LATER)
    assert not repairs.failed(key, "too late", now=LATER)
    repairs.void(key, "too late", now=LATER)
    row = only(repairs)
    assert (row.state, row.epoch, row.error) == (RepairState.DONE, "reset/r1", None)


def test_what_a_reconciler_left_that_died_is_found_until_somebody_says_what_came_of_it(
    repairs: RepairRepository,
) -> None:
    key, other = asked(repairs), asked(repairs, intent(2))
    assert repairs.left_over(before=NOON) == []
    assert [row.key for row in repairs.left_over(before=LATER)] == [key, other]
    assert [row.key for row in repairs.left_over(before=LATER, limit=1)] == [key]
    repairs.done(key, now=LATER)
    repairs.void(other, "nobody knows", now=LATER)
    assert repairs.left_over(before=LATER) == []


def test_the_same_failure_is_news_once_a_day(repairs: RepairRepository) -> None:
    assert repairs.failed(asked(repairs), "boom", now=NOON)
    assert not repairs.failed(asked(repairs), "boom", now=LATER)
    assert repairs.failed(asked(repairs), "crash", now=LATER)
    assert repairs.failed(asked(repairs, intent(2)), "boom", now=LATER)
    assert repairs.failed(asked(repairs), "boom", now=LATER + timedelta(days=1))


def test_the_same_failure_in_other_words_is_no_news(repairs: RepairRepository) -> None:
    assert repairs.failed(asked(repairs), "RPC_Error: run 1 is busy", now=NOON)
    assert not repairs.failed(asked(repairs), "RPC_Error: run 2 is busy: later", now=LATER)
    assert not fail(repairs, "RPC_Error: no answer in 9.98 s", now=LATER)
    assert repairs.failed(asked(repairs), "RPCxError: another class", now=LATER)


def test_what_fails_at_every_tick_fills_no_table(repairs: RepairRepository) -> None:
    for tick in range(8):
        now = NOON + timedelta(minutes=5 * tick)
        news = (repairs.failed(asked(repairs, now=now), "x" * 3_000, now=now), fail(repairs, "y" * 3_000, now=now))
        assert news == (tick == 0, tick == 0)
    resets, looks = (
        [row for row in repairs.newest() if row.action is action] for action in (Action.RESET, Action.LOOK)
    )
    assert (len(resets), len(looks)) == (5, 1)
    assert resets[0].ended_at == looks[0].ended_at == now
    assert looks[0].asked_at == NOON
    assert not fail(repairs, "y" * 3_000, now=now + timedelta(hours=23))
    assert fail(repairs, "y" * 3_000, now=now + timedelta(hours=48))


def test_a_look_that_failed_is_recorded_for_whom_it_was(repairs: RepairRepository) -> None:
    assert fail(repairs, "ValueError: \ud800", number=3)
    row = only(repairs)
    assert (row.subject, row.subject_id, row.workflow_id, row.tick) == (Subject.BATCH, "b3", "batch/b3", "t")
    assert (row.finding, row.action, row.state) == (Finding.UNKNOWN, Action.LOOK, RepairState.FAILED)
    assert (row.error, row.run_id) == ("ValueError: \ufffd", None)
    assert not fail(repairs, "ValueError: \ud800", number=3, now=LATER)


def test_the_past_of_workflows_is_theirs_alone_newest_first(repairs: RepairRepository) -> None:
    for number in range(103):
        asked(repairs, intent(number))
    repairs.done(asked(repairs, intent(1, run="r2")), now=NOON)
    found = repairs.past(["batch/b999", "batch/b1", *(f"batch/b{number}" for number in range(102))])
    assert set(found) == {f"batch/b{number}" for number in range(102)}
    assert [row.run_id for row in found["batch/b1"]] == ["r2", "r1"]
    assert repairs.past([]) == {}


def test_however_much_happened_it_is_known_what_started_a_run_and_what_refused_to(repairs: RepairRepository) -> None:
    repairs.done(asked(repairs), new_run_id="r2", now=NOON)
    repairs.failed(asked(repairs, intent(run="r2")), "not at a boundary", now=NOON)
    for number in range(25):
        wanted = intent(run="r2", epoch=f"poll/r2/{number}", action=Action.POLL_NOW)
        repairs.done(asked(repairs, wanted), now=NOON)
    repairs.record_failure(
        subject=Subject.BATCH, subject_id="b1", workflow_id="batch/b1", error="cannot be looked at", now=NOON
    )
    past = repairs.past(["batch/b1"])["batch/b1"]
    assert len(past) == 20
    assert [row.key for row in past] == sorted((row.key or 0 for row in past), reverse=True)
    assert past[-1].new_run_id == "r2"
    assert past[-2].error == "not at a boundary"
    assert [row.epoch for row in past[:18]] == [f"poll/r2/{number}" for number in range(24, 6, -1)]


def test_repairs_are_listed_newest_first_a_page_at_a_time(repairs: RepairRepository) -> None:
    keys = [asked(repairs, intent(number)) for number in range(4)]
    keys.append(asked(repairs, intent(9, subject=Subject.DOCUMENT, subject_id="d1")))
    assert [row.key for row in repairs.newest(limit=2)] == keys[:2:-1]
    assert [row.key for row in repairs.newest(limit=2, before=keys[3])] == [keys[2], keys[1]]
    assert [row.key for row in repairs.newest(subject=Subject.DOCUMENT)] == [keys[4]]
    assert [row.key for row in repairs.newest(subject=Subject.BATCH, subject_id="b2")] == [keys[2]]
    assert repairs.newest(subject=Subject.DOCUMENT, subject_id="b2") == []
