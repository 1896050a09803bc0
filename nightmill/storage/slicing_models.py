"""The tables of slicing.

`slicings` (one document cut up by one profile) 1 ─ n `slices`, 1 ─ n `slicing_attempts` (each program that ran for it)
and 1 ─ n `slicing_notices` (who was told). `slicer_breakers` has a row a profile, and `breaker_transitions` their past.
`slicing_leavings` knows the files of slicings that are deleted, until they are.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, String
from sqlmodel import Column, Field, SQLModel, UniqueConstraint

from nightmill.contracts import BreakerState, SlicingErrorCode, SlicingStatus
from nightmill.storage.columns import BIG_KEY, PageText, Word, time_column

MAX_FULL_TEXT = 2_000_000
"""Characters of one slice's text that are stored."""


def _slicing_key() -> Any:
    return Field(sa_column=Column(BIG_KEY, ForeignKey("slicings.key", ondelete="CASCADE"), nullable=False))


class SlicingRow(SQLModel, table=True):
    """One document, cut up by one profile. A run that fails leaves what an earlier one found.

    Attributes:
        key: Our own number.
        sha256: The PDF's content.
        profile: The profile.
        name: The document's name, mostly its file's.
        source: Where it was asked to come from; of a web address without its query.
        status: How it stands.
        run_id: The workflow run that works on it, or did last; an earlier one writes nothing any more.
        result_run: The run whose slices these are; part of the keys of their files.
        size: Bytes of the PDF.
        page_count: Its pages.
        text_source: `digital`, `scanned` or `mixed`.
        number: The gazette's number.
        issued_on: Its date.
        description: A line about it.
        user_metadata: The user's own.
        notify: Who is told when it has ended; JSON list of addresses.
        error_code: Why the last run failed.
        error: The same for people.
        reasons: Why a person has to look at it; JSON list of lines.
        needs_attention: What waits for an operator, such as a notice that cannot be delivered.
        attempts: Attempts of the slicer in this run.
        slice_count: Slices that it has.
        flagged_count: Those of them that have a problem.
        queued_at: When the run was asked for.
        started_at: When its slicer started first.
        parked_at: When this run had to wait for the breaker first; the order in which parked work goes on.
        ended_at: When the run ended.
        created_at: When the document was first asked for.
        asked_at: When a client asked for it last; its run may not have begun since.
    """

    __tablename__ = "slicings"
    __table_args__ = (
        UniqueConstraint("sha256", "profile", name="uq_slicings_document"),
        Index("ix_slicings_status", "status", "queued_at"),
        Index("ix_slicings_newest", "queued_at", "key"),
        Index("ix_slicings_parked", "profile", "parked_at"),
    )

    key: int | None = Field(default=None, sa_column=Column(BIG_KEY, primary_key=True, autoincrement=True))
    sha256: str = Field(max_length=64)
    profile: str = Field(max_length=64)
    name: str = Field(sa_column=Column(PageText(255), nullable=False))
    source: str = Field(sa_column=Column(PageText(2_000), nullable=False))
    status: SlicingStatus = Field(sa_column=Column(Word(SlicingStatus), nullable=False))
    run_id: str | None = Field(default=None, max_length=64)
    result_run: str | None = Field(default=None, max_length=64)
    size: int | None = Field(default=None, sa_column=Column(BigInteger))
    page_count: int | None = None
    text_source: str | None = Field(default=None, max_length=16)
    number: str | None = Field(default=None, sa_column=Column(PageText(64)))
    issued_on: date | None = None
    description: str | None = Field(default=None, sa_column=Column(PageText(500)))
    user_metadata: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    notify: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    error_code: SlicingErrorCode | None = Field(default=None, sa_column=Column(Word(SlicingErrorCode)))
    error: str | None = Field(default=None, sa_column=Column(PageText(1_000)))
    reasons: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    needs_attention: str | None = Field(default=None, sa_column=Column(PageText(1_000)))
    attempts: int = 0
    slice_count: int = 0
    flagged_count: int = 0
    queued_at: datetime = time_column(nullable=False)
    started_at: datetime | None = time_column()
    parked_at: datetime | None = time_column()
    ended_at: datetime | None = time_column()
    created_at: datetime = time_column(nullable=False)
    asked_at: datetime | None = time_column()


class SliceRow(SQLModel, table=True):
    """One of the documents that a PDF was cut into.

    Attributes:
        position: Its place, from 0 and without gaps.
        name: A section's fixed name (`Marcas de Fábrica`, `Avisos Legales`); empty for an act.
        issue_id: An act's identifier; empty for a section.
        start_page: Its first page, from 0.
        end_page: Its last page, included.
        tags: JSON list of words; `Gaceta` is always among them.
        institutions: JSON list of names, from the slicer and from the table of alternative names.
        file_key: Key of its PDF in the file storage; None where that is missing.
        file_size: Bytes of that.
        file_sha256: Its content.
        details: What else the slicer says: confidence, flags, printed pages; a JSON object.
        problem: What is wrong with it, as `EntryProblem: message`.
    """

    __tablename__ = "slices"
    __table_args__ = (UniqueConstraint("slicing_key", "position", name="uq_slices_position"),)

    key: int | None = Field(default=None, sa_column=Column(BIG_KEY, primary_key=True, autoincrement=True))
    slicing_key: int = _slicing_key()
    position: int = Field(sa_column=Column(Integer, nullable=False))
    name: str = Field(default="", sa_column=Column(PageText(255), nullable=False))
    issue_id: str = Field(default="", sa_column=Column(PageText(255), nullable=False))
    start_page: int
    end_page: int
    full_text: str = Field(default="", sa_column=Column(PageText(MAX_FULL_TEXT), nullable=False))
    short_description: str = Field(default="", sa_column=Column(PageText(500), nullable=False))
    description: str = Field(default="", sa_column=Column(PageText(5_000), nullable=False))
    tags: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    issuer: str = Field(default="", sa_column=Column(PageText(500), nullable=False))
    materia: str = Field(default="", sa_column=Column(PageText(255), nullable=False))
    institutions: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    file_key: str | None = Field(default=None, max_length=400)
    file_size: int | None = Field(default=None, sa_column=Column(BigInteger))
    file_sha256: str | None = Field(default=None, max_length=64)
    details: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    problem: str | None = Field(default=None, sa_column=Column(PageText(500)))


class SlicingAttemptRow(SQLModel, table=True):
    """One program that ran for a document, kept for forecasts and for whoever looks for a fault.

    Attributes:
        run_id: The workflow run.
        attempt: 1 or 2.
        step: `inspect`, `pages`, `slice`, `check` or `metadata`.
        command: The command, secrets taken out, arguments separated by blanks.
        error_code: Why it failed; None where it did not.
        stdout_bytes: Bytes that it wrote.
        duration_ms: Milliseconds from start to end.
        cpu_ms: Milliseconds of processor time of all its processes.
        peak_memory: Bytes of memory at most of all its processes together.
        pages: Pages that it worked on.
        text_source: Where the text came from.
        size: Bytes of the PDF.
        stderr_tail: The end of what it wrote to standard error, without progress lines.
    """

    __tablename__ = "slicing_attempts"
    __table_args__ = (Index("ix_slicing_attempts_document", "slicing_key", "started_at"),)

    key: int | None = Field(default=None, sa_column=Column(BIG_KEY, primary_key=True, autoincrement=True))
    slicing_key: int = _slicing_key()
    run_id: str = Field(max_length=64)
    attempt: int
    step: str = Field(max_length=16)
    command: str = Field(sa_column=Column(PageText(2_000), nullable=False))
    exit_code: int | None = None
    signal: int | None = None
    error_code: SlicingErrorCode | None = Field(default=None, sa_column=Column(Word(SlicingErrorCode)))
    stdout_bytes: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    stderr_bytes: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    duration_ms: int = 0
    cpu_ms: int = 0
    peak_memory: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    pages: int = 0
    text_source: str | None = Field(default=None, max_length=16)
    size: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    stderr_tail: str = Field(default="", sa_column=Column(PageText(65_536), nullable=False))
    started_at: datetime = time_column(nullable=False)


class SlicingNoticeRow(SQLModel, table=True):
    """One message to one of those who are told how a run ended.

    Attributes:
        number: Its place among those who are told, from 0.
        target: Whom: `mailto:…` or `channel:…`; of a webhook's address only scheme and host.
        level: `success`, `warning` or `error`.
        message_id: The fixed `Message-ID` or `webhook-id`: the same in every try.
        begun_at: When the first try began.
        sent_at: When a try succeeded; it is never sent again then.
        tries: Tries so far.
        error: Why the last one failed.
    """

    __tablename__ = "slicing_notices"
    __table_args__ = (UniqueConstraint("slicing_key", "run_id", "number", name="uq_slicing_notices_number"),)

    key: int | None = Field(default=None, sa_column=Column(BIG_KEY, primary_key=True, autoincrement=True))
    slicing_key: int = _slicing_key()
    run_id: str = Field(max_length=64)
    number: int
    target: str = Field(sa_column=Column(PageText(400), nullable=False))
    level: str = Field(max_length=16)
    message_id: str = Field(max_length=200)
    begun_at: datetime = time_column(nullable=False)
    sent_at: datetime | None = time_column()
    tries: int = 0
    error: str | None = Field(default=None, sa_column=Column(PageText(500)))


class SlicingLeavingRow(SQLModel, table=True):
    """A run of a slicing whose rows are deleted and whose files may not be yet; points at nothing.

    Attributes:
        run_id: The run; empty where the slicing had none.
    """

    __tablename__ = "slicing_leavings"

    sha256: str = Field(max_length=64, primary_key=True)
    profile: str = Field(max_length=64, primary_key=True)
    run_id: str = Field(max_length=64, primary_key=True)


class SlicerBreakerRow(SQLModel, table=True):
    """The breaker over one profile's slicer. Written by compare-and-set on `version`.

    Attributes:
        version: One more with every write.
        state: How it stands.
        faults: The last faults, oldest first: JSON objects with the time `at` (RFC 3339), the `key` by which a fault
            that is reported again is known, whether it is `spent` (a success came after it, or it has opened the
            breaker), and `opened`, the number of the transition that it brought about.
        reason: Why it is open.
        changed_by: Who opened or closed it last: `breaker`, `canary`, or the name that a person gave.
        opened_at: Since when it is open.
        probes: Canaries that failed since then.
        probe_at: When the next canary is due.
        probe_token: The canary that is tried now, or was tried last, while the breaker is open.
        probe_until: When the one that is tried is given up for lost; None: none is tried.
        transitions: How many transitions there were.
        canary_at: When a canary was sliced last, breaker open or not.
        canary_passed: Whether that one passed.
        canary_message: What was wrong with it.
        canary_ms: Milliseconds that it took.
    """

    __tablename__ = "slicer_breakers"

    profile: str = Field(max_length=64, primary_key=True)
    version: int = 0
    state: BreakerState = Field(default=BreakerState.CLOSED, sa_column=Column(Word(BreakerState), nullable=False))
    faults: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    reason: str | None = Field(default=None, sa_column=Column(PageText(1_000)))
    changed_by: str | None = Field(default=None, sa_column=Column(PageText(100)))
    opened_at: datetime | None = time_column()
    probes: int = 0
    probe_at: datetime | None = time_column()
    probe_token: str | None = Field(default=None, max_length=64)
    probe_until: datetime | None = time_column()
    transitions: int = 0
    canary_at: datetime | None = time_column()
    canary_passed: bool | None = None
    canary_message: str | None = Field(default=None, sa_column=Column(PageText(1_000)))
    canary_ms: int | None = None


class BreakerTransitionRow(SQLModel, table=True):
    """One change of a breaker that operators are told of.

    Attributes:
        number: 1 for the profile's first transition.
        state: How it stood from then on: `open`, `held_open` or `closed`.
        changed_by: Who did it.
        told_at: When operators were told.
        message_id: The fixed id under which they are told.
    """

    __tablename__ = "breaker_transitions"

    profile: str = Field(sa_column=Column(String(64), primary_key=True))
    number: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    state: BreakerState = Field(sa_column=Column(Word(BreakerState), nullable=False))
    reason: str | None = Field(default=None, sa_column=Column(PageText(1_000)))
    changed_by: str = Field(sa_column=Column(PageText(100), nullable=False))
    at: datetime = time_column(nullable=False)
    message_id: str = Field(max_length=200)
    told_at: datetime | None = time_column()


__all__ = [
    "MAX_FULL_TEXT",
    "BreakerTransitionRow",
    "SliceRow",
    "SlicerBreakerRow",
    "SlicingAttemptRow",
    "SlicingLeavingRow",
    "SlicingNoticeRow",
    "SlicingRow",
]
