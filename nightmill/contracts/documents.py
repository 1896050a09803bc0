"""Documents: the words in their rows, the inputs of their workflows, and what these come to."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from nightmill.contracts.base import Contract, Duration, Outcome
from nightmill.contracts.handlers import CompletionHandler

DocumentId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""An account's or a collection's name, as the user gives it."""

MAX_NAME = 255
"""Characters of a document's name."""

MAX_CONTENT = 200_000
"""Characters of content that are stored; the fingerprint is over all of it."""


class SyncStatus(StrEnum):
    """How a document stands; a document that was never synced has none."""

    SYNCED = "synced"
    SYNCING = "syncing"
    FAILED = "failed"


class SyncStep(StrEnum):
    """What a sync is doing; none at rest."""

    FETCHING = "fetching"
    COMPARING = "comparing"
    UPDATING = "updating"


class SyncErrorCode(StrEnum):
    """Why a sync failed."""

    NOT_FOUND = "not_found"
    """404, 410, or a page that says so with status 200."""
    ACCESS_DENIED = "access_denied"
    """401, 403, 407, 451, or robots.txt."""
    CONTENT_EMPTY = "content_empty"
    """Nothing but boilerplate, or a shell that scripts would fill."""
    BLOCKED_ADDRESS = "blocked_address"
    """An address, port or scheme that is not connected to."""
    TOO_LARGE = "too_large"
    """Over the bound of bytes, or of the time that extraction may take."""
    UNSUPPORTED_TYPE = "unsupported_type"
    """Not a text document."""
    TIMEOUT = "timeout"
    """Connecting or reading took too long; 408, 504."""
    FETCH_FAILED = "fetch_failed"
    """Name, connection, TLS, redirect loop, 429, robots.txt out of reach, every other status."""
    SYNC_ERROR = "sync_error"
    """Anything else: a bug, or a database in trouble."""


class SyncResult(StrEnum):
    """What one attempt to sync a document came to."""

    UPDATED = "updated"
    UNCHANGED = "unchanged"
    NOT_MODIFIED = "not_modified"
    BASELINE = "baseline"
    ALREADY_SYNCING = "already_syncing"
    PERMANENT_FAILURE = "permanent_failure"
    TRANSIENT_FAILURE = "transient_failure"
    TRANSIENT_RETRY_EXHAUSTED = "transient_retry_exhausted"
    UNEXPECTED_FAILURE = "unexpected_failure"
    UNEXPECTED_RETRY_EXHAUSTED = "unexpected_retry_exhausted"
    SKIPPED = "skipped"

    @property
    def is_failure(self) -> bool:
        """Whether the sync as a whole failed."""
        return self in _FAILURES


_FAILURES = frozenset(
    {
        SyncResult.PERMANENT_FAILURE,
        SyncResult.TRANSIENT_RETRY_EXHAUSTED,
        SyncResult.UNEXPECTED_RETRY_EXHAUSTED,
    }
)


class Trigger(StrEnum):
    """Who asked for a sync."""

    MANUAL = "manual"
    SWEEP = "sweep"

    @property
    def priority(self) -> int:
        """Temporal's priority of the work, 1 the highest: "sync now" goes before batches (3) and they before sweeps."""
        return 1 if self is Trigger.MANUAL else 5


class DocumentSyncInput(Contract):
    """Input of the workflow `DocumentSync`, which runs by the id `document/<document id>`.

    Attributes:
        document_id: The document.
        trigger: `manual` syncs whatever the interval says; `sweep` only what is due.
    """

    document_id: DocumentId
    trigger: Trigger = Trigger.MANUAL


class SyncInput(Contract):
    """Input of the activity `sync_document`.

    Attributes:
        document_id: The document.
        trigger: See `DocumentSyncInput`.
        run_id: The workflow run; the budgets of failures are counted per run.
        scheduled_at: When this attempt was scheduled, by Temporal's clock; the activity says it, the workflow does not.
    """

    document_id: DocumentId
    trigger: Trigger
    run_id: str
    scheduled_at: AwareDatetime | None = None


GONE = "gone"
"""Stands for a fingerprint where a page no longer exists."""


class ChangeRef(Outcome):
    """Names a change that the handler has not been told of, and how to tell it.

    Attributes:
        document_id: The document.
        fingerprint: Fingerprint of the content to tell of; `gone` for a page that no longer exists.
        handler: Whom to tell; of a webhook's address only scheme and host, for the rest may hold a token.
    """

    document_id: str
    fingerprint: str
    handler: CompletionHandler


class SyncOutcome(Outcome):
    """What a sync came to: the record of D14, result of the workflow `DocumentSync`, a line of `document sync --json`.

    Attributes:
        document_id: The document.
        account: Its account; None where the document no longer exists.
        collection: Its collection.
        link: Its link as the user gave it.
        result: What it came to.
        reason: Why it was skipped, or more about the error: `robots`, `soft_404`, `redirect_to_home`, …
        error_code: Why it failed.
        exception_class: Name of the error's class.
        attempt: 1 for the first attempt of this run; one more for each one that failed before.
        duration_ms: Milliseconds that the attempt took.
        change: The change that the handler has yet to be told of.
    """

    document_id: str
    account: str | None = None
    collection: str | None = None
    link: str | None = None
    result: SyncResult
    reason: str | None = None
    error_code: SyncErrorCode | None = None
    exception_class: str | None = None
    attempt: int = 1
    duration_ms: int = 0
    change: ChangeRef | None = None


class ParagraphDiff(Outcome):
    """Which paragraphs of a document's text changed; their words are read by `document diff`, never carried.

    Attributes:
        added: How many paragraphs are new.
        removed: How many are gone.
        kept: How many are in both.
        added_at: Positions of the new ones in the new text, 0 first; the first 100.
        removed_at: Positions of the gone ones in the old text; the first 100.
    """

    added: int = 0
    removed: int = 0
    kept: int = 0
    added_at: tuple[int, ...] = ()
    removed_at: tuple[int, ...] = ()


class ChangePayload(Outcome):
    """What a change handler gets. The content is read by document id, never carried.

    Attributes:
        change_id: `<document id>.<number>.<new fingerprint>`, the key to make the handler's effect idempotent: the same
            in every call for one change, and another one when a page returns to a content that it had before.
        number: 1 for the first change that the handler is told of, one more for each that it has been told of.
        document_id: The document.
        account: Its account.
        collection: Its collection.
        link: Its link as the user gave it.
        name: Its name.
        kind: `changed`, or `removed` for a page that has been gone for days.
        old_fingerprint: The content that the handler was told of last; None the first time.
        new_fingerprint: The content now; `gone` for a page that has been gone for days.
        diff: What changed between the two.
        content: Where the content is read: `document/<document id>`.
    """

    change_id: str
    number: int
    document_id: str
    account: str
    collection: str
    link: str
    name: str | None = None
    kind: Literal["changed", "removed"] = "changed"
    old_fingerprint: str | None = None
    new_fingerprint: str
    diff: ParagraphDiff = ParagraphDiff()
    content: str


class ChangeTold(Contract):
    """Input of `record_change_delivered`.

    Attributes:
        document_id: The document.
        number: The number by which the handler was told.
        fingerprint: Fingerprint of the content that it was told of; `gone` for a page that no longer exists.
    """

    document_id: str
    number: int
    fingerprint: str


class DocumentAttention(Contract):
    """Input of `set_document_attention`.

    Attributes:
        document_id: The document.
        message: What waits for a person; None clears it.
    """

    document_id: str
    message: str | None = Field(default=None, max_length=1_000)


class SweepInput(Contract):
    """Input of the workflow `DocumentSyncSweep`.

    Attributes:
        limit: Documents at most; default `NIGHTMILL_DOCUMENTS__SWEEP_LIMIT`.
        account: Only this account's documents.
    """

    limit: int | None = Field(default=None, ge=1, le=100_000)
    account: Name | None = None


class SweepPick(Outcome):
    """A document that a sweep is to start.

    Attributes:
        document_id: The document.
        account: Its account, the fairness key.
        weight: Its plan's weight.
        delay: How long it is not yet due.
        has_begun: Whether a sync of it has begun since the sweep took it.
    """

    document_id: str
    account: str
    weight: float = 1.0
    delay: timedelta = timedelta(0)
    has_begun: bool = False


class SweepSummary(Outcome):
    """Result of the workflow `DocumentSyncSweep` (D20).

    Attributes:
        accounts_scanned: Accounts looked at.
        accounts_enabled: Of these, those with automatic sync.
        accounts_scheduled: Of these, those of which a document was taken.
        enqueued: Documents whose sync was started.
        skipped: Documents that were being synced already, or could not be started.
        capacity_left: How many more the sweep could have taken.
        cap_hit: Whether due work was left behind for the next sweep.
    """

    accounts_scanned: int = 0
    accounts_enabled: int = 0
    accounts_scheduled: int = 0
    enqueued: int = 0
    skipped: int = 0
    capacity_left: int = 0
    cap_hit: bool = False


LONGEST_CRAWL = timedelta(days=30)


class CrawlLimits(Contract):
    """Bounds of a crawl.

    Attributes:
        pages: Pages at most.
        depth: Links at most between the start page and a page; of no account for sitemaps.
        duration: Time at most, up to 30 days: a workflow cannot wait for a day that no calendar has.
    """

    pages: int = Field(default=500, ge=1, le=100_000)
    depth: int = Field(default=3, ge=0, le=20)
    duration: Duration = Field(default=timedelta(hours=6), gt=timedelta(0), le=LONGEST_CRAWL)


class CrawlInput(Contract):
    """Input of the workflow `SiteCrawl`, which runs by the id `crawl/<crawl id>`.

    Attributes:
        account: Whose documents they become; it must exist.
        collection: And in which collection.
        start_url: A page, or a sitemap (`….xml`, `….xml.gz`).
        limits: Bounds.
    """

    account: Name
    collection: Name
    start_url: str = Field(min_length=1, max_length=2_000)
    limits: CrawlLimits = CrawlLimits()


class CrawlProgress(Outcome):
    """How a crawl stands; also the result of the workflow `SiteCrawl` and the answer of its query `progress`.

    Attributes:
        crawl_id: The crawl.
        found: Links that belong to the site.
        visited: Pages that were looked at.
        added: Documents that are new.
        known: Documents that were there before.
        failed: Pages that could not be read.
        refused: Pages that robots.txt or the guard keeps out.
        limit_hit: The bound that ended it, if one did: `pages`, `depth` or `duration`.
        created_at: When it began.
        ended_at: When it ended.
    """

    crawl_id: str
    created_at: datetime | None = None
    found: int = 0
    visited: int = 0
    added: int = 0
    known: int = 0
    failed: int = 0
    refused: int = 0
    limit_hit: Literal["pages", "depth", "duration"] | None = None
    ended_at: datetime | None = None


class CrawlStep(Outcome):
    """What one look at a site came to.

    Attributes:
        progress: How the crawl stands.
        wait: How long it is not our turn at the site's host.
        is_done: Whether nothing is left.
    """

    progress: CrawlProgress
    wait: timedelta | None = None
    is_done: bool = False


class CrawlRef(Contract):
    """Input of the activities of a crawl.

    Attributes:
        crawl_id: The crawl.
        asked: The workflow's input; given to `begin_crawl`.
        limit_hit: The bound that ended it; given to `end_crawl`.
        now: The workflow's present.
    """

    crawl_id: DocumentId
    asked: CrawlInput | None = None
    limit_hit: Literal["pages", "depth", "duration"] | None = None
    now: AwareDatetime


class TakeInput(Contract):
    """Input of `take_due_documents`; a second run with the same sweep finds what the first one took.

    Attributes:
        sweep_id: The sweep's workflow run.
        limit: Documents at most; None: as the settings say.
        account: Only this account's documents.
    """

    sweep_id: str
    limit: int | None = None
    account: Name | None = None


class SweepTaken(Outcome):
    """What a sweep has taken.

    Attributes:
        accounts_scanned: Accounts looked at.
        accounts_enabled: Of these, those with automatic sync.
        accounts_scheduled: Of these, those of which a document was taken.
        taken: Documents that were taken.
        capacity_left: How many more could have been.
        cap_hit: Whether due work was left behind.
    """

    accounts_scanned: int = 0
    accounts_enabled: int = 0
    accounts_scheduled: int = 0
    taken: int = 0
    capacity_left: int = 0
    cap_hit: bool = False


class StartInput(Contract):
    """Input of `start_document_syncs`: which of the documents that a sweep has taken.

    Attributes:
        sweep_id: The sweep.
        first: Position of the first one, 0 being the sweep's first.
        count: How many.
        task_queue: Where their workflows run.
    """

    sweep_id: str
    first: int = Field(ge=0)
    count: int = Field(ge=1, le=1_000)
    task_queue: str


class StartOutcome(Outcome):
    """How many syncs were started, and how many documents were being synced already or are gone."""

    enqueued: int = 0
    skipped: int = 0
