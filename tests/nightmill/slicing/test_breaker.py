"""A breaker opens once after faults in a row, is closed by a canary or by hand, and hears nothing twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest

from nightmill.contracts import BreakerState, BreakerView, CanaryOutcome, CanaryVerdict
from nightmill.settings.slicing import SlicingSettings
from nightmill.slicing.breaker import Breaker
from nightmill.storage.breakers import BreakerRepository
from nightmill.storage.engine import Database

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
LEASE = timedelta(minutes=2)
PASSED = CanaryOutcome(profile="gazette", passed=True, duration=timedelta(seconds=1.5))
FAILED = CanaryOutcome(profile="gazette", passed=False, message="3 of 4 slices")
ReturnT = TypeVar("ReturnT")


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


class Gazette:
    """The breaker of one profile, and what is asked of it at some second."""

    def __init__(self, database: Database) -> None:
        self.rows = BreakerRepository(database)
        self.breaker = Breaker(self.rows, SlicingSettings())

    def ask(self) -> BreakerView:
        return self.breaker.ask("gazette", NOON)

    def fault(self, key: str, at: float = 0, what: str = "exit code 3") -> BreakerView:
        return self.breaker.count_fault("gazette", what, after(at), key=key)

    def faults(self, *keys: str, at: float = 0) -> list[bool]:
        return [self.fault(key, at).tripped for key in keys]

    def success(self, at: float = 0) -> None:
        self.breaker.count_success("gazette", after(at))

    def probe(self, token: str, at: float, *, hurry: bool = False) -> bool:
        return self.breaker.begin_probe("gazette", token, after(at), LEASE, hurry=hurry)

    def judge(self, token: str, outcome: CanaryOutcome, at: float) -> CanaryVerdict:
        return self.breaker.judge("gazette", token, outcome, after(at))

    def due(self, at: float) -> datetime | None:
        return self.breaker.due("gazette", after(at))

    def hold(self, at: float = 0) -> CanaryVerdict:
        return self.breaker.hold_open("gazette", "new slicer", "ann", after(at))

    def close(self, at: float = 0) -> CanaryVerdict:
        return self.breaker.close("gazette", "it is in place", "bob", after(at))

    @property
    def state(self) -> BreakerState:
        return self.rows.get("gazette").state

    @property
    def past(self) -> list[tuple[BreakerState, str]]:
        return [(row.state, row.changed_by) for row in self.rows.history("gazette")[::-1]]


@pytest.fixture
def gazette(database: Database) -> Gazette:
    return Gazette(database)


@pytest.fixture
def opened(gazette: Gazette) -> Gazette:
    """One that five faults have opened at noon."""
    gazette.faults(*"abcde")
    return gazette


def at_once(calls: int, call: Callable[[int], ReturnT]) -> list[ReturnT]:
    """Return what as many threads get that call at the same moment."""
    barrier, results = threading.Barrier(calls), []

    def run(number: int) -> None:
        barrier.wait()
        results.append(call(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == calls
    return results


def test_the_fifth_fault_in_a_row_opens_it_and_only_its_caller_is_told_so(gazette: Gazette) -> None:
    assert gazette.ask() == BreakerView()
    assert gazette.faults(*"abcd") == [False] * 4
    assert not gazette.ask().is_open
    view = gazette.fault("e")
    assert view == BreakerView(
        is_open=True, reason="5 faults in a row within 10 min, the last: exit code 3", tripped=True
    )
    assert gazette.fault("f") == gazette.ask() == view.model_copy(update={"tripped": False})
    assert gazette.past == [(BreakerState.OPEN, "breaker")]
    assert not gazette.breaker.ask("other", NOON).is_open


def test_a_success_ends_the_row(gazette: Gazette) -> None:
    gazette.faults(*"abcd")
    gazette.success()
    assert gazette.faults(*"efgh") == [False] * 4
    assert gazette.fault("i").tripped


def test_a_success_writes_nothing_where_there_is_no_fault(gazette: Gazette) -> None:
    gazette.success()
    assert gazette.rows.all() == []
    gazette.faults("a")
    gazette.success()
    version = gazette.rows.get("gazette").version
    gazette.success()
    assert gazette.rows.get("gazette").version == version


def test_faults_far_apart_do_not_open_it(gazette: Gazette) -> None:
    assert not any(gazette.fault(str(number), at=number * 151).tripped for number in range(30))
    assert gazette.fault("soon", at=29 * 151 + 1).tripped


def test_a_clock_that_is_years_ahead_counts_for_nobody_else(gazette: Gazette) -> None:
    for key in "abcd":
        gazette.fault(key, at=1e8)
    assert not any(gazette.faults(*"efgh"))
    assert gazette.fault("i").tripped


def test_a_fault_that_is_reported_again_counts_once(gazette: Gazette) -> None:
    assert not any(gazette.faults(*"aaaaabbbbb"))
    gazette.success()
    assert not any(gazette.faults(*"abcdab"))
    assert gazette.rows.get("gazette").state is BreakerState.CLOSED


def test_whoever_opened_it_and_lost_the_answer_is_told_again(opened: Gazette) -> None:
    assert opened.fault("e").tripped
    assert not opened.fault("d").tripped
    opened.probe("t1", 30)
    assert opened.fault("e").tripped
    opened.judge("t1", PASSED, 31)
    assert opened.fault("e", 32) == BreakerView()
    opened.faults(*"fghij", at=33)
    assert opened.state is BreakerState.OPEN
    assert not opened.fault("e", 34).tripped
    assert opened.past[1:] == [(BreakerState.CLOSED, "canary"), (BreakerState.OPEN, "breaker")]


def test_of_twenty_that_count_faults_at_once_one_opens_it(gazette: Gazette) -> None:
    tripped = at_once(20, lambda number: gazette.fault(f"r{number}/slice/1").tripped)
    assert sorted(tripped) == [False] * 19 + [True]
    assert gazette.past == [(BreakerState.OPEN, "breaker")]


def test_of_four_faults_counted_at_once_none_is_lost(gazette: Gazette) -> None:
    assert not any(at_once(4, lambda number: gazette.fault(str(number)).tripped))
    assert gazette.fault("the last").tripped


def test_one_canary_at_a_time_is_tried_and_only_after_the_cool_down(opened: Gazette) -> None:
    assert opened.due(1) == after(30)
    assert not opened.probe("t1", 29)
    states = [opened.state]
    assert opened.probe("t1", 30)
    assert [*states, opened.state] == [BreakerState.OPEN, BreakerState.HALF_OPEN]
    assert opened.ask().is_open
    assert opened.probe("t1", 31)  # an answer that was lost is asked for again
    assert not opened.probe("t2", 31)
    assert opened.due(31) == after(150)


def test_of_many_that_want_to_try_a_canary_one_does(opened: Gazette) -> None:
    assert sorted(at_once(8, lambda number: opened.probe(f"t{number}", 30))) == [False] * 7 + [True]


def test_a_canary_in_a_hurry_does_not_wait_for_the_cool_down_but_for_another_canary(opened: Gazette) -> None:
    assert opened.probe("t1", 1, hurry=True)
    assert not opened.probe("t2", 2, hurry=True)


def test_a_canary_that_passes_closes_it(opened: Gazette) -> None:
    opened.probe("t1", 30)
    closed = CanaryVerdict(state=BreakerState.CLOSED, transition=2, released=True)
    assert opened.judge("t1", PASSED, 31) == closed
    assert opened.judge("t1", PASSED, 40) == closed  # an answer that was lost is asked for again
    assert opened.past == [(BreakerState.OPEN, "breaker"), (BreakerState.CLOSED, "canary")]
    row = opened.rows.get("gazette")
    assert (row.canary_at, row.canary_passed, row.canary_ms) == (after(31), True, 1_500)
    assert (row.reason, row.opened_at, row.probe_at, opened.due(32)) == (None, None, None, None)
    assert not any(opened.faults(*"fghi", at=32))  # the faults from before count no more


def test_the_cool_down_doubles_with_each_canary_that_fails(opened: Gazette) -> None:
    now, pauses = 30.0, []
    for number in range(8):
        assert not opened.probe(f"t{number}", now - 1)
        assert opened.probe(f"t{number}", now)
        verdict = opened.judge(f"t{number}", FAILED, now)
        assert verdict.try_again_at is not None
        assert (verdict.state, verdict.transition, verdict.released) == (BreakerState.OPEN, None, False)
        assert opened.judge(f"t{number}", FAILED, now + 5) == verdict
        pauses.append((verdict.try_again_at - after(now)).total_seconds() / 60)
        now = (verdict.try_again_at - NOON).total_seconds()
    assert pauses == [1, 2, 4, 8, 10, 10, 10, 10]
    row = opened.rows.get("gazette")
    assert (row.canary_message, row.probes, row.opened_at) == ("3 of 4 slices", 8, NOON)
    assert opened.past == [(BreakerState.OPEN, "breaker")]
    opened.probe("last", now)
    assert opened.judge("last", PASSED, now).released
    opened.faults(*"fghij", at=now)
    assert opened.due(now) == after(now + 30)


def test_a_canary_that_is_lost_makes_room_for_the_next_and_moves_nothing_when_it_comes_back(opened: Gazette) -> None:
    assert opened.probe("t1", 30)
    assert not opened.probe("t2", 149)
    assert opened.probe("t2", 150)
    verdict = opened.judge("t1", PASSED, 151)
    assert verdict == CanaryVerdict(state=BreakerState.HALF_OPEN, try_again_at=after(270))
    assert opened.judge("t2", FAILED, 152).try_again_at == after(212)
    assert opened.judge("t1", PASSED, 153).state is BreakerState.OPEN


def test_a_canary_that_is_late_and_still_the_last_one_counts(opened: Gazette) -> None:
    opened.probe("t1", 30)
    assert opened.judge("t1", PASSED, 1_000).released


def test_no_clock_that_is_ahead_keeps_it_open_for_longer_than_the_longest_cool_down(gazette: Gazette) -> None:
    gazette.faults(*"abcde", at=1e8)
    assert gazette.due(0) == after(600)
    assert not gazette.probe("t1", 0)
    assert not gazette.probe("t1", 599)
    assert gazette.probe("t1", 600)
    gazette.judge("t1", FAILED, 600)
    gazette.probe("t2", 1e8)
    assert not gazette.probe("t3", 700)
    assert not gazette.probe("t3", 819)
    assert gazette.probe("t3", 820)


def test_a_canary_over_a_closed_breaker_is_recorded_and_one_that_fails_is_a_fault(gazette: Gazette) -> None:
    assert gazette.probe("h1", 0)
    assert gazette.judge("h1", PASSED, 1) == CanaryVerdict(state=BreakerState.CLOSED)
    assert gazette.rows.get("gazette").canary_passed
    for number in range(4):
        for _ in range(2):
            verdict = gazette.judge(f"f{number}", FAILED, 2)
            assert verdict == CanaryVerdict(state=BreakerState.CLOSED)
    assert gazette.rows.get("gazette").canary_passed is False
    opened = CanaryVerdict(state=BreakerState.OPEN, try_again_at=after(33), transition=1)
    assert gazette.judge("f5", FAILED, 3) == opened
    assert gazette.judge("f5", FAILED, 4) == opened
    assert gazette.ask().reason == "5 faults in a row within 10 min, the last: the canary failed: 3 of 4 slices"
    assert gazette.past == [(BreakerState.OPEN, "breaker")]


def test_a_health_check_that_was_under_way_when_it_opened_goes_on_as_its_watch(gazette: Gazette) -> None:
    gazette.probe("h1", 0)
    gazette.faults(*"abcde")
    assert gazette.judge("h1", PASSED, 1) == CanaryVerdict(state=BreakerState.OPEN, try_again_at=after(30))


def test_what_is_held_open_by_hand_is_closed_by_hand_alone(opened: Gazette) -> None:
    opened.probe("t1", 30)
    assert opened.hold(31) == CanaryVerdict(state=BreakerState.HELD_OPEN, transition=2)
    assert opened.hold(32) == CanaryVerdict(state=BreakerState.HELD_OPEN)
    assert opened.ask().reason == "held open by ann: new slicer"
    assert opened.due(33) is None
    assert opened.judge("t1", PASSED, 34) == CanaryVerdict(state=BreakerState.HELD_OPEN)
    assert opened.probe("t2", 35)
    assert opened.judge("t2", PASSED, 36) == CanaryVerdict(state=BreakerState.HELD_OPEN)
    assert opened.rows.get("gazette").canary_at == after(36)
    assert opened.fault("z").is_open
    assert opened.close(37) == CanaryVerdict(state=BreakerState.CLOSED, transition=3, released=True)
    assert opened.past[1:] == [(BreakerState.HELD_OPEN, "ann"), (BreakerState.CLOSED, "bob")]
    reasons = [row.reason for row in opened.rows.history("gazette")]
    assert reasons[:2] == ["it is in place", "new slicer"]


def test_faults_from_before_it_was_closed_by_hand_count_no_more(gazette: Gazette) -> None:
    gazette.faults(*"abcd")
    gazette.hold()
    gazette.close()
    assert not any(gazette.faults(*"efgh"))
    assert gazette.fault("i").tripped


def test_what_is_closed_already_lets_work_go_on_without_a_second_transition(gazette: Gazette) -> None:
    assert gazette.close() == CanaryVerdict(state=BreakerState.CLOSED, released=True)
    assert (gazette.past, gazette.rows.all()) == ([], [])
    assert sorted(at_once(4, lambda _: gazette.hold().transition or 0)) == [0, 0, 0, 1]
    assert sorted(at_once(4, lambda _: gazette.close().transition or 0)) == [0, 0, 0, 2]


def test_a_canary_that_a_person_was_quicker_than_moves_nothing(opened: Gazette) -> None:
    opened.probe("t1", 30)
    opened.close(31)
    assert opened.judge("t1", PASSED, 32) == CanaryVerdict(state=BreakerState.CLOSED)
    assert opened.judge("t1", FAILED, 33) == CanaryVerdict(state=BreakerState.CLOSED)
    assert len(opened.past) == 2


def test_a_breaker_of_one_fault_opens_at_the_first(database: Database) -> None:
    settings = SlicingSettings(breaker_faults=1, cool_down=timedelta(minutes=20))
    breaker = Breaker(BreakerRepository(database), settings)
    assert breaker.count_fault("strict", "no output", NOON, key="a").reason == "1 fault, the last: no output"
    assert breaker.due("strict", NOON) == after(600)
