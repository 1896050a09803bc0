"""Private folders for one attempt each, removed with it; also those of workers that were killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nightmill.slicing import process_tree
from nightmill.slicing.faults import DiskFull, OutputNotWritable

logger = logging.getLogger(__name__)

PREFIX = "nightmill-scratch-"

AT_ONCE = 1_000
"""Names that are read at once of a folder that may have millions."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Scratch:
    """Makes private folders under one root, and removes them."""

    def __init__(self, root: Path | None = None) -> None:
        """Make nothing yet.

        Args:
            root: A folder, which is made if it is not there; None for the system's folder of temporary files.
        """
        self.root = Path(tempfile.gettempdir() if root is None else root).absolute()

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Give a new folder that only this user enters, and remove it in the end with all that is in it.

        Its parent is new and private as well, and is removed with it: a program may be given the folder to write to,
        and what it must not change be put beside it.

        Raises:
            OutputNotWritable: It cannot be made.
            DiskFull: There is no room for it.
        """
        outer = self.root / f"{PREFIX}{_owner(os.getpid())}-{secrets.token_hex(8)}"
        inner = outer / "work"
        with contextlib.ExitStack() as held:
            try:
                self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
                outer.mkdir(mode=0o700)
                held.callback(remove, outer)
                inner.mkdir(mode=0o700)
                # Says that we live to sweepers who cannot see us: workers in other containers with the same disk.
                lock = os.open(outer, _FOLDER)
                held.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise DiskFull(f"the disk of {self.root} is full") from error
                raise OutputNotWritable(f"no private folder can be made in {self.root}: {error.strerror}") from error
            yield inner

    def sweep(self) -> int:
        """Remove the folders of processes that are gone, and return how many there were; others are left alone."""
        try:
            found = [path for path in self.root.iterdir() if path.name.startswith(PREFIX)]
        except FileNotFoundError:
            return 0
        abandoned = [path for path in found if _is_abandoned(path)]
        for path in abandoned:
            remove(path)
        return len(abandoned)

    def check_space(self, size: int) -> None:
        """Return if there is room for this many bytes.

        Raises:
            DiskFull: There is not.
            OutputNotWritable: The folder cannot be looked at.
        """
        place = next(path for path in (self.root, *self.root.parents) if path.exists())
        try:
            free = shutil.disk_usage(place).free
        except OSError as error:
            raise OutputNotWritable(f"{place} cannot be looked at: {error.strerror}") from error
        if free < size:
            raise DiskFull(f"{size:,} bytes are needed in {self.root}, and {free:,} are free")


def _owner(pid: int) -> str:
    """Return a name that no other process of this machine has or had since it started."""
    found = process_tree.process(pid)
    return f"{pid}-{found.started if found else 'gone'}"


def _is_abandoned(path: Path) -> bool:
    owner, _, _ = path.name.removeprefix(PREFIX).rpartition("-")
    pid = owner.partition("-")[0]
    if not pid.isdigit() or _owner(int(pid)) == owner:
        return False
    try:
        lock = os.open(path, _FOLDER)
    except OSError:  # another user's, a link, or gone since
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def remove(path: Path) -> None:
    """Remove a folder and all in it, whatever was made of it: closed folders, links, names of any bytes, any depth.

    Nothing outside of it is touched, for no link is followed. What the system does not let us remove is logged.
    """
    try:
        parent = os.open(path.parent, _FOLDER)
    except FileNotFoundError:
        return
    try:
        name = os.fsencode(path.name)
        if not _unlink(name, parent):
            top = _open(name, parent)
            try:
                _empty(top)
            finally:
                os.close(top)
            os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except OSError:
        logger.warning("a private folder cannot be removed", extra={"folder": str(path)}, exc_info=True)
    finally:
        os.close(parent)


def _empty(top: int) -> None:
    """Remove all that is in a folder.

    What is in a folder below is moved up first, so that two descriptors do for a tree of any depth.
    """
    serial = itertools.count()
    unique = secrets.token_hex(8)
    while names := _names(top):
        for name in names:
            if _unlink(name, top):
                continue
            below = _open(name, top)
            try:
                while moved := _names(below):
                    for inner in moved:
                        if not _unlink(inner, below):
                            os.close(_open(inner, below))  # which opens it to us, or it could not be moved
                            os.rename(inner, f"{unique}-{next(serial)}", src_dir_fd=below, dst_dir_fd=top)
            finally:
                os.close(below)
            os.rmdir(name, dir_fd=top)


def _names(folder: int) -> list[bytes]:
    with os.scandir(folder) as entries:
        return [os.fsencode(entry.name) for entry in itertools.islice(entries, AT_ONCE)]


def _unlink(name: bytes, folder: int) -> bool:
    """Remove what is no folder; return whether it was none."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        return False
    return True


def _open(name: bytes, parent: int) -> int:
    """Open a folder, and open it to us before if it is closed."""
    handle = os.open(name, os.O_PATH | _FOLDER, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)  # noqa: PTH101 - by the descriptor: a name may be a link by now
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(handle)
