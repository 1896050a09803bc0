"""What is known of a PDF before a slicer sees it, and of the PDFs that a slicer has cut."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, TypeVar

import msgspec

from nightmill.contracts import TextSource
from nightmill.slicing.faults import (
    DamagedPdf,
    EmptyFile,
    EmptyOutput,
    EncryptedPdf,
    InvalidJson,
    NotAFile,
    NotAPdf,
    TooLarge,
    Unreadable,
)
from nightmill.slicing.json_output import shown
from nightmill.slicing.slicer_result import FileCheck, SlicerResult

AnswerT = TypeVar("AnswerT")

_ROOT = Path(__file__).resolve().parents[2]
# Isolated, so that neither its working folder nor a variable says what is imported; our own place is added at the end.
_START = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from nightmill.slicer.inspector import end_with, main; end_with(main())"
)
_PDF = b"%PDF-"
_BEGINNING = 1_024  # bytes in which readers look for it: ISO 32000-1, Annex H, note 13
_MAX_ANSWER = 8 * 1024 * 1024  # 10,000 files with a message each
_KINDS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"PK\x03\x04", b"PK\x05\x06"), "a ZIP file or an office document"),
    ((b"\xff\xd8\xff",), "a JPEG image"),
    ((b"\x89PNG",), "a PNG image"),
    ((b"II*\0", b"MM\0*"), "a TIFF image"),
    ((b"\xd0\xcf\x11\xe0",), "an old office document"),
    ((b"{\\rtf",), "an RTF document"),
    ((b"%!PS",), "PostScript"),
    ((b"\x1f\x8b",), "a gzip file"),
    ((b"<!doctype html", b"<html", b"<head", b"<body"), "an HTML page"),
    ((b"<?xml", b"<svg"), "an XML document"),
)


@dataclass(frozen=True)
class Inspected:
    """What a look at a PDF found.

    Attributes:
        page_count: Its pages.
        text_source: Where its text comes from, by a look at some pages.
        flags: What is wrong with it, though it can be read; lines for people.
        pages_sampled: How many pages were looked at.
    """

    page_count: int
    text_source: TextSource
    flags: tuple[str, ...]
    pages_sampled: int


class _Answer(msgspec.Struct, frozen=True):
    page_count: int = 0
    text_source: TextSource = "digital"
    flags: tuple[str, ...] = ()
    pages_sampled: int = 0
    problem: Literal["damaged", "encrypted", "empty", "too_large"] | None = None
    message: str = ""


class _Checks(msgspec.Struct, frozen=True):
    files: dict[str, FileCheck]


def check_source(path: Path, max_size: int) -> int:
    """Return the bytes of a file that begins like a PDF; no program has to start for that.

    Raises:
        NotAFile: There is no such file, or it is something else.
        Unreadable: It may not be read.
        EmptyFile: It has no bytes.
        TooLarge: It has more than `max_size`.
        NotAPdf: It begins otherwise; the message says what it looks like.
    """
    try:
        if not path.is_file():  # before it is opened: a pipe would make us wait
            raise NotAFile("there is no such file" if not path.exists() else "it is not a file")
        with path.open("rb") as file:
            size = path.stat().st_size
            beginning = file.read(_BEGINNING)
    except OSError as error:
        raise Unreadable(f"the file cannot be read: {error.strerror}") from error
    if not beginning:
        raise EmptyFile("the file is empty")
    if size > max_size:
        raise TooLarge(f"the PDF has {size:,} bytes, at most {max_size:,} are taken (NIGHTMILL_SLICING__MAX_SIZE)")
    if _PDF not in beginning:
        raise NotAPdf(f"the file is not a PDF: it looks like {_looks_like(beginning)}")
    return size


def inspection_command(pdf: Path, folder: Path, *, max_pages: int) -> tuple[str, ...]:
    """Return the command of the program that looks at a PDF; it may write to `folder`."""
    return (*_inspector(), "inspect", str(pdf), str(folder), str(max_pages))


def check_command(folder: Path, names: Path) -> tuple[str, ...]:
    """Return the command of the program that looks at files of `folder`; `names` holds what `names_to_check` gives."""
    return (*_inspector(), "check", str(folder), str(names))


def names_to_check(result: SlicerResult) -> bytes:
    """Return the names of a result's files, for `check_command`."""
    return json.dumps(sorted({entry.path for entry in result.entries if entry.path is not None})).encode()


def read_inspection(stdout: Path, *, max_pages: int) -> Inspected:
    """Return what the program of `inspection_command` has found.

    Raises:
        EncryptedPdf: The PDF needs a password.
        DamagedPdf: It cannot be opened, or has no pages.
        TooLarge: It has more than `max_pages`.
        EmptyOutput: The program ended well and printed nothing.
        InvalidJson: It printed something else.
    """
    answer = _decoded(_read(stdout), _Answer)
    if answer.problem is not None:
        _refuse(answer)
    if answer.page_count > max_pages:
        raise TooLarge(f"the PDF has {answer.page_count:,} pages, at most {max_pages:,} are sliced")
    if answer.page_count < 1:
        raise DamagedPdf("the PDF has no pages")
    return Inspected(
        page_count=answer.page_count,
        text_source=answer.text_source,
        flags=tuple(shown(flag, 500) for flag in answer.flags[:10]),
        pages_sampled=answer.pages_sampled,
    )


def read_checks(stdout: Path) -> dict[str, FileCheck]:
    """Return what the program of `check_command` has found, by name, for `nightmill.slicing.results.with_checks`.

    Raises:
        EmptyOutput: The program ended well and printed nothing.
        InvalidJson: It printed something else.
    """
    return _decoded(_read(stdout), _Checks).files


def _inspector() -> Iterable[str]:
    return sys.executable, "-I", "-c", _START, str(_ROOT)


def _refuse(answer: _Answer) -> NoReturn:
    message = shown(answer.message, 500)
    if answer.problem == "encrypted":
        raise EncryptedPdf(message or "the PDF needs a password")
    if answer.problem == "too_large":
        raise TooLarge(f"{message} (NIGHTMILL_SLICING__MAX_PAGES)")
    raise DamagedPdf(message or "the PDF is damaged")


def _looks_like(beginning: bytes) -> str:
    start = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()
    for signs, kind in _KINDS:
        if start.lower().startswith(signs) or start.startswith(signs):
            return kind
    if b"\0" in beginning:
        return "binary data"
    return f"text, which begins with `{shown(start.decode(errors='replace'), 40)}`"


def _read(stdout: Path) -> bytes:
    with stdout.open("rb") as file:
        text = file.read(_MAX_ANSWER + 1)
    if not text.strip():
        raise EmptyOutput("the program that looks at PDFs ended well and printed nothing")
    return text


def _decoded(text: bytes, kind: type[AnswerT]) -> AnswerT:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        excerpt = shown(text[:200].decode(errors="replace"))
        raise InvalidJson(f"the program that looks at PDFs printed something else ({error}): {excerpt}") from None
