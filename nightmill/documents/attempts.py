"""What an attempt to sync a document knows: the document, whom to tell, when it is due next, and what it came to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from nightmill.contracts import ChangeRef, SyncErrorCode, SyncOutcome, SyncResult
from nightmill.contracts.handlers import without_address
from nightmill.documents import plans
from nightmill.documents.fingerprint import fingerprint_version
from nightmill.storage.stored_documents import StoredDocument

if TYPE_CHECKING:
    from nightmill.contracts import CompletionHandler
    from nightmill.settings import DocumentSettings
    from nightmill.storage.document_models import DocumentRow
    from nightmill.storage.document_syncs import SyncStart

LOOK_AGAIN = timedelta(hours=1)
"""When a text is looked at again that has shrunk to almost nothing, and a page that could not be had for now."""

_LONGEST_PAUSE = timedelta(days=365)
_MAY_PASS = frozenset({SyncErrorCode.TIMEOUT, SyncErrorCode.FETCH_FAILED, SyncErrorCode.SYNC_ERROR})


@dataclass(frozen=True)
class Attempt:
    """What an attempt came to.

    Attributes:
        outcome: The record of it.
        retry_after: When to try again; None: the sync is over.
        needs_attention: What a person is to be told, where this is new.
        lag: How late a sync that a sweep asked for began after the document was due; of its first attempt only.
    """

    outcome: SyncOutcome
    retry_after: timedelta | None = None
    needs_attention: str | None = None
    lag: timedelta | None = None


class AttemptState:
    """One attempt; `begun` makes it one that may write.

    Attributes:
        row: The document as the attempt began.
        handler: Whom to tell of changes.
        account: Its account's name.
    """

    def __init__(self, stored: StoredDocument, settings: DocumentSettings, started: float) -> None:
        self.row: DocumentRow = stored.row
        self.account = stored.account.name
        self.handler: CompletionHandler | None = stored.handler
        self._stored = stored
        self._settings = settings
        self._plan = plans.plan_of(stored.account.plan, settings.plans)
        self._started = started
        self._start: SyncStart | None = None

    def begun(self, start: SyncStart) -> None:
        """Take the document as it is now that the attempt may write."""
        self._start, self.row, self.handler = start, start.row, start.handler
        self._stored = StoredDocument(start.row, self._stored.account)

    @property
    def token(self) -> str:
        """What every write of this attempt carries."""
        assert self._start is not None  # noqa: S101 - nothing is written before it has begun
        return self._start.token

    @property
    def number(self) -> int:
        """1 for the first attempt, one more for each one of this run that failed."""
        return self._start.attempt if self._start else 1

    @property
    def duration_ms(self) -> int:
        """Milliseconds since the attempt started."""
        return round((time.monotonic() - self._started) * 1000)

    @property
    def is_current(self) -> bool:
        """Whether there is a content whose fingerprint a new one can be compared with."""
        return self.row.content_fingerprint is not None and self.row.fingerprint_version == fingerprint_version()

    def outcome(self, result: SyncResult, *, reason: str | None = None, change: ChangeRef | None = None) -> SyncOutcome:
        """Return the record of the attempt."""
        return SyncOutcome(
            document_id=self.row.id,
            account=self.account,
            collection=self.row.collection,
            link=self.row.external_link,
            result=result,
            reason=reason,
            attempt=self.number,
            duration_ms=self.duration_ms,
            change=change,
        )

    def failure(
        self, result: SyncResult, code: SyncErrorCode, error: Exception, *, reason: str | None = None
    ) -> SyncOutcome:
        """Return the record of an attempt that failed."""
        update = {"error_code": code, "exception_class": type(error).__name__}
        return self.outcome(result, reason=reason).model_copy(update=update)

    def change(self, fingerprint: str) -> ChangeRef:
        """Return the news that the content has this fingerprint, for the handler that there is."""
        assert self.handler is not None  # noqa: S101 - the caller has looked
        return ChangeRef(document_id=self.row.id, fingerprint=fingerprint, handler=without_address(self.handler))

    def change_due(self) -> ChangeRef | None:
        """Return the present content as news, where the handler has not been told of it and the page is there."""
        row = self.row
        if row.content_fingerprint in (None, row.handled_fingerprint) or self.handler is None:
            return None
        return self.change(row.content_fingerprint or "")

    def change_due_after_failure(self, gone_days: int) -> ChangeRef | None:
        """Return the news that the page is gone, or a change that the handler has not been told of before."""
        self.row.gone_days = gone_days
        fingerprint = self._stored.due_change(gone_after_days=self._settings.gone_after_days)
        return None if fingerprint is None else self.change(fingerprint)

    def next(self, *, pace: float) -> datetime | None:
        """Return when the document is due next, after a sync that went well."""
        return plans.next_sync(self.row, self._plan, last=now(), pace=pace)

    def looked_at_again(self) -> datetime | None:
        """Return when a text is looked at again that is not believed yet: soon the first time, then as planned."""
        planned = self.next(pace=1.0)
        is_first = self.row.shrunk_fingerprint is None
        return min(planned, now() + LOOK_AGAIN) if planned is not None and is_first else planned

    def next_after_failure(self, failures: int, code: SyncErrorCode) -> datetime | None:
        """Return when the document is due next, after so many failures in a row: later and later.

        A site that was away for an hour is not left alone for a month because the plan says so.
        """
        planned = self.next(pace=plans.failure_pace(failures, self._settings.slowest_pace))
        if planned is None:
            return None
        if code in _MAY_PASS:
            return min(planned, now() + LOOK_AGAIN * plans.failure_pace(failures, _LONGEST_PAUSE / LOOK_AGAIN))
        gone_days = self.row.gone_days + (self.row.gone_on != now().date())
        if code is SyncErrorCode.NOT_FOUND and gone_days < self._settings.gone_after_days:
            return min(planned, now() + timedelta(days=1))  # so that days on which it is gone are seen one by one
        return planned


def now() -> datetime:
    """Return the present."""
    return datetime.now(UTC)
