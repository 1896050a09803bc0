"""Opens what a program left in its output folder, and nothing else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NoReturn

from nightmill.slicing.faults import UnsafePath
from nightmill.slicing.json_output import shown

MAX_FOLDERS = 32
"""Folders within folders."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe without a writer, or a device, would make the opener wait.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def inside(path: str) -> tuple[str, ...]:
    """Return the parts of a path that does not say that it leads out of its folder.

    Raises:
        UnsafePath: It is absolute, has a `..` or a NUL, or too many parts.
    """
    if path.startswith("/"):
        raise UnsafePath(f"`{shown(path)}`: an absolute path; paths are relative to the output folder")
    if "\0" in path:
        raise UnsafePath(f"`{shown(path)}`: a path with a NUL")
    parts = tuple(part for part in path.split("/") if part not in {"", "."})
    if ".." in parts:
        raise UnsafePath(f"`{shown(path)}`: a path with `..`, which may lead out of the output folder")
    if len(parts) > MAX_FOLDERS:
        raise UnsafePath(f"`{shown(path)}`: a path of more than {MAX_FOLDERS} parts")
    return parts


def open_inside(folder: Path, path: str) -> int:
    """Open a file by its path relative to `folder`; return its descriptor, for reading, which the caller closes.

    The way is gone folder by folder, from descriptor to descriptor, and no link is followed: whatever is renamed
    meanwhile, the file that is opened lies in the folder.

    Raises:
        UnsafePath: It leads out of the folder, or to a link, pipe, socket or device, or to a file that has another
            name, too, which may be anywhere.
        FileNotFoundError: There is no such file; a folder is none.
        OSError: It cannot be opened.
    """
    *folders, name = inside(path) or ("",)
    if not name:
        raise FileNotFoundError(errno.ENOENT, "no file name", path)
    here = os.open(folder, _FOLDER)
    try:
        for one in folders:
            deeper = _open(one, _FOLDER, here, path)
            os.close(here)
            here = deeper
        _refuse_others(os.stat(name, dir_fd=here, follow_symlinks=False), path)
        found = _open(name, _FILE, here, path)
    finally:
        os.close(here)
    try:
        _refuse_others(os.fstat(found), path)
    except BaseException:
        os.close(found)
        raise
    return found


def _open(name: str, flags: int, here: int, path: str) -> int:
    try:
        return os.open(name, flags, dir_fd=here)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR} and _is_link(name, here):
            _refuse(path, "a link")
        raise


def _is_link(name: str, here: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _refuse_others(found: os.stat_result, path: str) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFDIR:
        raise FileNotFoundError(errno.ENOENT, "a folder", path)
    if kind != stat.S_IFREG:
        _refuse(path, _KINDS.get(kind, "not a file"))
    if found.st_nlink > 1:
        _refuse(path, "a file with a second name (a hard link)")


def _refuse(path: str, what: str) -> NoReturn:
    raise UnsafePath(f"`{shown(path)}` is {what}; only files of the output folder itself are taken")
