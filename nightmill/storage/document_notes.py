"""What is written about a document outside of an attempt to sync it: what was delivered, what needs a person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from nightmill.contracts import GONE, SyncStatus, SyncStep
from nightmill.errors import DocumentNotFound, SyncSuperseded
from nightmill.storage.document_history import add_event
from nightmill.storage.stored_documents import StoredDocument, load_document
from nightmill.storage.sync_state import give_up, is_superseded, put_to_rest, take_attention

if TYPE_CHECKING:
    from sqlmodel import Session

    from nightmill.storage.engine import Database

QUEUED_BEYOND = timedelta(minutes=10)
"""How long after its turn at the host a document counts as queued; then its sync is taken for lost."""


@dataclass(frozen=True)
class DocumentNotes:
    """Writes about documents without a fence. Any thread may use it."""

    database: Database

    def wait_in_line(
        self, document_id: str, *, ticket: datetime | None, until: datetime, scheduled_at: datetime | None = None
    ) -> None:
        """Note the sync's place in its host's line; that is no failure. It may not have begun, so it has no token.

        Until its turn, and a while beyond, no sweep takes the document.

        Raises:
            SyncSuperseded: An attempt that was scheduled later has begun.
            DocumentNotFound: The document is gone.
        """
        with self._locked(document_id) as (_, stored):
            row = stored.row
            if is_superseded(row, scheduled_at):
                raise SyncSuperseded(f"document {document_id}: a later attempt has begun")
            row.next_attempt_at, row.gate_at = until, ticket
            row.queued_until = max(row.queued_until or until, until + QUEUED_BEYOND)
            row.sync_step = None

    def finish(self, document_id: str, now: datetime) -> None:
        """End a sync after the handler's turn. A second call changes nothing.

        Raises:
            DocumentNotFound: The document is gone.
        """
        with self._locked(document_id) as (_, stored):
            row = stored.row
            if row.sync_status is SyncStatus.SYNCING and row.sync_step is SyncStep.UPDATING:
                row.sync_status, row.last_synced_at = SyncStatus.SYNCED, row.last_synced_at or now
                put_to_rest(row)

    def abandon(self, document_id: str, *, run_id: str) -> None:
        """Let the document rest as it was before a run that is not to go on. A second call changes nothing.

        Raises:
            DocumentNotFound: The document is gone.
        """
        with self._locked(document_id) as (_, stored):
            stored.row.queued_until = stored.row.next_attempt_at = stored.row.gate_at = None
            if stored.row.sync_run == run_id and stored.row.sync_status is SyncStatus.SYNCING:
                give_up(stored.row)

    def delivered(self, document_id: str, fingerprint: str, now: datetime, *, number: int) -> None:
        """Store that the handler was told of this content, `gone` included, as its change of this number.

        A second call changes nothing, nor does word of an earlier number that comes late. A later content stays due.

        Raises:
            DocumentNotFound: The document is gone.
        """
        with self._locked(document_id) as (session, stored):
            row = stored.row
            if number <= row.changes_told:
                return
            row.changes_told = number
            note = "the handler was told that the page is gone" if fingerprint == GONE else "the handler was told"
            add_event(
                session, row, now, note=note, old_fingerprint=row.handled_fingerprint, new_fingerprint=fingerprint
            )
            row.handled_fingerprint = fingerprint
            if not row.consecutive_failures:
                row.needs_attention = None

    def set_attention(self, document_id: str, message: str | None) -> bool:
        """Store what waits for a person; return whether it is new, so that it is notified once.

        Raises:
            DocumentNotFound: The document is gone.
        """
        with self._locked(document_id) as (_, stored):
            return take_attention(stored.row, message)

    def release(self, document_id: str) -> None:
        """Give a taken document back whose sync ended before it began. One that is gone is no error."""
        try:
            with self._locked(document_id) as (_, stored):
                stored.row.queued_until = None
        except DocumentNotFound:
            return

    @contextmanager
    def _locked(self, document_id: str) -> Iterator[tuple[Session, StoredDocument]]:
        """Hold the document's row; what the block changes in it is stored."""
        with self.database.transaction() as session:
            stored = load_document(session, document_id, lock=True)
            yield session, stored
            session.add(stored.row)
