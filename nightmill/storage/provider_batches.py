"""The state of provider batches from the first poll to their end; their submission is in `submission_records`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlmodel import Session, col, func, select

from nightmill.contracts import TERMINAL, BatchStatus, ErrorCode, PartRef
from nightmill.storage.batches import plan_next_poll
from nightmill.storage.models import BatchRow, OutcomeRow, ProviderBatchRow
from nightmill.storage.submission_records import SubmissionRecords

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nightmill.providers.base import ProviderStatus


@dataclass(frozen=True)
class ProviderBatchRepository(SubmissionRecords):
    """Read and move provider batches along."""

    def record_poll(self, ref: PartRef, status: ProviderStatus, *, next_poll_at: datetime, attempt: int) -> BatchStatus:
        """Store an answer and when the next question is due; return the status that the part had before.

        A cancel that was asked for is not overwritten by an older "in progress". Whatever it waited for an operator for
        is over with an answer, also where the run that said so is another one, which takes nothing back any more.
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
            part.next_poll_at = next_poll_at
            session.add_all([batch, part])
            plan_next_poll(session, batch)
            if part.attention is not None:
                part.attention = None
                self._show_attention(session, batch)
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
            part.next_poll_at = next_poll_at
            session.add(part)
            plan_next_poll(session, batch)

    def put_off(self, ref: PartRef, *, until: datetime) -> None:
        """Store that nothing is due before then; a later time stays.

        While results cannot be had, the batch does not look stuck: its workflow comes back by itself.
        """
        with self.database.transaction() as session:
            batch, part = self._load(session, ref, lock=True)
            if part.settled_at is not None:
                return
            part.next_poll_at = max(part.next_poll_at or until, until)
            session.add(part)
            plan_next_poll(session, batch)

    def requeue(self, ref: PartRef, provider_batch_id: str, *, reason: str | None) -> None:
        """Forget a provider batch that the provider failed for lack of quota, so that it is created again.

        One that has been replaced already is not forgotten twice. Its id stays in `refs["requeued"]`; the next create
        carries a tag of its own.
        """
        with self.database.transaction() as session:
            batch, part = self._load(session, ref, lock=True)
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
            plan_next_poll(session, batch)

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
        """Return what the entries of a part make of its end: canceled if we asked, expired, or else ended."""
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
            batch, part = self._load(session, ref, lock=True)
            if part.settled_at is not None:
                return
            part.status = status
            part.provider_error = reason or part.provider_error
            part.next_poll_at = None
            part.settled_at = now
            session.add(part)
            plan_next_poll(session, batch)
            if part.attention is not None:
                part.attention = None
                self._show_attention(session, batch)

    def set_attention(self, ref: PartRef, message: str | None) -> bool:
        """Store what a part waits for, None: nothing; return whether the batch needs attention and did not before.

        The batch shows the first of its parts' messages: one part that goes on does not hide another that waits.
        """
        with self.database.transaction() as session:
            batch, part = self._load(session, ref, lock=True)
            part.attention = message
            session.add(part)
            needed_none = batch.needs_attention is None
            self._show_attention(session, batch)
            return needed_none and batch.needs_attention is not None

    @staticmethod
    def _show_attention(session: Session, batch: BatchRow) -> None:
        session.flush()
        batch.needs_attention = session.exec(
            select(ProviderBatchRow.attention)
            .where(ProviderBatchRow.batch_key == batch.key, col(ProviderBatchRow.attention).is_not(None))
            .order_by(col(ProviderBatchRow.round), col(ProviderBatchRow.part))
        ).first()
        session.add(batch)

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
