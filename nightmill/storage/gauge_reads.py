"""How everything stands, for gauges: a few numbers of all open work, by queries that pass by what has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Text, bindparam, func, or_, select, text, type_coerce
from sqlmodel import SQLModel

from nightmill.contracts import TERMINAL, BatchStatus, SlicingStatus, SyncStatus
from nightmill.storage import document_models, models, slicing_models
from nightmill.storage.columns import UtcDateTime

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

MOST = 10
"""Accounts of which the backlog is told: those with most."""

# The tables' columns, not the rows: a row that cannot be read, such as one with an unknown word, must not stop a look.
_TABLES: Any = SQLModel.metadata.tables
_BATCH = _TABLES[models.BatchRow.__tablename__].c
_SLICING = _TABLES[slicing_models.SlicingRow.__tablename__].c
_ACCOUNT = _TABLES[document_models.AccountRow.__tablename__].c
_DOCUMENT = _TABLES[document_models.DocumentRow.__tablename__].c

_IS_OPEN = or_(_BATCH.results_fetched_at.is_(None), _BATCH.handler_dispatched_at.is_(None))  # `ix_batches_open`
_STATUS = type_coerce(_BATCH.status, Text)

# Accounts first, whatever SQLite's planner thinks (which `CROSS JOIN` tells it), and two questions rather than one with
# an "or" in it: so each account's due documents are a range of `ix_documents_due`, and nothing else is read.
_OF_ACCOUNTS = (
    "SELECT a.name, d.{since} AS since FROM accounts a CROSS JOIN documents d WHERE d.account_key = a.key"
    " AND a.auto_sync AND d.enabled AND (a.plan IN :plans OR d.interval > 0)"
    " AND (d.sync_status IS NULL OR d.sync_status <> :syncing) AND d.next_sync_at {is_due}"
)
_DUE = (
    text(
        "SELECT name, number, sum(number) OVER () AS total, min(since) OVER () AS earliest FROM"  # noqa: S608
        " (SELECT name, count(*) AS number, min(since) AS since FROM"
        f" ({_OF_ACCOUNTS.format(since='next_sync_at', is_due='<= :now')}"
        f" UNION ALL {_OF_ACCOUNTS.format(since='created_at', is_due='IS NULL')}) AS due GROUP BY name) AS accounts"
        " ORDER BY number DESC, name LIMIT :most"
    )
    .bindparams(bindparam("plans", type_=Text(), expanding=True), bindparam("now", type_=UtcDateTime()))
    .columns(earliest=UtcDateTime())
)


class OpenBatches(NamedTuple):
    """The batches that have not ended, or whose handler was not told.

    Attributes:
        numbers: How many have not ended, by provider and status.
        oldest: When the oldest of these was accepted, by provider.
        due: When the earliest poll is due, of all.
        attention: How many wait for an operator, those included that have ended.
        waiting: How many are not submitted yet, of the accounts with most; None: no account.
    """

    numbers: Mapping[tuple[str, str], int]
    oldest: Mapping[str, datetime]
    due: datetime | None
    attention: int
    waiting: Mapping[str | None, int]


class DueDocuments(NamedTuple):
    """The documents that are due.

    Attributes:
        number: How many there are.
        since: When the one was due that has been due longest.
        waiting: How many there are, of the accounts with most.
        attention: How many documents wait for a person, due or not.
    """

    number: int
    since: datetime | None
    waiting: Mapping[str, int]
    attention: int


@dataclass(frozen=True)
class GaugeReads:
    """Reads what gauges show. Any thread may use it."""

    database: Database

    def batches(self) -> OpenBatches:
        """Return how batches stand."""
        query = (
            select(
                _BATCH.provider,
                _STATUS.label("status"),
                _BATCH.account,
                func.count().label("number"),
                func.min(_BATCH.created_at).label("oldest"),
                func.min(_BATCH.next_poll_at).label("due"),
                func.count(_BATCH.needs_attention).label("attention"),
            )
            .where(_IS_OPEN)
            .group_by(_BATCH.provider, _STATUS, _BATCH.account)
        )
        with self.database.reading() as session:
            rows = session.execute(query).all()
        open_rows = [row for row in rows if row.status not in TERMINAL]
        numbers: dict[tuple[str, str], int] = {}
        oldest: dict[str, datetime] = {}
        waiting: dict[str | None, int] = {}
        for row in open_rows:
            numbers[row.provider, row.status] = numbers.get((row.provider, row.status), 0) + row.number
            oldest[row.provider] = min(oldest.get(row.provider, row.oldest), row.oldest)
            if row.status == BatchStatus.PENDING:
                waiting[row.account] = waiting.get(row.account, 0) + row.number
        return OpenBatches(
            numbers=numbers,
            oldest=oldest,
            due=min((row.due for row in open_rows if row.due is not None), default=None),
            attention=sum(row.attention for row in rows),
            waiting=dict(sorted(waiting.items(), key=lambda each: -each[1])[:MOST]),
        )

    def documents(self, now: datetime, *, has_interval: Callable[[str | None], bool]) -> DueDocuments:
        """Return how documents stand; due are those that a sweep would take now, and those that one has taken.

        Args:
            now: The present.
            has_interval: Whether a plan of this name has an interval.
        """
        with self.database.reading() as session:
            plans = [name for (name,) in session.execute(select(_ACCOUNT.plan).distinct()) if has_interval(name)]
            rows = session.execute(
                _DUE, {"now": now, "plans": plans, "syncing": SyncStatus.SYNCING, "most": MOST}
            ).all()
            attention = session.execute(select(func.count()).where(_DOCUMENT.needs_attention.is_not(None))).scalar_one()
        return DueDocuments(
            number=int(rows[0].total) if rows else 0,
            since=rows[0].earliest if rows else None,
            waiting={row.name: row.number for row in rows},
            attention=attention,
        )

    def slicings(self) -> Mapping[str, int]:
        """Return how many slicings are queued or parked, by profile."""
        waiting = [SlicingStatus.QUEUED, SlicingStatus.WAITING]
        query = (
            select(_SLICING.profile, func.count().label("number"))
            .where(_SLICING.status.in_(waiting))
            .group_by(_SLICING.profile)
        )
        with self.database.reading() as session:
            return {row.profile: row.number for row in session.execute(query)}
