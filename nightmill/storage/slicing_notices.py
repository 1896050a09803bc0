"""Who was told how runs ended: recorded before and after sending, so that nobody is told again after a success."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlmodel import Session, col, select

from nightmill.contracts import NoticeLevel, SlicingRef
from nightmill.storage.accounts import UPSERT
from nightmill.storage.slicing_models import SlicingNoticeRow, SlicingRow
from nightmill.storage.slicing_reads import slicing_key

if TYPE_CHECKING:
    from nightmill.storage.engine import Database


@dataclass(frozen=True)
class NoticeRepository:
    """Keeps and reads notices. Any thread may use it."""

    database: Database

    def begin(
        self, ref: SlicingRef, number: int, target_shown: str, level: NoticeLevel, message_id: str, now: datetime
    ) -> SlicingNoticeRow | None:
        """Count a try to send a notice and return it, or None where one was recorded as sent.

        Args:
            ref: The run.
            number: Its place among those who are told, from 0.
            target_shown: Whom, without what an address may keep secret.
            level: How the run ended.
            message_id: The id to send it under; that of the first try is kept.
            now: The present.

        Raises:
            SlicingNotFound: There is no such document.
        """
        with self.database.transaction() as session:
            key = slicing_key(session, ref)
            new = SlicingNoticeRow(
                slicing_key=key,
                run_id=ref.run_id,
                number=number,
                target=target_shown,
                level=level,
                message_id=message_id,
                begun_at=now,
            )
            insert = UPSERT[self.database.dialect](SlicingNoticeRow).values(**new.model_dump(exclude={"key"}))
            session.connection().execute(
                insert.on_conflict_do_nothing(index_elements=["slicing_key", "run_id", "number"])
            )
            row = _locked(session, key, ref, number)
            if row is None or row.sent_at is not None:
                return None
            row.tries += 1
            session.add(row)
            return row

    def sent(self, ref: SlicingRef, number: int, now: datetime) -> None:
        """Record that a notice was sent; a second call changes nothing.

        Raises:
            SlicingNotFound: There is no such document.
        """
        with self.database.transaction() as session:
            row = _locked(session, slicing_key(session, ref), ref, number)
            if row is not None and row.sent_at is None:
                row.sent_at, row.error = now, None
                session.add(row)

    def failed(self, ref: SlicingRef, number: int, error: str) -> None:
        """Record why a try failed; that of a notice which another try has sent says nothing.

        Raises:
            SlicingNotFound: There is no such document.
        """
        with self.database.transaction() as session:
            row = _locked(session, slicing_key(session, ref), ref, number)
            if row is not None and row.sent_at is None:
                row.error = error
                session.add(row)

    def of(self, slicing: SlicingRow, *, limit: int = 100) -> list[SlicingNoticeRow]:
        """Return a document's last notices, those of the last run at the end."""
        query = select(SlicingNoticeRow).where(SlicingNoticeRow.slicing_key == slicing.key)
        with self.database.reading() as session:
            rows = list(session.exec(query.order_by(col(SlicingNoticeRow.key).desc()).limit(limit)))
        return rows[::-1]


def _locked(session: Session, key: int, ref: SlicingRef, number: int) -> SlicingNoticeRow | None:
    query = select(SlicingNoticeRow).where(
        SlicingNoticeRow.slicing_key == key,
        SlicingNoticeRow.run_id == ref.run_id,
        SlicingNoticeRow.number == number,
    )
    return session.exec(query.with_for_update()).first()
