"""One sync of one document: fetch, compare, update. Each attempt is one call; what it came to is in the row."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from nightmill.contracts import (
    MAX_CONTENT,
    ParagraphDiff,
    SyncErrorCode,
    SyncInput,
    SyncOutcome,
    SyncResult,
    SyncStep,
    Trigger,
)
from nightmill.documents import plans
from nightmill.documents.attempts import Attempt, AttemptState, now
from nightmill.documents.differences import compare
from nightmill.documents.fetching import FetchedPage, NotModified, Validators
from nightmill.documents.fingerprint import fingerprint_version
from nightmill.documents.outlook import MANY, Outlook
from nightmill.errors import (
    DocumentNotFound,
    ExtractorUnavailable,
    HostBusy,
    NetworkDown,
    NotConfigured,
    PageRefused,
    PageUnavailable,
    PageUnsupported,
    SyncSuperseded,
)
from nightmill.failpoints import fail_point
from nightmill.storage.document_syncs import NewText
from nightmill.storage.sync_state import PageFacts, Rest, Skip

if TYPE_CHECKING:
    from nightmill.documents.extractor import Extractor
    from nightmill.documents.fetching import PageFetcher
    from nightmill.documents.politeness import Politeness, Visit
    from nightmill.documents.reading import Reading
    from nightmill.settings import DocumentSettings
    from nightmill.storage.document_models import DocumentRow
    from nightmill.storage.document_syncs import SyncRepository
    from nightmill.storage.documents import DocumentRepository, StoredDocument

logger = logging.getLogger(__name__)

TRANSIENT = (timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=5))
"""Pauses after the site's failures: four attempts in all."""

UNEXPECTED = (timedelta(seconds=5), timedelta(seconds=5))
"""Pauses after ours: three attempts in all."""

LONGEST_RETRY_AFTER = timedelta(hours=1)

SHRUNK = 0.2
"""A text that shrinks to less than this share of the last one is believed when it is seen a second time."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Syncer:
    """Syncs documents; any thread may use it.

    Attributes:
        documents: The documents.
        syncs: What syncs write, fenced.
        politeness: Turns at hosts.
        fetcher: Gets pages.
        extractor: Finds their contents, in processes that can be killed.
        settings: Plans, bounds and delays.
        outlook: Tells sites that are away from a network of ours that is.
    """

    documents: DocumentRepository
    syncs: SyncRepository
    politeness: Politeness
    fetcher: PageFetcher
    extractor: Extractor
    settings: DocumentSettings
    outlook: Outlook = field(default_factory=Outlook)

    def attempt(self, asked: SyncInput) -> Attempt:
        """Try once to sync a document. A second call goes on with the budgets of failures that the row counts.

        Raises:
            HostBusy: It is not this document's turn at its host; nothing has happened.
            StorageUnavailable: The database is away, so that not even the failure can be written.
            ExtractorUnavailable: Our program that reads pages does not run; the document is as it was.
            NetworkDown: No site at all can be reached from here; likewise.
        """
        started = time.monotonic()
        fail_point("sync.start")
        try:
            stored = self.documents.get(asked.document_id)
        except DocumentNotFound:
            return Attempt(SyncOutcome(document_id=asked.document_id, result=SyncResult.SKIPPED, reason="gone"))
        run = _Run(self, stored, asked, started)
        try:
            return replace(run.attempt(), lag=run.lag)
        except DocumentNotFound:
            return Attempt(run.state.outcome(SyncResult.SKIPPED, reason="gone"))
        except SyncSuperseded:
            return Attempt(run.state.outcome(SyncResult.SKIPPED, reason="superseded"))


class _Run:
    """One attempt."""

    def __init__(self, syncer: Syncer, stored: StoredDocument, asked: SyncInput, started: float) -> None:
        self._syncer = syncer
        self._syncs = syncer.syncs
        self._settings = syncer.settings
        self._asked = asked
        self._state = self.state = AttemptState(stored, syncer.settings, started)
        self.lag: timedelta | None = None

    @property
    def _row(self) -> DocumentRow:
        return self._state.row

    @property
    def _token(self) -> str:
        return self._state.token

    def attempt(self) -> Attempt:
        """Return what the attempt came to."""
        found = self._visit()
        return found if isinstance(found, Attempt) else self._guarded(lambda: self._compared(found))

    def _visit(self) -> FetchedPage | NotModified | Attempt:
        """Fetch when it is our turn at the host; or return what came of it, where that is the end of the attempt."""
        row, urgent = self._row, self._asked.trigger is Trigger.MANUAL
        try:
            with self._syncer.politeness.visit(row.host, ticket=row.gate_at, urgent=urgent) as visit:
                begun = self._syncs.begin(
                    row.id, run_id=self._asked.run_id, trigger=self._asked.trigger, now=now(),
                    tolerance=self._settings.sweep_interval, scheduled_at=self._asked.scheduled_at,
                )  # fmt: skip
                if isinstance(begun, Skip):
                    return Attempt(self._state.outcome(SyncResult.SKIPPED, reason=begun.reason))
                self._state.begun(begun)
                if self._asked.trigger is Trigger.SWEEP and begun.attempt == 1:
                    self.lag = now() - (begun.row.next_sync_at or begun.row.created_at)
                fail_point("sync.begun")
                return self._guarded(lambda: self._fetch(visit))
        except HostBusy as error:
            until = now() + (error.retry_after or timedelta(0))
            self._syncs.wait_in_line(row.id, ticket=error.ticket, until=until, scheduled_at=self._asked.scheduled_at)
            raise

    def _guarded(self, work: Callable[[], _T]) -> _T | Attempt:
        """Do the work, and write what went wrong, if something did."""
        try:
            return work()
        except (HostBusy, ExtractorUnavailable, NetworkDown, NotConfigured, DocumentNotFound, SyncSuperseded):
            raise
        except PageRefused as error:
            return self._refused(error)
        except PageUnavailable as error:
            return self._unavailable(error)
        except Exception as error:  # noqa: BLE001 - a bug, or a database that stumbles: written, counted, reported once
            return self._unexpected(error)

    def _fetch(self, visit: Visit) -> FetchedPage | NotModified:
        row = self._row
        last = row.last_full_fetch_at
        is_recent = last is not None and now() - last < self._settings.full_fetch_after
        validators = Validators(row.etag, row.last_modified) if self._state.is_current and is_recent else None
        try:
            page = self._syncer.fetcher.fetch(row.link, validators, allowed=visit.allow)
            if isinstance(page, NotModified) and page.url != (row.resolved_link or row.link):
                # The link leads elsewhere by now, and what is not modified there is another page than the one we have.
                page = self._syncer.fetcher.fetch(row.link, None, allowed=visit.allow)
        except PageUnavailable as error:
            visit.failed(error)
            if self._syncer.outlook.failed(row.host, error):
                raise NetworkDown(f"none of the last {MANY} sites and more can be reached: {error}") from None
            raise
        except PageRefused as error:
            if error.http_status is not None:
                self._syncer.outlook.reached()
            raise
        self._syncer.outlook.reached()
        fail_point("sync.fetched")
        return page

    def _compared(self, page: FetchedPage | NotModified) -> Attempt:
        row, is_current = self._row, self._state.is_current
        if isinstance(page, NotModified):
            return self._unchanged(SyncResult.NOT_MODIFIED, page)
        if is_current and page.raw_hash == row.raw_hash:
            return self._unchanged(SyncResult.UNCHANGED, page)
        self._syncs.step(row.id, self._token, SyncStep.COMPARING)
        reading = self._syncer.extractor.read(page.body, media_type=page.media_type, charset=page.charset, url=page.url)
        fail_point("sync.compared")
        if is_current and reading.fingerprint == row.content_fingerprint:
            return self._unchanged(SyncResult.UNCHANGED, page, reading)
        # A text whose fingerprint is of another making cannot be compared by it: it is the new baseline.
        quiet = row.content_length is not None and not is_current
        seen_before = reading.fingerprint == row.shrunk_fingerprint
        if not seen_before and reading.length < SHRUNK * (row.content_length or 0):
            return self._hold(reading)
        return self._store(page, reading, quiet=quiet)

    def _hold(self, reading: Reading) -> Attempt:
        """Keep what is stored until a text that is so much shorter is seen again."""
        change = self._state.change_due()
        self._syncs.hold_shrunk(
            self._row.id,
            self._token,
            reading.fingerprint,
            Rest(next_sync_at=self._state.looked_at_again(), pace=self._row.pace, now=now(), done=change is None),
        )
        return Attempt(self._state.outcome(SyncResult.UNCHANGED, reason="shrunk", change=change))

    def _store(self, page: FetchedPage, reading: Reading, *, quiet: bool) -> Attempt:
        row = self._row
        self._syncs.step(row.id, self._token, SyncStep.UPDATING)
        old = self._syncer.documents.content(row.id)
        content = reading.content[:MAX_CONTENT]
        diff = ParagraphDiff() if quiet else compare(old.content if old else None, content)
        was_handled = row.handled_fingerprint == row.content_fingerprint
        # Nobody is told of a new baseline, but who was not told of the content before is told of this one.
        silent = self._state.handler is None or (quiet and was_handled)
        self._syncs.store_content(
            row.id,
            self._token,
            NewText(
                content=content,
                length=reading.length,
                fingerprint=reading.fingerprint,
                version=fingerprint_version(),
                source_type=reading.source_type,
            ),
            self._facts(page, reading),
            Rest(next_sync_at=self._state.next(pace=1.0), pace=1.0, now=now(), done=silent),
            result=SyncResult.BASELINE if quiet else SyncResult.UPDATED,
            handled=silent,
            diff=diff,
            attempt=self._state.number,
            duration_ms=self._state.duration_ms,
            before_commit=lambda: fail_point("sync.in_transaction"),
        )
        fail_point("sync.saved")
        change = None if silent else self._state.change(reading.fingerprint)
        return Attempt(self._state.outcome(SyncResult.BASELINE if quiet else SyncResult.UPDATED, change=change))

    def _unchanged(
        self, result: SyncResult, page: FetchedPage | NotModified, reading: Reading | None = None
    ) -> Attempt:
        row = self._row
        change = self._state.change_due()
        pace = row.pace if self._settings.adaptive else 1.0
        if self._settings.adaptive and self._asked.trigger is Trigger.SWEEP:
            pace = plans.slowed(row.pace, self._settings.slowest_pace)
        self._syncs.unchanged(
            row.id,
            self._token,
            self._facts(page, reading),
            Rest(next_sync_at=self._state.next(pace=pace), pace=pace, now=now(), done=change is None),
            result=result,
            counted=self._asked.trigger is Trigger.SWEEP,
        )
        fail_point("sync.saved")
        return Attempt(self._state.outcome(result, change=change))

    def _facts(self, page: FetchedPage | NotModified, reading: Reading | None) -> PageFacts:
        """Return what is to be stored of the fetch; without a reading, what the page says of itself stays."""
        row = self._row
        return PageFacts(
            etag=page.etag,
            last_modified=page.last_modified,
            raw_hash=page.raw_hash if isinstance(page, FetchedPage) else None,
            title=reading.title if reading else None,
            resolved_link=_if_other(page.url, row.link),
            page_link=_if_other(reading.page_link, row.link) if reading else row.page_link,
        )

    def _refused(self, error: PageRefused) -> Attempt:
        if isinstance(error, PageUnsupported) and error.reason == "pdf":
            # Another kind of document, which other software reads: no failure of the customer's.
            self._syncs.skip(
                self._row.id, self._token, reason="pdf", next_sync_at=self._state.next(pace=1.0), now=now()
            )
            return Attempt(self._state.outcome(SyncResult.SKIPPED, reason="pdf"))
        return self._failed(SyncResult.PERMANENT_FAILURE, SyncErrorCode(error.code), error, reason=error.reason)

    def _unavailable(self, error: PageUnavailable) -> Attempt:
        spent = self._row.spent_transient
        if spent >= len(TRANSIENT):
            return self._failed(
                SyncResult.TRANSIENT_RETRY_EXHAUSTED, SyncErrorCode(error.code), error, reason=error.reason
            )
        pause = max(TRANSIENT[spent], min(error.retry_after or timedelta(0), LONGEST_RETRY_AFTER))
        self._syncs.transient(
            self._row.id, self._token, code=SyncErrorCode(error.code), reason=error.reason, note=str(error),
            retry_at=now() + pause, now=now(),
        )  # fmt: skip
        fail_point("sync.failed")
        return Attempt(
            self._state.failure(SyncResult.TRANSIENT_FAILURE, SyncErrorCode(error.code), error, reason=error.reason),
            pause,
        )

    def _unexpected(self, error: Exception) -> Attempt:
        code = SyncErrorCode.SYNC_ERROR
        spent = self._row.spent_unexpected
        if spent >= len(UNEXPECTED):
            attempt = self._failed(SyncResult.UNEXPECTED_RETRY_EXHAUSTED, code, error, reason=type(error).__name__)
            # After it is written: where that fails, the next attempt comes here again.
            logger.error(
                "document sync failed for good",
                extra={"document": self._row.id, "account": self._state.account},
                exc_info=error,
            )
            message = f"{type(error).__name__} in each of {spent + 1} attempts; the worker's log shows where"
            return Attempt(attempt.outcome, needs_attention=message)
        logger.info("document sync stumbled", extra={"document": self._row.id}, exc_info=error)
        pause = UNEXPECTED[spent]
        self._syncs.unexpected(
            self._row.id, self._token, code=code, reason=type(error).__name__, note=type(error).__name__,
            retry_at=now() + pause, now=now(),
        )  # fmt: skip
        fail_point("sync.failed")
        return Attempt(self._state.failure(SyncResult.UNEXPECTED_FAILURE, code, error), pause)

    def _failed(self, result: SyncResult, code: SyncErrorCode, error: Exception, *, reason: str | None) -> Attempt:
        row = self._row
        failures = row.consecutive_failures + 1
        gone_days = self._syncs.failed(
            row.id,
            self._token,
            result=result,
            code=code,
            reason=reason,
            note=str(error) if isinstance(error, PageRefused | PageUnavailable) else type(error).__name__,
            next_sync_at=self._state.next_after_failure(failures, code),
            attempt=self._state.number,
            duration_ms=self._state.duration_ms,
            now=now(),
        )
        fail_point("sync.failed")
        outcome = self._state.failure(result, code, error, reason=reason)
        change = self._state.change_due_after_failure(gone_days)
        if change is not None:
            outcome = outcome.model_copy(update={"change": change})
        # Without counts and codes, so that it is the same text each time, and told once.
        lasting = failures >= self._settings.attention_after
        attention = f"sync after sync fails: `nightmill document history {row.id}` shows why" if lasting else None
        return Attempt(outcome, needs_attention=attention)


def _if_other(link: str | None, than: str) -> str | None:
    return None if link is None or link == than else link[:2_000]
