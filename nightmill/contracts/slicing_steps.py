"""What the steps of slicings and of the breakers over slicers give each other."""

from __future__ import annotations

from datetime import date, timedelta
from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, Field

from nightmill.contracts.base import Contract, Duration, Outcome
from nightmill.contracts.slicing import (
    MAX_NOTICES,
    ProfileName,
    Sha256,
    SlicingErrorCode,
    SlicingEstimate,
    SlicingInput,
    SlicingStatus,
    SlicingSummary,
    TextSource,
)


class SlicingRef(Contract):
    """Names one run of one document by one profile.

    Attributes:
        sha256: The PDF.
        profile: The profile.
        run_id: The workflow run.
    """

    sha256: Sha256
    profile: ProfileName
    run_id: str


class OpenSlicing(Contract):
    """Input of `open_slicing`.

    Attributes:
        ref: The run.
        asked: What was asked for.
    """

    ref: SlicingRef
    asked: SlicingInput


class Fault(Outcome):
    """What went wrong, as workflows know it.

    Attributes:
        code: The kind.
        message: A line for people.
        retried: Whether a second attempt may end better.
        counts: Whether it is a fault of the slicer or its machine, which the breaker counts, not of the document.
    """

    code: SlicingErrorCode
    message: str = Field(max_length=1_000)
    retried: bool = False
    counts: bool = False


class SlicingTerms(Outcome):
    """What a profile allows; stored in the history, so that a changed setting does not change a run.

    Attributes:
        job_timeout: For all of it, from the first start of the slicer on.
        slicing_timeout: For one attempt of the slicer.
        metadata_timeout: For one attempt of the metadata program; None where the profile has none.
        heartbeat_timeout: After this much silence a worker is given up for lost.
        programs_queue: The task queue of the workers' slots for programs.
        fault: Why the source cannot be read.
    """

    job_timeout: Duration
    slicing_timeout: Duration
    metadata_timeout: Duration | None = None
    heartbeat_timeout: Duration
    programs_queue: str
    fault: Fault | None = None


class PageRange(Contract):
    """Pages of a document, from 0, both ends included."""

    first: int = Field(ge=0)
    last: int = Field(ge=0)


class Inspection(Outcome):
    """What is known of a document before it is sliced.

    Attributes:
        page_count: Its pages.
        size: Its bytes.
        text_source: Where its text comes from, by a look at some of its pages.
        estimate: What slicing it is expected to take.
        chunks: Page ranges that are read by activities of their own before it is cut; none: one run does it all.
        reasons: Why a person has to look at it, though it can be sliced.
        fault: Why it cannot be sliced; the rest is not known then.
    """

    page_count: int = 0
    size: int = 0
    text_source: TextSource = "digital"
    estimate: SlicingEstimate | None = None
    chunks: tuple[PageRange, ...] = ()
    reasons: tuple[str, ...] = ()
    fault: Fault | None = None


class ProgramInput(Contract):
    """Input of `inspect_pdf`, `read_pages`, `slice_pdf` and `find_metadata`.

    Attributes:
        ref: The run.
        attempt: 1, or 2 for the second one.
        pages: The pages to read, for `read_pages`; for `slice_pdf` None.
        chunks: For `slice_pdf`: the page ranges that were read before.
        page_count: Pages of the document, as `inspect_pdf` found.
        text_source: As `inspect_pdf` found.
    """

    ref: SlicingRef
    attempt: int = 1
    pages: PageRange | None = None
    chunks: tuple[PageRange, ...] = ()
    page_count: int = 0
    text_source: TextSource = "digital"


class ProgramOutcome(Outcome):
    """What one attempt of a program came to. Slices and texts are in the file storage, never here.

    Attributes:
        fault: Why it failed.
        slices: How many slices it found.
        flagged: How many of them have a problem.
        page_count: Pages of the document.
        number: The gazette's number.
        issued_on: Its date.
        result_key: Key of the validated result in the file storage.
        reasons: Why a person has to look at it; at most ten.
    """

    fault: Fault | None = None
    slices: int = 0
    flagged: int = 0
    page_count: int = 0
    number: str | None = None
    issued_on: date | None = None
    result_key: str | None = None
    reasons: tuple[str, ...] = ()


class AttemptFault(Contract):
    """Input of `record_fault`: a failed attempt that the breaker may count.

    Attributes:
        ref: The run.
        attempt: Which attempt.
        step: `inspect`, `pages`, `slice` or `metadata`.
        fault: What went wrong.
    """

    ref: SlicingRef
    attempt: int
    step: str
    fault: Fault


class BreakerView(Outcome):
    """How a profile's breaker stands for a run that asks.

    Attributes:
        is_open: Whether the run has to wait.
        reason: Why, for people.
        tripped: Whether this very call opened it, so that the caller starts its watch.
    """

    is_open: bool = False
    reason: str | None = None
    tripped: bool = False


class FinishedSlicing(Outcome):
    """What `finish_slicing` leaves to do.

    Attributes:
        summary: How it ended.
        notices: How many people are to be told.
    """

    summary: SlicingSummary
    notices: int = 0


class SlicingAttention(Contract):
    """Input of `set_slicing_attention`.

    Attributes:
        ref: The run.
        message: What waits for an operator.
    """

    ref: SlicingRef
    message: str = Field(max_length=1_000)


class FinishSlicing(Contract):
    """Input of `finish_slicing`: how a run ended, in one transaction with its slices.

    Attributes:
        ref: The run.
        status: How the document stands from now on.
        fault: Why it failed.
        result: What the slicer found; None for a run that failed.
        reasons: Why a person has to look at it.
        number: The gazette's number, where the metadata program found it.
        issued_on: Its date, from there.
    """

    ref: SlicingRef
    status: SlicingStatus
    fault: Fault | None = None
    result: ProgramOutcome | None = None
    reasons: tuple[str, ...] = ()
    number: str | None = None
    issued_on: date | None = None


class SlicerBeat(Outcome):
    """Progress of one program: what its heartbeats carry, and what it signals to its workflow now and then.

    Attributes:
        step: `inspect`, `pages`, `slice` or `metadata`.
        phase: What it is doing: `fetching`, `starting`, `running`, `checking`, `storing`.
        page: Pages done.
        of: Pages to do; 0 while not known.
        first_page: For `pages`: the first page of its range.
        attempt: Which attempt.
        started_at: When the attempt started, by the worker's clock.
    """

    step: str
    phase: str
    page: int = 0
    of: int = 0
    first_page: int = 0
    attempt: int = 1
    started_at: AwareDatetime | None = None


NoticeLevel = Literal["success", "warning", "error"]


class NoticeRef(Contract):
    """Input of `notify_owner`: tell one of those who asked how a run ended.

    Attributes:
        ref: The run.
        number: Its place among those who are told, from 0.
    """

    ref: SlicingRef
    number: int = Field(ge=0, lt=MAX_NOTICES)


class BreakerState(StrEnum):
    """How a profile's breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    """Nothing is sliced; a canary is tried after the cool-down."""
    HALF_OPEN = "half_open"
    """The canary is being sliced."""
    HELD_OPEN = "held_open"
    """Opened by hand: nothing is sliced until it is closed by hand."""


class CanaryOutcome(Outcome):
    """What slicing the canary came to.

    Attributes:
        profile: The profile.
        passed: Whether the right answer came.
        message: What was wrong.
        duration: How long it took.
    """

    profile: str
    passed: bool
    message: str | None = None
    duration: Duration = timedelta(0)


class HealthInput(Contract):
    """Input of the workflow `SlicerHealth`, which runs by the id `slicer-health/<profile>`.

    Attributes:
        profile: The profile whose slicer is tried.
        canary: Whether the canary is sliced; without it the breaker's last change is only told and acted upon.
        once: Whether one canary is sliced at once, cool-down or not; else canaries are sliced until one has passed.
    """

    profile: ProfileName = "gazette"
    canary: bool = True
    once: bool = False


class CanaryTurn(Outcome):
    """When the canary may be sliced.

    Attributes:
        token: Who slices it; None: not now.
        at: When to ask again then; None: somebody else is at it.
        programs_queue: The task queue of the workers' slots for programs.
        timeout: How long slicing it may take.
        heartbeat_timeout: After this much silence a worker is given up for lost.
    """

    token: str | None = None
    at: AwareDatetime | None = None
    programs_queue: str
    timeout: Duration
    heartbeat_timeout: Duration


class CanaryInput(Contract):
    """Input of `begin_canary`, `slice_canary` and `judge_canary`.

    Attributes:
        profile: The profile.
        token: Who slices it.
        hurry: Whether the end of a cool-down is not waited for, for `begin_canary`.
        outcome: What it came to, for `judge_canary`.
    """

    profile: ProfileName
    token: str
    hurry: bool = False
    outcome: CanaryOutcome | None = None


class CanaryVerdict(Outcome):
    """What the breaker makes of a canary.

    Attributes:
        state: How it stands now.
        try_again_at: When the next canary is due; None: no further one by this run.
        transition: Number of the transition of which operators are to be told, if there was one.
        released: Whether parked work is to be told to go on.
    """

    state: BreakerState
    try_again_at: AwareDatetime | None = None
    transition: int | None = None
    released: bool = False
