"""Slicing: the words in its rows, the inputs of its workflows and activities, and what these come to."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AwareDatetime, BeforeValidator, Field, field_validator

from nightmill.contracts.base import Contract, Duration, Metadata, Outcome

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A content's SHA-256 in lower-case hexadecimal digits."""

ProfileName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
"""A slicer profile's name; it is part of workflow ids and of the keys of stored files."""

MAX_NOTICES = 10
"""Whom one slicing may tell at most."""

STORED = "stored:"
"""Begins the source of a PDF that a client has put into the file storage before; the file's name follows."""


class SlicingStatus(StrEnum):
    """How a sliced document stands."""

    QUEUED = "queued"
    SLICING = "slicing"
    WAITING = "waiting"
    """Parked, because the profile's breaker is open; it goes on by itself."""
    SLICED = "sliced"
    NEEDS_REVIEW = "needs_review"
    """Sliced, and something about it is to be looked at by a person; the row says what."""
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing runs any more."""
        return self not in {SlicingStatus.QUEUED, SlicingStatus.SLICING, SlicingStatus.WAITING}


class SlicingErrorCode(StrEnum):
    """Why a slicing failed. `nightmill.slicing.faults` has a class for each, with its message and its retry rule."""

    NOT_A_FILE = "not_a_file"
    UNREADABLE = "unreadable"
    EMPTY_FILE = "empty_file"
    NOT_A_PDF = "not_a_pdf"
    DAMAGED_PDF = "damaged_pdf"
    ENCRYPTED_PDF = "encrypted_pdf"
    TOO_LARGE = "too_large"
    TIMED_OUT = "timed_out"
    PROGRAM_FAILED = "program_failed"
    """It ended with an exit code other than 0."""
    PROGRAM_KILLED = "program_killed"
    """A signal ended it."""
    OUT_OF_MEMORY = "out_of_memory"
    EMPTY_OUTPUT = "empty_output"
    INVALID_JSON = "invalid_json"
    INVALID_RESULT = "invalid_result"
    """JSON of another shape, or of other pages than the document has."""
    UNSAFE_PATH = "unsafe_path"
    """A path outside of the output folder, or a link."""
    WALL_CLOCK = "wall_clock"
    CPU_CLOCK = "cpu_clock"
    STALL_CLOCK = "stall_clock"
    OUTPUT_FLOOD = "output_flood"
    PROGRAM_MISSING = "program_missing"
    OUTPUT_NOT_WRITABLE = "output_not_writable"
    DISK_FULL = "disk_full"
    STORAGE_FAILED = "storage_failed"
    INTERNAL = "internal"
    """A bug of ours."""


class EntryProblem(StrEnum):
    """What is wrong with one slice, while the others are kept."""

    FILE_MISSING = "file_missing"
    NOT_A_PDF = "not_a_pdf"
    PAGES_OUT_OF_RANGE = "pages_out_of_range"
    PAGE_COUNT_DIFFERS = "page_count_differs"
    """Its file has another number of pages than it says."""
    TEXT_MISSING = "text_missing"
    """Null or something else where text is due."""
    POSITION_INVALID = "position_invalid"
    """Its position is taken, or not a number from 0 on."""
    INVALID = "invalid"
    """Not an object, or a field of another type."""


TextSource = Literal["digital", "scanned", "mixed"]
"""Where a document's text comes from: its text layer, recognition of its images, or both."""


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


NoticeTarget = Annotated[str, Field(max_length=2_000, pattern=r"^(mailto:|https?://|channel:)\S+$")]
"""`mailto:a@example.org`, `https://…` (a signed webhook) or `channel:NAME`, one that operators have set up."""

Notices = Annotated[tuple[NoticeTarget, ...], BeforeValidator(_one_or_many), Field(max_length=MAX_NOTICES)]


class SlicingInput(Contract):
    """Input of the workflow `DocumentSlicing`, which runs by the id `slice/<SHA-256 of the PDF>/<profile>`.

    Attributes:
        source: Where the worker finds the PDF: a path or `file:` URL under `NIGHTMILL_INPUT_ROOTS`, a public `https:`
            URL, or `stored:NAME` for one that a client has stored.
        profile: The slicer profile.
        notify: Who is told when it has ended: one or several of `mailto:…`, `https://…`, `channel:NAME`.
        metadata: Yours; kept with the document, in notices and results. At most 16 KiB as JSON.
    """

    source: str = Field(min_length=1, max_length=2_000)
    profile: ProfileName = "gazette"
    notify: Notices = ()
    metadata: Metadata = Field(default={})

    @field_validator("source")
    @classmethod
    def _is_a_path_or_an_address(cls, value: str) -> str:
        try:
            urlsplit(value)
        except ValueError:  # its message holds the address, and that perhaps a password
            raise ValueError("neither a path nor an address") from None
        return value


class SlicingEstimate(Outcome):
    """What a run is expected to take; shown to people and used to fan out, never as a limit.

    Attributes:
        duration: From the slicer's start to its end.
        memory: Bytes at most of its processes together.
        basis: `regression` over stored runs, or `rule` where there are too few of them.
    """

    duration: Duration
    memory: int
    basis: Literal["regression", "rule"] = "rule"


class SlicingSummary(Outcome):
    """What a slicing came to: result of the workflow `DocumentSlicing`, a line of `slice run --json`.

    Attributes:
        sha256: The PDF.
        profile: The profile.
        name: The document's name, mostly its file's.
        status: How it stands.
        page_count: Its pages.
        number: The gazette's number.
        issued_on: Its date.
        slices: How many slices it has.
        flagged: How many of them have a problem.
        error_code: Why it failed.
        message: The same for people; for `needs_review` what is to be looked at.
        duration: From the slicer's first start to the end.
    """

    sha256: str
    profile: str
    name: str | None = None
    status: SlicingStatus
    page_count: int | None = None
    number: str | None = None
    issued_on: date | None = None
    slices: int = 0
    flagged: int = 0
    error_code: SlicingErrorCode | None = None
    message: str | None = None
    duration: Duration | None = None


class SlicingProgress(Outcome):
    """Answer of the query `progress`.

    Attributes:
        status: How it stands.
        phase: What is being done.
        page: Pages done.
        of: Pages to do; 0 while not known.
        attempt: Which attempt runs.
        started_at: When the slicer was started first.
        estimate: How long it is expected to take from there.
        message: Why it waits, or how it ended.
    """

    status: SlicingStatus = SlicingStatus.QUEUED
    phase: str = "queued"
    page: int = 0
    of: int = 0
    attempt: int = 1
    started_at: AwareDatetime | None = None
    estimate: Duration | None = None
    message: str | None = None
