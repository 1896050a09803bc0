"""The state of provider batches: the record that makes submission exactly-once.

The steps, each written before or after the call that it guards:

    pending ── begin_upload ──(upload)── record_upload ── begin_create ──(create)── record_created ── polls ── settle

A row with `create_sent_at` and no `provider_batch_id` says: a create may have taken effect. Only looking for its tag at
the provider, or the provider's certain refusal (`withdraw_create`), allows another create.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING, Any
from zlib import crc32

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, func, select

from nightmill.contracts import TERMINAL, BatchStatus, ErrorCode, PartRef
from nightmill.errors import BatchNotFound
from nightmill.storage.batches import load_batch
from nightmill.storage.models import BatchRow, OutcomeRow, ProviderBatchRow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nightmill.providers.base import Candidate, Created, ProviderStatus
    from nightmill.storage.engine import Database


class CreateTurn(Enum):
    """Answer of `begin_create`."""

    CREATE = auto()
    """The intent is stored: send the create now, once."""
    CREATED = auto()
    """There is a provider batch already."""
    UNCERTAIN = auto()
    """A create was sent before and its answer is not known."""
    CANCELED = auto()
    """A cancel was asked for and nothing was created."""
    FULL = auto()
    """As many provider batches of this provider and model are open as may be."""


@dataclass(frozen=True)
class ProviderBatchRepository:
    """Read and move provider batches along."""

    database: Database

    def get(self, ref: PartRef) -> tuple[BatchRow, ProviderBatchRow]:
        """Return a part and its batch.

        Raises:
            BatchNotFound: There is none.
        """
        with self.database.reading() as session:
            found = session.exec(
                select(BatchRow, ProviderBatchRow)
                .join(ProviderBatchRow, col(ProviderBatchRow.batch_key) == BatchRow.key)
                .where(
                    BatchRow.id == ref.batch_id, ProviderBatchRow.round == ref.round, ProviderBatchRow.part == ref.part
                )
            ).first()
            # The two are looked for one by one where one is missing, to say which.
            return found or self._load(session, ref, lock=False)

    @staticmethod
    def _load(session: Session, ref: PartRef, *, lock: bool) -> tuple[BatchRow, ProviderBatchRow]:
        batch = load_batch(session, ref.batch_id, lock=lock)
        part = session.exec(
            select(ProviderBatchRow).where(
                ProviderBatchRow.batch_key == batch.key,
                ProviderBatchRow.round == ref.round,
                ProviderBatchRow.part == ref.part,
            )
        ).first()
        if part is None:
            raise BatchNotFound(f"batch {ref.batch_id} has no part {ref.part} in round {ref.round}")
        return batch, part

    def begin_upload(self, ref: PartRef, *, now: datetime) -> bool:
        """Store that an upload is about to start; return whether one was started before, so that a file may exist."""
        with self.database.transaction() as session:
            _, part = self._load(session, ref, lock=True)
            started_before = part.upload_started_at is not None
            part.upload_started_at = part.upload_started_at or now
            session.add(part)
            return started_before

    def record_upload(self, ref: PartRef, file_id: str) -> None:
        """Store the uploaded file's id."""
        with self.database.transaction() as session:
            _, part = self._load(session, ref, lock=True)
            part.input_file_id = file_id
            session.add(part)

    def forget_upload(self, ref: PartRef) -> None:
        """Store that the uploaded file is deleted at the provider."""
        with self.database.transaction() as session:
            _, part = self._load(session, ref, lock=True)
            part.input_file_id = None
            part.upload_started_at = None
            session.add(part)

    def begin_create(
        self, ref: PartRef, *, now: datetime, sent_at: datetime, looked_for: datetime | None, max_open: int
    ) -> CreateTurn:
        """Store the intent to create, if it is this part's turn; the bound is checked in the same transaction (B12).

        Args:
            ref: The part.
            now: The workflow's clock, stored as submission time unless there is one.
            sent_at: The wall clock; different for every create.
            looked_for: When the create was sent that has been looked for in vain; only that one is forgotten.
            max_open: How many provider batches of this provider and model may be open at once.
        """
        with self.database.transaction() as session:
            batch, part = self._load(session, ref, lock=True)
            if part.provider_batch_id is not None:
                return CreateTurn.CREATED
            if part.create_sent_at is not None and part.create_sent_at != looked_for:
                return CreateTurn.UNCERTAIN
            if batch.cancel_requested_at is not None:
                return CreateTurn.CANCELED
            self._lock_bound(session, part)
            if self._others_open(session, part) >= max_open:
                return CreateTurn.FULL
            part.create_sent_at = sent_at
            part.submitted_at = part.submitted_at or now
            session.add(part)
            return CreateTurn.CREATE

    def is_full(self, ref: PartRef, max_open: int) -> bool:
        """Whether all places are taken right now; `begin_create` decides."""
        with self.database.reading() as session:
            _, part = self._load(session, ref, lock=False)
            return self._others_open(session, part) >= max_open

    @staticmethod
    def _others_open(session: Session, part: ProviderBatchRow) -> int:
        return session.exec(
            select(func.count())
            .select_from(ProviderBatchRow)
            .where(
                ProviderBatchRow.provider == part.provider,
                ProviderBatchRow.model == part.model,
                col(ProviderBatchRow.settled_at).is_(None),
                col(ProviderBatchRow.create_sent_at).is_not(None),
                ProviderBatchRow.key != part.key,
            )
        ).one()

    def _lock_bound(self, session: Session, part: ProviderBatchRow) -> None:
        """Let one submission at a time count the open ones; SQLite has one writer anyway."""
        if self.database.dialect == "postgresql":
            key = crc32(f"{part.provider}/{part.model}".encode())
            session.execute(text("SELECT pg_advisory_xact_lock(7137, :key)"), {"key": key - 2**31})

    def withdraw_create(self, ref: PartRef, sent_at: datetime) -> None:
        """Take an intent back: the provider certainly created nothing. That of a later create stays.

        Max age counts from the create that succeeds, so its start is taken back as well.
        """
        with self.database.transaction() as session:
            _, part = self._load(session, ref, lock=True)
            if part.provider_batch_id is None and part.create_sent_at == sent_at:
                part.create_sent_at = None
                part.submitted_at = None
                session.add(part)

    def record_created(self, ref: PartRef, created: Created, *, now: datetime) -> bool:
        """Store the provider's id, once; return False where the id belongs to another part already."""
        try:
            with self.database.transaction() as session:
                batch, part = self._load(session, ref, lock=True)
                if part.provider_batch_id is not None:
                    return part.provider_batch_id == created.provider_batch_id
                part.provider_batch_id = created.provider_batch_id
                part.refs = {**part.refs, **created.refs}
                part.status = BatchStatus.SUBMITTED
                part.created_at = now
                if part.next_poll_at is None and part.submitted_at is not None:
                    part.next_poll_at = part.submitted_at + timedelta(seconds=batch.poll_schedule[0])
                    batch.next_poll_at = min(batch.next_poll_at or part.next_poll_at, part.next_poll_at)
                session.add(part)
                if batch.status is BatchStatus.PENDING:
                    asked = batch.cancel_requested_at is not None
                    batch.status = BatchStatus.CANCELING if asked else BatchStatus.SUBMITTED
                batch.submitted_at = batch.submitted_at or part.submitted_at
                session.add(batch)
        except IntegrityError:
            return False
        return True

    def unowned(self, candidates: list[Candidate], ref: PartRef) -> list[Candidate]:
        """Return the candidates that no part of ours owns."""
        with self.database.reading() as session:
            _, part = self._load(session, ref, lock=False)
            owned = set(
                session.exec(
                    select(ProviderBatchRow.provider_batch_id).where(
                        ProviderBatchRow.provider == part.provider,
                        col(ProviderBatchRow.provider_batch_id).in_([c.provider_batch_id for c in candidates]),
                    )
                )
            )
        return [candidate for candidate in candidates if candidate.provider_batch_id not in owned]

    def rivals(self, ref: PartRef, *, window: timedelta) -> int:
        """Return how many other parts of the same size have a create on its way at about the same time."""
        with self.database.reading() as session:
            _, part = self._load(session, ref, lock=False)
            if part.create_sent_at is None:
                return 0
            return session.exec(
                select(func.count())
                .select_from(ProviderBatchRow)
                .where(
                    ProviderBatchRow.provider == part.provider,
                    ProviderBatchRow.requests == part.requests,
                    ProviderBatchRow.key != part.key,
                    col(ProviderBatchRow.provider_batch_id).is_(None),
                    col(ProviderBatchRow.settled_at).is_(None),
                    col(ProviderBatchRow.create_sent_at).between(
                        part.create_sent_at - window, part.create_sent_at + window
                    ),
                )
            ).one()

    def record_poll(self, ref: PartRef, status: ProviderStatus, *, next_poll_at: datetime, attempt: int) -> BatchStatus:
        """Store an answer and when the next question is due; return the status that the part had before.

        A cancel that was asked for is not overwritten by an older "in progress".
        """
        with self.database.transaction() as session:
            batch, part = self._load(session, ref, lock=True)
            previous = part.status
            if part.settled_at is not None:
                return previous  # a late answer, to a lost run of the poll
            self._take(part, status)
            part.polls = max(part.polls, attempt)
            if status.status not in TERMINAL:
                asked = batch.cancel_requested_at is not None
                part.status = BatchStatus.CANCELING if asked else status.status
                if batch.status not in TERMINAL:
                    batch.status = part.status
            session.add(part)
            self._plan_next_poll(session, batch, part, next_poll_at)
            return previous

    @staticmethod
    def _take(part: ProviderBatchRow, status: ProviderStatus) -> None:
        """Keep what the provider says; what it leaves out stays as it was."""
        part.provider_status = status.raw
        part.provider_error = status.reason or part.provider_error
        part.counts = {**part.counts, **status.counts.model_dump(exclude_none=True)}
        part.refs = {**part.refs, **status.refs}

    def record_failed_poll(self, ref: PartRef, *, next_poll_at: datetime, attempt: int) -> None:
        """Store when the next question is due, so that an outage at the provider never looks like a stuck batch."""
        with self.database.transaction() as session:
            batch, part = self._load(session, ref, lock=True)
            if part.settled_at is not None:
                return
            part.polls = max(part.polls, attempt)
            self._plan_next_poll(session, batch, part, next_poll_at)

    @staticmethod
    def _plan_next_poll(session: Session, batch: BatchRow, part: ProviderBatchRow, next_poll_at: datetime) -> None:
        part.next_poll_at = next_poll_at
        session.add(part)
        earliest = session.exec(
            select(func.min(ProviderBatchRow.next_poll_at)).where(
                ProviderBatchRow.batch_key == batch.key,
                col(ProviderBatchRow.settled_at).is_(None),
                ProviderBatchRow.key != part.key,
            )
        ).one()
        batch.next_poll_at = min(earliest, next_poll_at) if earliest else next_poll_at
        session.add(batch)

    def requeue(self, ref: PartRef, provider_batch_id: str, *, reason: str | None) -> None:
        """Forget a provider batch that the provider failed for lack of quota, so that it is created again (B12).

        One that has been replaced already is not forgotten twice. Its id stays in `refs["requeued"]`; the next create
        carries a tag of its own.
        """
        with self.database.transaction() as session:
            _, part = self._load(session, ref, lock=True)
            if part.provider_batch_id != provider_batch_id:
                return
            past = [*part.refs.get("requeued", []), part.provider_batch_id][-20:]
            part.refs = {"requeued": past}
            part.provider_batch_id = None
            part.create_sent_at = None
            part.submitted_at = None
            part.next_poll_at = None
            part.upload_started_at = None
            part.input_file_id = None
            part.provider_error = reason
            part.status = BatchStatus.PENDING
            part.epoch += 1
            session.add(part)

    def record_cancel_sent(self, ref: PartRef, answer: ProviderStatus | None, *, now: datetime) -> None:
        """Store that the provider was asked to cancel, and what it said: its answer can be the last one."""
        with self.database.transaction() as session:
            batch, part = self._load(session, ref, lock=True)
            if part.settled_at is not None:
                return
            if answer is not None:
                self._take(part, answer)
            part.canceled_at = part.canceled_at or now
            if part.status not in TERMINAL:
                part.status = BatchStatus.CANCELING
            if batch.cancel_requested_at is not None and batch.status not in TERMINAL:
                batch.status = BatchStatus.CANCELING
            session.add(part)
            session.add(batch)

    def status_by_entries(self, ref: PartRef) -> BatchStatus:
        """Return what the entries of a part make of its end (B1): canceled if we asked, expired, or else ended."""
        with self.database.reading() as session:
            batch, part = self._load(session, ref, lock=False)
            codes = set(
                session.exec(
                    select(OutcomeRow.error_code)
                    .where(
                        OutcomeRow.batch_key == part.batch_key,
                        OutcomeRow.round == part.round,
                        col(OutcomeRow.seq).between(part.first, part.last),
                        col(OutcomeRow.error_code).in_([ErrorCode.CANCELED, ErrorCode.EXPIRED]),
                    )
                    .distinct()
                )
            )
        if ErrorCode.CANCELED in codes and batch.cancel_requested_at is not None:
            return BatchStatus.CANCELED
        if ErrorCode.EXPIRED in codes:
            return BatchStatus.EXPIRED
        return BatchStatus.CANCELED if ErrorCode.CANCELED in codes else BatchStatus.ENDED

    def settle(self, ref: PartRef, status: BatchStatus, *, reason: str | None, now: datetime) -> None:
        """Write the part's final status, once."""
        with self.database.transaction() as session:
            _, part = self._load(session, ref, lock=True)
            if part.settled_at is not None:
                return
            part.status = status
            part.provider_error = reason or part.provider_error
            part.next_poll_at = None
            part.attention = None
            part.settled_at = now
            session.add(part)

    def set_attention(self, ref: PartRef, message: str | None) -> bool:
        """Store what a part waits for, None: nothing; return whether the batch needs attention and did not before.

        The batch shows the first of its parts' messages: one part that goes on does not hide another that waits.
        """
        with self.database.transaction() as session:
            batch, part = self._load(session, ref, lock=True)
            part.attention = message
            session.add(part)
            session.flush()
            waiting = session.exec(
                select(ProviderBatchRow.attention)
                .where(ProviderBatchRow.batch_key == batch.key, col(ProviderBatchRow.attention).is_not(None))
                .order_by(col(ProviderBatchRow.round), col(ProviderBatchRow.part))
            ).first()
            is_new = waiting is not None and batch.needs_attention is None
            batch.needs_attention = waiting
            session.add(batch)
            return is_new

    def record_cleaned(self, ref: PartRef, *, now: datetime) -> None:
        """Store that our files at the provider are deleted."""
        with self.database.transaction() as session:
            _, part = self._load(session, ref, lock=True)
            part.cleaned_at = now
            session.add(part)

    def outcomes(self, ref: PartRef) -> Mapping[bool, int]:
        """Return how many of the part's completions were answered (True) and failed (False) in its round."""
        with self.database.reading() as session:
            _, part = self._load(session, ref, lock=False)
            rows: Any = session.exec(
                select(OutcomeRow.ok, func.count())
                .where(
                    OutcomeRow.batch_key == part.batch_key,
                    OutcomeRow.round == part.round,
                    col(OutcomeRow.seq).between(part.first, part.last),
                )
                .group_by(col(OutcomeRow.ok))
            )
            return {bool(ok): count for ok, count in rows}
