"""Batches that go: which may, the mark that deletes one, and its rows, a page at a time.

The row of a deleted batch stays, and those of its provider batches: the id is never used twice, an audit knows what is
ours at the provider, and whatever of its workflow is still at work finds a batch that has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import ColumnElement, text, update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, exists, func, or_, select

from nightmill.contracts import TERMINAL, Subject
from nightmill.errors import BatchConflict
from nightmill.failpoints import fail_point
from nightmill.storage.batches import load_batch
from nightmill.storage.models import BatchRow, ProviderBatchRow
from nightmill.storage.recovery_models import RepairRow
from nightmill.storage.results import summarize

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

PAGE_ROWS = 2_000
PAGE_BYTES = 32 * 1024 * 1024
"""Requests that one transaction deletes, with their outcomes; whichever comes first."""

_PAGE = text(
    "SELECT max(seq) AS last, count(*) AS requests, sum(bytes) AS bytes FROM"
    " (SELECT seq, bytes, sum(bytes) OVER (ORDER BY seq) - bytes AS before FROM"
    " (SELECT seq, bytes FROM completions WHERE batch_key = :batch AND seq > :after ORDER BY seq LIMIT :rows) AS near)"
    " AS page WHERE before < :bytes"
)
_DELETE = tuple(
    text(f"DELETE FROM {table} WHERE batch_key = :batch AND seq > :after AND seq <= :last")  # noqa: S608
    for table in ("outcomes", "completions")
)


class BatchesGoing(NamedTuple):
    """What a prune would delete: batches, their requests, and the bytes of these."""

    batches: int
    requests: int
    bytes: int


@dataclass(frozen=True)
class BatchPruning:
    """Deletes batches. Any thread may use it; several prunes at once do no harm."""

    database: Database

    def count(self, before: datetime) -> BatchesGoing:
        """Return what would go of what ended before then."""
        wanted = _may_go(before)
        sizes = (
            select(func.sum(ProviderBatchRow.bytes))
            .join(BatchRow, col(BatchRow.key) == ProviderBatchRow.batch_key)
            .where(ProviderBatchRow.round == 0, *wanted)
        )
        with self.database.reading() as session:
            batches, requests = session.exec(select(func.count(), func.sum(BatchRow.requests)).where(*wanted)).one()
            return BatchesGoing(batches, int(requests or 0), int(session.exec(sizes).one() or 0))

    def due(self, before: datetime, *, limit: int = 200) -> Iterator[str]:
        """Yield the ids of batches that ended before then and may go, in the order of their keys."""
        query = select(BatchRow.key, BatchRow.id).where(*_may_go(before)).order_by(col(BatchRow.key)).limit(limit)
        after = 0
        while True:
            with self.database.reading() as session:
                rows = session.exec(query.where(col(BatchRow.key) > after)).all()
            yield from (batch_id for _, batch_id in rows)
            if len(rows) < limit:
                return
            after = rows[-1][0] or after

    def half_deleted(self) -> list[str]:
        """Return the batches whose deletion began and has not ended."""
        query = select(BatchRow.id).where(col(BatchRow.deleted_at).is_not(None), col(BatchRow.emptied_at).is_(None))
        with self.database.reading() as session:
            return list(session.exec(query.order_by(col(BatchRow.key))))

    def check(self, batch_id: str) -> None:
        """Return if somebody may delete this batch by name, or has.

        Raises:
            BatchNotFound: There is no such batch.
            BatchConflict: It must stay; the message says what to do first.
        """
        with self.database.reading() as session:
            batch = load_batch(session, batch_id)
            if batch.deleted_at is None:
                _insist_on_the_end(session, batch)

    def mark(self, batch_id: str, *, before: datetime | None, now: datetime) -> bool:
        """Mark a batch as deleted, with what had become of it; return False where it is or must stay.

        From then on nobody is given its requests or results. A second call returns False.

        Args:
            batch_id: The batch.
            before: It must have ended before then, and need nobody's attention; None: somebody names it, and learns why
                it must stay.
            now: The present.

        Raises:
            BatchNotFound: There is no such batch.
            BatchConflict: It must stay, where `before` is None.
        """
        if before is None:
            self.check(batch_id)  # first: the sum of a batch that is about to end would be kept, and be wrong
        summary = summarize(self.database, batch_id).model_dump(mode="json", exclude={"metadata"})
        with self.database.transaction() as session:
            batch = load_batch(session, batch_id, lock=True)
            if batch.deleted_at is not None:
                return False
            if before is None:
                _insist_on_the_end(session, batch)
            elif session.exec(select(BatchRow.key).where(BatchRow.key == batch.key, *_may_go(before))).first() is None:
                return False
            batch.deleted_at, batch.summary = now, summary
            batch.user_metadata, batch.completion_handler, batch.needs_attention = {}, None, None
            session.add(batch)
            return True

    def empty(self, batch_id: str) -> Iterator[tuple[int, int]]:
        """Delete the requests and outcomes of a marked batch; yield the number of requests and bytes of each page."""
        values = {"after": -1, "rows": PAGE_ROWS, "bytes": PAGE_BYTES}
        while True:
            with self.database.transaction() as session:
                # Held by its row, another prune that is at the same batch waits, instead of both for each other's rows.
                batch = load_batch(session, batch_id, lock=True)
                connection = session.connection()
                page = connection.execute(_PAGE, values | {"batch": batch.key}).one()
                if batch.deleted_at is None or page.last is None:
                    return
                for statement in _DELETE:
                    connection.execute(statement, values | {"batch": batch.key, "last": page.last})
                fail_point("prune.in_transaction")
            yield page.requests, int(page.bytes)
            values["after"] = page.last

    def emptied(self, batch_id: str, *, now: datetime) -> None:
        """Store that nothing is left of a deleted batch but its row and those of its provider batches."""
        statement = update(BatchRow).where(
            col(BatchRow.id) == batch_id, col(BatchRow.deleted_at).is_not(None), col(BatchRow.emptied_at).is_(None)
        )
        with self.database.transaction() as session:
            session.connection().execute(statement.values(emptied_at=now))

    def emptied_of(self, batch_ids: Sequence[str]) -> set[str]:
        """Return those of these batches that were deleted here to the end, so that what they still have is nobody's."""
        query = select(BatchRow.id).where(col(BatchRow.id).in_(batch_ids), col(BatchRow.emptied_at).is_not(None))
        with self.database.reading() as session:
            return set(session.exec(query))

    def standing(self, batch_ids: Sequence[str], before: datetime) -> dict[str, bool]:
        """Return, of those of these batches that may have files, whether they go with what ended before then."""
        has_files = or_(col(BatchRow.deleted_at).is_(None), col(BatchRow.emptied_at).is_(None))
        here = col(BatchRow.id).in_(batch_ids)
        with self.database.reading() as session:
            known = session.exec(select(BatchRow.id).where(here, has_files)).all()
            going = set(session.exec(select(BatchRow.id).where(here, *_may_go(before))))
        return {batch_id: batch_id in going for batch_id in known}


def _may_go(before: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for a batch that ended before then, and from which nobody waits for anything."""
    return (
        col(BatchRow.status).in_(sorted(TERMINAL)),
        col(BatchRow.ended_at) < before,
        col(BatchRow.results_fetched_at).is_not(None),
        col(BatchRow.handler_dispatched_at) < before,  # a host that was told late may be reading just now
        col(BatchRow.needs_attention).is_(None),
        col(BatchRow.deleted_at).is_(None),
        ~_has_open_part(),
        ~_is_being_repaired(),
    )


def _has_open_part() -> ColumnElement[bool]:
    part = aliased(ProviderBatchRow)  # one of its own: the query around it may be of provider batches, too
    return exists().where(col(part.batch_key) == BatchRow.key, col(part.settled_at).is_(None))


def _is_being_repaired() -> ColumnElement[bool]:
    beginning = func.substr(RepairRow.subject_id, 1, func.length(BatchRow.id) + 1)
    return exists().where(
        col(RepairRow.ended_at).is_(None),
        or_(
            (col(RepairRow.subject) == Subject.BATCH) & (col(RepairRow.subject_id) == BatchRow.id),
            (col(RepairRow.subject) == Subject.PART) & (beginning == col(BatchRow.id) + "/"),
        ),
    )


def _insist_on_the_end(session: Session, batch: BatchRow) -> None:
    """Return if a batch may be deleted by name.

    Raises:
        BatchConflict: It may not; the message says what to do first.
    """

    def holds(condition: ColumnElement[bool]) -> bool:
        return session.exec(select(BatchRow.key).where(BatchRow.key == batch.key, condition)).first() is not None

    name = f"batch {batch.id}"
    if batch.status not in TERMINAL:
        raise BatchConflict(
            f"{name} is {batch.status}: wait for its end, or `nightmill batch cancel {batch.id}` first"
        )  # fmt: skip
    if batch.handler_dispatched_at is None:
        raise BatchConflict(
            f"{name} is {batch.status}, but its handler was not told yet: `nightmill batch redispatch {batch.id}` first"
        )
    if batch.results_fetched_at is None or holds(_has_open_part()):
        raise BatchConflict(f"{name} is {batch.status}, but its results are still being stored: try again soon")
    if holds(_is_being_repaired()):
        raise BatchConflict(f"{name} is being repaired (`nightmill repairs --batch {batch.id}`): try again soon")
