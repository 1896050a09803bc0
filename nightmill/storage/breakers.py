"""The breakers over slicers as they are stored: a row a profile, shared by all workers, and the past of each.

How a breaker moves is said in `nightmill.slicing.breaker`; here each move is made once, whoever moves at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import update
from sqlmodel import Session, col, select

from nightmill.contracts import BreakerState
from nightmill.errors import StorageUnavailable
from nightmill.storage.accounts import UPSERT
from nightmill.storage.slicing_models import BreakerTransitionRow, SlicerBreakerRow

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

_TRIES = 100
"""Each try in vain is another's success; twenty threads at once need twenty at most."""


@dataclass(frozen=True)
class NewTransition:
    """A change that operators are told of.

    Attributes:
        state: How the breaker stands from now on.
        reason: Why.
        changed_by: Who did it.
        at: When.
    """

    state: BreakerState
    reason: str | None
    changed_by: str
    at: datetime


@dataclass(frozen=True)
class Change:
    """What is to be written of a breaker.

    Attributes:
        columns: New values of columns of `SlicerBreakerRow`.
        transition: The change that operators are told of, if it is one.
    """

    columns: Mapping[str, Any]
    transition: NewTransition | None = None


Decide = Callable[[SlicerBreakerRow], Change | None]
"""Says what is to be written of a breaker that stands so, None for nothing. It may be asked several times."""


@dataclass(frozen=True)
class BreakerRepository:
    """Keeps and reads breakers. Any thread may use it; several workers share it by the database."""

    database: Database

    def get(self, profile: str) -> SlicerBreakerRow:
        """Return a profile's breaker; one that never had anything to do is closed."""
        with self.database.reading() as session:
            return _read(session, profile) or SlicerBreakerRow(profile=profile)

    def all(self) -> list[SlicerBreakerRow]:
        """Return all breakers that ever had anything to do, by profile."""
        with self.database.reading() as session:
            return list(session.exec(select(SlicerBreakerRow).order_by(col(SlicerBreakerRow.profile))))

    def change(self, profile: str, decide: Decide) -> tuple[SlicerBreakerRow, Change | None]:
        """Write what `decide` says of the breaker as it stands; return it as it stands then, and what was written.

        When somebody else has moved it meanwhile, nothing is written and `decide` is asked again.

        Raises:
            StorageUnavailable: Others move it all the time.
        """
        for _ in range(_TRIES):
            row = self.get(profile)
            wanted = decide(row)
            if wanted is None or self._write(row, wanted):
                return row, wanted
        raise StorageUnavailable(f"breaker of {profile}: others have changed it {_TRIES} times meanwhile")

    def untold(self, profile: str | None = None) -> list[BreakerTransitionRow]:
        """Return the changes that operators have not been told of, in their order."""
        query = select(BreakerTransitionRow).where(col(BreakerTransitionRow.told_at).is_(None))
        if profile is not None:
            query = query.where(BreakerTransitionRow.profile == profile)
        order = (col(BreakerTransitionRow.profile), col(BreakerTransitionRow.number))
        with self.database.reading() as session:
            return list(session.exec(query.order_by(*order)))

    def told(self, profile: str, number: int, now: datetime) -> None:
        """Write that operators were told of a change; a second call changes nothing."""
        statement = update(BreakerTransitionRow).where(
            col(BreakerTransitionRow.profile) == profile,
            col(BreakerTransitionRow.number) == number,
            col(BreakerTransitionRow.told_at).is_(None),
        )
        with self.database.transaction() as session:
            session.connection().execute(statement.values(told_at=now))

    def history(self, profile: str, *, limit: int = 50) -> list[BreakerTransitionRow]:
        """Return the changes of a breaker, newest first."""
        query = select(BreakerTransitionRow).where(BreakerTransitionRow.profile == profile)
        with self.database.reading() as session:
            return list(session.exec(query.order_by(col(BreakerTransitionRow.number).desc()).limit(limit)))

    def _write(self, row: SlicerBreakerRow, wanted: Change) -> bool:
        """Write the change, and into `row`, if the breaker still stands as `row` says."""
        columns: dict[str, Any] = {**wanted.columns, "version": row.version + 1}
        if wanted.transition is not None:
            columns["transitions"] = row.transitions + 1
        with self.database.transaction() as session:
            connection = session.connection()
            if row.version == 0:
                values = SlicerBreakerRow(profile=row.profile).model_dump()
                insert = UPSERT[self.database.dialect](SlicerBreakerRow).values(**values)
                connection.execute(insert.on_conflict_do_nothing(index_elements=["profile"]))
            its_version = (col(SlicerBreakerRow.profile) == row.profile, col(SlicerBreakerRow.version) == row.version)
            if not connection.execute(update(SlicerBreakerRow).where(*its_version).values(**columns)).rowcount:
                return False
            if wanted.transition is not None:
                session.add(_transition(row.profile, columns["transitions"], wanted.transition))
        for name, value in columns.items():
            setattr(row, name, value)
        return True


def _read(session: Session, profile: str) -> SlicerBreakerRow | None:
    return session.exec(select(SlicerBreakerRow).where(SlicerBreakerRow.profile == profile)).first()


def _transition(profile: str, number: int, new: NewTransition) -> BreakerTransitionRow:
    return BreakerTransitionRow(
        profile=profile,
        number=number,
        state=new.state,
        reason=new.reason,
        changed_by=new.changed_by,
        at=new.at,
        message_id=f"nm-breaker-{profile}-{number}",
    )
