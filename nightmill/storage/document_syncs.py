"""What a sync writes: one method, one transaction, and only while it is the one that syncs the document.

Each attempt gets a token when it begins, and each of its writes carries it. An attempt that hangs while another one has
begun holds an old token: what it writes late is refused, so that two attempts never mix.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from nightmill.contracts import (
    CompletionHandler,
    ParagraphDiff,
    SyncResult,
    SyncStatus,
    SyncStep,
    Trigger,
)
from nightmill.errors import DocumentNotFound, SyncSuperseded
from nightmill.storage.document_history import add_attempt, add_event, keep_version
from nightmill.storage.document_models import DocumentRow
from nightmill.storage.stored_documents import load_document
from nightmill.storage.sync_failures import SyncFailures
from nightmill.storage.sync_state import (
    PageFacts,
    Rest,
    Skip,
    give_up,
    is_superseded,
    skip_reason,
    succeed,
    take_facts,
)

TOLERANCE = timedelta(minutes=1)
"""A sync that a sweep started may begin this much before the document is due: clocks and timers are not exact."""


@dataclass(frozen=True)
class SyncStart:
    """An attempt that may go ahead.

    Attributes:
        row: The document as the attempt begins; changing it changes nothing in the database.
        account: Its account's name.
        plan: Its account's plan.
        handler: Whom to tell of changes.
        token: Goes with every write of this attempt.
        attempt: 1, and one more for each attempt of this run that failed before.
        ticket: The place in the host's line that this run has; see `HostRepository.acquire`.
    """

    row: DocumentRow
    account: str
    plan: str | None
    handler: CompletionHandler | None
    token: str
    attempt: int
    ticket: datetime | None


@dataclass(frozen=True, kw_only=True)
class NewText:
    """The text of a page.

    Attributes:
        content: Markdown, cut at `MAX_CONTENT`.
        length: Characters of the whole text; where it is more than that of the content, that was cut.
        fingerprint: Of the whole text.
        version: What the fingerprint was computed by.
        source_type: `html`, `text` or `markdown`.
    """

    content: str
    length: int
    fingerprint: str
    version: str
    source_type: str


@dataclass(frozen=True)
class SyncRepository(SyncFailures):
    """Writes what syncs find. Any thread may use it."""

    def begin(
        self,
        document_id: str,
        *,
        run_id: str,
        trigger: Trigger,
        now: datetime,
        tolerance: timedelta = TOLERANCE,
        scheduled_at: datetime | None = None,
    ) -> SyncStart | Skip:
        """Begin an attempt, which ends the right of any earlier one to write.

        The first attempt of a run starts with fresh budgets and without an error; a later one leaves the error visible
        until it has ended, so that what people see does not flicker. An attempt that comes to work long after it was
        sent, out of a process that hung, begins nothing once a later one has.

        Raises:
            SyncSuperseded: An attempt that was scheduled later has begun.
        """
        with self.database.transaction() as session:
            try:
                stored = load_document(session, document_id, lock=True)
            except DocumentNotFound:
                return Skip("gone")
            row = stored.row
            if is_superseded(row, scheduled_at):
                raise SyncSuperseded(f"document {document_id}: a later attempt has begun")
            row.queued_until = None
            session.add(row)
            goes_on = row.sync_run == run_id
            skip = skip_reason(stored, trigger, now + tolerance, goes_on=goes_on)
            if skip is not None:
                row.next_attempt_at = row.gate_at = None
                if goes_on and row.sync_status is SyncStatus.SYNCING:
                    give_up(row)
                return skip
            ticket = row.gate_at if goes_on else None
            if not goes_on:
                row.sync_run = run_id
                row.sync_attempts = row.spent_transient = row.spent_unexpected = 0
                row.last_sync_error_code = row.last_sync_error_reason = None
            row.sync_token, row.sync_scheduled_at = uuid.uuid4().hex, scheduled_at or row.sync_scheduled_at
            row.sync_status, row.sync_step = SyncStatus.SYNCING, SyncStep.FETCHING
            row.last_sync_attempted_at = now
            row.next_attempt_at = row.gate_at = None
        account = stored.account
        attempt = row.sync_attempts + 1
        return SyncStart(row, account.name, account.plan, stored.handler, row.sync_token, attempt, ticket)

    def step(self, document_id: str, token: str, step: SyncStep) -> None:
        """Say what the attempt is doing.

        Raises:
            SyncSuperseded: Another attempt has begun.
            DocumentNotFound: The document is gone.
        """
        with self._attempt(document_id, token) as (_, stored):
            stored.row.sync_step = step

    def unchanged(
        self,
        document_id: str,
        token: str,
        facts: PageFacts,
        rest: Rest,
        *,
        result: SyncResult,
        counted: bool = True,
    ) -> None:
        """Store that the page says what it said: times and counters, and its title if that is a new one.

        Args:
            document_id: The document.
            token: The attempt.
            facts: What the fetch told.
            rest: How the document goes on.
            result: `unchanged` or `not_modified`.
            counted: Whether this says something about how often the page changes; a sync that a person asked for
                does not.

        Raises:
            SyncSuperseded: Another attempt has begun.
            DocumentNotFound: The document is gone.
        """
        with self._attempt(document_id, token) as (session, stored):
            row = stored.row
            if row.consecutive_failures:
                note = f"works again after {row.consecutive_failures} syncs that failed"
                add_attempt(session, row, rest.now, result, note=note)
            take_facts(row, facts, rest.now)
            row.consecutive_unchanged += counted
            row.shrunk_fingerprint = None
            succeed(row, rest)

    def store_content(
        self,
        document_id: str,
        token: str,
        text: NewText,
        facts: PageFacts,
        rest: Rest,
        *,
        result: SyncResult,
        handled: bool,
        diff: ParagraphDiff,
        attempt: int,
        duration_ms: int,
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """Store the page's new text, title and fingerprint together.

        Args:
            document_id: The document.
            token: The attempt.
            text: What the page says.
            facts: What the fetch told besides.
            rest: How the document goes on.
            result: `updated` or `baseline`.
            handled: Whether nobody is to be told of it, so that it counts as told: there is no handler, or only the
                fingerprint is of another making.
            diff: What changed, for the history.
            attempt: Number of the attempt, likewise.
            duration_ms: Milliseconds that it took, likewise.
            before_commit: Called when everything is written.

        Raises:
            SyncSuperseded: Another attempt has begun.
            DocumentNotFound: The document is gone.
        """
        with self._attempt(document_id, token) as (session, stored):
            row = stored.row
            add_event(
                session,
                row,
                rest.now,
                result=result,
                old_fingerprint=row.content_fingerprint,
                new_fingerprint=text.fingerprint,
                added=diff.added,
                removed=diff.removed,
                attempt=attempt,
                duration_ms=duration_ms,
            )
            take_facts(row, facts, rest.now)
            if handled:
                row.handled_fingerprint = text.fingerprint
            row.content_fingerprint, row.fingerprint_version = text.fingerprint, text.version
            row.content_length, row.content_cut = text.length, text.length > len(text.content)
            row.source_type = text.source_type
            row.consecutive_unchanged = row.consecutive_unchanged if result is SyncResult.BASELINE else 0
            row.shrunk_fingerprint = None
            succeed(row, rest)
            session.add(row)
            keep_version(session, row, text.content, rest.now)
            before_commit()

    def hold_shrunk(self, document_id: str, token: str, fingerprint: str, rest: Rest) -> None:
        """Remember that the page's text was much shorter, and keep what is stored until it is seen again.

        The validators are forgotten: with them the page would answer "not modified" and the text never be seen again.

        Raises:
            SyncSuperseded: Another attempt has begun.
            DocumentNotFound: The document is gone.
        """
        with self._attempt(document_id, token) as (session, stored):
            row = stored.row
            add_attempt(
                session,
                row,
                rest.now,
                SyncResult.UNCHANGED,
                note="the text shrank to a small part: kept as it was until that is seen again",
                old_fingerprint=row.content_fingerprint,
                new_fingerprint=fingerprint,
            )
            row.shrunk_fingerprint = fingerprint
            row.etag = row.last_modified = row.raw_hash = None
            row.last_full_fetch_at = rest.now
            succeed(row, rest)
