"""Deletes what has ended long ago, or counts it.

Rows go in short transactions. Of a batch they go after its files, for its row says that it is being deleted; of a
slicing before its files, and the transaction that deletes them notes whose files are left. Both are how the next prune
knows what one that was killed has not deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING

from nightmill.errors import InvalidInput
from nightmill.failpoints import fail_point
from nightmill.retention.deleting import BatchDeleter, Went
from nightmill.retention.model import SHORTEST, Kind, Tally, Tell
from nightmill.retention.orphans import Orphans
from nightmill.slicing import keys
from nightmill.storage.pruning_batches import BatchPruning
from nightmill.storage.pruning_documents import DocumentPruning
from nightmill.storage.pruning_repairs import RepairPruning
from nightmill.storage.pruning_slicings import SlicingPruning

if TYPE_CHECKING:
    from nightmill.storage.engine import Database
    from nightmill.storage.files import FileStore, StoredFile
    from nightmill.storage.pruning_documents import DocumentsGoing
    from nightmill.storage.pruning_slicings import FilesLeft, GoneSlicing

logger = logging.getLogger(__name__)

USUAL = tuple(kind for kind in Kind if kind is not Kind.FILES)
"""What goes unless somebody says otherwise. A PDF's files that no row names may be of another database."""


@dataclass(frozen=True)
class Pruner:
    """Counts and deletes. Any thread may use it; several at once, in any processes, do no harm.

    Attributes:
        database: The database.
        files: The file storage.
    """

    database: Database
    files: FileStore

    @property
    def deleter(self) -> BatchDeleter:
        """Deletes single batches."""
        return BatchDeleter(BatchPruning(self.database), self.files)

    def count(self, older_than: timedelta, *, now: datetime, kinds: Collection[Kind] = USUAL) -> Tally:
        """Return what a prune would delete now. Reads only.

        Raises:
            InvalidInput: The age is less than a day.
            StorageUnavailable: The database or the file storage is away.
        """
        tally = _begun(older_than, now)
        before = tally.before
        if Kind.BATCHES in kinds:
            batches = self._batches.count(before)
            tally.add(Kind.BATCHES, "batches", batches.batches + len(self._batches.half_deleted()))
            tally.add(Kind.BATCHES, "requests", batches.requests, batches.bytes)
        if {Kind.BATCHES, Kind.FILES} & set(kinds):
            self._count_files_of_batches(tally, kinds)
        if Kind.SLICINGS in kinds:
            rows = SlicingPruning(self.database)
            slicings, half_deleted = rows.count(before, now), len(rows.half_deleted())
            tally.add(Kind.SLICINGS, "slicings", slicings.slicings + half_deleted, slicings.bytes)
            for what in ("attempts", "notices", "transitions"):
                tally.add(Kind.SLICINGS, what, getattr(slicings, what))
        if Kind.DOCUMENTS in kinds:
            _add_documents(tally, DocumentPruning(self.database).count(before))
        if Kind.REPAIRS in kinds:
            tally.add(Kind.REPAIRS, "repairs", RepairPruning(self.database).count(before))
        if Kind.FILES in kinds:
            for found in self._orphans.of_slicings(before):
                tally.add(Kind.FILES, "files", len(found.files), _size(found.files))
            for size in self._orphans.leavings(before, delete=False):
                tally.add(Kind.FILES, "files", 1, size)
        return tally

    def prune(
        self, older_than: timedelta, *, now: datetime, kinds: Collection[Kind] = USUAL, tell: Tell = lambda _: None
    ) -> Tally:
        """Delete what ended longer ago than that, and return what was deleted; `tell` hears of it as it goes.

        It can be interrupted at any point and done again. What is still open, waits for somebody or is to be told to
        somebody stays.

        Raises:
            InvalidInput: The age is less than a day.
            StorageUnavailable: The database or the file storage is away; what was deleted until then is deleted.
        """
        tally = _begun(older_than, now)
        tally.tell = tell
        for kind, prune in (
            (Kind.BATCHES, self._prune_batches),
            (Kind.SLICINGS, self._prune_slicings),
            (Kind.DOCUMENTS, self._prune_documents),
            (Kind.REPAIRS, self._prune_repairs),
            (Kind.FILES, self._prune_files),
        ):
            if kind in kinds:
                prune(tally, now)
        logger.info(
            "pruned", extra={"before": tally.before} | {what: pile.number for (_, what), pile in tally.piles.items()}
        )
        return tally

    @property
    def _batches(self) -> BatchPruning:
        return BatchPruning(self.database)

    @property
    def _orphans(self) -> Orphans:
        return Orphans(self.files, self._batches, SlicingPruning(self.database))

    def _count_files_of_batches(self, tally: Tally, kinds: Collection[Kind]) -> None:
        for found in self._orphans.of_batches(tally.before):
            if found.goes and Kind.BATCHES in kinds:
                tally.add(Kind.BATCHES, "result files", len(found.files), _size(found.files))
            elif not found.goes and Kind.FILES in kinds:
                tally.add(Kind.FILES, "files", len(found.files), _size(found.files))

    def _prune_batches(self, tally: Tally, _now: datetime) -> None:
        deleter = self.deleter

        def tell(went: Went) -> None:
            tally.add(Kind.BATCHES, *went)

        for batch_id in self._batches.half_deleted():  # somebody was interrupted
            deleter.empty(batch_id, tell=tell)
            tally.add(Kind.BATCHES, "batches", 1)
        for batch_id in self._batches.due(tally.before):
            if deleter.delete(batch_id, before=tally.before, tell=tell):
                tally.add(Kind.BATCHES, "batches", 1)

    def _prune_slicings(self, tally: Tally, now: datetime) -> None:
        rows = SlicingPruning(self.database)
        # First those of a prune that was interrupted.
        for gone in chain(rows.half_deleted(), rows.delete_slicings(tally.before, now)):
            fail_point("prune.slicing_deleted")
            with rows.emptying(gone) as left:
                size = None if left is None else self._delete_slicing_files(gone, left, tally.before)
                fail_point("prune.slicing_emptied")
            if size is not None:
                tally.add(Kind.SLICINGS, "slicings", 1, size)
        for what, number in rows.delete_leavings(tally.before):
            tally.add(Kind.SLICINGS, what, number)

    def _delete_slicing_files(self, gone: GoneSlicing, left: FilesLeft, before: datetime) -> int:
        """Delete what is left of a slicing's files; return their size."""
        runs = {f"{keys.run(*gone, run)}/": keys.run(*gone, run) for run in left.runs}
        raw = tuple(f"{keys.run(*gone, 'raw')}/{run}-" for run in left.runs)
        size, doomed = 0, []
        for file in self.files.listed(f"slicings/{gone.sha256}/{gone.profile}"):
            of_a_run = file.key.startswith(tuple(runs))
            if of_a_run or file.key.startswith(raw) or (left.others and file.modified_at < before):
                size += file.size
                doomed += [] if of_a_run else [file.key]
        original = keys.original(gone.sha256)
        if left.original and (size_of_original := self.files.size(original)) is not None:
            size += size_of_original
            doomed.append(original)
        for key in (*runs.values(), *doomed):  # a whole run at once: the PDF is held until all is done
            self.files.delete(key)
        return size

    def _prune_documents(self, tally: Tally, _now: datetime) -> None:
        for deleted in DocumentPruning(self.database).prune(tally.before):
            _add_documents(tally, deleted)

    def _prune_repairs(self, tally: Tally, _now: datetime) -> None:
        for deleted in RepairPruning(self.database).prune(tally.before):
            tally.add(Kind.REPAIRS, "repairs", deleted)

    def _prune_files(self, tally: Tally, _now: datetime) -> None:
        orphans = self._orphans
        found = (each for each in orphans.of_batches(tally.before) if not each.goes)
        for each in chain(found, orphans.of_slicings(tally.before)):
            tally.add(Kind.FILES, "files", orphans.delete(each), _size(each.files))
        for size in orphans.leavings(tally.before, delete=True):
            tally.add(Kind.FILES, "files", 1, size)


def _begun(older_than: timedelta, now: datetime) -> Tally:
    if older_than < SHORTEST:
        raise InvalidInput(
            f"older than {older_than}: what is younger than a day is never pruned; give days as in 30d or P30D "
            "(a number alone is seconds)"
        )
    try:
        return Tally(now - older_than)
    except OverflowError:
        raise InvalidInput(f"older than {older_than.days:,} days: nothing is that old") from None


def _add_documents(tally: Tally, going: DocumentsGoing) -> None:
    tally.add(Kind.DOCUMENTS, "texts", going.texts, going.characters)
    for what in ("events", "crawls", "hosts", "sweeps"):
        tally.add(Kind.DOCUMENTS, what, getattr(going, what))


def _size(files: Iterable[StoredFile]) -> int:
    return sum(file.size for file in files)
