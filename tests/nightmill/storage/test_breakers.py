"""A breaker's row moves by one writer at a time, together with its past; who is told is told once."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from nightmill.contracts import BreakerState
from nightmill.errors import StorageUnavailable
from nightmill.storage.breakers import BreakerRepository, Change, NewTransition
from nightmill.storage.engine import Database
from nightmill.storage.slicing_models import SlicerBreakerRow

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture
def breakers(database: Database) -> BreakerRepository:
    return BreakerRepository(database)


def opening(reason: str = "faults") -> Change:
    transition = NewTransition(BreakerState.OPEN, reason, "breaker", NOON)
    return Change({"state": BreakerState.OPEN, "reason": reason, "opened_at": NOON}, transition)


def test_one_that_never_had_anything_to_do_is_closed_and_has_no_row(breakers: BreakerRepository) -> None:
    row = breakers.get("gazette")
    assert (row.state, row.faults, row.transitions, row.version) == (BreakerState.CLOSED, [], 0, 0)
    same, written = breakers.change("gazette", lambda _: None)
    assert (same.version, written, breakers.all(), breakers.untold()) == (0, None, [], [])


def test_a_change_is_what_the_next_one_sees(breakers: BreakerRepository) -> None:
    row, _ = breakers.change("gazette", lambda _: opening("a\0b"))
    assert (row.state, row.version, row.transitions) == (BreakerState.OPEN, 1, 1)
    row, _ = breakers.change("gazette", lambda row: Change({"probes": row.probes + 1}))
    stored = breakers.get("gazette")
    assert (stored.version, stored.probes, stored.transitions, stored.opened_at) == (2, 1, 1, NOON)
    assert (stored.reason, row.reason) == ("ab", "ab")
    breakers.change("other", lambda _: Change({"probes": 1}))
    assert [row.profile for row in breakers.all()] == ["gazette", "other"]


def test_no_change_is_lost_however_many_write_at_once(breakers: BreakerRepository) -> None:
    barrier = threading.Barrier(8)

    def add() -> None:
        barrier.wait()
        breakers.change("gazette", lambda row: Change({"probes": row.probes + 1}, opening().transition))

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    row = breakers.get("gazette")
    assert (row.probes, row.version, row.transitions) == (8, 8, 8)
    assert [each.number for each in breakers.history("gazette")] == [8, 7, 6, 5, 4, 3, 2, 1]


def test_who_is_always_too_late_gives_up(breakers: BreakerRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightmill.storage.breakers._TRIES", 5)
    asked = []

    def late(row: SlicerBreakerRow) -> Change:
        asked.append(row.version)
        breakers.change("gazette", lambda row: Change({"probes": row.probes + 1}))
        return opening()

    with pytest.raises(StorageUnavailable, match="gazette"):
        breakers.change("gazette", late)
    assert asked == list(range(5))
    assert breakers.history("gazette") == []


def test_operators_are_told_of_each_transition_once_and_in_order(breakers: BreakerRepository) -> None:
    for reason in ("one", "two", "three"):
        breakers.change("gazette", lambda _, reason=reason: opening(reason))  # type: ignore[misc]
    breakers.change("other", lambda _: opening())
    assert [(row.profile, row.number) for row in breakers.untold()] == [
        ("gazette", 1),
        ("gazette", 2),
        ("gazette", 3),
        ("other", 1),
    ]
    breakers.told("gazette", 2, NOON)
    breakers.told("gazette", 2, NOON + timedelta(hours=1))
    breakers.told("gazette", 9, NOON)
    assert [row.number for row in breakers.untold("gazette")] == [1, 3]
    row = breakers.history("gazette")[1]
    assert (row.told_at, row.reason, row.message_id) == (NOON, "two", "nm-breaker-gazette-2")
    assert [row.number for row in breakers.history("gazette", limit=2)] == [3, 2]
