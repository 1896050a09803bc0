"""What a decision is made of: a candidate, a fresh look at its workflow, and what is known of here and now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from nightmill.contracts import Action, Finding, Subject


class RunState(StrEnum):
    """How a workflow's present run stands, in Temporal's words."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    TERMINATED = "terminated"
    TIMED_OUT = "timed_out"


class ActivityState(StrEnum):
    """How an activity that has not ended stands."""

    WAITING = "waiting"
    """For a worker, or for the time of its next attempt."""
    RUNNING = "running"
    PAUSED = "paused"


@dataclass(frozen=True)
class Candidate:
    """Something that may be stuck, as the database knows it.

    Attributes:
        subject: What kind of thing it is.
        id: Its id: of a batch, a part (`<batch id>/<round>/<part>`), a document, a slicing (`<SHA-256>/<profile>`), or
            of a workflow.
        workflow_id: The workflow that should be working on it.
        after: Its place among the candidates of its source; the next page begins behind it.
        due_at: When it was due; None where nothing is scheduled.
        asked_at: When somebody asked for it.
        terminal: Whether its work is stored and only the gates are open.
        attention: What it waits for an operator for.
        submitted: Whether something may exist at the provider, which may cost money.
        deadline: When its max age is reached, where that is known.
        too_old: Whether it waits to be submitted for longer than it may.
        parts: Provider batches of the batch's present round; each of several has a workflow of its own.
        calls_host: Whether the handler is an activity of the host's that was called and has not succeeded, as far as
            the row knows. It may be at work, whatever became of the run that called it.
        ended_at: When its work had ended, where it has.
        known: Whether its row was read; what only Temporal tells of is repaired if its tasks fail, and not otherwise.
        facts: More about it for logs: status, next_poll_at, provider_batch_id.
    """

    subject: Subject
    id: str
    workflow_id: str
    after: str
    due_at: datetime | None = None
    asked_at: datetime | None = None
    terminal: bool = False
    attention: str | None = None
    submitted: bool = False
    deadline: datetime | None = None
    too_old: bool = False
    parts: int = 1
    calls_host: bool = False
    ended_at: datetime | None = None
    known: bool = True
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class SeenActivity:
    """An activity that has not ended.

    Attributes:
        id: Its id within the run.
        type: Its type.
        state: How it stands.
        attempt: From 1.
        next_attempt_at: When it is tried again, where it waits for that.
        is_elsewhere: Whether its task queue is another than the run's, as that of the host's worker usually is.
    """

    id: str
    type: str
    state: ActivityState
    attempt: int = 1
    next_attempt_at: datetime | None = None
    is_elsewhere: bool = False


@dataclass(frozen=True)
class Seen:
    """A workflow's present run, as Temporal described it just now.

    Attributes:
        run_id: The run.
        state: How it stands.
        queue: Its task queue.
        closed_at: When it closed; None: it runs.
        task_attempt: Attempts of the workflow task that is pending; 0: none is.
        activities: What has not ended.
        failure_type: The error type of a run that failed, as the workflow raised it or an activity did.
        failure: Its message, one line.
        failed_build: The build of the worker whose code the tasks failed with first; only where tasks fail.
        replays: Whether the code that runs here replays the history whole; None: that was not tried.
    """

    run_id: str
    state: RunState
    queue: str = ""
    closed_at: datetime | None = None
    task_attempt: int = 0
    activities: tuple[SeenActivity, ...] = ()
    failure_type: str | None = None
    failure: str = ""
    failed_build: str | None = None
    replays: bool | None = None


@dataclass(frozen=True)
class Here:
    """What a decision needs to know besides.

    Attributes:
        now: The present.
        build: This worker's build id.
        grace: What is late by less is not late.
        spacing: Pauses before each repair that starts a new run; after as many it needs attention.
        expiry_margin: How long past its max age a batch is left to its own workflow.
        idle_queues: Task queues that nobody listens to.
        expires: Whether it is the expiry sweep that asks.
    """

    now: datetime
    build: str
    grace: timedelta
    spacing: tuple[timedelta, ...]
    expiry_margin: timedelta
    idle_queues: frozenset[str] = frozenset()
    expires: bool = False


@dataclass(frozen=True)
class Decision:
    """What was found and what is to be done.

    Attributes:
        finding: What was found.
        action: What repairs it; None: nothing is to be done.
        epoch: What it may be done once for; see `RepairRow.epoch`.
        reason: More about it, one line.
        activity_id: The activity that is reset.
    """

    finding: Finding
    action: Action | None = None
    epoch: str = ""
    reason: str = ""
    activity_id: str | None = None
