"""The programs that ran for documents: what each took and how it ended, for forecasts and for who looks for a fault."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import and_
from sqlmodel import col, func, select

from nightmill.contracts import SlicingErrorCode, SlicingRef
from nightmill.storage.slicing_models import SlicingAttemptRow, SlicingRow
from nightmill.storage.slicing_reads import slicing_key

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

_MAX_MILLISECONDS = 2**31 - 1  # of the column: 24 days


@dataclass(frozen=True, kw_only=True)
class NewAttempt:
    """A program that ran; see `SlicingAttemptRow` for what is not said here.

    Attributes:
        ref: The run for which it ran.
        duration: From its start to its end.
        cpu: Processor time of all its processes.
    """

    ref: SlicingRef
    attempt: int
    step: str
    command: str
    started_at: datetime
    duration: timedelta
    exit_code: int | None = None
    signal: int | None = None
    error_code: SlicingErrorCode | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    cpu: timedelta = timedelta(0)
    peak_memory: int = 0
    pages: int = 0
    text_source: str | None = None
    size: int = 0
    stderr_tail: str = ""


@dataclass(frozen=True)
class AttemptSample:
    """What forecasts learn from: one program that did its work.

    Attributes:
        pages: Pages that it worked on.
        size: Bytes of the PDF.
        text_source: Where the text came from.
        duration_ms: Milliseconds that it took.
        peak_memory: Bytes of memory at most.
    """

    pages: int
    size: int
    text_source: str | None
    duration_ms: int
    peak_memory: int


_SAMPLE = [getattr(SlicingAttemptRow, each.name) for each in fields(AttemptSample)]


@dataclass(frozen=True)
class AttemptRepository:
    """Keeps and reads attempts. Any thread may use it."""

    database: Database

    def record(self, new: NewAttempt) -> None:
        """Keep an attempt, also one of a run that has ended: it says what happened. Not idempotent.

        Raises:
            SlicingNotFound: There is no such document.
        """
        given = {each.name: getattr(new, each.name) for each in fields(new)}
        ref, duration, cpu = given.pop("ref"), given.pop("duration"), given.pop("cpu")
        with self.database.transaction() as session:
            row = SlicingAttemptRow(
                slicing_key=slicing_key(session, ref),
                run_id=ref.run_id,
                duration_ms=_milliseconds(duration),
                cpu_ms=_milliseconds(cpu),
                **given,
            )
            session.add(row)

    def of(self, slicing: SlicingRow, *, limit: int = 1_000) -> list[SlicingAttemptRow]:
        """Return a document's last attempts, in the order in which they were recorded."""
        query = select(SlicingAttemptRow).where(SlicingAttemptRow.slicing_key == slicing.key)
        with self.database.reading() as session:
            rows = list(session.exec(query.order_by(col(SlicingAttemptRow.key).desc()).limit(limit)))
        return rows[::-1]

    def earlier_runs(self, slicing: SlicingRow, *, limit: int = 50) -> list[str]:
        """Return the last runs that neither work on the document nor found its slices: nobody needs their files."""
        run = col(SlicingAttemptRow.run_id)
        query = select(run).where(SlicingAttemptRow.slicing_key == slicing.key)
        for needed in (slicing.run_id, slicing.result_run):
            query = query.where(run != needed) if needed is not None else query
        last = func.max(SlicingAttemptRow.key)
        with self.database.reading() as session:
            return list(session.exec(query.group_by(run).order_by(last.desc()).limit(limit)))

    def samples(self, profile: str, step: str, *, limit: int = 500) -> list[AttemptSample]:
        """Return what a profile's last programs took that did this step well, newest first."""
        its_document = and_(
            col(SlicingRow.key) == col(SlicingAttemptRow.slicing_key), col(SlicingRow.profile) == profile
        )
        query = (
            select(*_SAMPLE)
            .join(SlicingRow, its_document)
            .where(
                SlicingAttemptRow.step == step,
                SlicingAttemptRow.exit_code == 0,
                col(SlicingAttemptRow.error_code).is_(None),
                SlicingAttemptRow.pages > 0,
            )
        )
        with self.database.reading() as session:
            rows = session.exec(query.order_by(col(SlicingAttemptRow.key).desc()).limit(limit))
            return [AttemptSample(*row) for row in rows]


def _milliseconds(duration: timedelta) -> int:
    return min(max(0, round(duration / timedelta(milliseconds=1))), _MAX_MILLISECONDS)
