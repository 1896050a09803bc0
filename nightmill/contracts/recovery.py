"""Recovery: what the reconciler and its sweeps are asked for, what they find, and what they did about it."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import Field

from nightmill.contracts.base import Contract, Outcome

MOST_REPAIRS_SHOWN = 100
"""Repairs that a summary lists one by one; the table `repairs` has them all."""


class Subject(StrEnum):
    """What a repair is for."""

    BATCH = "batch"
    PART = "part"
    DOCUMENT = "document"
    SLICING = "slicing"
    WORKFLOW = "workflow"
    """A workflow that was found by what Temporal reports of it."""


class Source(StrEnum):
    """Where candidates come from."""

    BATCHES = "batches"
    """Batches that are overdue, were never started, or have an open gate."""
    PARTS = "parts"
    """Provider batches that are overdue and have a workflow of their own."""
    PROBLEMS = "problems"
    """Workflows of which Temporal reports that their tasks fail."""
    DOCUMENTS = "documents"
    """Documents whose sync is stuck, or whose change was never told."""
    SLICINGS = "slicings"
    """Slicings that somebody should be working on."""
    PAST_DEADLINE = "past_deadline"
    """Batches past their max age; of the expiry sweep."""


class Finding(StrEnum):
    """What was found of one candidate, by a fresh look at its workflow."""

    HEALTHY = "healthy"
    """It works, waits for its turn, or is about to go on by itself."""
    TASKS_FAIL = "tasks_fail"
    """Its workflow tasks fail with the code that runs now."""
    TASKS_FAILED_ELSEWHERE = "tasks_failed_elsewhere"
    """They failed with another build's code; the next try is this one's."""
    LONG_BACK_OFF = "long_back_off"
    """An activity waits long before it is tried again."""
    OVERDUE = "overdue"
    """It runs and nothing is wrong with it, but what was due has not been done."""
    STILL_OVERDUE = "still_overdue"
    """It was asked to go on, and has not."""
    NO_WORKER = "no_worker"
    """Nobody listens to its task queue."""
    WAITS_FOR_OPERATOR = "waits_for_operator"
    PAUSED = "paused"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    TERMINATED = "terminated"
    INVALID_INPUT = "invalid_input"
    CANCELED = "canceled"
    """Somebody canceled the run, and it ended before its work was put in order."""
    COMPLETED = "completed"
    """The run has completed, and what it was to store is missing."""
    NOT_FOUND = "not_found"
    """Temporal knows no such workflow."""
    TOO_OLD = "too_old"
    """It waits to be submitted for longer than it may."""
    PAST_DEADLINE = "past_deadline"
    """Its max age has passed and no workflow drives it."""
    LEFT_TO_EXPIRY = "left_to_expiry"
    """Its max age has passed: the expiry sweep ends it."""
    OUT_OF_TRIES = "out_of_tries"
    """It was repaired as often as it may be."""
    TOO_EARLY = "too_early"
    """It was repaired just now; the next repair waits longer."""
    BEING_REPAIRED = "being_repaired"
    """Another reconciler is at it."""
    UNKNOWN = "unknown"
    """It could not be looked at."""


class Action(StrEnum):
    """What repairs it."""

    RESET = "reset"
    """Workflow reset: a new run that begins at a point of the old one's history."""
    RESET_ACTIVITY = "reset_activity"
    POLL_NOW = "poll_now"
    START = "start"
    """A new run under the same id, which goes on from what is stored."""
    START_AFRESH = "start_afresh"
    """The same, after ending a run that cannot go on."""
    CANCEL = "cancel"
    """Store that it is canceled, and see to it that a run ends it in good order."""
    CLOSE = "close"
    """Write the end that the run could not write."""
    APPLY = "apply"
    """Write the step that is missing."""
    GIVE_UP = "give_up"
    """Say that it needs attention."""
    LOOK = "look"
    """Nothing yet: to look at it has failed already."""


class RepairState(StrEnum):
    """How far a repair has come."""

    ASKED = "asked"
    """Recorded, and about to be carried out."""
    DONE = "done"
    FAILED = "failed"
    """It could not be carried out; the next tick tries again."""
    VOID = "void"
    """It was not carried out, for things had changed meanwhile."""


class ReconcileInput(Contract):
    """Input of the workflows `Reconciler` and `ExpirySweep`.

    Attributes:
        dry_run: Only report what would be done.
    """

    dry_run: bool = False


class ReconcilePage(Contract):
    """One page of candidates to look at.

    Attributes:
        tick: The reconciler's run, which the records of repairs name.
        source: Where to look.
        after: Where the page before ended; None: from the beginning.
        limit: Candidates at most.
        dry_run: Only report.
    """

    tick: str
    source: Source
    after: str | None = None
    limit: int = Field(default=100, ge=1)
    dry_run: bool = False


class RepairView(Outcome):
    """One repair, as it is shown.

    Attributes:
        subject: What kind of thing it is for.
        id: Its id.
        finding: What was found.
        action: What was done, or would be done.
        state: How far it came; None in a dry run.
        reason: More about it, one line.
        old_run: The run that was found.
        new_run: The run that goes on, if another one does.
    """

    subject: Subject
    id: str
    finding: Finding
    action: Action
    state: RepairState | None = None
    reason: str = ""
    old_run: str | None = None
    new_run: str | None = None


class PageOutcome(Outcome):
    """What came of one page.

    Attributes:
        after: Where the next page goes on; None: there is none.
        candidates: How many there were.
        findings: How many of them by finding.
        repaired: Repairs that were carried out, or would be.
        failed: Candidates that could not be looked at or repaired; the next tick tries again.
        skipped: Candidates of which nothing had to be done.
        repairs: The repairs, one by one, up to `MOST_REPAIRS_SHOWN`.
    """

    after: str | None = None
    candidates: int = 0
    findings: dict[Finding, int] = Field(default_factory=dict)
    repaired: int = 0
    failed: int = 0
    skipped: int = 0
    repairs: tuple[RepairView, ...] = ()


class ReconcileSummary(Outcome):
    """Result of the workflows `Reconciler` and `ExpirySweep`: what was found and done.

    Attributes:
        dry_run: Whether nothing was done.
        candidates: How many were looked at.
        findings: How many of them by finding.
        repaired: Repairs that were carried out, or would be.
        failed: Candidates that could not be looked at or repaired.
        skipped: Candidates of which nothing had to be done.
        repairs: The repairs, one by one, up to `MOST_REPAIRS_SHOWN`.
        queues_without_worker: Task queues that nobody listens to.
        go_on: Where the next tick goes on, by source, as this one reached its bound.
        started_at: When it began.
        duration: How long it took.
    """

    dry_run: bool = False
    candidates: int = 0
    findings: dict[Finding, int] = Field(default_factory=dict)
    repaired: int = 0
    failed: int = 0
    skipped: int = 0
    repairs: tuple[RepairView, ...] = ()
    queues_without_worker: tuple[str, ...] = ()
    go_on: dict[Source, str] = Field(default_factory=dict)
    started_at: datetime | None = None
    duration: timedelta = timedelta(0)


class QueueLook(Outcome):
    """Which task queues nobody listens to.

    Attributes:
        without_worker: Their names.
        per_tick: Candidates of one source that a tick looks at.
    """

    without_worker: tuple[str, ...] = ()
    per_tick: int = 10_000


class TickRecord(Contract):
    """What is recorded of a tick.

    Attributes:
        workflow: `Reconciler` or `ExpirySweep`.
        summary: What was found and done.
        told_without_worker: Task queues of which operators were told before.
    """

    workflow: str
    summary: ReconcileSummary
    told_without_worker: tuple[str, ...] = ()
