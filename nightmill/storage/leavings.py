"""What killed processes were writing into a local folder, and folders that are empty."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nightmill.errors import StorageUnavailable
from nightmill.storage.files import LocalFileStore, folders, utc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from nightmill.storage.files import FileStore


def leavings(store: FileStore, prefix: str, before: datetime, *, delete: bool) -> Iterator[int]:
    """Yield the size of each file under `prefix/` that a killed process was writing before then; delete it if asked.

    Folders that are empty since before then go with them. What somebody writes just now stays, whatever its age. Object
    stores show none of these: a rule of the bucket aborts incomplete uploads.

    Raises:
        StorageUnavailable: The folder cannot be read or written.
    """
    if not isinstance(store, LocalFileStore):
        return
    for folder, names in folders(store.root / prefix):
        for name in names:
            if name.startswith(".") and name.endswith(".part"):
                try:
                    size = _take(Path(folder, name), before, delete=delete)
                except OSError as error:
                    raise StorageUnavailable(f"deleting {name}: {error.strerror or error}") from error
                if size is not None:
                    yield size
        with suppress(OSError):  # not empty, or gone
            if delete and not names and utc(Path(folder).stat().st_mtime) < before:
                Path(folder).rmdir()


def _take(path: Path, before: datetime, *, delete: bool) -> int | None:
    """Return the size of a file that nobody writes, and has not since before then; None: somebody does, or did."""
    with suppress(FileNotFoundError, BlockingIOError), path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(file.fileno())
        if utc(found.st_mtime) < before and os.path.samestat(found, path.stat()):
            if delete:
                path.unlink()  # while the lock is held: whoever takes files over looks whether they are still there
            return found.st_size
    return None
