"""Documents and their texts: made once a link, found, listed and read. What a sync writes is in `document_syncs`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import and_, delete, or_, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from nightmill.contracts import MAX_CONTENT, CompletionHandler, SyncStatus
from nightmill.errors import InvalidInput
from nightmill.ids import check_document_id, new_id
from nightmill.storage.accounts import UPSERT, check_name, load_account
from nightmill.storage.columns import storable
from nightmill.storage.document_history import newest_versions
from nightmill.storage.document_models import AccountRow, DocumentEventRow, DocumentRow, VersionRow
from nightmill.storage.stored_documents import DocumentFilter, StoredDocument, joined, load_document

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

__all__ = ["DocumentFilter", "DocumentRepository", "LinkParts", "NewDocument", "StoredDocument"]

MAX_LINK = 2_000
"""Bytes of a canonical link at most: PostgreSQL's index takes entries up to 2,704 (nbtree.h, BTMaxItemSize)."""

_MAX_HOST = 300
_PAGE_ROWS = 500
_PAGE_CHARACTERS = 4_000_000


class LinkParts(Protocol):
    """A link that was read; see `nightmill.documents.links.Link`."""

    @property
    def external(self) -> str:
        """As the user gave it."""

    @property
    def canonical(self) -> str:
        """Unique in the collection."""

    @property
    def host(self) -> str:
        """`host:port`."""


@dataclass(frozen=True)
class NewDocument:
    """A document to be made.

    Attributes:
        account: Its account's name.
        collection: Its collection.
        link: Its link.
        id: Its id; by default a new one.
        name: Its name until the page says a title.
        interval: Overrides the plan's.
        change_handler: Overrides the account's.
    """

    account: str
    collection: str
    link: LinkParts
    id: str | None = None
    name: str | None = None
    interval: timedelta | None = None
    change_handler: CompletionHandler | None = None


@dataclass(frozen=True)
class DocumentRepository:
    """Makes, finds, reads and deletes documents. Any thread may use it."""

    database: Database

    def add(self, new: NewDocument, now: datetime) -> tuple[DocumentRow, bool]:
        """Return the document of this link, and whether it is new; a known one stays as it is.

        Raises:
            AccountNotFound: There is no such account.
            InvalidInput: A name, the id or the link cannot be used, or another document has the id.
        """
        with self.database.transaction() as session:
            values = _values(session, new, now, {})
            is_new = self._insert(session, [values]) == 1
            query = select(DocumentRow).where(
                DocumentRow.account_key == values["account_key"],
                DocumentRow.collection == values["collection"],
                DocumentRow.link == values["link"],
            )
            return session.exec(query).one(), is_new

    def add_many(self, documents: Iterable[NewDocument], now: datetime) -> tuple[int, int]:
        """Make documents, some hundred a transaction; return how many are new and how many were known.

        Raises:
            AccountNotFound: There is no such account; what came some hundred documents before is kept.
            InvalidInput: See `add`; likewise.
        """
        waiting, new, known = iter(documents), 0, 0
        while chunk := list(islice(waiting, _PAGE_ROWS)):
            with self.database.transaction() as session:
                accounts: dict[str, int] = {}
                added = self._insert(session, [_values(session, each, now, accounts) for each in chunk])
            new, known = new + added, known + len(chunk) - added
        return new, known

    def _insert(self, session: Session, values: list[dict[str, Any]]) -> int:
        # In one order everywhere, so that two who add the same links do not wait for each other in a circle.
        values = sorted(values, key=lambda each: (each["account_key"], each["collection"], each["link"]))
        insert = UPSERT[self.database.dialect](DocumentRow).on_conflict_do_nothing(
            index_elements=["account_key", "collection", "link"]
        )
        insert = insert.execution_options(preserve_rowcount=True)  # else it is unknown after the cursor's end
        try:
            return max(0, session.connection().execute(insert, values).rowcount)
        except IntegrityError as error:
            raise InvalidInput("a document of another link has one of these ids") from error

    def get(self, document_id: str) -> StoredDocument:
        """Return a document and its account.

        Raises:
            DocumentNotFound: There is none.
        """
        with self.database.reading() as session:
            return load_document(session, document_id)

    def find(self, account: str, collection: str, link: str) -> StoredDocument | None:
        """Return the document of a canonical link, or None."""
        query = joined().where(
            AccountRow.name == storable(account),
            DocumentRow.collection == storable(collection),
            DocumentRow.link == link,
        )
        with self.database.reading() as session:
            found = session.exec(query).first()
        return None if found is None else StoredDocument(*found)

    def listed(
        self, filters: DocumentFilter | None = None, *, limit: int = 50, after: str | None = None
    ) -> list[StoredDocument]:
        """Return documents, newest first; `after` goes on after the document of that id.

        Raises:
            DocumentNotFound: There is no document `after`.
        """
        query = joined().where(*(filters or DocumentFilter()).conditions())
        with self.database.reading() as session:
            if after is not None:
                query = query.where(col(DocumentRow.key) < load_document(session, after).row.key)
            found = session.exec(query.order_by(col(DocumentRow.key).desc()).limit(limit))
            return [StoredDocument(*each) for each in found]

    def ids(self, filters: DocumentFilter | None = None) -> Iterator[str]:
        """Yield the ids of documents, oldest first; each page shows its own moment."""
        query = (
            select(DocumentRow.key, DocumentRow.id)
            .join(AccountRow, col(AccountRow.key) == col(DocumentRow.account_key))
            .where(*(filters or DocumentFilter()).conditions())
        )
        for _, document_id in self._pages(query):
            yield document_id

    def undelivered(self, *, limit: int = 50, after: str | None = None) -> list[StoredDocument]:
        """Return documents with a change that the handler has not been told of; see `listed`."""
        return self.listed(DocumentFilter(undelivered=True), limit=limit, after=after)

    def stuck(self, before: datetime, *, limit: int = 50) -> list[StoredDocument]:
        """Return documents whose sync goes on although its last attempt began before then, oldest first."""
        attempted = col(DocumentRow.last_sync_attempted_at)
        query = joined().where(
            DocumentRow.sync_status == SyncStatus.SYNCING, or_(attempted.is_(None), attempted < before)
        )
        with self.database.reading() as session:
            found = session.exec(query.order_by(attempted.asc().nulls_first(), col(DocumentRow.id)).limit(limit))
            return [StoredDocument(*each) for each in found]

    def content(self, document_id: str, fingerprint: str | None = None) -> VersionRow | None:
        """Return the present text, or the one of that fingerprint; None where there is none (any more).

        Raises:
            DocumentNotFound: There is no such document.
        """
        with self.database.reading() as session:
            row = load_document(session, document_id).row
            wanted = row.content_fingerprint if fingerprint is None else fingerprint
            query = select(VersionRow).where(VersionRow.document_key == row.key, VersionRow.fingerprint == wanted)
            return session.exec(query).first()

    def versions(self, document_id: str) -> list[VersionRow]:
        """Return the texts that are kept, newest first.

        Raises:
            DocumentNotFound: There is no such document.
        """
        with self.database.reading() as session:
            row = load_document(session, document_id).row
            return list(session.exec(newest_versions(row)))

    def history(self, document_id: str, limit: int = 50) -> list[DocumentEventRow]:
        """Return what happened to a document, newest first.

        Raises:
            DocumentNotFound: There is no such document.
        """
        with self.database.reading() as session:
            row = load_document(session, document_id).row
            query = select(DocumentEventRow).where(DocumentEventRow.document_key == row.key)
            return list(session.exec(query.order_by(col(DocumentEventRow.key).desc()).limit(limit)))

    def set_enabled(self, document_id: str, enabled: bool) -> None:
        """Let a document be synced, or not.

        Raises:
            DocumentNotFound: There is no such document.
        """
        self._change(update(DocumentRow).values(enabled=enabled), document_id)

    def delete(self, document_id: str) -> None:
        """Delete a document with its texts and events. A sync that is under way writes nothing any more.

        Raises:
            DocumentNotFound: There is no such document.
        """
        self._change(delete(DocumentRow), document_id)

    def _change(self, statement: Any, document_id: str) -> None:
        with self.database.transaction() as session:
            where = statement.where(DocumentRow.id == storable(document_id))
            if not session.connection().execute(where).rowcount:
                load_document(session, document_id)  # says that there is none

    def export(self, filters: DocumentFilter | None = None) -> Iterator[tuple[StoredDocument, VersionRow | None]]:
        """Yield documents with their present texts, oldest first, a few megabytes in memory at a time."""
        query = (
            select(DocumentRow.key, DocumentRow.content_length)
            .join(AccountRow, col(AccountRow.key) == col(DocumentRow.account_key))
            .where(*(filters or DocumentFilter()).conditions())
        )
        keys: list[int] = []
        size = 0
        for key, length in self._pages(query):
            keys.append(key)
            size += min(length or 0, MAX_CONTENT)
            if size >= _PAGE_CHARACTERS or len(keys) == _PAGE_ROWS:
                yield from self._with_texts(keys)
                keys, size = [], 0
        yield from self._with_texts(keys)

    def _with_texts(self, keys: list[int]) -> list[tuple[StoredDocument, VersionRow | None]]:
        present = and_(
            col(VersionRow.document_key) == col(DocumentRow.key),
            col(VersionRow.fingerprint) == col(DocumentRow.content_fingerprint),
        )
        query = (
            select(DocumentRow, AccountRow, VersionRow)
            .join(AccountRow, col(AccountRow.key) == col(DocumentRow.account_key))
            .join(VersionRow, present, isouter=True)
            .where(col(DocumentRow.key).in_(keys))
            .order_by(col(DocumentRow.key))
        )
        with self.database.reading() as session:
            return [(StoredDocument(row, account), version) for row, account, version in session.exec(query)]

    def _pages(self, query: Any) -> Iterator[Any]:
        """Yield rows whose first column is the document's key, in its order."""
        after = 0
        while True:
            page = query.where(col(DocumentRow.key) > after).order_by(col(DocumentRow.key)).limit(_PAGE_ROWS)
            with self.database.reading() as session:
                rows = session.exec(page).all()
            yield from rows
            if len(rows) < _PAGE_ROWS:
                return
            after = rows[-1][0]


def _values(session: Session, new: NewDocument, now: datetime, accounts: dict[str, int]) -> dict[str, Any]:
    """Return the columns of a new document.

    Raises:
        AccountNotFound: There is no such account.
        InvalidInput: Something cannot be used.
    """
    if new.account not in accounts:
        accounts[new.account] = load_account(session, new.account).key or 0
    link = storable(new.link.canonical)
    if len(link.encode()) > MAX_LINK or len(new.link.host) > _MAX_HOST:
        raise InvalidInput(f"link {link[:80]}…: longer than {MAX_LINK} bytes")
    row = DocumentRow(
        id=check_document_id(new.id) if new.id is not None else new_id(),
        account_key=accounts[new.account],
        collection=storable(check_name("collection", new.collection)),
        external_link=new.link.external,
        link=link,
        host=storable(new.link.host),
        name=new.name or None,
        interval=None if new.interval is None else new.interval.total_seconds(),
        change_handler=None if new.change_handler is None else new.change_handler.model_dump(mode="json"),
        created_at=now,
    )
    return row.model_dump(exclude={"key"})
