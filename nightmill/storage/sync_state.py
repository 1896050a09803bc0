"""How a document's row moves along while it is synced: no database, only the rules."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from nightmill.contracts import SyncErrorCode, SyncStatus, SyncStep, Trigger
from nightmill.storage.columns import storable

if TYPE_CHECKING:
    from nightmill.storage.document_models import DocumentRow
    from nightmill.storage.stored_documents import StoredDocument

CLOCK_PUT_BACK = timedelta(hours=1)
"""No process hangs that long and still holds work; a clock may well be an hour wrong."""

CLOCK_AHEAD = timedelta(days=1)
"""What was written by a clock that is so far ahead says nothing of when a document is due."""

HANDLER_COMPLAINT = "handler: "
"""How the text of a need begins that the handler has; see `workflows.handler_call.failed`."""

_MAX_VALIDATOR = 1_000  # characters; a longer one is not worth to be kept, and half of one is none
_MAX_LINK = 2_000
_MAX_ATTENTION = 1_000


@dataclass(frozen=True)
class Skip:
    """There is nothing to sync, and why."""

    reason: Literal["gone", "disabled", "auto_sync_off", "not_due"]


@dataclass(frozen=True, kw_only=True)
class PageFacts:
    """What a fetch told of a page, beside its text.

    Attributes:
        etag: Validator for the next fetch.
        last_modified: Likewise.
        raw_hash: Of the body; None where no body came, which keeps the stored one.
        title: The page's title; a blank one changes nothing.
        resolved_link: Where redirects lead, if elsewhere.
        page_link: What the page says its canonical link is, if something else.
    """

    etag: str | None
    last_modified: str | None
    raw_hash: str | None
    title: str | None
    resolved_link: str | None
    page_link: str | None


@dataclass(frozen=True, kw_only=True)
class Rest:
    """How a document goes on after a sync that succeeded.

    Attributes:
        next_sync_at: When it is due next.
        pace: Adaptive interval.
        now: Time of the end.
        done: Whether the sync is over; if not, the handler is due.
    """

    next_sync_at: datetime | None
    pace: float
    now: datetime
    done: bool


def is_superseded(row: DocumentRow, scheduled_at: datetime | None) -> bool:
    """Whether an attempt that was scheduled later than this one has begun.

    By Temporal's own clock alone; if somebody puts that back by more than `CLOCK_PUT_BACK`, syncs go on all the same.
    """
    if scheduled_at is None or row.sync_scheduled_at is None:
        return False
    return timedelta(0) < row.sync_scheduled_at - scheduled_at < CLOCK_PUT_BACK


def skip_reason(stored: StoredDocument, trigger: Trigger, horizon: datetime, *, goes_on: bool) -> Skip | None:
    """Return why there is nothing to sync before `horizon`, or None; what has begun goes on."""
    row = stored.row
    if not row.enabled:
        return Skip("disabled")
    if trigger is not Trigger.SWEEP or goes_on:
        return None
    if not stored.account.auto_sync:
        return Skip("auto_sync_off")
    at_rest = row.sync_status in (SyncStatus.SYNCED, SyncStatus.FAILED)
    # Somebody was quicker, since the sweep takes only what is due. A change that the handler has yet to be told of is
    # a reason of its own.
    is_later = row.next_sync_at is not None and row.next_sync_at > horizon
    tried = row.last_sync_attempted_at
    is_later &= tried is None or tried <= horizon + CLOCK_AHEAD
    return Skip("not_due") if at_rest and is_later and not stored.is_undelivered else None


def give_up(row: DocumentRow) -> None:
    """Let the document rest as it was before the sync: with the error of an attempt, if one failed."""
    if row.last_sync_error_code:
        row.sync_status = SyncStatus.FAILED
    else:
        row.sync_status = SyncStatus.SYNCED if row.last_synced_at else None
    put_to_rest(row)


def take_attention(row: DocumentRow, message: str | None) -> bool:
    """Set what waits for a person, and return whether that is news.

    That a handler fails in another way is none, and while the page itself needs somebody, its handler waits.
    """
    text = None if message is None else storable(message)[:_MAX_ATTENTION]
    before, row.needs_attention = row.needs_attention, text
    if text is None or before is None:
        return text is not None
    if not text.startswith(HANDLER_COMPLAINT):
        return text != before
    if not before.startswith(HANDLER_COMPLAINT):
        row.needs_attention = before
    return False


def put_to_rest(row: DocumentRow) -> None:
    """Forget what belongs to an attempt that is under way, and that the document was taken for one."""
    row.sync_step = row.next_attempt_at = row.gate_at = row.queued_until = None


def succeed(row: DocumentRow, rest: Rest) -> None:
    """Note a success: with the handler yet to be told, the sync goes on as `updating`."""
    put_to_rest(row)
    row.sync_status = SyncStatus.SYNCED if rest.done else SyncStatus.SYNCING
    row.sync_step = None if rest.done else SyncStep.UPDATING
    row.last_sync_error_code = row.last_sync_error_reason = None
    row.last_synced_at, row.next_sync_at, row.pace = rest.now, rest.next_sync_at, rest.pace
    if rest.done or row.consecutive_failures:
        row.needs_attention = None  # otherwise it is about the handler, which is yet to be told
    row.consecutive_failures = row.gone_days = 0
    row.gone_on = None


def wait_for_next_attempt(row: DocumentRow, code: SyncErrorCode, reason: str | None, retry_at: datetime) -> None:
    """Count an attempt that failed and is tried again; the row stays `syncing`, its error visible."""
    row.sync_attempts += 1
    row.last_sync_error_code, row.last_sync_error_reason = code, reason
    row.sync_step, row.next_attempt_at = None, retry_at


def take_facts(row: DocumentRow, facts: PageFacts, now: datetime) -> None:
    """Take over what a fetch told; where no body came, what is known of the last one stays."""
    if facts.title and facts.title.strip():
        row.name = facts.title.strip()
    row.etag, row.last_modified = _validator_or_none(facts.etag), _validator_or_none(facts.last_modified)
    row.resolved_link, row.page_link = _link_or_none(facts.resolved_link), _link_or_none(facts.page_link)
    if facts.raw_hash is not None:
        row.raw_hash, row.last_full_fetch_at = facts.raw_hash, now


def _validator_or_none(value: str | None) -> str | None:
    """Return what can be sent back to the site, or None."""
    return value if value and len(value) <= _MAX_VALIDATOR and value.isprintable() else None


def _link_or_none(link: str | None) -> str | None:
    """Return a link of bearable length, or None."""
    return link if link and len(link) <= _MAX_LINK else None
