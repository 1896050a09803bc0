"""Each row of the table, in what order the rows are asked, and that nothing is done twice."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from nightmill.contracts import Action, Finding, RepairState, Subject
from nightmill.recovery.decisions import GAVE_UP, decide
from nightmill.recovery.model import (
    ActivityState,
    Candidate,
    Decision,
    Here,
    RunState,
    Seen,
    SeenActivity,
)
from nightmill.storage.recovery_models import RepairRow

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
HERE = Here(
    now=NOW,
    build="new",
    grace=5 * MINUTE,
    spacing=(timedelta(0), 10 * MINUTE, HOUR),
    expiry_margin=HOUR,
    idle_queues=frozenset({"deserted"}),
)
EXPIRY = replace(HERE, expires=True)

BATCH = Candidate(
    Subject.BATCH,
    "b1",
    "batch/b1",
    "1",
    due_at=NOW - 10 * MINUTE,
    asked_at=NOW - HOUR,
    submitted=True,
    deadline=NOW + HOUR,
)
PENDING = replace(BATCH, due_at=None, submitted=False, deadline=None)
TOO_OLD = replace(PENDING, too_old=True)
TOLD = replace(BATCH, due_at=None, deadline=None, terminal=True)
CALLED = replace(TOLD, calls_host=True, ended_at=NOW - 59 * MINUTE)
LATE = replace(BATCH, deadline=NOW - 2 * HOUR, due_at=NOW - 2 * HOUR)
PART = replace(BATCH, subject=Subject.PART, id="b1/0/1", workflow_id="batch/b1/0/1")
DOCUMENT = Candidate(Subject.DOCUMENT, "d1", "document/d1", "1")
SLICING = Candidate(Subject.SLICING, "aa/gazette", "slice/aa/gazette", "1")
WORKFLOW = Candidate(Subject.WORKFLOW, "nightmill-sync-sweep-1", "nightmill-sync-sweep-1", "1")

RUNNING = Seen("run", RunState.RUNNING, queue="nightmill")
FAILED = Seen("run", RunState.FAILED, queue="nightmill", failure_type="WorkflowFailed", failure="it broke")
INVALID = replace(FAILED, failure_type="InvalidInput", failure="invalid BatchInput")
TERMINATED = replace(RUNNING, state=RunState.TERMINATED)
TIMED_OUT = replace(RUNNING, state=RunState.TIMED_OUT)
CANCELED = replace(RUNNING, state=RunState.CANCELED)
COMPLETED = replace(RUNNING, state=RunState.COMPLETED)
PAUSED = replace(RUNNING, state=RunState.PAUSED)
AT_HOST = SeenActivity("9", "take_note", ActivityState.RUNNING, is_elsewhere=True)
FAILING = replace(RUNNING, task_attempt=3, failed_build="new", replays=False)

_keys = itertools.count(1)


def running(*activities: SeenActivity) -> Seen:
    return replace(RUNNING, activities=activities)


def an_activity(state: ActivityState = ActivityState.RUNNING, next_in: timedelta | None = None) -> SeenActivity:
    return SeenActivity("7", "poll_part", state, attempt=4, next_attempt_at=NOW + next_in if next_in else None)


def repair(
    action: Action,
    epoch: str,
    *,
    ago: timedelta = HOUR,
    state: RepairState = RepairState.DONE,
    run: str | None = "run",
    new_run: str | None = None,
) -> RepairRow:
    return RepairRow(
        key=next(_keys),
        subject=Subject.BATCH,
        subject_id="b1",
        workflow_id="batch/b1",
        epoch=epoch,
        finding=Finding.FAILED,
        action=action,
        state=state,
        run_id=run,
        new_run_id=new_run,
        asked_at=NOW - ago,
    )


def resets(*agos: timedelta) -> list[RepairRow]:
    """Resets of `run0`, `run1`, ..., the last of which made `run`; newest first."""
    last = len(agos) - 1
    rows = [
        repair(Action.RESET, f"reset/run{n}", ago=ago, run=f"run{n}", new_run="run" if n == last else f"run{n + 1}")
        for n, ago in enumerate(agos)
    ]
    return rows[::-1]


def carried_out(decision: Decision, seen: Seen | None, *, new_run: str | None = None, now: datetime = NOW) -> RepairRow:
    """The record of a decision, as the reconciler leaves it."""
    assert decision.action is not None
    row = repair(decision.action, decision.epoch, run=seen.run_id if seen else None, new_run=new_run)
    row.asked_at = now
    return row


def outcome(decision: Decision) -> tuple[Finding, Action | None]:
    return decision.finding, decision.action


# --- rows of the table that need no past


@pytest.mark.parametrize(
    ("candidate", "seen", "finding", "action"),
    [
        # not running
        (BATCH, None, Finding.NOT_FOUND, Action.START),
        (TOLD, None, Finding.NOT_FOUND, Action.START),
        (PART, None, Finding.HEALTHY, None),
        (BATCH, FAILED, Finding.FAILED, Action.RESET),
        (BATCH, TERMINATED, Finding.TERMINATED, Action.RESET),
        (BATCH, TIMED_OUT, Finding.TIMED_OUT, Action.RESET),
        (TOLD, TERMINATED, Finding.TERMINATED, Action.RESET),
        (PART, TERMINATED, Finding.HEALTHY, None),
        (BATCH, CANCELED, Finding.CANCELED, Action.CANCEL),
        (TOLD, CANCELED, Finding.CANCELED, Action.START),
        # the host's activity may be at work
        (CALLED, replace(TERMINATED, closed_at=NOW - 59 * MINUTE), Finding.TOO_EARLY, None),
        (CALLED, replace(INVALID, closed_at=NOW - 59 * MINUTE), Finding.TOO_EARLY, None),
        (CALLED, replace(CANCELED, closed_at=NOW - 59 * MINUTE), Finding.TOO_EARLY, None),
        (CALLED, replace(COMPLETED, closed_at=NOW - 59 * MINUTE), Finding.COMPLETED, Action.APPLY),
        (CALLED, replace(TERMINATED, closed_at=NOW - HOUR), Finding.TERMINATED, Action.RESET),
        (TOLD, replace(TERMINATED, closed_at=NOW - 6 * MINUTE), Finding.TERMINATED, Action.RESET),
        (CALLED, None, Finding.TOO_EARLY, None),
        (replace(CALLED, ended_at=NOW - HOUR), None, Finding.NOT_FOUND, Action.START),
        (CALLED, replace(FAILING, activities=(an_activity(),)), Finding.TOO_EARLY, None),
        (CALLED, replace(FAILING, activities=(an_activity(ActivityState.WAITING),)), Finding.TASKS_FAIL, Action.RESET),
        (BATCH, replace(FAILING, activities=(an_activity(),)), Finding.TASKS_FAIL, Action.RESET),
        (BATCH, replace(FAILING, activities=(AT_HOST,)), Finding.TOO_EARLY, None),
        (replace(TOLD, known=False), replace(FAILING, activities=(AT_HOST,)), Finding.TOO_EARLY, None),
        (DOCUMENT, replace(FAILING, activities=(AT_HOST,)), Finding.TOO_EARLY, None),
        (SLICING, replace(FAILING, activities=(AT_HOST,)), Finding.TASKS_FAIL, Action.RESET),
        (TOLD, COMPLETED, Finding.COMPLETED, Action.APPLY),
        (TOLD, replace(COMPLETED, failure="batch not found"), Finding.COMPLETED, Action.START),
        (BATCH, COMPLETED, Finding.COMPLETED, Action.START),
        (BATCH, INVALID, Finding.INVALID_INPUT, Action.START),
        (PENDING, INVALID, Finding.INVALID_INPUT, Action.START),
        # running
        (BATCH, PAUSED, Finding.PAUSED, None),
        (BATCH, running(an_activity(ActivityState.PAUSED)), Finding.PAUSED, None),
        (BATCH, replace(RUNNING, queue="deserted"), Finding.NO_WORKER, None),
        (BATCH, FAILING, Finding.TASKS_FAIL, Action.RESET),
        (PART, FAILING, Finding.TASKS_FAIL, Action.RESET),
        (BATCH, replace(FAILING, replays=True), Finding.TASKS_FAIL, Action.RESET),
        (BATCH, replace(FAILING, failed_build="old", replays=True), Finding.TASKS_FAILED_ELSEWHERE, None),
        (BATCH, replace(FAILING, failed_build="old", replays=None), Finding.TASKS_FAILED_ELSEWHERE, None),
        (BATCH, replace(FAILING, failed_build="old", replays=False), Finding.TASKS_FAIL, Action.RESET),
        (BATCH, replace(FAILING, failed_build=None, replays=None), Finding.HEALTHY, None),
        (BATCH, replace(FAILING, failed_build=None, replays=None, task_attempt=5), Finding.TASKS_FAIL, Action.RESET),
        (replace(BATCH, attention="401"), RUNNING, Finding.WAITS_FOR_OPERATOR, None),
        (replace(BATCH, attention=f"{GAVE_UP}3 times"), RUNNING, Finding.OVERDUE, Action.POLL_NOW),
        (BATCH, running(an_activity()), Finding.HEALTHY, None),
        (BATCH, running(an_activity(ActivityState.WAITING)), Finding.HEALTHY, None),
        (BATCH, running(an_activity(ActivityState.WAITING, 4 * MINUTE)), Finding.HEALTHY, None),
        (BATCH, running(an_activity(ActivityState.WAITING, 6 * MINUTE)), Finding.LONG_BACK_OFF, Action.RESET_ACTIVITY),
        (TOLD, running(an_activity(ActivityState.WAITING, 6 * MINUTE)), Finding.LONG_BACK_OFF, Action.RESET_ACTIVITY),
        (TOLD, RUNNING, Finding.HEALTHY, None),
        (BATCH, replace(RUNNING, task_attempt=1), Finding.HEALTHY, None),
        (PENDING, RUNNING, Finding.HEALTHY, None),
        (BATCH, RUNNING, Finding.OVERDUE, Action.POLL_NOW),
        (PART, RUNNING, Finding.OVERDUE, Action.POLL_NOW),
        (replace(BATCH, due_at=NOW - 5 * MINUTE), RUNNING, Finding.HEALTHY, None),
        (replace(BATCH, parts=3), RUNNING, Finding.HEALTHY, None),
        # waits to be submitted for too long
        (TOO_OLD, None, Finding.TOO_OLD, Action.CANCEL),
        (TOO_OLD, TERMINATED, Finding.TOO_OLD, Action.CANCEL),
        (TOO_OLD, RUNNING, Finding.TOO_OLD, Action.CANCEL),
        (TOO_OLD, replace(RUNNING, queue="deserted"), Finding.TOO_OLD, Action.CANCEL),
        (TOO_OLD, running(an_activity(ActivityState.WAITING, HOUR)), Finding.TOO_OLD, Action.CANCEL),
        (TOO_OLD, running(an_activity()), Finding.HEALTHY, None),
        (TOO_OLD, FAILING, Finding.TASKS_FAIL, Action.RESET),
        (replace(TOO_OLD, submitted=True), RUNNING, Finding.HEALTHY, None),
        (replace(TOO_OLD, submitted=True), None, Finding.NOT_FOUND, Action.START),
        # past its max age
        (LATE, None, Finding.LEFT_TO_EXPIRY, None),
        (LATE, FAILED, Finding.LEFT_TO_EXPIRY, None),
        (LATE, FAILING, Finding.LEFT_TO_EXPIRY, None),
        (replace(LATE, deadline=NOW - HOUR), FAILED, Finding.FAILED, Action.RESET),
        (replace(LATE, terminal=True), FAILED, Finding.FAILED, Action.RESET),
        (replace(LATE, subject=Subject.PART), RUNNING, Finding.OVERDUE, Action.POLL_NOW),
        # documents
        (DOCUMENT, None, Finding.NOT_FOUND, Action.START),
        (DOCUMENT, FAILED, Finding.FAILED, Action.START),
        (DOCUMENT, INVALID, Finding.FAILED, Action.START),
        (DOCUMENT, COMPLETED, Finding.COMPLETED, Action.START),
        (DOCUMENT, CANCELED, Finding.CANCELED, Action.START),
        (DOCUMENT, RUNNING, Finding.HEALTHY, None),
        (DOCUMENT, running(an_activity(ActivityState.WAITING, 6 * MINUTE)), Finding.HEALTHY, None),
        (DOCUMENT, FAILING, Finding.TASKS_FAIL, Action.RESET),
        # slicings
        (SLICING, None, Finding.NOT_FOUND, Action.START),
        (SLICING, TERMINATED, Finding.TERMINATED, Action.RESET),
        (SLICING, FAILED, Finding.FAILED, Action.RESET),
        (SLICING, INVALID, Finding.INVALID_INPUT, Action.START),
        (SLICING, CANCELED, Finding.CANCELED, Action.CLOSE),
        (SLICING, COMPLETED, Finding.COMPLETED, Action.START),
        (replace(SLICING, terminal=True), COMPLETED, Finding.COMPLETED, Action.START),
        (replace(SLICING, terminal=True), CANCELED, Finding.CANCELED, Action.START),
        (replace(SLICING, terminal=True), TERMINATED, Finding.TERMINATED, Action.START),
        (replace(SLICING, terminal=True), INVALID, Finding.FAILED, Action.START),
        (SLICING, running(an_activity(ActivityState.WAITING, 6 * MINUTE)), Finding.HEALTHY, None),
        (SLICING, FAILING, Finding.TASKS_FAIL, Action.RESET),
        # what only Temporal reports
        (WORKFLOW, None, Finding.NOT_FOUND, None),
        (WORKFLOW, FAILED, Finding.HEALTHY, None),
        (WORKFLOW, RUNNING, Finding.HEALTHY, None),
        (WORKFLOW, PAUSED, Finding.PAUSED, None),
        (WORKFLOW, replace(FAILING, queue="deserted"), Finding.NO_WORKER, None),
        (WORKFLOW, FAILING, Finding.TASKS_FAIL, Action.RESET),
        (replace(BATCH, known=False), None, Finding.NOT_FOUND, None),
        (replace(BATCH, known=False), COMPLETED, Finding.HEALTHY, None),
        (replace(BATCH, known=False), CANCELED, Finding.HEALTHY, None),
        (replace(BATCH, known=False), RUNNING, Finding.HEALTHY, None),
        (replace(BATCH, known=False), FAILING, Finding.TASKS_FAIL, Action.RESET),
    ],
)
def test_what_is_found_is_repaired_as_the_table_says(
    candidate: Candidate, seen: Seen | None, finding: Finding, action: Action | None
) -> None:
    decision = decide(candidate, seen, [], HERE)

    assert outcome(decision) == (finding, action)
    assert bool(decision.epoch) == (action is not None)


@pytest.mark.parametrize(
    ("candidate", "seen", "finding", "action"),
    [
        (LATE, None, Finding.PAST_DEADLINE, Action.START_AFRESH),
        (LATE, FAILED, Finding.PAST_DEADLINE, Action.START_AFRESH),
        (LATE, INVALID, Finding.PAST_DEADLINE, Action.START_AFRESH),
        (LATE, CANCELED, Finding.PAST_DEADLINE, Action.START_AFRESH),
        (LATE, COMPLETED, Finding.PAST_DEADLINE, Action.START_AFRESH),
        (LATE, FAILING, Finding.PAST_DEADLINE, Action.START_AFRESH),
        (LATE, RUNNING, Finding.PAST_DEADLINE, Action.START_AFRESH),
        (LATE, replace(FAILING, queue="deserted"), Finding.NO_WORKER, None),
        (LATE, replace(TERMINATED, queue="deserted"), Finding.PAST_DEADLINE, Action.START_AFRESH),
        (LATE, PAUSED, Finding.PAUSED, None),
        (LATE, running(an_activity()), Finding.HEALTHY, None),
        (LATE, running(an_activity(ActivityState.WAITING, HOUR)), Finding.HEALTHY, None),
        (LATE, replace(RUNNING, task_attempt=1), Finding.HEALTHY, None),
        (LATE, replace(RUNNING, task_attempt=2), Finding.HEALTHY, None),
        (replace(LATE, attention="401"), RUNNING, Finding.HEALTHY, None),
        (replace(LATE, attention=f"{GAVE_UP}again"), RUNNING, Finding.PAST_DEADLINE, Action.START_AFRESH),
        (replace(LATE, due_at=NOW + MINUTE), RUNNING, Finding.HEALTHY, None),
        (replace(LATE, due_at=None), RUNNING, Finding.HEALTHY, None),
        (replace(LATE, parts=2), RUNNING, Finding.HEALTHY, None),
        (
            replace(LATE, parts=2, due_at=NOW - timedelta(hours=25)),
            RUNNING,
            Finding.PAST_DEADLINE,
            Action.START_AFRESH,
        ),
    ],
)
def test_past_max_age_a_fresh_run_takes_over_where_none_drives_the_batch(
    candidate: Candidate, seen: Seen | None, finding: Finding, action: Action | None
) -> None:
    assert outcome(decide(candidate, seen, [], EXPIRY)) == (finding, action)


# --- what was done before


@pytest.mark.parametrize("here", [HERE, EXPIRY])
@pytest.mark.parametrize("seen", [None, FAILED, RUNNING, FAILING])
def test_what_another_reconciler_recorded_just_now_is_left_to_it(seen: Seen | None, here: Here) -> None:
    asked = repair(Action.POLL_NOW, "poll/x", ago=timedelta(seconds=59), state=RepairState.ASKED)

    assert outcome(decide(LATE, seen, [asked], here)) == (Finding.BEING_REPAIRED, None)


def test_a_record_that_a_dead_reconciler_left_keeps_nobody_waiting() -> None:
    asked = repair(Action.POLL_NOW, "poll/x", ago=timedelta(seconds=61), state=RepairState.ASKED)

    assert decide(BATCH, FAILED, [asked], HERE).action is Action.RESET


def test_a_repair_that_came_to_nothing_may_be_made_again() -> None:
    for state in (RepairState.FAILED, RepairState.VOID):
        past = [repair(Action.POLL_NOW, "poll/run/2026-03-02T11:50:00+00:00#4", state=state)]
        decision = decide(BATCH, RUNNING, past, HERE)
        assert outcome(decision) == (Finding.OVERDUE, Action.POLL_NOW)
        assert decision.epoch == "poll/run/2026-03-02T11:50:00+00:00"


def test_failing_tasks_are_reset_once_a_build_and_then_need_attention_once() -> None:
    reset = decide(BATCH, FAILING, [], HERE)
    assert reset.epoch == "replay/new"
    past = [carried_out(reset, FAILING, new_run="run2")]
    again = replace(FAILING, run_id="run2", task_attempt=6, failed_build=None, replays=None)

    given_up = decide(BATCH, again, past, HERE)
    assert outcome(given_up) == (Finding.TASKS_FAIL, Action.GIVE_UP)
    assert given_up.reason.startswith(GAVE_UP)
    past = [carried_out(given_up, again), *past]
    assert outcome(decide(BATCH, again, past, HERE)) == (Finding.TASKS_FAIL, None)

    mended = replace(HERE, build="newer")
    assert decide(BATCH, replace(again, failed_build="newer"), past, mended).epoch == "replay/newer"


def test_a_task_that_lost_its_worker_after_a_reset_asks_for_nobody() -> None:
    past = [repair(Action.RESET, "replay/new", run="run0", new_run="run")]

    assert outcome(decide(BATCH, replace(RUNNING, task_attempt=2), past, HERE)) == (Finding.HEALTHY, None)


@pytest.mark.parametrize(
    ("candidate", "action"), [(DOCUMENT, None), (SLICING, Action.GIVE_UP), (WORKFLOW, Action.GIVE_UP)]
)
def test_failing_tasks_after_their_reset_are_told_once_but_not_of_thousands_of_documents(
    candidate: Candidate, action: Action | None
) -> None:
    past = [repair(Action.RESET, "replay/new", run="run0", new_run="run")]
    failing = replace(FAILING, task_attempt=5)
    assert outcome(decide(candidate, failing, past, HERE)) == (Finding.TASKS_FAIL, action)
    past.insert(0, repair(Action.GIVE_UP, "give_up/replay/new", run="run"))
    assert outcome(decide(candidate, failing, past, HERE)) == (Finding.TASKS_FAIL, None)


def test_a_run_that_cannot_be_reset_is_replaced_by_a_fresh_one() -> None:
    refused = [repair(Action.RESET, "reset/run#1", state=RepairState.FAILED)]
    polled = repair(Action.POLL_NOW, "poll/run/2026-03-02T11:50:00+00:00")

    assert decide(BATCH, FAILED, refused, HERE).action is Action.START
    assert decide(BATCH, FAILING, refused, HERE).action is Action.START_AFRESH
    stuck = decide(BATCH, RUNNING, [polled, *refused], HERE)
    assert (stuck.action, stuck.epoch) == (Action.START_AFRESH, "afresh/run")
    assert decide(PART, RUNNING, [polled, *refused], HERE).action is Action.GIVE_UP


def test_an_activity_is_reset_once() -> None:
    seen = running(an_activity(ActivityState.WAITING, HOUR))
    first = decide(BATCH, seen, [], HERE)
    assert (first.epoch, first.activity_id) == ("activity/run/7", "7")

    assert outcome(decide(BATCH, seen, [carried_out(first, seen)], HERE)) == (Finding.HEALTHY, None)


def test_who_is_overdue_is_asked_to_go_on_given_a_minute_and_then_reset() -> None:
    asked = decide(BATCH, RUNNING, [], HERE)
    past = [carried_out(asked, RUNNING)]

    assert outcome(decide(BATCH, RUNNING, past, replace(HERE, now=NOW + 59 * timedelta(seconds=1)))) == (
        Finding.OVERDUE,
        None,
    )
    reset = decide(BATCH, RUNNING, past, replace(HERE, now=NOW + MINUTE))
    assert outcome(reset) == (Finding.STILL_OVERDUE, Action.RESET)
    assert reset.epoch == "reset/run"


def test_each_poll_that_is_due_is_asked_for_before_anything_is_reset() -> None:
    past = [repair(Action.POLL_NOW, "poll/run/2026-03-02T10:00:00+00:00")]

    assert decide(BATCH, RUNNING, past, HERE).action is Action.POLL_NOW


def test_a_run_that_was_reset_already_is_followed_by_a_start() -> None:
    past = [repair(Action.RESET, "reset/run", new_run="gone")]

    decision = decide(BATCH, TERMINATED, past, HERE)
    assert (decision.action, decision.epoch) == (Action.START, f"start/{past[0].key}")


def test_input_that_we_gave_and_that_cannot_be_used_closes_the_batch() -> None:
    past = [repair(Action.START, "start/0", run="theirs", new_run="run")]

    closed = decide(PENDING, INVALID, past, HERE)
    assert (closed.action, closed.epoch, closed.reason) == (Action.CLOSE, "close/run", "invalid BatchInput")
    assert decide(BATCH, INVALID, past, HERE).action is Action.START  # submitted: nothing is refused any more
    assert decide(TOLD, INVALID, past, HERE).action is Action.START


def test_a_cancel_that_was_stored_and_not_carried_out_is_followed_by_a_start() -> None:
    for seen, candidate in ((CANCELED, BATCH), (None, TOO_OLD)):
        first = decide(candidate, seen, [], HERE)
        assert first.action is Action.CANCEL
        assert decide(candidate, seen, [carried_out(first, seen)], HERE).action is Action.START


def test_a_delivery_is_recorded_once_and_no_handler_is_called_for_it() -> None:
    first = decide(TOLD, COMPLETED, [], HERE)

    assert outcome(decide(TOLD, COMPLETED, [carried_out(first, COMPLETED)], HERE)) == (Finding.COMPLETED, None)


def test_the_expiry_sweep_goes_on_trying_and_asks_for_somebody_once() -> None:
    past: list[RepairRow] = []
    actions = []
    for hour in range(6):
        seen = replace(FAILED, run_id=f"run{hour}")
        decision = decide(LATE, seen, past, EXPIRY)
        actions.append(decision.action)
        past.insert(0, carried_out(decision, seen, new_run=f"run{hour + 1}"))

    fresh = Action.START_AFRESH
    assert actions == [fresh, fresh, fresh, Action.GIVE_UP, fresh, fresh]


# --- tries


@pytest.mark.parametrize(
    ("agos", "finding", "action"),
    [
        ([], Finding.FAILED, Action.RESET),
        ([9 * MINUTE], Finding.TOO_EARLY, None),
        ([10 * MINUTE], Finding.FAILED, Action.RESET),
        ([2 * HOUR, 59 * MINUTE], Finding.TOO_EARLY, None),
        ([2 * HOUR, 60 * MINUTE], Finding.FAILED, Action.RESET),
        ([5 * HOUR, 4 * HOUR, 3 * HOUR], Finding.OUT_OF_TRIES, Action.GIVE_UP),
    ],
)
def test_repairs_that_start_runs_are_spaced_and_counted(
    agos: Sequence[timedelta], finding: Finding, action: Action | None
) -> None:
    decision = decide(BATCH, FAILED, resets(*agos), HERE)

    assert outcome(decision) == (finding, action)


def test_attention_is_asked_for_once_after_the_last_try_and_says_why() -> None:
    past = resets(5 * HOUR, 4 * HOUR, 3 * HOUR)
    given_up = decide(BATCH, FAILED, past, HERE)
    assert given_up.reason.startswith(f"{GAVE_UP}workflow batch/b1 was repaired 3 times, and found failed again")
    assert "it broke" in given_up.reason

    for later in (NOW, NOW + 2 * HOUR):
        decision = decide(BATCH, FAILED, [carried_out(given_up, FAILED), *past], replace(HERE, now=later))
        assert outcome(decision) == (Finding.OUT_OF_TRIES, None)


def test_what_has_bounds_of_its_own_is_no_try() -> None:
    own = [
        repair(Action.RESET, "replay/new", run="run0", new_run="run"),
        repair(Action.POLL_NOW, "poll/run0/x", run="run0"),
        repair(Action.RESET_ACTIVITY, "activity/run0/7", run="run0"),
        repair(Action.START_AFRESH, "expire/run0/1", run="run00", new_run="run0"),
        repair(Action.RESET, "reset/run00#1", run="run00", state=RepairState.FAILED),
        repair(Action.START, "start/0#2", run=None, state=RepairState.VOID),
    ]

    assert decide(BATCH, FAILED, own, replace(HERE, spacing=(timedelta(0),))).action is Action.RESET


def test_a_run_that_somebody_starts_by_hand_is_repaired_anew() -> None:
    past = resets(5 * HOUR, 4 * HOUR, 3 * HOUR)
    past.insert(0, repair(Action.GIVE_UP, "give_up/3", ago=2 * HOUR))
    by_hand = replace(FAILED, run_id="mine")
    first = decide(BATCH, by_hand, past, HERE)
    assert (first.action, first.epoch) == (Action.RESET, "reset/mine")

    past.insert(0, carried_out(first, by_hand, new_run="mine2"))
    second = decide(BATCH, replace(FAILED, run_id="mine2"), past, replace(HERE, now=NOW + 10 * MINUTE))
    assert second.action is Action.RESET  # the second try, not the fourth


def test_a_run_by_hand_that_is_given_up_as_well_asks_for_attention_again() -> None:
    past = [repair(Action.GIVE_UP, "give_up/3", ago=20 * HOUR), *resets(23 * HOUR, 22 * HOUR, 21 * HOUR)]
    mine = [
        repair(Action.RESET, f"reset/mine{n}", run=f"mine{n}", new_run=f"mine{n + 1}", ago=(5 - n) * HOUR)
        for n in range(3)
    ][::-1]

    decision = decide(BATCH, replace(FAILED, run_id="mine3"), [*mine, *past], HERE)
    assert outcome(decision) == (Finding.OUT_OF_TRIES, Action.GIVE_UP)


def test_starts_where_no_run_is_found_count_too() -> None:
    past = [repair(Action.START, f"start/{n}", run=None, new_run=f"s{n}", ago=(5 - n) * HOUR) for n in range(3)][::-1]

    assert decide(BATCH, None, past, HERE).finding is Finding.OUT_OF_TRIES
    assert decide(BATCH, replace(TERMINATED, run_id="s2"), past, HERE).finding is Finding.OUT_OF_TRIES


def test_without_spacing_nothing_is_started_and_attention_is_asked_for_once() -> None:
    here = replace(HERE, spacing=())
    given_up = decide(BATCH, FAILED, [], here)
    assert outcome(given_up) == (Finding.OUT_OF_TRIES, Action.GIVE_UP)

    assert decide(BATCH, FAILED, [carried_out(given_up, FAILED)], here).action is None
    assert decide(DOCUMENT, None, [], here).action is Action.START


def test_a_document_is_started_again_for_ever_but_not_more_often_than_the_last_pause() -> None:
    past = [repair(Action.START, f"start/{n}", run=None, ago=(9 - n) * HOUR) for n in range(9)][::-1]

    assert decide(DOCUMENT, None, past, HERE).action is Action.START
    past[0].asked_at = NOW - 59 * MINUTE
    assert decide(DOCUMENT, None, past, HERE).finding is Finding.TOO_EARLY


def test_a_slicing_that_is_given_up_is_closed_so_that_its_owner_hears_of_it() -> None:
    closed = decide(SLICING, TERMINATED, resets(5 * HOUR, 4 * HOUR, 3 * HOUR), HERE)
    assert outcome(closed) == (Finding.OUT_OF_TRIES, Action.CLOSE)
    assert not closed.reason.startswith(GAVE_UP)

    ended = replace(SLICING, terminal=True)
    assert decide(ended, TERMINATED, resets(5 * HOUR, 4 * HOUR, 3 * HOUR), HERE).action is Action.GIVE_UP


# --- of every case


def every_case() -> Iterator[tuple[Candidate, Seen | None, Here]]:
    running_on = replace(BATCH, deadline=NOW + 100 * HOUR)
    candidates = [
        *(
            running_on,
            replace(PART, deadline=None),
            PENDING,
            TOO_OLD,
            TOLD,
            LATE,
            DOCUMENT,
            SLICING,
            WORKFLOW,
            replace(BATCH, known=False),
        ),
        replace(SLICING, terminal=True),
        replace(running_on, attention="401"),
        replace(running_on, parts=3),
        replace(LATE, parts=3),
    ]
    activities = [
        (),
        (an_activity(),),
        (an_activity(ActivityState.WAITING, HOUR),),
        (an_activity(ActivityState.PAUSED),),
    ]
    seen: list[Seen | None] = [None, INVALID, replace(FAILING, failed_build="old", replays=True), FAILING]
    seen += [replace(RUNNING, state=state) for state in RunState if state is not RunState.RUNNING]
    seen += [replace(each, queue="deserted") for each in (RUNNING, FAILING, TERMINATED)]
    for doing, attempt in itertools.product(activities, (0, 1, 9)):
        seen.append(replace(RUNNING, activities=doing, task_attempt=attempt))
    yield from itertools.product(candidates, seen, (HERE, EXPIRY))


def test_nothing_is_done_about_a_run_that_works() -> None:
    for candidate, _, here in every_case():
        for seen in (running(an_activity()), replace(RUNNING, task_attempt=1)):
            if seen.task_attempt and candidate.too_old:
                continue
            assert decide(candidate, seen, [], here).action is None, (candidate, seen)


def test_a_finding_that_says_all_is_well_never_comes_with_a_repair() -> None:
    idle = {Finding.HEALTHY, Finding.PAUSED, Finding.NO_WORKER, Finding.WAITS_FOR_OPERATOR, Finding.LEFT_TO_EXPIRY}
    for candidate, seen, here in every_case():
        decision = decide(candidate, seen, [], here)
        assert not (decision.finding in idle and decision.action)


def test_no_repair_is_ever_made_twice_whatever_becomes_of_the_run() -> None:
    """Each case is decided again and again, days apart, while its runs come, fail, and go."""
    chance = random.Random(7)
    for candidate, seen, here in every_case():
        past: list[RepairRow] = []
        for tick in range(12):
            now = NOW + tick * 2 * HOUR
            decision = decide(candidate, seen, past, replace(here, now=now))
            if decision.action is None:
                continue
            assert decision.epoch not in {row.epoch for row in past}, (candidate, seen, decision)
            starts = decision.action in (Action.START, Action.START_AFRESH, Action.RESET)
            new_run = f"run-{tick}" if starts and chance.random() < 0.8 else None
            past.insert(0, carried_out(decision, seen, new_run=new_run, now=now))
            if new_run:
                seen = replace(seen or TERMINATED, run_id=new_run)


COUNTED = ("reset/", "start/", "afresh/")


def test_what_never_recovers_is_left_alone_in_the_end() -> None:
    for candidate, first, here in every_case():
        seen, past = first, list[RepairRow]()
        for tick in range(20):
            now = NOW + tick * 2 * HOUR
            decision = decide(candidate, seen, past, replace(here, now=now))
            if decision.action is None:
                continue
            row = carried_out(
                decision, seen, new_run=f"run-{tick}" if decision.epoch.startswith(COUNTED) else None, now=now
            )
            past.insert(0, row)
            seen = replace(seen, run_id=row.new_run_id) if seen and row.new_run_id else seen
        if here.expires or candidate.subject is Subject.DOCUMENT:
            continue
        counted = [row for row in past if row.epoch.startswith(COUNTED)]
        assert len(counted) <= len(here.spacing), (candidate, first, past)
        assert past == [] or past[0].asked_at < NOW + 28 * HOUR
