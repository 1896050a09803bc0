"""Documents: the words in their rows, the inputs of their workflows, and what these come to."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from nightmill.contracts.base import Contract, Outcome
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
    """What a sync came to: result of the workflow `DocumentSync`, a line of `document sync --json`.

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
