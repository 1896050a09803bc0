"""Slicings whose run may be gone, and those whose owners may not have been told."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Text, and_, func, or_, select, type_coerce
from sqlmodel import SQLModel

from nightmill import ids
from nightmill.contracts import SlicingStatus, Subject
from nightmill.recovery.model import Candidate
from nightmill.storage.slicing_reads import RUNNING

if TYPE_CHECKING:
    from sqlmodel import Session

    from nightmill.storage.engine import Database

TOLD_WITHIN = timedelta(days=7)
"""For how long after its end a slicing's owners are still told; after that nobody expects it any more."""

_CLOCK_AHEAD = timedelta(days=1)  # what a clock wrote that is so far ahead says nothing of how long something takes
_TOLD = tuple(status for status in SlicingStatus if status.is_terminal and status is not SlicingStatus.CANCELED)

# The tables' columns, not the rows: a row that cannot be read, such as one with an unknown word, must not stop a page.
_TABLES: Any = SQLModel.metadata.tables
_SLICING, _NOTICE = _TABLES["slicings"].c, _TABLES["slicing_notices"].c
_FOUND = select(
    _SLICING.key,
    _SLICING.sha256,
    _SLICING.profile,
    type_coerce(_SLICING.status, Text).label("status"),
    _SLICING.run_id,
    _SLICING.queued_at,
).order_by(_SLICING.key)


@dataclass(frozen=True)
class SlicingCandidates:
    """Reads what may be stuck. Any thread may use it."""

    database: Database

    def page(self, *, after: str | None, limit: int, now: datetime, grace: timedelta) -> list[Candidate]:
        """Return up to `limit` candidates behind `after`, in the order of their keys; it loads no more than twice that.

        A document is one if a run has been working on it, or was about to, for longer than `grace`, one that waits for
        the breaker included; or if one has ended longer ago, but not longer than `TOLD_WITHIN`, and somebody who asked
        to be told was not, and no operator was told of that.

        Args:
            after: Where the page before ended; None: from the beginning.
            limit: Candidates at most.
            now: The present.
            grace: What is late by less is not late.
        """
        behind = _SLICING.key > (0 if after is None else int(after))
        found = [_is_running(now, grace), _is_untold(now, grace)]
        with self.database.reading() as session:
            # Two questions rather than one with an "or" in it: each has its index.
            pages = [_candidates(session, and_(behind, each), limit, has_ended=n == 1) for n, each in enumerate(found)]
            return [candidate for _, candidate in heapq.merge(*pages, key=lambda each: each[0])][:limit]


def _is_running(now: datetime, grace: timedelta) -> ColumnElement[bool]:
    since = func.coalesce(_SLICING.started_at, _SLICING.parked_at, _SLICING.queued_at)
    return and_(_SLICING.status.in_(RUNNING), or_(since < now - grace, since > now + _CLOCK_AHEAD))


def _is_untold(now: datetime, grace: timedelta) -> ColumnElement[bool]:
    told = select(func.count()).where(
        _NOTICE.slicing_key == _SLICING.key, _NOTICE.run_id == _SLICING.run_id, _NOTICE.sent_at.is_not(None)
    )
    return and_(
        _SLICING.ended_at.between(now - TOLD_WITHIN, now - grace),
        _SLICING.status.in_(_TOLD),
        _SLICING.needs_attention.is_(None),
        func.json_array_length(_SLICING.notify) > told.correlate(_TABLES["slicings"]).scalar_subquery(),
    )


def _candidates(
    session: Session, condition: ColumnElement[bool], limit: int, *, has_ended: bool
) -> Iterator[tuple[int, Candidate]]:
    for row in session.connection().execute(_FOUND.where(condition).limit(limit)):
        candidate = Candidate(
            subject=Subject.SLICING,
            id=f"{row.sha256}/{row.profile}",
            workflow_id=ids.slicing_workflow_id(row.sha256, row.profile),
            after=str(row.key),
            asked_at=row.queued_at,
            terminal=has_ended,
            facts={"status": row.status, "run_id": row.run_id},
        )
        yield row.key, candidate
