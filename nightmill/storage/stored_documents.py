"""A document as it is stored, with its account, and the conditions by which documents are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, and_, bindparam, not_, or_
from sqlmodel import Session, col, select

from nightmill.contracts import GONE, CompletionHandler, SyncErrorCode, SyncStatus
from nightmill.errors import DocumentNotFound
from nightmill.storage.columns import storable
from nightmill.storage.document_models import AccountRow, DocumentRow

_HANDLER: TypeAdapter[CompletionHandler] = TypeAdapter(CompletionHandler)


@dataclass(frozen=True)
class StoredDocument:
    """A document and its account."""

    row: DocumentRow
    account: AccountRow

    @property
    def handler(self) -> CompletionHandler | None:
        """Whom to tell of changes: the document's handler, else the account's."""
        stored = self.row.change_handler or self.account.change_handler
        return None if stored is None else _HANDLER.validate_python(stored)

    @property
    def is_undelivered(self) -> bool:
        """Whether the handler has not been told of the content; says in Python what `is_undelivered` says in SQL."""
        row = self.row
        told_gone = row.handled_fingerprint == GONE and row.gone_days > 0
        differs = row.content_fingerprint not in (None, row.handled_fingerprint)
        return differs and not told_gone and self.handler is not None

    def due_change(self, *, gone_after_days: int) -> str | None:
        """Return the fingerprint that the handler is to be told of now, `GONE` for a page that is gone; None for none.

        Who was never told of the page is not told that it is gone.
        """
        row = self.row
        if row.gone_days >= gone_after_days:
            is_due = self.handler is not None and row.handled_fingerprint not in (None, GONE)
            return GONE if is_due else None
        return row.content_fingerprint if self.is_undelivered else None


@dataclass(frozen=True)
class DocumentFilter:
    """Which documents are meant; what is not said does not matter."""

    account: str | None = None
    collection: str | None = None
    status: Sequence[SyncStatus] = ()
    error_code: SyncErrorCode | None = None
    host: str | None = None
    needs_attention: bool = False
    undelivered: bool = False

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions on `documents` joined with `accounts`."""
        found: list[ColumnElement[bool]] = []
        if self.account is not None:
            found.append(col(AccountRow.name) == storable(self.account))
        if self.collection is not None:
            found.append(col(DocumentRow.collection) == storable(self.collection))
        if self.status:
            found.append(col(DocumentRow.sync_status).in_(self.status))
        if self.error_code is not None:
            found.append(col(DocumentRow.last_sync_error_code) == self.error_code)
        if self.host is not None:
            found.append(col(DocumentRow.host) == storable(self.host))
        if self.needs_attention:
            found.append(col(DocumentRow.needs_attention).is_not(None))
        if self.undelivered:
            found.append(is_undelivered())
        return found


def is_undelivered() -> ColumnElement[bool]:
    """Return the condition on `documents` joined with `accounts`: the handler has not been told of the content."""
    content, handled = col(DocumentRow.content_fingerprint), col(DocumentRow.handled_fingerprint)
    return and_(
        content.is_not(None),
        handled.is_distinct_from(content),
        # What was told as removed and is still gone is delivered; when the page comes back, its content is due again.
        not_(and_(handled.is_not_distinct_from(GONE), col(DocumentRow.gone_days) > 0)),
        or_(col(DocumentRow.change_handler).is_not(None), col(AccountRow.change_handler).is_not(None)),
    )


def joined() -> Any:
    """Return the query of documents with their accounts."""
    return select(DocumentRow, AccountRow).join(AccountRow, col(AccountRow.key) == col(DocumentRow.account_key))


# Built once: building a query of fifty columns, and its key in SQLAlchemy's cache, costs as much as running it.
_BY_ID = joined().where(col(DocumentRow.id) == bindparam("its_id"))
_BY_ID_LOCKED = _BY_ID.with_for_update(of=DocumentRow)


def load_document(session: Session, document_id: str, *, lock: bool = False) -> StoredDocument:
    """Return a document and its account, the document's row locked against other writers if asked.

    Raises:
        DocumentNotFound: There is none.
    """
    query = _BY_ID_LOCKED if lock else _BY_ID
    found = session.exec(query, params={"its_id": storable(document_id)}).first()
    if found is None:
        raise DocumentNotFound(f"no document {document_id[:80]!r}: `nightmill document list` shows those there are")
    return StoredDocument(*found)
