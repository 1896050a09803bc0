"""Documents whose sync may be lost, and those whose change nobody may tell any more."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Text, and_, case, literal, or_, select, type_coerce
from sqlmodel import SQLModel

from nightmill import ids
from nightmill.contracts import Subject, SyncStatus
from nightmill.recovery.model import Candidate
from nightmill.storage.columns import UtcDateTime
from nightmill.storage.stored_documents import is_undelivered
from nightmill.storage.sync_state import CLOCK_AHEAD

if TYPE_CHECKING:
    from sqlmodel import Session

    from nightmill.storage.engine import Database

TOLD_AGAIN = timedelta(hours=1)
"""How long a handler is left alone that could not be told, and how long a sweep is waited for that will tell it."""

ASKED_AGAIN = timedelta(days=1)
"""How long a page is left alone that cannot be had, though its handler has yet to be told of what it said before."""

# The tables' columns, not the rows: a row that cannot be read, such as one with an unknown word, must not stop a page.
_TABLES: Any = SQLModel.metadata.tables
_ACCOUNT, _DOCUMENT = _TABLES["accounts"].c, _TABLES["documents"].c
_FOUND = (
    select(
        _DOCUMENT.key,
        _DOCUMENT.id,
        type_coerce(_DOCUMENT.sync_status, Text).label("status"),
        _DOCUMENT.last_sync_attempted_at,
        _DOCUMENT.next_attempt_at,
        _DOCUMENT.sync_run,
        _ACCOUNT.name.label("account"),
    )
    .select_from(_TABLES["documents"].join(_TABLES["accounts"]))
    .order_by(_DOCUMENT.key)
)


@dataclass(frozen=True)
class DocumentCandidates:
    """Reads what may be stuck. Any thread may use it."""

    database: Database

    def page(self, *, after: str | None, limit: int, now: datetime, grace: timedelta) -> list[Candidate]:
        """Return up to `limit` candidates behind `after`, in the order of their keys; it loads no more than twice that.

        A document is one if it is `syncing`, no attempt has begun for `grace`, and none is about to; or if it is at
        rest and its handler was not told of its content, where no sweep will see to that soon. Switched off documents
        are among the first, and not among the second.

        Args:
            after: Where the page before ended; None: from the beginning.
            limit: Candidates at most.
            now: The present.
            grace: What is late by less is not late.
        """
        behind = _DOCUMENT.key > (0 if after is None else int(after))
        found = [_is_stuck(now, grace), _is_untold(now, grace)]
        with self.database.reading() as session:
            # Two questions rather than one with an "or" in it: each has its index.
            pages = [_candidates(session, and_(behind, each), limit, is_at_rest=n == 1) for n, each in enumerate(found)]
            return [candidate for _, candidate in heapq.merge(*pages, key=lambda each: each[0])][:limit]


def _is_stuck(now: datetime, grace: timedelta) -> ColumnElement[bool]:
    waits_until = _DOCUMENT.next_attempt_at
    return and_(
        _DOCUMENT.sync_status == SyncStatus.SYNCING,
        _tried_before(_time(now - grace), now),
        or_(waits_until.is_(None), ~waits_until.between(now - grace, now + CLOCK_AHEAD)),
    )


def _is_untold(now: datetime, grace: timedelta) -> ColumnElement[bool]:
    status, taken_until = _DOCUMENT.sync_status, _DOCUMENT.queued_until
    left_alone_since = case(
        (status == SyncStatus.FAILED, _time(now - max(ASKED_AGAIN, grace))),
        (_ACCOUNT.auto_sync, _time(now - max(ASKED_AGAIN, grace))),  # sweeps have bounds and turns, ticks have not
        (_DOCUMENT.needs_attention.is_not(None), _time(now - max(TOLD_AGAIN, grace))),
        else_=_time(now - grace),
    )
    return and_(
        is_undelivered(),
        # Whoever was never told of a page is not told that it is gone.
        or_(_DOCUMENT.handled_fingerprint.is_not(None), _DOCUMENT.gone_days == 0),
        _DOCUMENT.enabled,
        status != SyncStatus.SYNCING,
        or_(status != SyncStatus.FAILED, ~_ACCOUNT.auto_sync),  # sweeps ask failing pages later and later
        or_(taken_until.is_(None), ~taken_until.between(now, now + CLOCK_AHEAD)),
        _tried_before(left_alone_since, now),
    )


def _tried_before(time: ColumnElement[datetime], now: datetime) -> ColumnElement[bool]:
    """Return the condition for a document whose last attempt began before then, or at a time that cannot be."""
    tried = _DOCUMENT.last_sync_attempted_at
    return or_(tried.is_(None), tried < time, tried > now + CLOCK_AHEAD)


def _time(value: datetime) -> ColumnElement[datetime]:
    return literal(value, UtcDateTime())


def _candidates(
    session: Session, condition: ColumnElement[bool], limit: int, *, is_at_rest: bool
) -> Iterator[tuple[int, Candidate]]:
    for row in session.connection().execute(_FOUND.where(condition).limit(limit)):
        candidate = Candidate(
            subject=Subject.DOCUMENT,
            id=row.id,
            workflow_id=ids.document_workflow_id(row.id),
            after=str(row.key),
            asked_at=row.last_sync_attempted_at,
            terminal=is_at_rest,
            facts={
                "status": row.status,
                "account": row.account,
                "next_attempt_at": row.next_attempt_at,
                "sync_run": row.sync_run,
            },
        )
        yield row.key, candidate
