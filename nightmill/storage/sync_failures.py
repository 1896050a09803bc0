"""What attempts write that found nothing to store: one method, one transaction, and only by the attempt's token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from nightmill.contracts import SyncErrorCode, SyncResult, SyncStatus
from nightmill.errors import SyncSuperseded
from nightmill.storage.document_history import add_attempt, add_event
from nightmill.storage.document_notes import DocumentNotes
from nightmill.storage.stored_documents import StoredDocument
from nightmill.storage.sync_state import give_up, put_to_rest, wait_for_next_attempt

if TYPE_CHECKING:
    from sqlmodel import Session


@dataclass(frozen=True)
class SyncFailures(DocumentNotes):
    """Writes what kept an attempt from finding anything. Any thread may use it."""

    def skip(self, document_id: str, token: str, *, reason: str, next_sync_at: datetime | None, now: datetime) -> None:
        """Store that the attempt has found nothing that this sync is for; the document is as it was before.

        Raises:
            SyncSuperseded: Another attempt has begun.
            DocumentNotFound: The document is gone.
        """
        with self._attempt(document_id, token) as (session, stored):
            row = stored.row
            add_attempt(session, row, now, SyncResult.SKIPPED, note=reason)
            row.next_sync_at = next_sync_at
            give_up(row)

    def transient(
        self,
        document_id: str,
        token: str,
        *,
        code: SyncErrorCode,
        reason: str | None,
        retry_at: datetime,
        note: str | None,
        now: datetime,
    ) -> int:
        """Store that the attempt failed for a reason that may pass; return how many of this run did.

        The document stays `syncing`, and the error is visible until the next attempt has ended.

        Raises:
            SyncSuperseded: Another attempt has begun.
            DocumentNotFound: The document is gone.
        """
        with self._attempt(document_id, token) as (session, stored):
            add_attempt(session, stored.row, now, SyncResult.TRANSIENT_FAILURE, error_code=code, note=note)
            wait_for_next_attempt(stored.row, code, reason, retry_at)
            stored.row.spent_transient += 1
            return stored.row.spent_transient

    def unexpected(
        self,
        document_id: str,
        token: str,
        *,
        code: SyncErrorCode = SyncErrorCode.SYNC_ERROR,
        reason: str | None,
        retry_at: datetime,
        note: str | None,
        now: datetime,
    ) -> int:
        """Store that the attempt failed for no reason that we know; return how many of this run did. See `transient`.

        Raises:
            SyncSuperseded: Another attempt has begun.
            DocumentNotFound: The document is gone.
        """
        with self._attempt(document_id, token) as (session, stored):
            add_attempt(session, stored.row, now, SyncResult.UNEXPECTED_FAILURE, error_code=code, note=note)
            wait_for_next_attempt(stored.row, code, reason, retry_at)
            stored.row.spent_unexpected += 1
            return stored.row.spent_unexpected

    def failed(
        self,
        document_id: str,
        token: str,
        *,
        result: SyncResult,
        code: SyncErrorCode,
        reason: str | None,
        note: str | None,
        next_sync_at: datetime | None,
        attempt: int,
        duration_ms: int,
        now: datetime,
    ) -> int:
        """Store that the sync failed; the last good content stays. Return on how many days the page was gone.

        Those days are counted by the calendar in UTC. Days on which nobody looked, or on which the page could not be
        had, neither count nor interrupt them; only a success does.

        Raises:
            SyncSuperseded: Another attempt has begun.
            DocumentNotFound: The document is gone.
        """
        with self._attempt(document_id, token) as (session, stored):
            row = stored.row
            add_event(
                session, row, now, result=result, error_code=code, note=note, attempt=attempt, duration_ms=duration_ms
            )
            row.sync_attempts += 1
            row.last_sync_error_code, row.last_sync_error_reason = code, reason
            row.consecutive_failures += 1
            today = now.astimezone(UTC).date()
            if code is SyncErrorCode.NOT_FOUND and row.gone_on != today:
                row.gone_on, row.gone_days = today, row.gone_days + 1
            row.sync_status, row.next_sync_at = SyncStatus.FAILED, next_sync_at
            put_to_rest(row)
            return row.gone_days

    @contextmanager
    def _attempt(self, document_id: str, token: str) -> Iterator[tuple[Session, StoredDocument]]:
        """Hold the document's row for the attempt that may write."""
        with self._locked(document_id) as (session, stored):
            if stored.row.sync_token != token:
                raise SyncSuperseded(f"document {document_id}: another attempt has begun")
            yield session, stored
