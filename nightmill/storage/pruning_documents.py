"""What documents had before and no longer need: earlier texts, events, crawls, hosts that nobody asks any more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select, union
from sqlmodel import SQLModel

from nightmill.contracts import GONE, SyncStatus
from nightmill.storage import document_models

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

PAGE = 100
"""Documents, hosts or sweeps that one transaction deletes from; of a document there are some dozens of rows."""

# The tables' columns, not the rows: a row that cannot be read, such as one with an unknown word, must not stop a prune.
_TABLES: Any = SQLModel.metadata.tables
_VERSIONS, _EVENTS = (
    _TABLES[each.__tablename__] for each in (document_models.VersionRow, document_models.DocumentEventRow)
)
_DOCUMENTS, _CRAWLS, _PAGES, _HOSTS, _SWEEPS = (
    _TABLES[name] for name in ("documents", "crawls", "crawl_pages", "hosts", "sweeps")
)
_DOCUMENT = _DOCUMENTS.c


class DocumentsGoing(NamedTuple):
    """What a prune would delete.

    Attributes:
        texts: Earlier texts.
        characters: Characters of these.
    """

    texts: int
    characters: int
    events: int
    crawls: int
    hosts: int
    sweeps: int


@dataclass(frozen=True)
class DocumentPruning:
    """Deletes what is past. Any thread may use it; several prunes at once do no harm."""

    database: Database

    def count(self, before: datetime) -> DocumentsGoing:
        """Return what would go of what is older than that."""
        texts = (
            select(func.count(), func.sum(func.length(_VERSIONS.c.content)))
            .select_from(_VERSIONS.join(_DOCUMENTS))
            .where(_at_rest(), _is_old_text(before), ~_is_needed())
        )
        events = select(func.count()).select_from(_EVENTS.join(_DOCUMENTS)).where(_at_rest(), _EVENTS.c.at < before)
        with self.database.reading() as session:
            number, characters = session.execute(texts).one()

            def counted(table: Any, condition: ColumnElement[bool]) -> int:
                return int(session.execute(select(func.count()).select_from(table).where(condition)).scalar_one())

            return DocumentsGoing(
                texts=number,
                characters=int(characters or 0),
                events=session.execute(events).scalar_one(),
                crawls=counted(_CRAWLS, _CRAWLS.c.ended_at < before),
                hosts=counted(_HOSTS, _is_unasked(before)),
                sweeps=counted(_SWEEPS, _SWEEPS.c.taken_at < before),
            )

    def prune(self, before: datetime) -> Iterator[DocumentsGoing]:
        """Delete it, and yield what each transaction deleted; what a sync has begun to change meanwhile stays."""
        yield from self._histories(before)
        nothing = DocumentsGoing(0, 0, 0, 0, 0, 0)
        # A crawl has some thousand pages at most, which go with it.
        for deleted in self._by_key(_CRAWLS, _CRAWLS.c.key, _CRAWLS.c.ended_at < before, at_once=1):
            yield nothing._replace(crawls=deleted)
        for deleted in self._by_key(_HOSTS, _HOSTS.c.host, _is_unasked(before), at_once=PAGE):
            yield nothing._replace(hosts=deleted)
        for deleted in self._by_key(_SWEEPS, _SWEEPS.c.id, _SWEEPS.c.taken_at < before, at_once=10):
            yield nothing._replace(sweeps=deleted)

    def _histories(self, before: datetime) -> Iterator[DocumentsGoing]:
        after = 0
        while True:
            wanted = union(
                _keys(_VERSIONS, _is_old_text(before), ~_is_needed(), after=after),
                _keys(_EVENTS, _EVENTS.c.at < before, after=after),
            ).subquery()
            with self.database.reading() as session:
                page = session.execute(select(wanted.c[0]).order_by(wanted.c[0]).limit(PAGE)).scalars().all()
            if not page:
                return
            after = page[-1]
            with self.database.transaction() as session:
                # Whoever syncs a document holds its row, so nothing of these changes until the end.
                held = select(_DOCUMENT.key).where(_DOCUMENT.key.in_(page), _at_rest()).order_by(_DOCUMENT.key)
                mine = session.execute(held.with_for_update()).scalars().all()
                texts = and_(_VERSIONS.c.document_key.in_(mine), _is_old_text(before), ~_is_needed(correlate=False))
                sizes = select(func.count(), func.sum(func.length(_VERSIONS.c.content))).where(texts)
                number, characters = session.execute(sizes).one()
                session.execute(delete(_VERSIONS).where(texts))
                events = delete(_EVENTS).where(_EVENTS.c.document_key.in_(mine), _EVENTS.c.at < before)
                deleted = session.connection().execute(events).rowcount
            yield DocumentsGoing(number, int(characters or 0), deleted, 0, 0, 0)

    def _by_key(self, table: Any, key: Any, condition: ColumnElement[bool], *, at_once: int) -> Iterator[int]:
        """Delete the rows of a table for which a condition holds, some at a time; yield how many."""
        last: Any = None
        while True:
            query = select(key).where(condition) if last is None else select(key).where(condition, key > last)
            with self.database.reading() as session:
                page = session.execute(query.order_by(key).limit(at_once)).scalars().all()
            if not page:
                return
            last = page[-1]
            with self.database.transaction() as session:
                # The condition again: a host may have been asked just now.
                statement = delete(table).where(key.in_(page), condition)
                deleted = session.connection().execute(statement).rowcount
            yield deleted


def _at_rest() -> ColumnElement[bool]:
    """Return the condition for a document that nobody syncs, and of which everything was told."""
    content, handled = _DOCUMENT.content_fingerprint, _DOCUMENT.handled_fingerprint
    told = or_(content.is_(None), content == handled, and_(_DOCUMENT.gone_days > 0, handled == GONE))
    return and_(
        _DOCUMENT.sync_status.is_distinct_from(SyncStatus.SYNCING), _DOCUMENT.needs_attention.is_(None), told
    )  # fmt: skip


def _is_old_text(before: datetime) -> ColumnElement[bool]:
    old: ColumnElement[bool] = _VERSIONS.c.stored_at < before
    return old


def _is_needed(*, correlate: bool = True) -> ColumnElement[bool]:
    """Return the condition for a document's present text, and the one that its handler knows."""
    named = or_(
        _VERSIONS.c.fingerprint == _DOCUMENT.content_fingerprint,
        _VERSIONS.c.fingerprint == _DOCUMENT.handled_fingerprint,
    )
    if correlate:
        return func.coalesce(named, False)
    of_it = select(_DOCUMENT.key).where(_DOCUMENT.key == _VERSIONS.c.document_key, named)
    return exists(of_it.correlate(_VERSIONS))


def _keys(table: Any, *conditions: ColumnElement[bool], after: int) -> Any:
    """Return the question for the documents of which a table has rows to delete."""
    key = table.c.document_key
    query = select(key).select_from(table.join(_DOCUMENTS)).where(_at_rest(), *conditions, key > after)
    return query.distinct().order_by(key).limit(PAGE).subquery().select()


def _is_unasked(before: datetime) -> ColumnElement[bool]:
    """Return the condition for a host that nobody asks, waits for or is kept from."""
    host = _HOSTS.c
    times = (host.free_at, host.leased_until, host.line_ends_at, host.urgent_ends_at, host.robots_checked_at)
    past = and_(*(or_(each.is_(None), each < before) for each in times))
    return and_(past, or_(*(each.is_not(None) for each in times)))
