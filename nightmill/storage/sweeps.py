"""What is due, and taking it: counted by account, chosen by the caller's order, marked in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Text,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    type_coerce,
    update,
)
from sqlmodel import SQLModel

from nightmill.contracts import SweepTaken, SyncStatus
from nightmill.storage.accounts import UPSERT, load_account
from nightmill.storage.columns import storable
from nightmill.storage.document_models import AccountRow, DocumentRow, SweepPickRow, SweepRow
from nightmill.storage.stored_documents import is_undelivered
from nightmill.storage.sync_state import CLOCK_AHEAD

if TYPE_CHECKING:
    from sqlmodel import Session

    from nightmill.storage.engine import Database

LOST_AFTER = timedelta(minutes=10)
"""An attempt takes no longer; a document that is `syncing` for longer than that may have lost its sync."""

_KEPT = timedelta(days=1)  # a sweep that is asked again is asked within minutes
_AT_ONCE = 500  # values in one statement: SQLite takes 32,766, PostgreSQL 65,535
_PAGE_ROWS = 1_000

# The tables' columns, not the rows: a row that cannot be read, such as one with an unknown word, must not stop a sweep.
_TABLES: Any = SQLModel.metadata.tables
_ACCOUNT, _DOCUMENT = _TABLES["accounts"].c, _TABLES["documents"].c
_SWEEP, _PICK = _TABLES["sweeps"].c, _TABLES["sweep_picks"].c
_JOINED = _TABLES["accounts"].join(_TABLES["documents"])


class DueAccount(NamedTuple):
    """An account with documents to take.

    Attributes:
        key: Its number.
        name: Its name.
        plan: Its plan's name.
        last_served_at: When a sweep took a document of it last.
        due: Documents that are due.
        ahead: Documents that will be, before the next sweep.
    """

    key: int
    name: str
    plan: str | None
    last_served_at: datetime | None
    due: int
    ahead: int


class Scheduled(NamedTuple):
    """What says when a document without an interval of its own is due."""

    key: int
    id: str
    sync_status: str | None
    last_synced_at: datetime | None
    last_sync_attempted_at: datetime | None
    next_sync_at: datetime | None
    pace: float
    consecutive_failures: int


class TakenDocument(NamedTuple):
    """A document that a sweep has taken."""

    document_id: str
    account: str
    plan: str | None
    due_at: datetime
    has_begun: bool


Turns = Callable[[Sequence[DueAccount]], Sequence[str]]
"""Returns the names of the accounts in the order of their turns, one turn a document."""


@dataclass(frozen=True)
class Wanted:
    """What a sweep looks for.

    Attributes:
        now: The present.
        until: Documents that are due by then are taken, too.
        marked_until: How long they count as queued.
        plans: Names of plans, as accounts spell them, that have an interval.
        account: Only this account's documents.
    """

    now: datetime
    until: datetime
    marked_until: datetime
    plans: frozenset[str]
    account: str | None = None

    @property
    def is_due(self) -> ColumnElement[bool]:
        """The condition for a document that is due now."""
        status, at_rest = _DOCUMENT.sync_status, _at_rest()
        attempted, lost_before = _DOCUMENT.last_sync_attempted_at, self.now - LOST_AFTER
        ahead = self.now + CLOCK_AHEAD
        is_old = or_(attempted.is_(None), attempted < lost_before, attempted > ahead)
        waits = and_(_DOCUMENT.next_attempt_at.is_not(None), _DOCUMENT.next_attempt_at.between(lost_before, ahead))
        return or_(
            and_(at_rest, or_(_DOCUMENT.next_sync_at.is_(None), _DOCUMENT.next_sync_at <= self.now)),
            and_(at_rest, attempted > ahead),
            and_(status == SyncStatus.SYNCING, is_old, ~waits),
            and_(status == SyncStatus.SYNCED, is_old, is_undelivered()),
        )

    @property
    def is_open(self) -> ColumnElement[bool]:
        """The condition for a document that a sweep may take now or ahead, of `documents` joined with `accounts`."""
        ahead = and_(_at_rest(), _DOCUMENT.next_sync_at <= self.until)
        found = and_(
            _ACCOUNT.auto_sync,
            _DOCUMENT.enabled,
            or_(_ACCOUNT.plan.in_(sorted(self.plans)), _DOCUMENT.interval > 0),
            self.is_unmarked,
            or_(self.is_due, ahead),
        )
        return found if self.account is None else and_(found, _ACCOUNT.name == storable(self.account))

    @property
    def is_unmarked(self) -> ColumnElement[bool]:
        """The condition for a document that no sweep has taken."""
        until = _DOCUMENT.queued_until
        return or_(until.is_(None), until <= self.now, until > self.marked_until + CLOCK_AHEAD)


def _at_rest() -> ColumnElement[bool]:
    return or_(_DOCUMENT.sync_status.is_(None), _DOCUMENT.sync_status != SyncStatus.SYNCING)


@dataclass(frozen=True)
class SweepRepository:
    """Finds and takes what is due. Any thread may use it; several sweeps at once never take the same document."""

    database: Database

    def accounts(self, account: str | None = None) -> list[AccountRow]:
        """Return all accounts, or the one.

        Raises:
            AccountNotFound: There is no such account.
        """
        with self.database.reading() as session:
            return list(session.scalars(select(AccountRow))) if account is None else [load_account(session, account)]

    def take(self, sweep_id: str, wanted: Wanted, *, turns: Turns, limit: int, scanned: SweepTaken) -> SweepTaken:
        """Take documents for a sweep, all or none; a sweep that has taken gets the same answer again.

        They are looked for before, which takes seconds with a million of them, so that nobody waits for that to write.

        Args:
            sweep_id: The sweep.
            wanted: What it looks for.
            turns: Says whose turn it is.
            limit: Documents at most, which `turns` keeps.
            scanned: What is known of the accounts, for the answer.
        """
        with self.database.reading() as session:
            before = session.scalar(select(_SWEEP.taken).where(_SWEEP.id == sweep_id))
            if before is not None:
                return SweepTaken.model_validate(before)
            due = _count(session, wanted)
            order = turns(due)
            found = _found(session, wanted, due, order)
        with self.database.transaction() as session:
            # Whoever inserts the row is the one who takes; another attempt of the same sweep waits for it here.
            new = UPSERT[self.database.dialect](SweepRow).values(id=sweep_id, taken_at=wanted.now, taken={})
            new = new.on_conflict_do_nothing().execution_options(preserve_rowcount=True)
            if session.connection().execute(new).rowcount < 1:
                return SweepTaken.model_validate(session.scalar(select(_SWEEP.taken).where(_SWEEP.id == sweep_id)))
            session.connection().execute(delete(SweepRow).where(_SWEEP.taken_at < wanted.now - _KEPT))
            names = {each.key: each.name for each in due}
            picks = _mark(session, wanted, {names[key]: each for key, each in found.items()}, order)
            if picks:
                rows = [
                    {"sweep_id": sweep_id, "position": position, "document_key": pick.key, "due_at": pick.due_at}
                    for position, pick in enumerate(picks)
                ]
                session.connection().execute(insert(SweepPickRow), rows)
            served = sorted({pick.account_key for pick in picks})
            for some in _chunks(served):
                statement = update(AccountRow).where(_ACCOUNT.key.in_(some)).values(last_served_at=wanted.now)
                session.connection().execute(statement)
            taken = scanned.model_copy(
                update={
                    "accounts_scheduled": len(served),
                    "taken": len(picks),
                    "capacity_left": max(0, limit - len(picks)),
                    "cap_hit": sum(pick.is_due for pick in picks) < sum(each.due for each in due),
                }
            )
            statement = update(SweepRow).where(_SWEEP.id == sweep_id).values(taken=taken.model_dump(mode="json"))
            session.connection().execute(statement)
            return taken

    def picks(self, sweep_id: str, *, first: int, count: int) -> list[TakenDocument]:
        """Return what a sweep has taken, from position `first` on; documents deleted since are left out."""
        query = (
            select(_DOCUMENT.id, _ACCOUNT.name, _ACCOUNT.plan, _PICK.due_at, _DOCUMENT.queued_until.is_(None))
            .select_from(_JOINED.join(_TABLES["sweep_picks"], _PICK.document_key == _DOCUMENT.key))
            .where(_PICK.sweep_id == sweep_id, _PICK.position >= first, _PICK.position < first + count)
            .order_by(_PICK.position)
        )
        with self.database.reading() as session:
            return [TakenDocument(*row) for row in session.connection().execute(query)]

    def drop_picks(self, document_ids: Sequence[str]) -> None:
        """Forget that sweeps have taken these documents; their marks stay."""
        with self.database.transaction() as session:
            for some in _chunks(document_ids):
                keys = select(_DOCUMENT.key).where(_DOCUMENT.id.in_(some))
                session.connection().execute(delete(SweepPickRow).where(_PICK.document_key.in_(keys)))

    def give_back(self, document_ids: Sequence[str]) -> None:
        """Let documents be due again that were taken and are not to be started."""
        with self.database.transaction() as session:
            for some in _chunks(document_ids):
                statement = update(DocumentRow).where(_DOCUMENT.id.in_(some)).values(queued_until=None)
                session.connection().execute(statement)

    def reschedule(
        self, account: AccountRow, interval: float | None, due_at: Callable[[Scheduled], datetime | None]
    ) -> int:
        """Compute anew when an account's documents are due, as its plan's interval is another one; return how many.

        A page a transaction. Documents with an interval of their own, and those that were never tried, stay.
        """
        status = type_coerce(_DOCUMENT.sync_status, Text).label("sync_status")  # also a word that is none of ours
        columns = [status if name == "sync_status" else _DOCUMENT[name] for name in Scheduled._fields]
        mine = and_(
            _DOCUMENT.account_key == account.key,
            _DOCUMENT.interval.is_(None),
            _DOCUMENT.last_sync_attempted_at.is_not(None),
        )
        change = (
            update(DocumentRow).where(_DOCUMENT.key == bindparam("its_key")).values(next_sync_at=bindparam("its_time"))
        )
        after, number = 0, 0
        while interval is not None:
            query = select(*columns).where(mine, _DOCUMENT.key > after).order_by(_DOCUMENT.key).limit(_PAGE_ROWS)
            with self.database.transaction() as session:
                rows = [Scheduled(*row) for row in session.connection().execute(query)]
                moved = [(row.key, due_at(row)) for row in rows]
                values = [{"its_key": key, "its_time": time} for key, time in moved]
                if values:
                    session.connection().execute(change, values)
            number += len(rows)
            if len(rows) < _PAGE_ROWS:
                break
            after = rows[-1].key
        with self.database.transaction() as session:
            statement = update(AccountRow).where(_ACCOUNT.key == account.key).values(applied_interval=interval)
            session.connection().execute(statement)
        return number


class _Pick(NamedTuple):
    key: int
    account_key: int
    is_due: bool
    due_at: datetime


def _count(session: Session, wanted: Wanted) -> list[DueAccount]:
    due = func.sum(case((wanted.is_due, 1), else_=0))
    query = (
        select(_ACCOUNT.key, _ACCOUNT.name, _ACCOUNT.plan, _ACCOUNT.last_served_at, due, func.count() - due)
        .select_from(_JOINED)
        .where(wanted.is_open)
        .group_by(_ACCOUNT.key, _ACCOUNT.name, _ACCOUNT.plan, _ACCOUNT.last_served_at)
    )
    return [DueAccount(*row) for row in session.connection().execute(query)]


def _found(session: Session, wanted: Wanted, due: Sequence[DueAccount], turns: Sequence[str]) -> dict[int, list[_Pick]]:
    """Return as many documents of each account as it has turns, by the account's number."""
    keys = {each.name: each.key for each in due}
    quotas: dict[int, int] = {}
    for name in turns:
        quotas[keys[name]] = quotas.get(keys[name], 0) + 1
    found: dict[int, list[_Pick]] = {}
    # Those with like quotas together, so that a page reads hardly more rows than are taken.
    for some in _chunks(sorted(quotas, key=quotas.__getitem__)):
        for pick in _ranked(session, wanted, some, max(quotas[key] for key in some)):
            picks = found.setdefault(pick.account_key, [])
            if len(picks) < quotas[pick.account_key]:
                picks.append(pick)
    return found


def _mark(session: Session, wanted: Wanted, found: Mapping[str, Sequence[_Pick]], turns: Sequence[str]) -> list[_Pick]:
    """Mark the documents that were found of each account, and return them in the order of the turns.

    One that was taken since, or that another transaction is just writing, is passed by: it is no longer what it was.
    """
    marked: set[int] = set()
    for some in _chunks([pick.key for picks in found.values() for pick in picks]):
        free = select(_DOCUMENT.key).where(_DOCUMENT.key.in_(some), wanted.is_unmarked)
        statement = (
            update(DocumentRow)
            .where(_DOCUMENT.key.in_(free.with_for_update(skip_locked=True)))
            .values(queued_until=wanted.marked_until)
            .returning(_DOCUMENT.key)
        )
        marked.update(session.connection().execute(statement).scalars())
    waiting = {name: iter([pick for pick in picks if pick.key in marked]) for name, picks in found.items()}
    ordered = (next(waiting.get(name, iter(())), None) for name in turns)
    return [pick for pick in ordered if pick is not None]


def _ranked(session: Session, wanted: Wanted, accounts: Sequence[int], limit: int) -> Iterator[_Pick]:
    """Yield each account's first documents: what is due first, never attempted before oldest attempt, then by id."""
    is_due = case((wanted.is_due, 1), else_=0)
    order = (is_due.desc(), _DOCUMENT.last_sync_attempted_at.asc().nulls_first(), _DOCUMENT.id)
    rank = func.row_number().over(partition_by=_DOCUMENT.account_key, order_by=order)
    ranked = (
        select(_DOCUMENT.key, _DOCUMENT.account_key, _DOCUMENT.next_sync_at, is_due.label("due"), rank.label("rank"))
        .select_from(_JOINED)
        .where(wanted.is_open, _DOCUMENT.account_key.in_(accounts))
        .subquery()
    )
    query: Any = select(ranked).where(ranked.c.rank <= limit).order_by(ranked.c.account_key, ranked.c.rank)
    for row in session.connection().execute(query):
        yield _Pick(row.key, row.account_key, bool(row.due), wanted.now if row.due else row.next_sync_at)


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(values), _AT_ONCE):
        yield values[first : first + _AT_ONCE]
