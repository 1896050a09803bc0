"""Batches and provider batches that may be stuck, a page at a time in the order of their keys.

Each page is two queries that return no more rows than it has candidates. They go through what has not ended, which an
index of its own holds: hundreds of thousands of batches that have ended cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import case, literal, or_, select
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, exists, func

from nightmill.contracts import TERMINAL, BatchStatus, Subject
from nightmill.ids import batch_workflow_id, part_workflow_id
from nightmill.recovery.model import Candidate
from nightmill.storage.columns import UtcDateTime
from nightmill.storage.models import BatchRow, ProviderBatchRow

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

_OPEN = or_(col(BatchRow.results_fetched_at).is_(None), col(BatchRow.handler_dispatched_at).is_(None))
"""What `ix_batches_open` holds: batches with an open gate, which every batch has until it is terminal."""

_RUNNING = col(BatchRow.status).not_in(sorted(TERMINAL))
_UNSETTLED = col(ProviderBatchRow.settled_at).is_(None)

_BATCH: tuple[Any, ...] = (
    BatchRow.key, BatchRow.id, BatchRow.status, BatchRow.provider, BatchRow.model, BatchRow.max_age,
    BatchRow.needs_attention, BatchRow.created_at, BatchRow.ended_at, BatchRow.next_poll_at,
    BatchRow.completion_handler, BatchRow.dispatches, BatchRow.handler_dispatched_at,
)  # fmt: skip


class _Parts(NamedTuple):
    """What the provider batches of one batch add up to."""

    submitted: bool = False
    submitted_at: datetime | None = None
    provider_batch_id: str | None = None
    attention: str | None = None
    parts: int = 0


@dataclass(frozen=True)
class CandidateReads:
    """Reads batches and provider batches that may be stuck; only a look at their workflows tells whether they are."""

    database: Database

    def batches(
        self,
        *,
        after: str | None,
        limit: int,
        now: datetime,
        grace: timedelta,
        pending_ttl: timedelta,
    ) -> list[Candidate]:
        """Return batches that are late by more than the grace.

        Late is a poll that was due; a batch for which nothing is planned, since it was made or its last provider batch
        was settled; and an open gate of a batch that has ended.

        Args:
            after: Where the page before ended; None: from the beginning.
            limit: Candidates at most.
            now: The present.
            grace: What is late by less is not late.
            pending_ttl: How long a batch may wait to be submitted.
        """
        late = now - grace
        just_settled = exists().where(
            col(ProviderBatchRow.batch_key) == BatchRow.key, col(ProviderBatchRow.settled_at) >= late
        )
        nothing_planned = col(BatchRow.next_poll_at).is_(None) & (col(BatchRow.created_at) < late) & ~just_settled
        wanted = or_(
            _RUNNING & or_(col(BatchRow.next_poll_at) < late, nothing_planned),
            ~_RUNNING & (col(BatchRow.ended_at) < late),
        )
        return self._page(wanted, after, limit, old=now - pending_ttl)

    def past_deadline(
        self, *, after: str | None, limit: int, now: datetime, expiry_margin: timedelta
    ) -> list[Candidate]:
        """Return batches with a provider batch that is older than its max age by more than the margin."""
        overdue = exists().where(
            col(ProviderBatchRow.batch_key) == BatchRow.key,
            _UNSETTLED,
            self._seconds(col(ProviderBatchRow.submitted_at)) + col(BatchRow.max_age)
            < self._seconds(literal(now - expiry_margin, UtcDateTime())),
        )
        return self._page(_RUNNING & overdue, after, limit, old=None)

    def parts(self, *, after: str | None, limit: int, now: datetime, grace: timedelta) -> list[Candidate]:
        """Return provider batches whose poll is late by more than the grace, and that have a workflow of their own.

        Those are the ones of a round that has several.
        """
        second = aliased(ProviderBatchRow)
        has_several = exists().where(
            col(second.batch_key) == BatchRow.key, col(second.round) == BatchRow.round, col(second.part) == 1
        )
        query = (
            select(ProviderBatchRow, *_BATCH)
            .join(BatchRow, col(BatchRow.key) == ProviderBatchRow.batch_key)
            .where(
                _UNSETTLED,
                col(ProviderBatchRow.key) > _key(after),
                col(ProviderBatchRow.next_poll_at) < now - grace,
                col(ProviderBatchRow.round) == BatchRow.round,
                _RUNNING,
                has_several,
            )
            .order_by(col(ProviderBatchRow.key))
            .limit(limit)
        )
        with self.database.reading() as session:
            return [_of_part(row[0], row) for row in session.execute(query)]

    def has_moved(self, candidate: Candidate) -> bool:
        """Whether a batch or provider batch has gone on, has ended or is gone since it was read as a candidate."""
        batch, part = BatchRow, ProviderBatchRow
        query: Any = select(col(batch.status), col(batch.next_poll_at)).where(col(batch.key) == int(candidate.after))
        query = query.where(_OPEN)
        if candidate.subject is Subject.PART:
            query = select(col(part.status), col(part.next_poll_at)).where(col(part.key) == int(candidate.after))
            query = query.where(_UNSETTLED)
        with self.database.reading() as session:
            row = session.execute(query).first()
        if row is None or row.next_poll_at != candidate.due_at:
            return True
        return candidate.subject is Subject.BATCH and (row.status in TERMINAL) != candidate.terminal

    def _page(self, wanted: Any, after: str | None, limit: int, *, old: datetime | None) -> list[Candidate]:
        query: Any = select(*_BATCH).where(_OPEN, wanted, col(BatchRow.key) > _key(after))
        with self.database.reading() as session:
            rows = session.execute(query.order_by(col(BatchRow.key)).limit(limit)).all()
            parts = _parts_of(session, [row.key for row in rows])
        return [_of_batch(row, parts.get(row.key, _Parts()), old) for row in rows]

    def _seconds(self, when: Any) -> Any:
        """Return a time as seconds since some day, in SQL."""
        if self.database.dialect == "sqlite":
            return func.julianday(when) * 86_400
        return func.extract("epoch", when)


def _parts_of(session: Session, batch_keys: Sequence[int]) -> dict[int, _Parts]:
    """Return what is known of the provider batches of these batches: a row for each batch."""
    if not batch_keys:
        return {}
    part = ProviderBatchRow
    sent = or_(col(part.create_sent_at).is_not(None), col(part.provider_batch_id).is_not(None))

    def of_unsettled(value: Any, kind: Any = None) -> Any:
        return func.max(case((_UNSETTLED, value)), type_=kind)

    query = (
        select(
            col(part.batch_key),
            func.max(case((sent, 1), else_=0)),
            of_unsettled(part.submitted_at, UtcDateTime()),
            of_unsettled(part.provider_batch_id),
            of_unsettled(part.attention),
            func.sum(case((col(part.round) == BatchRow.round, 1), else_=0)),
        )
        .join(BatchRow, col(BatchRow.key) == part.batch_key)
        .where(col(part.batch_key).in_(batch_keys))
        .group_by(col(part.batch_key))
    )
    return {row[0]: _Parts(bool(row[1]), *row[2:]) for row in session.execute(query)}


def _of_batch(row: Any, parts: _Parts, old: datetime | None) -> Candidate:
    terminal = row.status in TERMINAL
    pending = row.status is BatchStatus.PENDING and not parts.submitted
    return Candidate(
        subject=Subject.BATCH,
        id=row.id,
        workflow_id=batch_workflow_id(row.id),
        after=str(row.key),
        due_at=row.next_poll_at,
        asked_at=row.created_at,
        terminal=terminal,
        attention=row.needs_attention or parts.attention,
        submitted=parts.submitted,
        deadline=_deadline(parts.submitted_at, row),
        too_old=pending and old is not None and row.created_at < old,
        parts=max(parts.parts, 1),
        calls_host=_calls_host(row),
        ended_at=row.ended_at if terminal else None,
        facts=_facts(row, row.status, row.next_poll_at, parts.provider_batch_id),
    )


def _calls_host(row: Any) -> bool:
    is_activity = (row.completion_handler or {}).get("kind") == "activity"
    return is_activity and row.dispatches > 0 and row.handler_dispatched_at is None


def _of_part(part: ProviderBatchRow, row: Any) -> Candidate:
    return Candidate(
        subject=Subject.PART,
        id=f"{row.id}/{part.round}/{part.part}",
        workflow_id=part_workflow_id(row.id, part.round, part.part),
        after=str(part.key),
        due_at=part.next_poll_at,
        asked_at=row.created_at,
        attention=part.attention,
        submitted=part.create_sent_at is not None or part.provider_batch_id is not None,
        deadline=_deadline(part.submitted_at, row),
        facts=_facts(row, part.status, part.next_poll_at, part.provider_batch_id),
    )


def _deadline(submitted_at: datetime | None, row: Any) -> datetime | None:
    return None if submitted_at is None else submitted_at + timedelta(seconds=row.max_age)


def _facts(
    row: Any, status: BatchStatus, next_poll_at: datetime | None, provider_batch_id: str | None
) -> dict[str, object]:
    return {
        "status": status.value,
        "next_poll_at": next_poll_at.isoformat() if next_poll_at else None,
        "provider_batch_id": provider_batch_id,
        "provider": row.provider,
        "model": row.model,
    }


def _key(after: str | None) -> int:
    return int(after) if after is not None else 0
