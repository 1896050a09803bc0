"""Sliced documents as they are found, listed and counted; what writes them is in `slicings`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import and_, or_
from sqlmodel import Session, col, func, select

from nightmill.contracts import SlicingRef, SlicingStatus
from nightmill.errors import InvalidInput, SlicingNotFound
from nightmill.storage.columns import storable
from nightmill.storage.slicing_models import SlicingRow

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

RUNNING = tuple(status for status in SlicingStatus if not status.is_terminal)
"""The states in which a run works on the document, or is about to."""

_PREFIX = re.compile(r"([0-9a-f]{8,64})(?:/([a-z0-9][a-z0-9_-]{0,63}))?")
_NAMED_AT_MOST = 5


@dataclass(frozen=True)
class SlicingReads:
    """Reads sliced documents; `SlicingRepository` is this and writes them, too."""

    database: Database

    def get(self, sha256: str, profile: str) -> SlicingRow:
        """Return a document.

        Raises:
            SlicingNotFound: There is none.
        """
        with self.database.reading() as session:
            return load_slicing(session, sha256, profile)

    def find(self, prefix: str, profile: str | None = None) -> SlicingRow:
        """Return the document whose SHA-256 begins so.

        Args:
            prefix: At least 8 hexadecimal digits, and perhaps `/` and the profile.
            profile: The profile; by default any.

        Raises:
            InvalidInput: `prefix` is something else, or there are several such documents.
            SlicingNotFound: There is none.
        """
        match = _PREFIX.fullmatch(prefix.lower())
        if match is None:
            raise InvalidInput(f"document {prefix[:80]!r}: use at least 8 hexadecimal digits of its SHA-256")
        wanted = profile or match[2]
        query = select(SlicingRow).where(col(SlicingRow.sha256).startswith(match[1]))
        if wanted:
            query = query.where(SlicingRow.profile == wanted)
        with self.database.reading() as session:
            rows = list(session.exec(query.order_by(col(SlicingRow.key)).limit(_NAMED_AT_MOST + 1)))
        if not rows:
            by = f" by the profile {wanted}" if wanted else ""
            raise SlicingNotFound(
                f"no sliced document {prefix[:80]!r}{by}: `nightmill slice list` shows those there are"
            )
        if len(rows) > 1:
            names = ", ".join(shown_name(row) for row in rows[:_NAMED_AT_MOST])
            more = ", …" if len(rows) > _NAMED_AT_MOST else ""
            raise InvalidInput(f"{prefix[:80]!r} may be any of {names}{more}: give more digits, or the profile")
        return rows[0]

    def page(
        self,
        *,
        status: Sequence[SlicingStatus] = (),
        profile: str | None = None,
        needs_attention: bool = False,
        limit: int = 50,
        before: SlicingRow | None = None,
    ) -> list[SlicingRow]:
        """Return documents, those asked for last first; `before` goes on after that one."""
        order = (col(SlicingRow.queued_at), col(SlicingRow.key))
        query = select(SlicingRow).order_by(*(column.desc() for column in order)).limit(limit)
        if status:
            query = query.where(col(SlicingRow.status).in_(status))
        if profile is not None:
            query = query.where(SlicingRow.profile == storable(profile))
        if needs_attention:
            query = query.where(col(SlicingRow.needs_attention).is_not(None))
        if before is not None:
            at, key = order
            query = query.where(or_(at < before.queued_at, and_(at == before.queued_at, key < before.key)))
        with self.database.reading() as session:
            return list(session.exec(query))

    def oldest_running(self, now: datetime) -> timedelta | None:
        """Return for how long the slicing has been running that started first; None: none runs."""
        query = select(func.min(SlicingRow.started_at)).where(SlicingRow.status == SlicingStatus.SLICING)
        with self.database.reading() as session:
            started_at = session.exec(query).one()
        return None if started_at is None else max(timedelta(0), now - started_at)

    def parked(self, profile: str) -> list[tuple[str, str]]:
        """Return the SHA-256 and the run of everything that waits for a profile's breaker, in the order to go on."""
        query = select(SlicingRow.sha256, SlicingRow.run_id).where(
            SlicingRow.profile == profile, SlicingRow.status == SlicingStatus.WAITING
        )
        with self.database.reading() as session:
            rows = session.exec(query.order_by(col(SlicingRow.parked_at), col(SlicingRow.key)))
            return [(sha256, run_id or "") for sha256, run_id in rows]


def slicing_key(session: Session, ref: SlicingRef) -> int:
    """Return the key of a run's document.

    Raises:
        SlicingNotFound: There is none.
    """
    return load_slicing(session, ref.sha256, ref.profile).key or 0


def load_slicing(session: Session, sha256: str, profile: str, *, lock: bool = False) -> SlicingRow:
    """Return a document's row, locked against other writers if asked.

    Raises:
        SlicingNotFound: There is none.
    """
    query = select(SlicingRow).where(SlicingRow.sha256 == storable(sha256), SlicingRow.profile == storable(profile))
    row = session.exec(query.with_for_update() if lock else query).first()
    if row is None:
        raise SlicingNotFound(f"no document {sha256[:12]!r} sliced by the profile {profile[:64]!r}")
    return row


def shown_name(row: SlicingRow) -> str:
    """Return a document's name in messages."""
    return f"{row.sha256[:12]}/{row.profile}"
