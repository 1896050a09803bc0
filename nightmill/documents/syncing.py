"""One sync of one document: fetch, compare, update. Each attempt is one call; what it came to is in the row."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from nightmill.contracts import (
    GONE,
    MAX_CONTENT,
    ChangeRef,
    CompletionHandler,
    ParagraphDiff,
    SyncErrorCode,
    SyncInput,
    SyncOutcome,
    SyncResult,
    SyncStep,
    Trigger,
)
from nightmill.documents import plans
from nightmill.documents.differences import compare
from nightmill.documents.fetching import FetchedPage, NotModified, Validators
from nightmill.documents.fingerprint import fingerprint_version
from nightmill.documents.links import is_pdf, read_link
from nightmill.errors import (
    DocumentNotFound,
    ExtractorUnavailable,
    HostBusy,
    NotConfigured,
    PageRefused,
    PageUnavailable,
    PageUnsupported,
    SyncSuperseded,
)
from nightmill.failpoints import fail_point
from nightmill.storage.document_syncs import SyncStart
from nightmill.storage.sync_state import Skip

if TYPE_CHECKING:
    from nightmill.documents.extractor import Extractor
    from nightmill.documents.fetching import PageFetcher
    from nightmill.documents.politeness import Politeness, Visit
    from nightmill.documents.reading import Reading
    from nightmill.settings import DocumentSettings
    from nightmill.storage.document_models import AccountRow, DocumentRow
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

LOOK_AGAIN = timedelta(hours=1)
"""When a shrunken text is looked at again."""

_HANDLER: TypeAdapter[CompletionHandler] = TypeAdapter(CompletionHandler)


@dataclass(frozen=True)
class Attempt:
    """What an attempt came to.

    Attributes:
        outcome: The record of it.
        retry_after: When to try again; None: the sync is over.
        needs_attention: What a person is to be told, where this is new.
    """

    outcome: SyncOutcome
    retry_after: timedelta | None = None
    needs_attention: str | None = None


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
    """

    documents: DocumentRepository
    syncs: SyncRepository
    politeness: Politeness
    fetcher: PageFetcher
    extractor: Extractor
    settings: DocumentSettings

    def attempt(self, asked: SyncInput) -> Attempt:
        """Try once to sync a document. A second call goes on with the budgets of failures that the row counts.

        Raises:
            HostBusy: It is not this document's turn at its host; nothing has happened.
            StorageUnavailable: The database is away, so that not even the failure can be written.
            ExtractorUnavailable: Our program that reads pages does not run; the document is as it was.
        """
        started = time.monotonic()
        fail_point("sync.start")
        try:
            stored = self.documents.get(asked.document_id)
        except DocumentNotFound:
            return Attempt(SyncOutcome(document_id=asked.document_id, result=SyncResult.SKIPPED, reason="gone"))
        run = _Run(self, stored, asked, started)
        try:
            return run.attempt()
        except DocumentNotFound:
            return Attempt(run.outcome(SyncResult.SKIPPED, reason="gone"))
        except SyncSuperseded:
            return Attempt(run.outcome(SyncResult.SKIPPED, reason="superseded"))


class _Run:
    """One attempt."""

    def __init__(self, syncer: Syncer, stored: StoredDocument, asked: SyncInput, started: float) -> None:
        self._syncer = syncer
        self._syncs = syncer.syncs
        self._settings = syncer.settings
        self._row: DocumentRow = stored.row
        self._account: AccountRow = stored.account
        self._asked = asked
        self._started = started
        self._start: SyncStart | None = None
        self._plan = plans.plan_of(stored.account.plan, syncer.settings.plans)

    def attempt(self) -> Attempt:
        row = self._row
        if is_pdf(read_link(row.external_link)):
            return Attempt(self.outcome(SyncResult.SKIPPED, reason="pdf"))
        urgent = self._asked.trigger is Trigger.MANUAL
        try:
            with self._syncer.politeness.visit(row.host, ticket=row.gate_at, urgent=urgent) as visit:
                begun = self._syncs.begin(
                    row.id, run_id=self._asked.run_id, trigger=self._asked.trigger, now=_now(),
                    tolerance=self._settings.sweep_interval,
                )  # fmt: skip
                if isinstance(begun, Skip):
                    return Attempt(self.outcome(SyncResult.SKIPPED, reason=begun.reason))
                self._start, self._row = begun, begun.row
                fail_point("sync.begun")
                return self._guarded(visit)
        except HostBusy as error:
            self._syncs.wait_in_line(row.id, ticket=error.ticket, until=_now() + (error.retry_after or timedelta(0)))
            raise

    def _guarded(self, visit: Visit) -> Attempt:
        """Do the work, and write what went wrong, if something did."""
        try:
            return self._work(visit)
        except (HostBusy, ExtractorUnavailable, NotConfigured, DocumentNotFound, SyncSuperseded):
            raise
        except PageRefused as error:
            return self._refused(error)
        except PageUnavailable as error:
            visit.failed(error)
            return self._unavailable(error)
        except Exception as error:  # noqa: BLE001 - a bug, or a database that stumbles: written, counted, reported once
            return self._unexpected(error)

    def _work(self, visit: Visit) -> Attempt:
        row = self._row
        version = fingerprint_version()
        is_current = row.content_fingerprint is not None and row.fingerprint_version == version
        is_recent = row.last_full_fetch_at is not None and (
            _now() - row.last_full_fetch_at < self._settings.full_fetch_after
        )
        validators = Validators(row.etag, row.last_modified) if is_current and is_recent else None
        page = self._syncer.fetcher.fetch(row.link, validators, allowed=visit.allow)
        fail_point("sync.fetched")
        if isinstance(page, NotModified):
            return self._unchanged(SyncResult.NOT_MODIFIED, page)
        if is_current and page.raw_hash == row.raw_hash:
            return self._unchanged(SyncResult.UNCHANGED, page)
        self._syncs.step(row.id, self._token, SyncStep.COMPARING)
        reading = self._syncer.extractor.read(page.body, media_type=page.media_type, charset=page.charset, url=page.url)
        fail_point("sync.compared")
        return self._compared(page, reading, version)

    def _compared(self, page: FetchedPage, reading: Reading, version: str) -> Attempt:
        row = self._row
        if reading.fingerprint == row.content_fingerprint and version == row.fingerprint_version:
            return self._unchanged(SyncResult.UNCHANGED, page, reading)
        # A text whose fingerprint is of another making cannot be compared by it: it is the new baseline.
        quiet = row.content_length is not None and row.fingerprint_version != version
        seen_before = reading.fingerprint == row.shrunk_fingerprint
        if not quiet and not seen_before and reading.length < SHRUNK * (row.content_length or 0):
            self._syncs.hold_shrunk(
                row.id, self._token, fingerprint=reading.fingerprint, next_sync_at=self._soon(), now=_now(),
                done=self._handler_due(row.content_fingerprint) is None,
            )  # fmt: skip
            return Attempt(
                self.outcome(SyncResult.UNCHANGED, reason="shrunk", change=self._handler_due(row.content_fingerprint))
            )
        return self._store(page, reading, version, quiet=quiet)

    def _store(self, page: FetchedPage, reading: Reading, version: str, *, quiet: bool) -> Attempt:
        row = self._row
        self._syncs.step(row.id, self._token, SyncStep.UPDATING)
        old = self._syncer.documents.content(row.id)
        content = reading.content[:MAX_CONTENT]
        diff = ParagraphDiff() if quiet else compare(old.content if old else None, content)
        was_handled = row.handled_fingerprint == row.content_fingerprint
        # Nobody is told of a new baseline, but who was not told of the content before is told of this one.
        silent = self._handler is None or (quiet and was_handled)
        self._syncs.store_content(
            row.id,
            self._token,
            content=content,
            content_length=reading.length,
            fingerprint=reading.fingerprint,
            version=version,
            title=reading.title,
            handled=silent,
            result=SyncResult.BASELINE if quiet else SyncResult.UPDATED,
            source_type=reading.source_type,
            etag=page.etag,
            last_modified=page.last_modified,
            raw_hash=page.raw_hash,
            resolved_link=_if_other(page.url, row.link),
            page_link=_if_other(reading.page_link, row.link),
            next_sync_at=self._next(pace=1.0),
            pace=1.0,
            diff=diff,
            attempt=self._attempt,
            duration_ms=self._duration_ms,
            now=_now(),
            done=silent,
            before_commit=lambda: fail_point("sync.in_transaction"),
        )
        fail_point("sync.saved")
        change = None if silent else self._change(reading.fingerprint)
        return Attempt(self.outcome(SyncResult.BASELINE if quiet else SyncResult.UPDATED, change=change))

    def _unchanged(
        self, result: SyncResult, page: FetchedPage | NotModified, reading: Reading | None = None
    ) -> Attempt:
        row = self._row
        change = self._handler_due(row.content_fingerprint)
        pace = row.pace
        if self._settings.adaptive and self._asked.trigger is Trigger.SWEEP:
            pace = plans.slowed(row.pace, self._settings.slowest_pace)
        self._syncs.unchanged(
            row.id,
            self._token,
            result=result,
            etag=page.etag,
            last_modified=page.last_modified,
            raw_hash=page.raw_hash if isinstance(page, FetchedPage) else None,
            full_fetch=isinstance(page, FetchedPage),
            title=reading.title if reading else None,
            resolved_link=_if_other(page.url, row.link),
            page_link=_if_other(reading.page_link, row.link) if reading else row.page_link,
            counted=self._asked.trigger is Trigger.SWEEP,
            next_sync_at=self._next(pace=pace),
            pace=pace,
            now=_now(),
            done=change is None,
        )
        fail_point("sync.saved")
        return Attempt(self.outcome(result, change=change))

    def _refused(self, error: PageRefused) -> Attempt:
        if isinstance(error, PageUnsupported) and error.reason == "pdf":
            # Another kind of document, which other software reads: no failure of the customer's.
            self._syncs.skip(self._row.id, self._token, reason="pdf", next_sync_at=self._next(pace=1.0), now=_now())
            return Attempt(self.outcome(SyncResult.SKIPPED, reason="pdf"))
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
            retry_at=_now() + pause, now=_now(),
        )  # fmt: skip
        fail_point("sync.failed")
        return Attempt(
            self._failure(SyncResult.TRANSIENT_FAILURE, SyncErrorCode(error.code), error, error.reason), pause
        )

    def _unexpected(self, error: Exception) -> Attempt:
        code = SyncErrorCode.SYNC_ERROR
        spent = self._row.spent_unexpected
        if spent >= len(UNEXPECTED):
            attempt = self._failed(SyncResult.UNEXPECTED_RETRY_EXHAUSTED, code, error, reason=type(error).__name__)
            # After it is written: where that fails, the next attempt comes here again.
            logger.error(
                "document sync failed for good",
                extra={"document": self._row.id, "account": self._account.name},
                exc_info=error,
            )
            message = f"{type(error).__name__} in each of {spent + 1} attempts; the worker's log shows where"
            return Attempt(attempt.outcome, needs_attention=message)
        logger.info("document sync stumbled", extra={"document": self._row.id}, exc_info=error)
        pause = UNEXPECTED[spent]
        self._syncs.unexpected(
            self._row.id, self._token, code=code, reason=type(error).__name__, note=type(error).__name__,
            retry_at=_now() + pause, now=_now(),
        )  # fmt: skip
        fail_point("sync.failed")
        return Attempt(self._failure(SyncResult.UNEXPECTED_FAILURE, code, error, None), pause)

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
            next_sync_at=self._next_after_failure(failures, code),
            attempt=self._attempt,
            duration_ms=self._duration_ms,
            now=_now(),
        )
        fail_point("sync.failed")
        outcome = self._failure(result, code, error, reason)
        change = self._due_after_failure(gone_days)
        if change is not None:
            outcome = outcome.model_copy(update={"change": change})
        attention = None
        if failures >= self._settings.attention_after:
            attention = f"{failures} syncs failed one after the other, the last one with {code.value}"
            attention += f" ({reason})" if reason else ""
        return Attempt(outcome, needs_attention=attention)

    def outcome(self, result: SyncResult, *, reason: str | None = None, change: ChangeRef | None = None) -> SyncOutcome:
        row = self._row
        return SyncOutcome(
            document_id=row.id,
            account=self._account.name,
            collection=row.collection,
            link=row.external_link,
            result=result,
            reason=reason,
            attempt=self._attempt,
            duration_ms=self._duration_ms,
            change=change,
        )

    def _failure(self, result: SyncResult, code: SyncErrorCode, error: Exception, reason: str | None) -> SyncOutcome:
        update = {"error_code": code, "exception_class": type(error).__name__, "reason": reason}
        return self.outcome(result).model_copy(update=update)

    @property
    def _token(self) -> str:
        assert self._start is not None  # noqa: S101 - nothing is written before it has begun
        return self._start.token

    @property
    def _attempt(self) -> int:
        return self._start.attempt if self._start else 1

    @property
    def _duration_ms(self) -> int:
        return round((time.monotonic() - self._started) * 1000)

    @property
    def _handler(self) -> CompletionHandler | None:
        given = self._row.change_handler or self._account.change_handler
        return None if given is None else _HANDLER.validate_python(given)

    def _handler_due(self, fingerprint: str | None) -> ChangeRef | None:
        if fingerprint is None or self._row.handled_fingerprint == fingerprint or self._handler is None:
            return None
        return self._change(fingerprint)

    def _due_after_failure(self, gone_days: int) -> ChangeRef | None:
        """Return the news that the page is gone, or a change that the handler has not been told of before."""
        handled = self._row.handled_fingerprint
        if gone_days >= self._settings.gone_after_days and handled is not None:
            return None if handled == GONE or self._handler is None else self._change(GONE)
        return None if handled == GONE else self._handler_due(self._row.content_fingerprint)

    def _change(self, fingerprint: str) -> ChangeRef:
        assert self._handler is not None  # noqa: S101 - asked before
        return ChangeRef(document_id=self._row.id, fingerprint=fingerprint, handler=self._handler)

    def _next(self, *, pace: float) -> datetime | None:
        return plans.next_sync(self._row, self._plan, last=_now(), pace=pace)

    def _soon(self) -> datetime | None:
        planned = self._next(pace=1.0)
        return None if planned is None else min(planned, _now() + LOOK_AGAIN)

    def _next_after_failure(self, failures: int, code: SyncErrorCode) -> datetime | None:
        planned = plans.next_sync(
            self._row, self._plan, last=_now(), pace=plans.failure_pace(failures, self._settings.slowest_pace)
        )
        if planned is not None and code is SyncErrorCode.NOT_FOUND and failures < self._settings.gone_after_days:
            return min(planned, _now() + timedelta(days=1))  # so that consecutive days are seen
        return planned


def _if_other(link: str | None, than: str) -> str | None:
    return None if link is None or link == than else link[:2_000]


def _now() -> datetime:
    return datetime.now(UTC)
