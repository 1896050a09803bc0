"""A document's past: the texts it had and what happened to it, both bounded. Used inside a sync's transactions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete
from sqlmodel import Session, col, select

from nightmill.contracts import SyncResult
from nightmill.storage.document_models import DocumentEventRow, DocumentRow, VersionRow

KEPT_VERSIONS = 5
"""Texts of a document that are kept; the present one and the one that the handler knows are kept beyond that."""

KEPT_EVENTS = 50
"""Events of a document that are kept."""

_NEWEST_FIRST = (col(VersionRow.stored_at).desc(), col(VersionRow.key).desc())


def add_event(session: Session, row: DocumentRow, at: datetime, **columns: Any) -> None:
    """Append an event and forget those that are too old."""
    assert row.key is not None  # noqa: S101 - a loaded row has its key
    session.add(DocumentEventRow(document_key=row.key, at=at, **columns))
    session.flush()
    mine = col(DocumentEventRow.document_key) == row.key
    newest = select(DocumentEventRow.key).where(mine).order_by(col(DocumentEventRow.key).desc())
    last = session.exec(newest.offset(KEPT_EVENTS).limit(1)).first()
    if last is not None:
        session.connection().execute(delete(DocumentEventRow).where(mine, col(DocumentEventRow.key) <= last))


def add_attempt(session: Session, row: DocumentRow, now: datetime, result: SyncResult, **columns: Any) -> None:
    """Append what an attempt came to."""
    took = now - (row.last_sync_attempted_at or now)
    duration = min(max(0, round(took.total_seconds() * 1000)), 2**31 - 1)
    add_event(session, row, now, result=result, attempt=row.sync_attempts + 1, duration_ms=duration, **columns)


def keep_version(session: Session, row: DocumentRow, content: str, now: datetime) -> None:
    """Store the text of `row.content_fingerprint`, which may have been seen before, and forget the oldest texts."""
    assert row.key is not None  # noqa: S101 - a loaded row has its key
    known = select(VersionRow).where(
        VersionRow.document_key == row.key, VersionRow.fingerprint == row.content_fingerprint
    )
    version = session.exec(known).first()
    if version is None:
        version = VersionRow(document_key=row.key, fingerprint=row.content_fingerprint or "", stored_at=now, content="")
    version.name, version.content, version.stored_at = row.name, content, now
    session.add(version)
    session.flush()
    wanted = {row.content_fingerprint, row.handled_fingerprint}
    mine = select(VersionRow.key, VersionRow.fingerprint).where(VersionRow.document_key == row.key)
    found = session.exec(mine.order_by(*_NEWEST_FIRST).offset(KEPT_VERSIONS))
    old = [key for key, fingerprint in found if fingerprint not in wanted]
    if old:
        session.connection().execute(delete(VersionRow).where(col(VersionRow.key).in_(old)))


def newest_versions(row: DocumentRow) -> Any:
    """Return the query of a document's texts, newest first."""
    return select(VersionRow).where(VersionRow.document_key == row.key).order_by(*_NEWEST_FIRST)
