"""Sliced documents: one row a document and profile, moved along by one run at a time.

Each write of a run names it. What an earlier run writes late, or a run writes after its end, is refused, so that a
worker that hung never spoils what came after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sqlmodel import Session, func, select

from nightmill.contracts import FinishSlicing, SlicingErrorCode, SlicingRef, SlicingStatus, TextSource
from nightmill.contracts.slicing import MAX_NOTICES
from nightmill.errors import InvalidInput, ResultsIncomplete, SlicingSuperseded
from nightmill.failpoints import fail_point
from nightmill.storage.accounts import UPSERT
from nightmill.storage.columns import storable
from nightmill.storage.slices import NewSlice, replace_slices
from nightmill.storage.slicing_models import SlicingRow
from nightmill.storage.slicing_reads import SlicingReads, load_slicing, shown_name

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

_RESULTS = (SlicingStatus.SLICED, SlicingStatus.NEEDS_REVIEW)
_CLOCK_PUT_BACK = timedelta(hours=1)  # no process hangs that long and still writes; a clock may well be an hour wrong


@dataclass(frozen=True)
class SlicingRepository(SlicingReads):
    """Reads and moves sliced documents along. Any thread may use it."""

    def add(
        self,
        sha256: str,
        profile: str,
        *,
        name: str,
        source: str,
        notify: Sequence[str],
        metadata: Mapping[str, Any],
        now: datetime,
    ) -> SlicingRow:
        """Store what a client is about to ask for, and return the document; how it stands does not change.

        While a run goes on, or is about to, whoever asked before is told all the same, and the metadata stays unless
        other is given.

        Args:
            sha256: The PDF.
            profile: The profile.
            name: The document's name.
            source: Where it comes from; of a web address without its query and password.
            notify: Who is told.
            metadata: The user's own.
            now: When a new document was asked for.

        Raises:
            InvalidInput: More would be told of the run that goes on than can be.
        """
        with self.database.transaction() as session:
            row = self._made(session, sha256, profile, now)
            row.name, row.source, row.asked_at = name, _shown(source), now
            if row.status.is_terminal:
                row.notify, row.user_metadata = list(notify), dict(metadata)
            else:
                row.notify = list(dict.fromkeys([*row.notify, *notify]))
                row.user_metadata = dict(metadata) or row.user_metadata
            if len(row.notify) > MAX_NOTICES:
                raise InvalidInput(f"{shown_name(row)} is being sliced, and {MAX_NOTICES} at most can be told of it")
            session.add(row)
            return row

    def refuse(
        self,
        ref: SlicingRef,
        message: str,
        *,
        code: SlicingErrorCode = SlicingErrorCode.UNREADABLE,
        now: datetime,
    ) -> None:
        """Write why a run cannot begin, where a client has stored the document and none has begun; else do nothing."""
        key = (SlicingRow.sha256 == ref.sha256, SlicingRow.profile == ref.profile)
        with self.database.transaction() as session:
            row = session.exec(select(SlicingRow).where(*key).with_for_update()).first()
            if row is not None and row.run_id is None:
                row.status, row.run_id, row.ended_at = SlicingStatus.FAILED, ref.run_id, now
                row.error_code, row.error = code, message
                session.add(row)

    def open(
        self,
        ref: SlicingRef,
        *,
        name: str | None,
        source: str,
        size: int,
        notify: Sequence[str] | None,
        metadata: Mapping[str, Any] | None,
        now: datetime,
        scheduled_at: datetime | None = None,
    ) -> SlicingRow:
        """Begin a run, which ends the right of any earlier one to write; return the document.

        The document is queued, without what an earlier run said of its failure; what that one found stays until this
        one has found something. A run that has begun before changes nothing, unless it was reset after its end.

        Args:
            ref: The run.
            name: The document's name; None keeps what a client stored.
            source: Where it comes from; of a web address without its query and password.
            size: Bytes of the PDF.
            notify: Who is told; None keeps what a client stored.
            metadata: The user's own; None keeps what a client stored.
            now: The present.
            scheduled_at: When the run was asked for, by Temporal's clock; by default now. By it a worker that hung is
                told from a later run.

        Raises:
            SlicingSuperseded: A run that was asked for later has begun.
        """
        asked_at = scheduled_at or now
        with self.database.transaction() as session:
            row = self._made(session, ref.sha256, ref.profile, asked_at)
            if row.run_id == ref.run_id:
                if row.ended_at is None or scheduled_at is None or scheduled_at <= row.ended_at:
                    return row
            elif row.run_id is not None and timedelta(0) < row.queued_at - asked_at < _CLOCK_PUT_BACK:
                raise SlicingSuperseded(f"{shown_name(row)}: a later run has begun")
            row.name, row.source, row.size = name or row.name, _shown(source), size
            row.notify = row.notify if notify is None else list(notify)
            row.user_metadata = row.user_metadata if metadata is None else dict(metadata)
            _begin(row, ref, asked_at)
            session.add(row)
            return row

    def inspected(self, ref: SlicingRef, *, page_count: int, text_source: TextSource) -> None:
        """Store what is known of the document before it is sliced.

        Raises:
            SlicingSuperseded: The run has ended, or is not the last one.
            SlicingNotFound: There is no such document.
        """
        with self._running(ref) as row:
            row.page_count, row.text_source = page_count, text_source

    def started(self, ref: SlicingRef, *, attempt: int, now: datetime) -> datetime:
        """Say that the slicer starts; return when this run's first attempt did.

        Raises:
            SlicingSuperseded: The run has ended, or is not the last one.
            SlicingNotFound: There is no such document.
        """
        with self._running(ref) as row:
            row.status = SlicingStatus.SLICING
            row.attempts = max(row.attempts, attempt)
            row.started_at = row.started_at or now
            return row.started_at

    def park(self, ref: SlicingRef, *, now: datetime) -> None:
        """Let the document wait for the breaker; parked again, it keeps its place.

        Raises:
            SlicingSuperseded: The run has ended, or is not the last one.
            SlicingNotFound: There is no such document.
        """
        with self._running(ref) as row:
            row.status, row.parked_at = SlicingStatus.WAITING, row.parked_at or now

    def unpark(self, ref: SlicingRef) -> None:
        """Let the document go on that waited for the breaker.

        Raises:
            SlicingSuperseded: The run has ended, or is not the last one.
            SlicingNotFound: There is no such document.
        """
        with self._running(ref) as row:
            if row.status is SlicingStatus.WAITING:
                row.status = SlicingStatus.SLICING if row.started_at else SlicingStatus.QUEUED

    def finish(
        self,
        done: FinishSlicing,
        slices: Iterable[NewSlice],
        *,
        description: str | None = None,
        now: datetime,
        scheduled_at: datetime | None = None,
    ) -> SlicingRow:
        """Write how a run ended, and return the document; an end that was written before stays as it is.

        A result (`sliced`, `needs_review`) replaces all slices. Any other end leaves them, with all that is known of
        them, and does not look at `slices`. A run that was canceled before it had begun begins and ends here, so that
        what it still does to begin comes too late.

        Args:
            done: How it ended.
            slices: What was found, in the order of its positions; read once, while the transaction is open.
            description: A line about the document.
            now: The present.
            scheduled_at: When its end was asked for, by Temporal's clock; by default now.

        Raises:
            SlicingSuperseded: Another run has begun.
            SlicingNotFound: There is no such document.
            ResultsIncomplete: There are fewer or more slices than the result says; nothing is stored.
            ValueError: The status is none that a run ends in, or a result is missing.
        """
        found = done.result if done.status in _RESULTS else None
        if not done.status.is_terminal or (found is None and done.status in _RESULTS):
            raise ValueError(f"a run cannot end as {done.status} without a result")
        asked_at = scheduled_at or now
        with self.database.transaction() as session:
            if done.status is SlicingStatus.CANCELED:
                row = self._made(session, done.ref.sha256, done.ref.profile, asked_at)
                if row.run_id is None or (row.run_id != done.ref.run_id and row.queued_at <= asked_at):
                    _begin(row, done.ref, asked_at)
            else:
                row = load_slicing(session, done.ref.sha256, done.ref.profile, lock=True)
            _check_run(row, done.ref)
            if row.status.is_terminal:
                return row
            row.status, row.ended_at, row.parked_at = done.status, now, None
            row.reasons = [storable(reason) for reason in done.reasons]
            row.error_code = None if done.fault is None else done.fault.code
            row.error = None if done.fault is None else done.fault.message
            if found is not None:
                row.slice_count, row.flagged_count = replace_slices(session, row, slices)
                if row.slice_count != found.slices:
                    raise ResultsIncomplete(f"{shown_name(row)}: {row.slice_count} of {found.slices} slices are there")
                row.result_run, row.page_count, row.description = done.ref.run_id, found.page_count, description
                row.number = done.number or found.number
                row.issued_on = done.issued_on or found.issued_on
            session.add(row)
            session.flush()
            fail_point("slicing.in_transaction")
            return row

    def attention(self, ref: SlicingRef, message: str | None) -> bool:
        """Store what waits for an operator; return whether it is new, so that it is notified once.

        Raises:
            SlicingSuperseded: The run is not the last one.
            SlicingNotFound: There is no such document.
        """
        text = None if message is None else storable(message)[:1_000]
        with self.database.transaction() as session:
            row = load_slicing(session, ref.sha256, ref.profile, lock=True)
            _check_run(row, ref)
            is_new = text is not None and row.needs_attention != text
            row.needs_attention = text
            session.add(row)
            return is_new

    def _made(self, session: Session, sha256: str, profile: str, now: datetime) -> SlicingRow:
        """Return the document's row, locked; made if there is none."""
        # Before the row: a prune that holds the PDF may be about to delete that.
        hold_pdf(self.database, session, sha256, alone=False)
        new = SlicingRow(
            sha256=sha256,
            profile=profile,
            name=sha256[:12],
            source="",
            status=SlicingStatus.QUEUED,
            queued_at=now,
            created_at=now,
        )
        insert = UPSERT[self.database.dialect](SlicingRow).values(**new.model_dump(exclude={"key"}))
        session.connection().execute(insert.on_conflict_do_nothing(index_elements=["sha256", "profile"]))
        return load_slicing(session, sha256, profile, lock=True)

    @contextmanager
    def _running(self, ref: SlicingRef) -> Iterator[SlicingRow]:
        """Hold the row of a run that goes on; what the block changes in it is stored."""
        with self.database.transaction() as session:
            row = load_slicing(session, ref.sha256, ref.profile, lock=True)
            _check_run(row, ref)
            if row.status.is_terminal:
                raise SlicingSuperseded(f"{shown_name(row)}: this run has ended as {row.status}")
            yield row
            session.add(row)


def hold_pdf(database: Database, session: Session, sha256: str, *, alone: bool) -> bool:
    """Keep others from deleting what is kept of a PDF until the transaction ends; alone, from making rows of it, too.

    Whoever wants it alone does not wait, so that nobody waits in line behind a prune.

    Returns:
        Whether it is held; False where somebody else holds it who was to be kept out.
    """
    if database.dialect == "sqlite":  # has one writer at a time anyway
        return True
    key = int.from_bytes(bytes.fromhex(sha256[:16]), "big", signed=True)
    if alone:
        return bool(session.exec(select(func.pg_try_advisory_xact_lock(key))).one())
    session.exec(select(func.pg_advisory_xact_lock_shared(key)))
    return True


def _begin(row: SlicingRow, ref: SlicingRef, asked_at: datetime) -> None:
    """Let a run work on the document from now on, without what an earlier one said of its failure."""
    row.status, row.run_id, row.queued_at, row.attempts = SlicingStatus.QUEUED, ref.run_id, asked_at, 0
    row.started_at = row.parked_at = row.ended_at = None
    row.error_code = row.error = row.needs_attention = None
    row.reasons = []


def _check_run(row: SlicingRow, ref: SlicingRef) -> None:
    if row.run_id != ref.run_id:
        raise SlicingSuperseded(f"{shown_name(row)}: another run works on it")


def _shown(source: str) -> str:
    """Return where a document comes from without what an address may keep secret: its query, user and password."""
    if not source.lower().startswith(("http:", "https:")):
        return source
    parts = urlsplit(source)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
