"""The state of batches: one method, one transaction. The first terminal status wins, and both gates are set here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy.orm import aliased
from sqlmodel import Session, col, exists, func, select

from nightmill.contracts import TERMINAL, BatchStatus
from nightmill.errors import BatchConflict, BatchNotFound
from nightmill.storage import fence
from nightmill.storage.models import BatchRow, OutcomeRow, ProviderBatchRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nightmill.completions.planning import Part
    from nightmill.storage.engine import Database


class BatchEnd(NamedTuple):
    """How a batch has ended.

    Attributes:
        status: The terminal status in force.
        is_new: Whether it was written just now; what is counted of a batch is counted then.
    """

    status: BatchStatus
    is_new: bool


def load_batch(session: Session, batch_id: str, *, lock: bool = False, fenced: bool = True) -> BatchRow:
    """Return the batch's row, locked against other writers if asked.

    Args:
        session: The transaction.
        batch_id: The batch.
        lock: Whether it is to be written.
        fenced: Whether a superseded run must not write it; see `nightmill.storage.fence`.

    Raises:
        BatchNotFound: There is none.
        RunSuperseded: It is to be written, and another run goes on in this one's place.
    """
    query = select(BatchRow).where(BatchRow.id == batch_id)
    row = session.exec(query.with_for_update() if lock else query).first()
    if row is None:
        raise BatchNotFound(f"no batch {batch_id!r}: `nightmill batch list` shows those there are")
    if lock and fenced:
        fence.check(session)
    return row


def plan_next_poll(session: Session, batch: BatchRow) -> None:
    """Set when the batch's next poll is due: that of the earliest of its unsettled provider batches; None: none is."""
    session.flush()
    due = select(func.min(ProviderBatchRow.next_poll_at)).where(
        ProviderBatchRow.batch_key == batch.key, col(ProviderBatchRow.settled_at).is_(None)
    )
    batch.next_poll_at = None if batch.status in TERMINAL else session.exec(due).one()
    session.add(batch)


@dataclass(frozen=True)
class BatchRepository:
    """Read and move batches along."""

    database: Database

    def get(self, batch_id: str) -> BatchRow:
        """Return a batch.

        Raises:
            BatchNotFound: There is none.
        """
        with self.database.reading() as session:
            return load_batch(session, batch_id)

    def find(self, batch_id: str) -> BatchRow | None:
        """Return a batch, or None."""
        with self.database.reading() as session:
            return session.exec(select(BatchRow).where(BatchRow.id == batch_id)).first()

    def newest(
        self,
        *,
        status: Sequence[BatchStatus] = (),
        provider: str | None = None,
        account: str | None = None,
        needs_attention: bool = False,
        deleted: bool = False,
        limit: int = 50,
    ) -> list[BatchRow]:
        """Return batches, newest first: those that were deleted, or those that were not."""
        query = select(BatchRow).order_by(col(BatchRow.created_at).desc(), col(BatchRow.key).desc()).limit(limit)
        query = query.where(col(BatchRow.deleted_at).is_not(None) if deleted else col(BatchRow.deleted_at).is_(None))
        if status:
            query = query.where(col(BatchRow.status).in_(status))
        if provider:
            query = query.where(BatchRow.provider == provider)
        if account:
            query = query.where(BatchRow.account == account)
        if needs_attention:
            query = query.where(col(BatchRow.needs_attention).is_not(None))
        with self.database.reading() as session:
            return list(session.exec(query))

    def parts(self, batch_id: str, *, round_: int | None = None) -> list[ProviderBatchRow]:
        """Return a batch's provider batches by round and part."""
        with self.database.reading() as session:
            batch = load_batch(session, batch_id)
            query = select(ProviderBatchRow).where(ProviderBatchRow.batch_key == batch.key)
            if round_ is not None:
                query = query.where(ProviderBatchRow.round == round_)
            return list(session.exec(query.order_by(col(ProviderBatchRow.round), col(ProviderBatchRow.part))))

    def start_round(self, batch_id: str, round_: int, parts: Iterable[Part], *, now: datetime) -> int:
        """Store the plan of a round and return its number of provider batches; a second call keeps the first plan."""
        with self.database.transaction() as session:
            batch = load_batch(session, batch_id, lock=True)
            planned = session.exec(
                select(func.count())
                .select_from(ProviderBatchRow)
                .where(ProviderBatchRow.batch_key == batch.key, ProviderBatchRow.round == round_)
            ).one()
            if planned:
                return planned
            assert batch.key is not None  # noqa: S101 - a loaded row has its key
            rows = [
                ProviderBatchRow(
                    batch_key=batch.key,
                    round=round_,
                    part=number,
                    first=part.first,
                    last=part.last,
                    requests=part.requests,
                    bytes=part.bytes,
                    provider=batch.provider,
                    model=batch.model,
                    account=batch.account,
                )
                for number, part in enumerate(parts)
            ]
            session.add_all(rows)
            batch.round = round_
            batch.started_at = batch.started_at or now
            session.add(batch)
            return len(rows)

    def request_cancel(self, batch_id: str, *, now: datetime) -> BatchStatus:
        """Store that a cancel is asked for, and return the status from now on. A second call changes nothing.

        A superseded run stores it, too: the wish is a person's, and nobody would repeat it.

        Raises:
            BatchConflict: The batch is terminal.
            BatchNotFound: There is none.
        """
        with self.database.transaction() as session:
            batch = load_batch(session, batch_id, lock=True, fenced=False)
            if batch.status in TERMINAL:
                raise BatchConflict(f"batch {batch_id} is {batch.status} already: there is nothing to cancel")
            batch.cancel_requested_at = batch.cancel_requested_at or now
            if batch.status is not BatchStatus.PENDING:
                batch.status = BatchStatus.CANCELING
            session.add(batch)
            return batch.status

    def round_verdict(self, batch_id: str) -> tuple[BatchStatus, str | None]:
        """Return the status that the settled provider batches add up to, and the reason.

        A provider batch whose failures were all answered in a later round no longer counts.
        """
        with self.database.reading() as session:
            batch = load_batch(session, batch_id)
            query = select(ProviderBatchRow).where(ProviderBatchRow.batch_key == batch.key)
            parts = list(session.exec(query.order_by(col(ProviderBatchRow.round), col(ProviderBatchRow.part))))
            lasting = [p for p in parts if p.round == batch.round or self._has_lasting_failure(session, p)]
        found = {part.status for part in lasting}
        if found <= {BatchStatus.ENDED}:
            status = BatchStatus.ENDED
        elif batch.cancel_requested_at is not None:
            status = BatchStatus.CANCELED
        elif BatchStatus.EXPIRED in found:
            status = BatchStatus.EXPIRED
        elif BatchStatus.CANCELED in found:
            status = BatchStatus.CANCELED
        else:
            status = BatchStatus.FAILED
        reasons = [part.provider_error for part in lasting if part.status is not BatchStatus.ENDED]
        return status, next((reason for reason in reasons if reason), None)

    @staticmethod
    def _has_lasting_failure(session: Session, part: ProviderBatchRow) -> bool:
        newer = aliased(OutcomeRow)
        later = exists().where(
            newer.batch_key == OutcomeRow.batch_key,  # type: ignore[arg-type]
            newer.seq == OutcomeRow.seq,  # type: ignore[arg-type]
            newer.round > OutcomeRow.round,  # type: ignore[arg-type]
        )
        query = select(OutcomeRow.key).where(
            OutcomeRow.batch_key == part.batch_key,
            OutcomeRow.round == part.round,
            col(OutcomeRow.seq).between(part.first, part.last),
            col(OutcomeRow.ok).is_(False),
            ~later,
        )
        return session.exec(query.limit(1)).first() is not None

    def retriable_failures(self, batch_id: str, round_: int) -> int:
        """Return how many completions failed in this round with an error that may pass."""
        with self.database.reading() as session:
            batch = load_batch(session, batch_id)
            return session.exec(
                select(func.count())
                .select_from(OutcomeRow)
                .where(
                    OutcomeRow.batch_key == batch.key,
                    OutcomeRow.round == round_,
                    col(OutcomeRow.ok).is_(False),
                    col(OutcomeRow.error_retryable).is_(True),
                )
            ).one()

    def finish(
        self, batch_id: str, status: BatchStatus, *, reason: str | None, now: datetime, dispatch: bool
    ) -> BatchEnd:
        """Write the terminal status and the results gate; a status written before stays.

        Args:
            batch_id: The batch.
            status: Terminal status.
            reason: Why, one line.
            now: Time of the end.
            dispatch: Whether somebody wants to be told; if not, the handler gate is set as well.
        """
        with self.database.transaction() as session:
            batch = load_batch(session, batch_id, lock=True)
            if batch.status in TERMINAL:
                return BatchEnd(batch.status, is_new=False)
            batch.status = status
            batch.reason = reason
            batch.needs_attention = None
            batch.next_poll_at = None
            batch.ended_at = now
            batch.failed_at = now if status is BatchStatus.FAILED else None
            batch.results_fetched_at = now
            if not dispatch:
                batch.handler_dispatched_at = now
            session.add(batch)
            return BatchEnd(status, is_new=True)

    def begin_dispatch(self, batch_id: str, dispatch: int) -> bool:
        """Store that the handler is about to be called; return False where it succeeded before."""
        with self.database.transaction() as session:
            batch = load_batch(session, batch_id, lock=True)
            if batch.handler_dispatched_at is not None:
                return False
            batch.dispatches = max(batch.dispatches, dispatch)
            session.add(batch)
            return True

    def record_dispatched(self, batch_id: str, *, now: datetime) -> None:
        """Set the handler gate and clear what was wrong with the handler.

        A superseded run sets it, too: its handler has succeeded and must not be called again.
        """
        with self.database.transaction() as session:
            batch = load_batch(session, batch_id, lock=True, fenced=False)
            batch.handler_dispatched_at = batch.handler_dispatched_at or now
            batch.needs_attention = None
            session.add(batch)

    def set_attention(self, batch_id: str, message: str | None) -> bool:
        """Store what waits for an operator; return whether it is new, so that it is notified once."""
        with self.database.transaction() as session:
            batch = load_batch(session, batch_id, lock=True)
            is_new = message is not None and batch.needs_attention != message
            batch.needs_attention = message
            session.add(batch)
            return is_new
