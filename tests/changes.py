"""A stored document whose content tests change, as syncs would."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlmodel import select, update

from nightmill.contracts import ChangeRef, CompletionHandler
from nightmill.storage.document_models import AccountRow, DocumentRow, VersionRow
from nightmill.storage.engine import Database

TEXTS = {
    "aaa": "# Opening hours\n\nMonday to Friday\n\nCome in",
    "bbb": "# Opening hours\n\nMonday to Thursday\n\nCome in\n\nBring a friend",
    "ccc": "# Closed",
}
"""Texts by fingerprint; all of them are kept."""


@dataclass
class ChangingDocument:
    """A document of the account `acme`, whose handler it uses.

    Attributes:
        database: Where it is, the only one.
        handler: Whom to tell of changes.
        id: Its id.
    """

    database: Database
    handler: CompletionHandler
    id: str = "d-1"

    def has(self, fingerprint: str | None, **columns: Any) -> None:
        """Store it with this present content."""
        now = datetime.now(UTC)
        given = {
            "id": self.id,
            "collection": "help",
            "external_link": "https://example.org/hours#top",
            "link": "https://example.org/hours",
            "host": "example.org:443",
            "name": "Hours",
            "content_fingerprint": fingerprint,
            "created_at": now,
        }
        with self.database.transaction() as session:
            account = AccountRow(name="acme", created_at=now, change_handler=self.handler.model_dump(mode="json"))
            session.add(account)
            session.flush()
            row = DocumentRow(account_key=account.key or 0, **given | columns)
            session.add(row)
            session.flush()
            session.add_all(
                VersionRow(document_key=row.key or 0, fingerprint=name, content=text, stored_at=now)
                for name, text in TEXTS.items()
            )

    def becomes(self, **columns: Any) -> None:
        """Change its row."""
        with self.database.transaction() as session:
            session.connection().execute(update(DocumentRow).values(**columns))

    def has_nobody_to_tell(self) -> None:
        """Take the account's handler away."""
        with self.database.transaction() as session:
            session.connection().execute(update(AccountRow).values(change_handler=None))

    @property
    def row(self) -> DocumentRow:
        """Its row now."""
        with self.database.reading() as session:
            return session.exec(select(DocumentRow)).one()

    def change(self, fingerprint: str) -> ChangeRef:
        """Return the change to a content, as a sync finds it."""
        return ChangeRef(document_id=self.id, fingerprint=fingerprint, handler=self.handler)
