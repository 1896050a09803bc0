"""Pages in files, so that several processes can read a document and one cuts it.

A file begins with a line that says what it is, and has a line for each page. What is read from such files is exactly
what was written: the slices are the same as those of a single run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nightmill.slicer.model import Line, Page
from nightmill.slicer.ranges import pages_as_text
from nightmill.slicer.writing import create

FILE_NAME = "pages.jsonl"
FORMAT = "nightmill-pages"
VERSION = 1

MAX_ROW = 64 * 1024 * 1024
"""Bytes of one page: a million characters, all of them escaped, and their boxes."""

_SOURCES = ("digital", "ocr", "none")


class PagesProblem(Exception):
    """The files do not hold the document's pages. `str()` is a line for people."""


def write_pages(pages: Iterable[Page], folder: Path, page_count: int, first: int, last: int) -> Path:
    """Write pages to a new file `pages.jsonl` in `folder`, each as it comes.

    Raises:
        OSError: There is one, or it cannot be written.
    """
    with create(folder, FILE_NAME) as file:
        head = {"format": FORMAT, "version": VERSION, "page_count": page_count, "first": first, "last": last}
        file.write(json.dumps(head).encode() + b"\n")
        for page in pages:
            file.write(json.dumps(_row(page), separators=(",", ":")).encode() + b"\n")
    return folder / FILE_NAME


def read_pages_files(folder: Path, page_count: int) -> list[Page]:
    """Return the pages that the files `*.jsonl` in `folder` hold, in order.

    Raises:
        PagesProblem: They are of another document or another format, or do not hold each page exactly once.
    """
    found: dict[int, Page] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for page in _read(path, page_count):
            if page.index in found:
                raise PagesProblem(f"{path.name}: page {page.index + 1} is there twice")
            found[page.index] = page
    missing = [index for index in range(page_count) if index not in found]
    if missing:
        raise PagesProblem(f"pages are missing: {pages_as_text(missing)}")
    return [found[index] for index in range(page_count)]


def _row(page: Page) -> dict[str, Any]:
    row: dict[str, Any] = {"index": page.index, "width": page.width, "height": page.height, "source": page.source}
    if page.label is not None:
        row["label"] = page.label
    if page.problem is not None:
        row["problem"] = page.problem
    # One list a line: names of fields for a hundred lines a page would be most of the file.
    row["lines"] = [
        [line.text, line.left, line.top, line.right, line.bottom, line.size, line.bold] for line in page.lines
    ]
    return row


def _read(path: Path, page_count: int) -> Iterator[Page]:
    has_head = False
    try:
        with path.open("rb") as file:
            while row := file.readline(MAX_ROW + 1):
                if len(row) > MAX_ROW:
                    raise PagesProblem(f"{path.name}: a line is over {MAX_ROW:,} bytes")
                value = json.loads(row)
                if "format" in value:
                    _check_head(path, value, page_count)
                    has_head = True
                elif not has_head:
                    raise PagesProblem(f"{path.name}: its first line is not that of a file of pages")
                else:
                    yield _page(value, page_count)
    except OSError as error:
        raise PagesProblem(f"{path.name}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise PagesProblem(f"{path.name}: a line is not a page ({type(error).__name__})") from None


def _check_head(path: Path, head: dict[str, Any], page_count: int) -> None:
    if head["format"] != FORMAT or head.get("version") != VERSION:
        raise PagesProblem(f"{path.name}: format {head['format']!r:.40} {head.get('version')!r:.10} is not known")
    if head.get("page_count") != page_count:
        raise PagesProblem(f"{path.name}: of a document of {head.get('page_count')!r:.10} pages, not {page_count}")


def _page(row: dict[str, Any], page_count: int) -> Page:
    index = row["index"]
    if type(index) is not int or not 0 <= index < page_count or row["source"] not in _SOURCES:
        raise ValueError("no page of the document")
    return Page(
        index=index,
        width=_number(row["width"]),
        height=_number(row["height"]),
        lines=[_line(*line) for line in row["lines"]],
        source=row["source"],
        label=_text(row["label"]) if "label" in row else None,
        problem=_text(row["problem"]) if "problem" in row else None,
    )


def _line(text: Any, left: Any, top: Any, right: Any, bottom: Any, size: Any, bold: Any) -> Line:
    if type(bold) is not bool:
        raise TypeError("neither bold nor not")
    return Line(_text(text), _number(left), _number(top), _number(right), _number(bottom), _number(size), bold)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("no text")
    return value


def _number(value: Any) -> float:
    # What was written as `7` was an integer before: it stays one, or the two ways would differ.
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError("no number")
    found: float = value
    return found
