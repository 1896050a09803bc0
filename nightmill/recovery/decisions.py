"""What repairs what: a table, as functions without side effects.

    found                                       repair
    ------------------------------------------  -----------------------------------------------------------------
    recorded by another reconciler just now     nothing
    past its max age                            of the expiry sweep alone: a fresh start, if nothing drives it
    waits to be submitted for too long          canceled
    no worker on its queue; paused              nothing
    its tasks fail with this build's code       reset, once a build; with another's: nothing
    waits for an operator                       nothing
    an activity in a long back-off              activity reset, once
    the host's handler may be at work           nothing: it is not called twice at once
    overdue, nothing wrong                      `poll_now` for each poll that is due; then reset
    failed, timed out, terminated               reset; a fresh start where that was done or cannot be
    failed for its input                        a start from what is stored; if that fails so too, it is closed
    canceled                                    the cancel is carried out, or whoever is to be told is told
    completed                                   the missing step is written; or a start, if its rows are behind
    not found                                   a start

Resets and starts are spaced (`Here.spacing`) and counted (`Past.tries`); after the last one it needs attention.
Provider batches of a batch of several are started by their batch alone. Of what only Temporal reports, failing workflow
tasks are repaired and nothing else. A sync is cheap: documents are started, and nobody gives them up. So is a slicing
that has ended: it only tells whoever was not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from nightmill.contracts import Action, Finding, Subject
from nightmill.recovery import host_calls
from nightmill.recovery.model import ActivityState, Candidate, Decision, Here, RunState, Seen
from nightmill.recovery.past import Past

if TYPE_CHECKING:
    from nightmill.storage.recovery_models import RepairRow

GAVE_UP = "recovery gave up: "
"""How an attention begins that recovery itself asked for; it keeps nobody from another repair."""

INVALID = frozenset({"InvalidInput", "OverBudget", "RequestRefused"})
"""Types of failures that say that a run's input cannot be used."""

SURE_FAILURE = 5
"""Attempts of a workflow task after which it fails for sure, whoever fails it: a minute's worth, as Temporal counts.
Up to there a task of which no failure is known may just have lost its worker."""

POLLS_WITHIN = timedelta(minutes=1)
"""How long a `poll_now` may take to show in the rows; the grace, where that is shorter."""

STANDSTILL = timedelta(days=1)
"""Past its max age, a batch of several provider batches of which one has been due for so long is not driven."""

PARTS_PATIENCE = timedelta(hours=5)
"""How long a batch of several provider batches is left to them, of which one may store results for four hours."""

FRUITLESS = 3
"""Fresh starts by the expiry sweep after which somebody should look; the sweep goes on all the same."""

_BATCHES = frozenset({Subject.BATCH, Subject.PART})
_STARTS = frozenset({Action.START, Action.START_AFRESH})
_CLOSED: dict[RunState, Finding] = {
    RunState.FAILED: Finding.FAILED,
    RunState.TIMED_OUT: Finding.TIMED_OUT,
    RunState.TERMINATED: Finding.TERMINATED,
    RunState.CANCELED: Finding.CANCELED,
    RunState.COMPLETED: Finding.COMPLETED,
}


def decide(candidate: Candidate, seen: Seen | None, past: Sequence[RepairRow], here: Here) -> Decision:
    """Return what was found and what is to be done about it.

    Args:
        candidate: What may be stuck.
        seen: Its workflow's present run, looked at just now; None: there is none.
        past: Repairs of this workflow, newest first.
        here: Everything else that matters.
    """
    case = _Case(candidate, Past(tuple(past)), here)
    if case.past.is_in_hand(here.now):
        return Decision(Finding.BEING_REPAIRED)
    if here.expires:
        return _expired(case, seen)
    if candidate.subject is Subject.WORKFLOW or not candidate.known:
        return _reported(case, seen)
    if candidate.subject is not Subject.PART and _is_past_deadline(case):
        return Decision(Finding.LEFT_TO_EXPIRY)  # a provider batch ends itself, once its own workflow goes on
    match seen:
        case None:
            return _not_found(case)
        case Seen(state=RunState.RUNNING):
            return _running(case, seen)
        case Seen(state=RunState.PAUSED):
            return Decision(Finding.PAUSED)
        case _:
            return _closed(case, seen)


@dataclass(frozen=True)
class _Case:
    candidate: Candidate
    past: Past
    here: Here

    def once(self, finding: Finding, action: Action, epoch: str, reason: str = "") -> Decision | None:
        """Return the repair, unless it was done before."""
        return None if self.past.repair(epoch) else Decision(finding, action, epoch, reason)


# --- past max age


def _is_past_deadline(case: _Case) -> bool:
    deadline = case.candidate.deadline
    return not case.candidate.terminal and deadline is not None and deadline + case.here.expiry_margin < case.here.now


def _expired(case: _Case, seen: Seen | None) -> Decision:
    """A batch past its max age: whatever does not drive it to its end is replaced by a run that does."""
    match seen:
        case Seen(state=RunState.RUNNING) if seen.queue in case.here.idle_queues:
            return Decision(Finding.NO_WORKER)
        case Seen(state=RunState.RUNNING) if not _fails(seen) and not _stands_still(case, seen):
            return Decision(Finding.HEALTHY)
        case Seen(state=RunState.PAUSED):
            return Decision(Finding.PAUSED)
    stands = f"its run is {seen.state}" if seen else "it has no run"
    reason = f"its max age has passed and {stands}"
    if case.past.begun("expire/") >= FRUITLESS:
        needs = f"{GAVE_UP}{reason}, for the {FRUITLESS + 1}th time; the expiry sweep goes on trying"
        given_up = case.once(Finding.PAST_DEADLINE, Action.GIVE_UP, "give_up/expire", needs)
        if given_up:
            return given_up
    epoch = f"expire/{seen.run_id if seen else 'none'}/{case.past.place}"
    return Decision(Finding.PAST_DEADLINE, Action.START_AFRESH, epoch, reason)


def _stands_still(case: _Case, seen: Seen) -> bool:
    """Whether a run does nothing about a poll that has long been due.

    One that waits for the provider to cancel, or tries to fetch results, keeps what is due in the future. That of
    several provider batches waits for their workflows, and an activity of theirs may take hours.
    """
    due_at, here = case.candidate.due_at, case.here
    if due_at is None or seen.activities or seen.task_attempt or _waits_for_operator(case.candidate):
        return False
    return due_at < here.now - (here.grace if case.candidate.parts == 1 else STANDSTILL)


# --- running


def _running(case: _Case, seen: Seen) -> Decision:
    candidate = case.candidate
    if candidate.too_old and seen.task_attempt <= 1 and not _has(seen, ActivityState.RUNNING):
        canceled = _too_old(case, seen)
        if canceled:
            return canceled
    if seen.queue in case.here.idle_queues:
        return Decision(Finding.NO_WORKER)
    if seen.task_attempt > 1:
        return _tasks_fail(case, seen)
    if _has(seen, ActivityState.PAUSED):
        return Decision(Finding.PAUSED)
    if candidate.subject not in _BATCHES:
        return Decision(Finding.HEALTHY)  # their waits are meant
    if _waits_for_operator(candidate):
        return Decision(Finding.WAITS_FOR_OPERATOR)
    if _has(seen, ActivityState.RUNNING):
        return Decision(Finding.HEALTHY)
    return _long_back_off(case, seen) or _overdue(case, seen)


def _reported(case: _Case, seen: Seen | None) -> Decision:
    """A workflow that Temporal reports: its failing tasks are all that is known to be wrong with it."""
    match seen:
        case None:
            return Decision(Finding.NOT_FOUND)
        case Seen(state=RunState.PAUSED):
            return Decision(Finding.PAUSED)
        case Seen(state=RunState.RUNNING) if seen.queue in case.here.idle_queues:
            return Decision(Finding.NO_WORKER)
        case Seen(state=RunState.RUNNING) if seen.task_attempt > 1:
            return _tasks_fail(case, seen)
        case _:
            return Decision(Finding.HEALTHY)


def _too_old(case: _Case, seen: Seen | None) -> Decision | None:
    """Cancel what waits to be submitted for longer than it may; what may exist at the provider is followed instead."""
    if case.candidate.submitted or case.candidate.terminal:
        return None
    epoch = f"cancel/{seen.run_id if seen else 'none'}"
    return case.once(Finding.TOO_OLD, Action.CANCEL, epoch, "it was not submitted in time")


def _tasks_fail(case: _Case, seen: Seen) -> Decision:
    build = case.here.build
    if not _fails(seen):
        return Decision(Finding.HEALTHY, reason="a task lost its worker, and is tried again")
    if host_calls.runs(case.candidate, seen):
        return Decision(Finding.TOO_EARLY, reason="its tasks fail, and a handler's activity runs: it is waited for")
    if case.past.repair(f"replay/{build}"):
        reason = f"was reset for build {build} already"
        if case.candidate.subject is Subject.DOCUMENT:  # a bad deploy would tell of thousands
            return Decision(Finding.TASKS_FAIL, reason=reason)
        needs = f"{GAVE_UP}the tasks of workflow {case.candidate.workflow_id} fail, and it {reason}; mend the code"
        given_up = case.once(Finding.TASKS_FAIL, Action.GIVE_UP, f"give_up/replay/{build}", needs)
        return given_up or Decision(Finding.TASKS_FAIL, reason=reason)
    if seen.failed_build not in (None, build) and seen.replays is not False:
        return Decision(Finding.TASKS_FAILED_ELSEWHERE, reason=f"failed with build {seen.failed_build}")
    if case.past.was_refused(seen.run_id) and case.candidate.subject is Subject.BATCH:
        return _start_afresh(case, seen, Finding.TASKS_FAIL)
    reason = f"its tasks fail with build {seen.failed_build or 'unknown'}"
    return Decision(Finding.TASKS_FAIL, Action.RESET, f"replay/{build}", reason)


def _fails(seen: Seen) -> bool:
    """Whether code fails the tasks; a task that only lost its worker has a second attempt, too."""
    if seen.task_attempt <= 1:
        return False
    return seen.task_attempt >= SURE_FAILURE or seen.failed_build is not None or seen.replays is False


def _long_back_off(case: _Case, seen: Seen) -> Decision | None:
    late = case.here.now + case.here.grace
    for activity in seen.activities:
        epoch = f"activity/{seen.run_id}/{activity.id}"
        # The host's own may have asked for its pause.
        is_long = not activity.is_elsewhere and (activity.next_attempt_at or late) > late
        if activity.state is ActivityState.WAITING and is_long and not case.past.repair(epoch):
            reason = f"attempt {activity.attempt} of {activity.type} waits until {activity.next_attempt_at}"
            return Decision(Finding.LONG_BACK_OFF, Action.RESET_ACTIVITY, epoch, reason, activity.id)
    return None


def _overdue(case: _Case, seen: Seen) -> Decision:
    """Ask a run that is overdue to go on; reset it if it does not.

    What is due in a batch of several provider batches is theirs to do, and each of them is looked at by itself; only if
    that has led to nothing for hours does the batch wait in vain, as for the end of one that it was never told of.
    """
    candidate, here = case.candidate, case.here
    goes_on = seen.activities or seen.task_attempt
    due_at = None if goes_on or candidate.terminal else candidate.due_at
    patience = here.grace if candidate.parts == 1 else max(here.grace, PARTS_PATIENCE)
    if due_at is None or due_at >= here.now - patience:
        return Decision(Finding.HEALTHY)
    since = f"due since {due_at.isoformat(timespec='seconds')}"
    epoch = f"poll/{seen.run_id}/{due_at.isoformat()}"
    polled = case.past.repair(epoch)
    if polled is None:
        return Decision(Finding.OVERDUE, Action.POLL_NOW, epoch, since)
    if here.now - polled.asked_at < min(POLLS_WITHIN, here.grace):
        return Decision(Finding.OVERDUE, reason=f"{since}; was asked to go on just now")
    return _reset(case, seen, Finding.STILL_OVERDUE, f"{since}, and was asked to go on")


# --- not running


def _not_found(case: _Case) -> Decision:
    if case.candidate.subject is Subject.PART:
        return Decision(Finding.HEALTHY, reason="its batch starts it again")
    at_work = host_calls.awaited(case.candidate, case.candidate.ended_at, case.here.now)
    canceled = _too_old(case, None) if case.candidate.too_old else None
    return at_work or canceled or _start(case, None, Finding.NOT_FOUND, "there is no such workflow")


def _closed(case: _Case, seen: Seen) -> Decision:
    if case.candidate.subject is Subject.PART:
        return Decision(Finding.HEALTHY, reason="its batch starts it again")
    only_tells = case.candidate.subject is Subject.SLICING and case.candidate.terminal
    finding = _CLOSED[seen.state]
    reason = f"its run is {seen.state}" + (f": {_short(seen.failure)}" if seen.failure else "")
    if case.candidate.subject is Subject.DOCUMENT or only_tells:
        return _start(case, seen, finding, reason)
    at_work = host_calls.awaited(case.candidate, seen.closed_at, case.here.now)
    if at_work and seen.state is not RunState.COMPLETED:
        return at_work
    if seen.state is RunState.FAILED and seen.failure_type in INVALID:
        return _invalid(case, seen)
    if case.candidate.too_old and seen.state is not RunState.CANCELED:
        canceled = _too_old(case, seen)
        if canceled:
            return canceled
    match seen.state:
        case RunState.CANCELED:
            return _canceled(case, seen, reason)
        case RunState.COMPLETED:
            return _completed(case, seen, reason)
        case _:
            return _reset(case, seen, finding, reason)


def _invalid(case: _Case, seen: Seen) -> Decision:
    """A run whose input could not be used: somebody's who started it by hand, unless we gave it what is stored."""
    ours = any(row.new_run_id == seen.run_id and row.action in _STARTS for row in case.past.rows)
    if not ours or case.candidate.submitted or case.candidate.terminal:
        reason = f"its run was given what cannot be used, and is given what is stored: {_short(seen.failure)}"
        return _start(case, seen, Finding.INVALID_INPUT, reason)
    closed = case.once(Finding.INVALID_INPUT, Action.CLOSE, f"close/{seen.run_id}", _short(seen.failure))
    return closed or Decision(Finding.INVALID_INPUT)


def _canceled(case: _Case, seen: Seen, reason: str) -> Decision:
    """A run that was canceled and could not put its work in order."""
    if case.candidate.terminal:
        return _start(case, seen, Finding.CANCELED, "its work is stored, and somebody is to be told")
    if case.candidate.subject is Subject.SLICING:
        closed = case.once(Finding.CANCELED, Action.CLOSE, f"close/{seen.run_id}", reason)
        return closed or Decision(Finding.CANCELED)
    canceled = case.once(Finding.CANCELED, Action.CANCEL, f"cancel/{seen.run_id}", reason)
    return canceled or _start(case, seen, Finding.CANCELED, reason)


def _completed(case: _Case, seen: Seen, reason: str) -> Decision:
    """A run that ended well, by its own account: a batch's after its handler had succeeded."""
    candidate = case.candidate
    if candidate.subject is Subject.BATCH and candidate.terminal and not seen.failure:
        applied = case.once(Finding.COMPLETED, Action.APPLY, f"apply/{seen.run_id}", "its handler was told")
        return applied or Decision(Finding.COMPLETED)
    return _start(case, seen, Finding.COMPLETED, reason if seen.failure else "its rows are behind")


# --- tries


def _reset(case: _Case, seen: Seen, finding: Finding, reason: str) -> Decision:
    """Reset a run once; one that was reset, or cannot be, is replaced by a fresh start."""
    epoch = f"reset/{seen.run_id}"
    if not case.past.repair(epoch) and not case.past.was_refused(seen.run_id):
        return _try(case, seen, Decision(finding, Action.RESET, epoch, reason))
    if seen.state is not RunState.RUNNING:
        return _start(case, seen, finding, reason)
    return _start_afresh(case, seen, finding) if case.candidate.subject is Subject.BATCH else _give_up(case, seen)


def _start(case: _Case, seen: Seen | None, finding: Finding, reason: str) -> Decision:
    epoch = f"start/{case.past.place}"
    return _try(case, seen, Decision(finding, Action.START, epoch, reason))


def _start_afresh(case: _Case, seen: Seen, finding: Finding) -> Decision:
    epoch = f"afresh/{seen.run_id}"
    if case.past.repair(epoch):
        return _give_up(case, seen)
    reason = "it cannot be reset: a fresh run takes its place"
    return _try(case, seen, Decision(finding, Action.START_AFRESH, epoch, reason))


def _try(case: _Case, seen: Seen | None, wanted: Decision) -> Decision:
    """Return the repair if its time has come, or what to do instead."""
    tries, spacing = case.past.tries(seen.run_id if seen else None), case.here.spacing
    is_sync = case.candidate.subject is Subject.DOCUMENT
    if len(tries) >= len(spacing) and not is_sync:
        return _give_up(case, seen, wanted)
    if not tries:
        return wanted
    earliest = tries[0].asked_at + (spacing[min(len(tries), len(spacing) - 1)] if spacing else timedelta(hours=1))
    if case.here.now < earliest:
        when = earliest.isoformat(timespec="seconds")
        return Decision(Finding.TOO_EARLY, reason=f"{wanted.finding}: is repaired again from {when}")
    return wanted


def _give_up(case: _Case, seen: Seen | None, wanted: Decision | None = None) -> Decision:
    """Say once, after the last try, that it needs attention; a slicing's owner is told that it failed."""
    run = seen.run_id if seen else None
    tries = case.past.tries(run)
    last = f"{tries[0].key or 0}" if tries else run or "none"
    found = f"found {wanted.finding.replace('_', ' ')} again: {wanted.reason}" if wanted else "cannot be reset"
    reason = f"workflow {case.candidate.workflow_id} was repaired {len(tries)} times, and {found}"
    if case.candidate.subject is Subject.SLICING and not case.candidate.terminal:
        given_up = case.once(Finding.OUT_OF_TRIES, Action.CLOSE, f"close/after/{last}", reason)
    else:
        hint = "; its history in Temporal's UI says more; a run that is started by hand is repaired anew"
        given_up = case.once(Finding.OUT_OF_TRIES, Action.GIVE_UP, f"give_up/{last}", f"{GAVE_UP}{reason}{hint}")
    return given_up or Decision(Finding.OUT_OF_TRIES, reason=reason)


# --- small questions


def _has(seen: Seen, state: ActivityState) -> bool:
    return any(activity.state is state for activity in seen.activities)


def _waits_for_operator(candidate: Candidate) -> bool:
    return candidate.attention is not None and not candidate.attention.startswith(GAVE_UP)


def _short(failure: str) -> str:
    return failure if len(failure) <= 300 else f"{failure[:297]}..."
