"""Goes through the file storage once: what belongs to batches that go, and what belongs to nothing any more.

Only the folders `batches` and `slicings` are looked at, and in them only files whose keys are made as ours are. A file
that was written within the bound stays: its row may not be there yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import groupby, islice
from typing import TYPE_CHECKING, NamedTuple

from nightmill.slicing import keys
from nightmill.storage.leavings import leavings

if TYPE_CHECKING:
    from nightmill.storage.files import FileStore, StoredFile
    from nightmill.storage.pruning_batches import BatchPruning
    from nightmill.storage.pruning_slicings import SlicingPruning

BATCHES, SLICINGS = "batches", "slicings"

AT_ONCE = 200
"""Batches or PDFs whose rows are looked up by one query."""

_BATCH_KEY = re.compile(r"batches/([A-Za-z0-9_-]{1,64})/.+")
_SLICING_KEY = re.compile(r"slicings/([0-9a-f]{64})/(?:original\.pdf|([^/]+)/(?:raw/)?([^/]+).*)")


class Found(NamedTuple):
    """Files of one owner.

    Attributes:
        owner: The batch, or the PDF's SHA-256.
        files: Those that go.
        goes: Whether their batch goes with them; else they belong to nothing.
    """

    owner: str
    files: list[StoredFile]
    goes: bool = False


@dataclass(frozen=True)
class Orphans:
    """Finds and deletes files. Any thread may use it.

    Attributes:
        files: The file storage.
        batches: The records of batches.
        slicings: The records of slicings.
    """

    files: FileStore
    batches: BatchPruning
    slicings: SlicingPruning

    def of_batches(self, before: datetime) -> Iterator[Found]:
        """Yield the files of batches that go with what ended before then, and older ones of batches deleted earlier.

        Rows of batches stay for ever, so files of a batch without one are another database's, or newer than a restored
        one: they are results that somebody paid for, and stay.

        Raises:
            StorageUnavailable: The file storage or the database is away.
        """
        for page in self._owned(BATCHES, _BATCH_KEY):
            owners = [owner for owner, _ in page]
            standing, emptied = self.batches.standing(owners, before), self.batches.emptied_of(owners)
            for owner, files in page:
                if standing.get(owner, False):
                    yield Found(owner, files, goes=True)
                elif owner in emptied and (old := _older(files, before)):
                    yield Found(owner, old)

    def of_slicings(self, before: datetime) -> Iterator[Found]:
        """Yield the files that are older and that no slicing needs: of unknown PDFs, profiles and runs.

        Raises:
            StorageUnavailable: The file storage or the database is away.
        """
        for page in self._owned(SLICINGS, _SLICING_KEY):
            kept = self.slicings.runs_kept([owner for owner, _ in page])
            for owner, files in page:
                profiles = kept.get(owner)
                needless = [file for file in _older(files, before) if not _is_needed(file, profiles)]
                if needless:
                    yield Found(owner, needless)

    def delete(self, found: Found) -> int:
        """Delete files that belong to nothing, and return how many were; a PDF that is asked for again stays."""
        deleted = 0
        for file in found.files:
            if file.key == keys.original(found.owner):
                deleted += self.slicings.if_unknown(found.owner, partial(self.files.delete, file.key))
            else:
                self.files.delete(file.key)
                deleted += 1
        return deleted

    def leavings(self, before: datetime, *, delete: bool) -> Iterator[int]:
        """See `nightmill.storage.leavings`."""
        for prefix in (BATCHES, SLICINGS):
            yield from leavings(self.files, prefix, before, delete=delete)

    def _owned(self, prefix: str, pattern: re.Pattern[str]) -> Iterator[list[tuple[str, list[StoredFile]]]]:
        """Yield the files under a prefix by owner, some owners at a time."""
        ours = ((match[1], file) for file in self.files.listed(prefix) if (match := pattern.fullmatch(file.key)))
        owners = ((owner, [file for _, file in files]) for owner, files in groupby(ours, key=lambda each: each[0]))
        while page := list(islice(owners, AT_ONCE)):
            yield page


def _older(files: list[StoredFile], before: datetime) -> list[StoredFile]:
    return [file for file in files if file.modified_at < before]


def _is_needed(file: StoredFile, profiles: dict[str, frozenset[str]] | None) -> bool:
    match = _SLICING_KEY.fullmatch(file.key)
    if profiles is None or match is None:
        return match is None
    profile, run = match[2], match[3]
    if profile is None:
        return True  # the PDF itself
    # Raw output begins with its run.
    return any(run == kept or run.startswith(f"{kept}-") for kept in profiles.get(profile, ()))
