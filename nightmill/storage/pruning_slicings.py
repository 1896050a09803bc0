"""Slicings that go, whole; and what earlier runs left of those that stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ColumnElement, and_, delete, func, not_, or_, select
from sqlmodel import SQLModel

from nightmill.contracts import SlicingStatus
from nightmill.storage.accounts import UPSERT
from nightmill.storage.slicing_candidates import TOLD_WITHIN
from nightmill.storage.slicing_reads import RUNNING
from nightmill.storage.slicings import hold_pdf

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

PAGE = 500
"""Rows of attempts and notices that one transaction deletes; an attempt may have 64 KiB of error output."""

_TABLES: Any = SQLModel.metadata.tables
_SLICINGS, _SLICES, _ATTEMPTS, _NOTICES, _LEAVINGS, _BREAKERS, _TRANSITIONS = (
    _TABLES[name]
    for name in (
        "slicings", "slices", "slicing_attempts", "slicing_notices", "slicing_leavings", "slicer_breakers",
        "breaker_transitions",
    )
)  # fmt: skip
_SLICING, _LEAVING = _SLICINGS.c, _LEAVINGS.c
_TOLD = tuple(status for status in SlicingStatus if status.is_terminal and status is not SlicingStatus.CANCELED)


class SlicingsGoing(NamedTuple):
    """What a prune would delete.

    Attributes:
        slicings: Whole documents, with their slices.
        bytes: Of their PDFs and their slices' PDFs.
        attempts: Records of programs of documents that stay.
        notices: Records of messages of documents that stay.
        transitions: Of breakers.
    """

    slicings: int
    bytes: int
    attempts: int
    notices: int
    transitions: int


class GoneSlicing(NamedTuple):
    """A slicing whose rows are gone and whose files are not yet."""

    sha256: str
    profile: str


class FilesLeft(NamedTuple):
    """What goes of the files of a slicing whose rows are gone.

    Attributes:
        runs: The runs that it had, without those that write again since.
        others: Whether files of other runs go, too, if they are old: no run of this PDF and profile is known.
        original: Whether the PDF goes: no profile has it any more.
    """

    runs: frozenset[str]
    others: bool
    original: bool


@dataclass(frozen=True)
class SlicingPruning:
    """Deletes slicings. Any thread may use it; several prunes at once do no harm."""

    database: Database

    def count(self, before: datetime, now: datetime) -> SlicingsGoing:
        """Return what would go of what is older than that."""
        wanted = _may_go(before, now)
        sizes = select(_SLICING.sha256, func.max(_SLICING.size).label("size")).where(wanted)
        originals = sizes.group_by(_SLICING.sha256).subquery()
        files = select(func.sum(_SLICES.c.file_size)).select_from(_SLICES.join(_SLICINGS)).where(wanted)
        with self.database.reading() as session:

            def one(query: Any) -> int:
                return int(session.execute(query).scalar_one() or 0)

            def counted(table: Any, condition: ColumnElement[bool]) -> int:
                return one(select(func.count()).select_from(table).where(condition))

            return SlicingsGoing(
                slicings=counted(_SLICINGS, wanted),
                bytes=one(select(func.sum(originals.c.size))) + one(files),
                attempts=counted(_ATTEMPTS.join(_SLICINGS), and_(not_(wanted), _is_old_attempt(before))),
                notices=counted(_NOTICES.join(_SLICINGS), and_(not_(wanted), _is_old_notice(before))),
                transitions=counted(_TRANSITIONS.join(_BREAKERS, _ITS_BREAKER), _is_old_transition(before)),
            )

    def delete_slicings(self, before: datetime, now: datetime) -> Iterator[GoneSlicing]:
        """Delete the rows of documents that were sliced before then, one a transaction; yield each when it is gone."""
        after = 0
        while True:
            query = select(_SLICING.key, _SLICING.sha256).where(_SLICING.key > after, _may_go(before, now))
            with self.database.reading() as session:
                rows = session.execute(query.order_by(_SLICING.key).limit(PAGE)).all()
            for key, sha256 in rows:
                gone = self._delete(key, sha256, before, now)
                if gone is not None:
                    yield gone
            if len(rows) < PAGE:
                return
            after = rows[-1].key

    def _delete(self, key: int, sha256: str, before: datetime, now: datetime) -> GoneSlicing | None:
        """Delete a document's rows and note whose files are left; None: somebody asks for it, or another prune did."""
        found = select(_SLICING.profile, _SLICING.run_id, _SLICING.result_run).where(
            _SLICING.key == key, _may_go(before, now)
        )
        with self.database.transaction() as session:
            # The PDF first: whoever asks for it has found the row, and must find it again when he locks it.
            if not hold_pdf(self.database, session, sha256, alone=True):
                return None
            row = session.execute(found.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            runs = session.execute(select(_ATTEMPTS.c.run_id).where(_ATTEMPTS.c.slicing_key == key).distinct())
            known = {row.run_id, row.result_run, *runs.scalars()} - {None} or {""}
            left = [{"sha256": sha256, "profile": row.profile, "run_id": run} for run in sorted(known)]
            note = UPSERT[self.database.dialect](_LEAVINGS).on_conflict_do_nothing()
            session.connection().execute(note, left)
            session.execute(delete(_SLICINGS).where(_SLICING.key == key))
        return GoneSlicing(sha256, row.profile)

    def half_deleted(self) -> list[GoneSlicing]:
        """Return the documents whose rows are gone and whose files may not be."""
        query = select(_LEAVING.sha256, _LEAVING.profile).distinct().order_by(_LEAVING.sha256, _LEAVING.profile)
        with self.database.reading() as session:
            return [GoneSlicing(*row) for row in session.execute(query)]

    @contextmanager
    def emptying(self, gone: GoneSlicing) -> Iterator[FilesLeft | None]:
        """Give what is left of a document whose rows are gone; once the block has deleted that, nothing is noted of it.

        Nobody makes a row of its PDF meanwhile. None: somebody makes one just now, or it was emptied before.
        """
        mine = and_(_LEAVING.sha256 == gone.sha256, _LEAVING.profile == gone.profile)
        again = select(_SLICING.profile, _SLICING.run_id, _SLICING.result_run).where(_SLICING.sha256 == gone.sha256)
        with self.database.transaction() as session:
            held = hold_pdf(self.database, session, gone.sha256, alone=True)
            runs = set(session.execute(select(_LEAVING.run_id).where(mine)).scalars()) if held else None
            if not runs:
                yield None
                return
            rows = session.execute(again).all()
            same = [row for row in rows if row.profile == gone.profile]
            # Reset in Temporal, a run whose rows were deleted makes one again.
            kept = {run for row in same for run in (row.run_id, row.result_run)}
            yield FilesLeft(frozenset(runs - kept - {""}), others=not same, original=not rows)
            session.execute(delete(_LEAVINGS).where(mine))

    def delete_leavings(self, before: datetime) -> Iterator[tuple[str, int]]:
        """Delete what earlier runs left of documents that stay; yield the kind of rows, and how many were deleted."""
        for kind, table, condition in (
            ("attempts", _ATTEMPTS, _is_old_attempt(before)),
            ("notices", _NOTICES, _is_old_notice(before)),
        ):
            page = select(table.c.key).select_from(table.join(_SLICINGS)).where(condition)
            page, after = page.order_by(table.c.key).limit(PAGE), 0
            while True:
                with self.database.transaction() as session:
                    keys = session.execute(page.where(table.c.key > after)).scalars().all()
                    deleted = session.connection().execute(delete(table).where(table.c.key.in_(keys))).rowcount
                yield kind, deleted
                if len(keys) < PAGE:
                    break
                after = keys[-1]
        mine = select(_BREAKERS.c.transitions).where(_ITS_BREAKER).correlate(_TRANSITIONS).scalar_subquery()
        old = and_(_is_told_transition(before), _TRANSITIONS.c.number < mine)
        with self.database.transaction() as session:  # some a month
            deleted = session.connection().execute(delete(_TRANSITIONS).where(old)).rowcount
        yield "transitions", deleted

    def if_unknown(self, sha256: str, act: Callable[[], None]) -> bool:
        """Do something unless there is a document of this PDF; nobody makes one meanwhile. Return whether it was done.

        Whoever stores a PDF makes the row and then looks once more whether the file is there.
        """
        known = select(_SLICING.key).where(_SLICING.sha256 == sha256).limit(1)
        with self.database.transaction() as session:
            if not hold_pdf(self.database, session, sha256, alone=True) or session.execute(known).first() is not None:
                return False
            act()
            return True

    def runs_kept(self, sha256s: Sequence[str]) -> dict[str, dict[str, frozenset[str]]]:
        """Return, for each of these PDFs that are known, the runs of each profile whose files somebody may need."""
        query = select(_SLICING.sha256, _SLICING.profile, _SLICING.run_id, _SLICING.result_run)
        found: dict[str, dict[str, frozenset[str]]] = {}
        with self.database.reading() as session:
            for sha256, profile, *runs in session.execute(query.where(_SLICING.sha256.in_(sha256s))):
                found.setdefault(sha256, {})[profile] = frozenset(run for run in runs if run is not None)
        return found


_ITS_BREAKER = _BREAKERS.c.profile == _TRANSITIONS.c.profile


def _may_go(before: datetime, now: datetime) -> ColumnElement[bool]:
    """Return the condition for a document that was sliced before then, and from which nobody waits for anything."""
    told = select(func.count()).where(
        _NOTICES.c.slicing_key == _SLICING.key, _NOTICES.c.run_id == _SLICING.run_id, _NOTICES.c.sent_at.is_not(None)
    )
    # After a week recovery tells nobody any more: see `nightmill.storage.slicing_candidates`.
    waits = and_(
        _SLICING.status.in_(_TOLD),
        _SLICING.ended_at > now - TOLD_WITHIN,
        func.json_array_length(_SLICING.notify) > told.correlate(_SLICINGS).scalar_subquery(),
    )
    return and_(
        _SLICING.status.not_in(RUNNING),
        _SLICING.ended_at < before,
        or_(_SLICING.asked_at.is_(None), _SLICING.asked_at < before),
        _SLICING.needs_attention.is_(None),
        not_(waits),
    )


def _is_of_earlier_run(run_id: Any) -> ColumnElement[bool]:
    return and_(
        run_id != func.coalesce(_SLICING.run_id, ""), run_id != func.coalesce(_SLICING.result_run, "")
    )  # fmt: skip


def _is_old_attempt(before: datetime) -> ColumnElement[bool]:
    return and_(_ATTEMPTS.c.started_at < before, _is_of_earlier_run(_ATTEMPTS.c.run_id))


def _is_old_notice(before: datetime) -> ColumnElement[bool]:
    return and_(_NOTICES.c.begun_at < before, _is_of_earlier_run(_NOTICES.c.run_id))


def _is_told_transition(before: datetime) -> ColumnElement[bool]:
    return and_(_TRANSITIONS.c.at < before, _TRANSITIONS.c.told_at.is_not(None))


def _is_old_transition(before: datetime) -> ColumnElement[bool]:
    return and_(_is_told_transition(before), _TRANSITIONS.c.number < _BREAKERS.c.transitions)


__all__ = ["FilesLeft", "GoneSlicing", "SlicingPruning", "SlicingsGoing"]
