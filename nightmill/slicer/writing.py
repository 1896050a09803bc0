"""Writes one PDF for each slice.

pikepdf does it: pdfium is as fast, but gives its files another identifier each time, and a second run must write the
same bytes as the first.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pikepdf
import pypdfium2

from nightmill.slicer.model import Piece
from nightmill.slicer.opening import PdfProblem
from nightmill.slicer.saving import save

MAX_SLUG = 60
_CHUNK = 1024 * 1024
_PATTERN = re.compile(r"\d{4,}-[a-z0-9-]+\.pdf")

_FEW_FONTS = 16
"""A dictionary of so few fonts that pages share is left as it is: most pages use most of them."""


_MEBIBYTE = 1024 * 1024


class OutputProblem(Exception):
    """The output folder cannot be used. `str()` is a line for people."""


@dataclass(frozen=True)
class WrittenFile:
    """The file of one slice.

    Attributes:
        path: Its name in the output folder; None if it could not be written.
        sha256: Of its bytes.
        size: Its bytes.
        problem: What is wrong with it.
    """

    path: str | None
    sha256: str | None = None
    size: int = 0
    problem: str | None = None


def prepare_folder(folder: Path) -> None:
    """Make sure that slices can be written into `folder`, before hours of work.

    Raises:
        OutputProblem: It is no folder, cannot be made or written to, or holds slices already.
    """
    try:
        folder.mkdir(exist_ok=True)
        earlier = next((path.name for path in folder.iterdir() if _PATTERN.fullmatch(path.name)), None)
    except OSError as error:
        raise OutputProblem(f"output folder {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputProblem(f"output folder {folder}: it cannot be written to")
    if earlier is not None:
        raise OutputProblem(f"output folder {folder}: it holds slices already ({earlier}); give an empty one")


def create(folder: Path, name: str) -> BinaryIO:
    """Return a new file, open to write and to read; one of this name that is there already is never touched.

    Raises:
        FileExistsError: There is something of this name, be it a link.
        OSError: It cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC  # with O_EXCL no link is followed: open(2)
    return os.fdopen(os.open(folder / name, flags, 0o644), "w+b")


def file_name(position: int, name: str) -> str:
    """Return the file name of a slice: `0001-decreto-no-100-2014.pdf` for the first one."""
    plain = unicodedata.normalize("NFKD", name[:1_000]).encode("ascii", "ignore").decode().lower()
    slug = re.sub("[^a-z0-9]+", "-", plain).strip("-")[:MAX_SLUG].rstrip("-")
    return f"{position + 1:04}-{slug or 'slice'}.pdf"


def most_bytes(size: int) -> int:
    """Return how many bytes the slices of a PDF of `size` bytes may have together.

    Fonts repeat in each slice: a book of 6.5 MB in 121 slices came to 32 MB. Without a bound, a page with thousands of
    heads and a large image would fill any disk.
    """
    return min(50 * size + 256 * _MEBIBYTE, 3 * size + 8_192 * _MEBIBYTE)


def write_pieces(
    pages: Any,
    pieces: Sequence[Piece],
    folder: Path,
    *,
    max_bytes: int,
    on_file: Callable[[], None] | None = None,
) -> Iterator[WrittenFile]:
    """Write the files of `pieces` and give what came of each; the same pieces make the same bytes.

    Args:
        pages: The document's pages, from pikepdf.
        pieces: What to cut out.
        folder: Where.
        max_bytes: Of all files together.
        on_file: Called after each file.

    Raises:
        PdfProblem: The files are larger than that.
        OSError: The disk is full, or the folder cannot be written to any more.
    """
    if pieces and _share_resources(pages):
        _own_resources(pages)
    left = max_bytes
    for position, piece in enumerate(pieces):
        written = _write(pages, piece, folder, file_name(position, piece.name))
        left -= written.size
        if left < 0:
            raise PdfProblem("too_large", f"the slices are over {max_bytes:,} bytes together")
        yield written
        if on_file is not None:
            on_file()


def _write(pages: Any, piece: Piece, folder: Path, name: str) -> WrittenFile:
    expected = piece.end_page - piece.start_page + 1
    with create(folder, name) as file:
        try:
            with pikepdf.new() as part:
                part.pages.extend(pages[piece.start_page : piece.end_page + 1])
                save(part, file)
        except (pikepdf.PdfError, pikepdf.ForeignObjectError, ValueError, RuntimeError) as error:
            (folder / name).unlink()
            return WrittenFile(None, problem=f"its file could not be written: {str(error)[:200]}")
        size = file.tell()
        file.seek(0)
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    found = _page_count(folder / name)
    problem = None if found == expected else f"its file has {found} pages where {expected} were written"
    return WrittenFile(name, digest.hexdigest(), size, problem)


def _page_count(path: Path) -> int:
    """Return the pages that the library which has not written a file finds in it."""
    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError:
        return 0
    try:
        return len(document)
    finally:
        document.close()


def _share_resources(pages: Any) -> bool:
    """Whether pages have resources in common, so that a slice could drag along the images of all others."""
    seen: set[tuple[int, int]] = set()
    for page in pages:
        resources = page.obj.get("/Resources")
        if not isinstance(resources, pikepdf.Dictionary):
            return True  # inherited from the page tree
        shared = [resources]
        images, fonts = resources.get("/XObject"), resources.get("/Font")
        shared += [images] if isinstance(images, pikepdf.Dictionary) and len(images.keys()) > 1 else []
        shared += [fonts] if isinstance(fonts, pikepdf.Dictionary) and len(fonts.keys()) > _FEW_FONTS else []
        found = {each.objgen for each in shared if each.is_indirect}
        if found & seen:
            return True
        seen |= found
    return False


def _own_resources(pages: Any) -> None:
    """Leave each page those resources only that it uses."""
    for page in pages:
        try:
            page.remove_unreferenced_resources()
        except (pikepdf.PdfError, ValueError, RuntimeError):
            continue  # its content cannot be parsed: it keeps them all, and its slice is larger
