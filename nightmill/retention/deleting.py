"""Deletes one batch: marks it, then its files, then its rows, and notes that all are gone.

A process that is killed at any point leaves a batch that is marked and not noted as empty; whoever deletes it again, or
prunes next, goes on from there. Every step can be done twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from nightmill.failpoints import fail_point

if TYPE_CHECKING:
    from nightmill.storage.files import FileStore
    from nightmill.storage.pruning_batches import BatchPruning


class Went(NamedTuple):
    """Some things of one sort that are deleted."""

    what: str
    number: int
    bytes: int


Tell = Callable[[Went], None]


@dataclass(frozen=True)
class BatchDeleter:
    """Deletes batches. Any thread may use it; two at the same batch do no harm.

    Attributes:
        rows: The records of batches.
        files: The file storage.
    """

    rows: BatchPruning
    files: FileStore

    def delete(self, batch_id: str, *, before: datetime | None = None, tell: Tell = lambda _: None) -> bool:
        """Delete a batch's requests, results and files; return False where it must stay or was deleted before.

        Args:
            batch_id: The batch.
            before: See `BatchPruning.mark`. Without, what an earlier call left of it goes, too.
            tell: Is told what went, page by page.

        Raises:
            BatchNotFound: There is no such batch.
            BatchConflict: It must stay, where `before` is None; the message says why.
            StorageUnavailable: The database or the file storage is away; the same call goes on later.
        """
        is_new = self.rows.mark(batch_id, before=before, now=datetime.now(UTC))
        fail_point("prune.marked")
        if is_new or before is None:
            self.empty(batch_id, tell=tell)
        return is_new

    def empty(self, batch_id: str, *, tell: Tell = lambda _: None) -> None:
        """Delete what is left of a batch that is marked as deleted.

        Raises:
            StorageUnavailable: The database or the file storage is away; the same call goes on later.
        """
        folder = f"batches/{batch_id}"
        sizes = [file.size for file in self.files.listed(folder)]
        self.files.delete(folder)
        if sizes:
            tell(Went("result files", len(sizes), sum(sizes)))
        fail_point("prune.files_deleted")
        for requests, size in self.rows.empty(batch_id):
            tell(Went("requests", requests, size))
            fail_point("prune.page_deleted")
        self.rows.emptied(batch_id, now=datetime.now(UTC))
