"""Repairs as they are recorded: before each is carried out, and again when it is known what came of it.

An epoch says what a repair may be done once for, and the database keeps it unique for each workflow. So of two
reconcilers one records the repair, and the other learns that it was recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, case, delete, update
from sqlmodel import Session, col, func, select

from nightmill.contracts import Action, Finding, RepairState, Subject
from nightmill.storage.accounts import UPSERT
from nightmill.storage.columns import storable
from nightmill.storage.fence import SUPERSEDING
from nightmill.storage.recovery_models import LONGEST_EPOCH, LONGEST_ERROR, RepairRow

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

STAYS_KNOWN = timedelta(hours=24)
"""For how long after a failure the same one again is no news."""

_AT_ONCE = 100
_OF_ONE = 20
_ALIKE = 5

# Built once: a repair is two writes, and building their statements anew was half of their CPU.
_ADD = {
    dialect: insert(RepairRow)
    .on_conflict_do_nothing(index_elements=["workflow_id", "epoch"])
    .returning(col(RepairRow.key))
    for dialect, insert in UPSERT.items()
}
_END = update(RepairRow).where(col(RepairRow.key) == bindparam("of"))


@dataclass(frozen=True)
class Intent:
    """A repair that is about to be carried out; see `RepairRow`."""

    subject: Subject
    subject_id: str
    workflow_id: str
    epoch: str
    finding: Finding
    action: Action
    reason: str = ""
    run_id: str | None = None
    build: str = ""
    tick: str = ""


@dataclass(frozen=True)
class RepairRepository:
    """Keeps and reads repairs. Any thread may use it; several reconcilers may share it."""

    database: Database

    def intend(self, intent: Intent, *, now: datetime) -> int | None:
        """Record that a repair is about to be carried out and return its key; None: its epoch is taken."""
        with self.database.transaction() as session:
            return self._insert(session, state=RepairState.ASKED, asked_at=now, **asdict(intent))

    def left_over(self, *, before: datetime, limit: int = 100) -> list[RepairRow]:
        """Return repairs that were recorded before then and of which nobody has said what came, oldest first."""
        query = select(RepairRow).where(col(RepairRow.ended_at).is_(None), col(RepairRow.asked_at) < before)
        with self.database.reading() as session:
            return list(session.exec(query.order_by(col(RepairRow.key)).limit(limit)))

    def done(
        self,
        key: int,
        *,
        new_run_id: str | None = None,
        event_id: int | None = None,
        reason: str | None = None,
        now: datetime,
    ) -> None:
        """Record that a repair was carried out; what is not given stays as it was."""
        known = {"new_run_id": new_run_id, "event_id": event_id, "reason": reason}
        values = {"error": None} | {name: value for name, value in known.items() if value is not None}
        with self.database.transaction() as session:
            session.connection().execute(_END, {"of": key, "state": RepairState.DONE, "ended_at": now, **values})

    def failed(self, key: int, error: str, *, now: datetime) -> bool:
        """Record that a repair could not be carried out, and give its epoch back; return whether that is news.

        It is none where an error of the same class was recorded of the same workflow a day ago or less. Of such records
        the newest five are kept, so that what fails for weeks does not fill the table. A repair that has ended stays as
        it is.
        """
        with self.database.transaction() as session:
            row = _open(session, key)
            if row is None:
                return False
            _give_back(row)
            row.state, row.error, row.ended_at = RepairState.FAILED, storable(error)[:LONGEST_ERROR], now
            session.add(row)
            session.flush()
            alike = select(RepairRow.key).where(*_alike(row.workflow_id, row.error, now))
            keys = session.exec(alike.order_by(col(RepairRow.key).desc())).all()
            if len(keys) > _ALIKE:
                session.connection().execute(delete(RepairRow).where(col(RepairRow.key).in_(keys[_ALIKE:])))
            return len(keys) == 1

    def unanswered(self, key: int, error: str) -> None:
        """Store why nobody knows what came of a repair; it stays open until somebody has looked."""
        statement = update(RepairRow).where(col(RepairRow.key) == key, col(RepairRow.state) == RepairState.ASKED)
        with self.database.transaction() as session:
            session.connection().execute(statement.values(error=storable(error)[:LONGEST_ERROR]))

    def void(self, key: int, reason: str, *, now: datetime) -> None:
        """Record that a repair was not carried out, and give its epoch back. A repair that has ended stays as it is."""
        with self.database.transaction() as session:
            row = _open(session, key)
            if row is None:
                return
            _give_back(row)
            row.state, row.reason, row.ended_at = RepairState.VOID, reason, now
            session.add(row)

    def record_failure(
        self,
        *,
        subject: Subject,
        subject_id: str,
        workflow_id: str,
        error: str,
        build: str = "",
        tick: str = "",
        now: datetime,
    ) -> bool:
        """Record that something could not even be looked at; return whether that is news, as in `failed`."""
        error = storable(error)[:LONGEST_ERROR]
        with self.database.transaction() as session:
            connection = session.connection()
            again = update(RepairRow).where(*_alike(workflow_id, error, now))
            if connection.execute(again.values(ended_at=now, tick=tick, build=build)).rowcount:
                return False
            # None: another reconciler has recorded a failure in the same microsecond.
            return None is not self._insert(
                session,
                subject=subject,
                subject_id=subject_id,
                workflow_id=workflow_id,
                epoch=f"failure/{now.isoformat()}",
                finding=Finding.UNKNOWN,
                action=Action.LOOK,
                state=RepairState.FAILED,
                error=error,
                build=build,
                tick=tick,
                asked_at=now,
                ended_at=now,
            )

    def past(self, workflow_ids: Sequence[str]) -> dict[str, list[RepairRow]]:
        """Return the repairs of each of these workflows that has any, newest first, 20 at most.

        Where there are more, those that started a run come first, then resets that failed, then other ones that were
        carried out, then the rest: whatever else happened to a workflow, it is known how often it was repaired.
        """
        found: dict[str, list[RepairRow]] = {}
        wanted = sorted(set(workflow_ids))
        with self.database.reading() as session:
            for start in range(0, len(wanted), _AT_ONCE):
                for row in session.exec(_newest_of(wanted[start : start + _AT_ONCE])):
                    found.setdefault(row.workflow_id, []).append(row)
        return found

    def newest(
        self,
        *,
        limit: int = 50,
        subject: Subject | None = None,
        subject_id: str | None = None,
        before: int | None = None,
    ) -> list[RepairRow]:
        """Return repairs, newest first; `before` goes on after the one with this key."""
        query = select(RepairRow).order_by(col(RepairRow.key).desc()).limit(limit)
        if subject is not None:
            query = query.where(RepairRow.subject == subject)
        if subject_id is not None:
            query = query.where(RepairRow.subject_id == subject_id)
        if before is not None:
            query = query.where(col(RepairRow.key) < before)
        with self.database.reading() as session:
            return list(session.exec(query))

    def _insert(self, session: Session, **values: Any) -> int | None:
        row = {"reason": "", "build": "", "tick": ""} | values
        key: int | None = session.connection().execute(_ADD[self.database.dialect], row).scalar_one_or_none()
        return key


def _open(session: Session, key: int) -> RepairRow | None:
    """Return a repair that has not ended, kept from other writers."""
    row = session.get(RepairRow, key, with_for_update=True)
    return row if row is not None and row.state is RepairState.ASKED else None


def _give_back(row: RepairRow) -> None:
    """Let another repair have this one's epoch."""
    mark = f"#{row.key}"
    row.epoch = row.epoch[: LONGEST_EPOCH - len(mark)] + mark


def _alike(workflow_id: str, error: str, now: datetime) -> tuple[Any, ...]:
    """Return the condition for failures of the same class: messages hold run ids, ports and times."""
    kind, colon, _ = error.partition(":")
    return (
        col(RepairRow.workflow_id) == workflow_id,
        col(RepairRow.state) == RepairState.FAILED,
        col(RepairRow.error).startswith(kind + colon, autoescape=True) if colon else col(RepairRow.error) == error,
        col(RepairRow.ended_at) > now - STAYS_KNOWN,
    )


def _newest_of(workflow_ids: Sequence[str]) -> Any:
    carried_out = col(RepairRow.state).in_([RepairState.ASKED, RepairState.DONE])
    starts_run = col(RepairRow.action).in_(SUPERSEDING)
    refused = and_(col(RepairRow.state) == RepairState.FAILED, col(RepairRow.action) == Action.RESET)
    rank = case((carried_out & starts_run, 0), (refused, 1), (carried_out, 2), else_=3)
    place = func.row_number().over(partition_by=col(RepairRow.workflow_id), order_by=(rank, col(RepairRow.key).desc()))
    ranked = select(RepairRow.key, place.label("place")).where(col(RepairRow.workflow_id).in_(workflow_ids)).subquery()
    return (
        select(RepairRow)
        .join(ranked, ranked.c.key == RepairRow.key)
        .where(ranked.c.place <= _OF_ONE)
        .order_by(col(RepairRow.key).desc())
    )
