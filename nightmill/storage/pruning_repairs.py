"""Repairs that are past: those of work that goes on stay, for they say how often it was repaired."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, or_, select, union_all
from sqlmodel import SQLModel

from nightmill.contracts import TERMINAL, Subject, SyncStatus
from nightmill.storage.slicing_reads import RUNNING

if TYPE_CHECKING:
    from sqlmodel import Session

    from nightmill.storage.engine import Database

PAGE = 500
"""Repairs that are looked at, and deleted, at a time."""

_TABLES: Any = SQLModel.metadata.tables
_REPAIRS, _BATCHES, _DOCUMENTS, _SLICINGS = (
    _TABLES[name] for name in ("repairs", "batches", "documents", "slicings")
)  # fmt: skip
_REPAIR, _BATCH, _DOCUMENT, _SLICING = (table.c for table in (_REPAIRS, _BATCHES, _DOCUMENTS, _SLICINGS))

_OPEN_BATCH = or_(
    _BATCH.status.not_in(sorted(TERMINAL)),
    _BATCH.results_fetched_at.is_(None),
    _BATCH.handler_dispatched_at.is_(None),
    _BATCH.needs_attention.is_not(None),
)
_OPEN_DOCUMENT = or_(_DOCUMENT.sync_status == SyncStatus.SYNCING, _DOCUMENT.needs_attention.is_not(None))
_OPEN_SLICING = or_(_SLICING.status.in_(RUNNING), _SLICING.needs_attention.is_not(None))


@dataclass(frozen=True)
class RepairPruning:
    """Deletes repairs. Any thread may use it; several prunes at once do no harm."""

    database: Database

    def count(self, before: datetime) -> int:
        """Return how many would go of those that ended before then."""
        total = 0
        after: int | None = 0
        while after is not None:
            with self.database.reading() as session:
                keys, after = _page(session, before, after)
            total += len(keys)
        return total

    def prune(self, before: datetime) -> Iterator[int]:
        """Delete them, and yield how many each transaction deleted."""
        after: int | None = 0
        while after is not None:
            with self.database.transaction() as session:  # what is looked at goes at once, before its work can go on
                keys, after = _page(session, before, after)
                deleted = session.connection().execute(delete(_REPAIRS).where(_REPAIR.key.in_(keys))).rowcount
            yield deleted


def _page(session: Session, before: datetime, after: int) -> tuple[list[int], int | None]:
    """Return those that go of the next repairs after a key, and where to go on; None: there are no more."""
    query = select(_REPAIR.key, _REPAIR.subject, _REPAIR.subject_id)
    query = query.where(_REPAIR.ended_at < before, _REPAIR.key > after).order_by(_REPAIR.key).limit(PAGE)
    rows = session.execute(query).all()
    goes_on = _of_what_goes_on(session, {_id_of(row.subject, row.subject_id) for row in rows})
    keys = [row.key for row in rows if _id_of(row.subject, row.subject_id) not in goes_on]
    return keys, rows[-1].key if len(rows) == PAGE else None


def _id_of(subject: Subject, subject_id: str) -> str:
    """Return the id of what a repair was for; of a part, its batch's."""
    return subject_id.partition("/")[0] if subject is Subject.PART else subject_id


def _of_what_goes_on(session: Session, ids: set[str]) -> set[str]:
    """Return those of these batches, documents and slicings that go on, or wait for somebody."""
    wanted = sorted(ids)
    slicing_id = _SLICING.sha256 + "/" + _SLICING.profile
    found = union_all(
        select(_BATCH.id).where(_BATCH.id.in_(wanted), _OPEN_BATCH),
        select(_DOCUMENT.id).where(_DOCUMENT.id.in_(wanted), _OPEN_DOCUMENT),
        select(slicing_id).where(
            _SLICING.sha256.in_([each.partition("/")[0] for each in wanted]), slicing_id.in_(wanted), _OPEN_SLICING
        ),
    )
    return set(session.execute(found).scalars())


__all__ = ["RepairPruning"]
