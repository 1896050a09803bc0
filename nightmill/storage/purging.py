"""What a purge needs of the rows: which documents are not being synced, and their places in the queue back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import update
from sqlmodel import col, select

from nightmill.contracts import SyncStatus
from nightmill.storage.accounts import load_account
from nightmill.storage.columns import storable
from nightmill.storage.document_models import DocumentRow

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

_AT_ONCE = 500


@dataclass(frozen=True)
class PurgeRepository:
    """Reads and releases queued documents. Any thread may use it."""

    database: Database

    def not_begun(self, runs: Mapping[str, str]) -> set[str]:
        """Return those of the documents whose run has not begun, or which no longer exist.

        Not by status: a page that cannot be had is `failed` while its run still tells the handler so, and one whose
        sync got lost is `syncing` while the run that a sweep has started for that waits.

        Args:
            runs: The workflow run of each document.
        """
        begun: set[str] = set()
        document_ids = list(runs)
        for first in range(0, len(document_ids), _AT_ONCE):
            some = [storable(each) for each in document_ids[first : first + _AT_ONCE]]
            query = select(DocumentRow.id, DocumentRow.sync_run).where(col(DocumentRow.id).in_(some))
            with self.database.reading() as session:
                begun.update(document_id for document_id, run in session.exec(query) if run == runs.get(document_id))
        return set(runs) - begun

    def release(self, account: str | None = None) -> int:
        """Let documents that a sweep has taken, and whose sync has not begun, be due again; return how many.

        Raises:
            AccountNotFound: There is no such account.
        """
        condition = [
            col(DocumentRow.queued_until).is_not(None),
            col(DocumentRow.sync_status).is_distinct_from(SyncStatus.SYNCING),
        ]
        with self.database.transaction() as session:
            if account is not None:
                condition.append(col(DocumentRow.account_key) == load_account(session, account).key)
            statement = update(DocumentRow).where(*condition).values(queued_until=None)
            return max(0, session.connection().execute(statement).rowcount)
