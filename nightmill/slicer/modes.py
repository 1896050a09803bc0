"""Cuts any PDF: by its bookmarks, by page ranges, by headings, or every so many pages.

All of them give the same `Cut` as the gazette engine. Where two pieces share a page it belongs to both, and their texts
are cut where the second one begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from nightmill.slicer.model import Cut, Line, Page, Piece
from nightmill.slicer.opening import open_pdf
from nightmill.slicer.ranges import MAX_RANGES, NamedRange, RangeError, as_text, resolve

MAX_PIECES = MAX_RANGES
MAX_BOOKMARKS = 50_000
"""Bookmarks that are looked at; a book of 2,415 pages has 1,426."""

MAX_DEPTH = 15
MAX_NAME = 300
MAX_ABOVE = 100
"""Characters of a title that is repeated with all bookmarks below it."""

MAX_HEADING = 500
"""Characters of a line that a pattern is tried on: the pattern is yours, the line is anybody's."""

_TOP = 0.12
"""Of a page's height: what is above is its running header, so a piece that begins below nothing else is on top."""

_SAME_PLACE = 6.0
"""Points by which a bookmark may point above the line that it means."""

_INDENT = 0.08
_OFF_CENTRE = 0.03


@dataclass(frozen=True)
class Heading:
    """What a line must be like to begin a slice.

    Attributes:
        pattern: Found in it; its group `name`, if it has one, is the slice's name.
        min_size: Points of its type at least.
        bold: Whether it must be bold.
        centred: Whether it must be centred on its page or in one of two columns.
    """

    pattern: re.Pattern[str]
    min_size: float = 0.0
    bold: bool = False
    centred: bool = False


@dataclass(frozen=True)
class Bookmark:
    """An entry of a PDF's outline.

    Attributes:
        title: What it says.
        level: How deep it is, from 1.
        page: The page that it leads to; None where it leads nowhere, or out of the document.
        top: How far down on it, in points; None for all of it.
    """

    title: str
    level: int
    page: int | None
    top: float | None = None


@dataclass
class _Start:
    name: str
    page: int
    line: int = 0
    extras: dict[str, Any] = field(default_factory=dict)


def cut_every(pages: Sequence[Page], size: int) -> Cut:
    """Cut after every `size` pages."""
    ends = [(first, min(first + size, len(pages)) - 1) for first in range(0, len(pages), size)]
    if len(ends) > MAX_PIECES:
        return _too_many(len(ends))
    return Cut([_piece(pages, _pages_name(first, last), first, last) for first, last in ends])


def cut_ranges(pages: Sequence[Page], ranges: Iterable[NamedRange]) -> Cut:
    """Cut out page ranges; those that the document is too short for become flags."""
    cut = Cut()
    for wanted in ranges:
        try:
            first, last = resolve(wanted, len(pages))
        except RangeError as error:
            cut.flags.append(str(error))
        else:
            cut.pieces.append(_piece(pages, wanted.name or _pages_name(first, last), first, last))
    return cut


def cut_headings(pages: Sequence[Page], heading: Heading) -> Cut:
    """Cut where a line looks like `heading`."""
    starts = list(islice(_headings(pages, heading), MAX_PIECES + 1))
    if not starts:
        return Cut(flags=["no line is a heading as asked for"])
    return _cut_at(pages, starts)


def cut_outline(pages: Sequence[Page], bookmarks: Sequence[Bookmark], depth: int) -> Cut:
    """Cut where bookmarks lead, down to `depth` levels; those that lead nowhere become flags.

    A bookmark whose first one below it leads to the same page begins nothing of its own: its slice is that one's.
    """
    used = [bookmark for bookmark in bookmarks if bookmark.level <= depth]
    lost = [bookmark.title for bookmark in used if bookmark.page is None]
    flags = [f"bookmarks that lead to no page: {len(lost)}, such as {lost[0][:80]!r}"] if lost else []
    starts = sorted(_bookmark_starts(pages, used), key=lambda start: (start.page, start.line))
    if not starts:
        return Cut(flags=[*flags, "the document has no bookmarks that lead to its pages"])
    cut = _cut_at(pages, starts)
    return Cut(cut.pieces, flags=[*flags, *cut.flags])


def read_outline(source: Path) -> list[Bookmark]:
    """Return a PDF's bookmarks in order, its cycles cut.

    Raises:
        PdfProblem: It cannot be opened.
    """
    with open_pdf(source) as document:
        return [_bookmark(document, entry) for entry in islice(document.get_toc(max_depth=MAX_DEPTH), MAX_BOOKMARKS)]


def _bookmark(document: Any, entry: Any) -> Bookmark:
    title = _name(entry.get_title())
    target = entry.get_dest()
    index = None if target is None else target.get_index()
    if index is None or index >= len(document):
        return Bookmark(title, entry.level + 1, None)
    return Bookmark(title, entry.level + 1, index, _top(document, index, *target.get_view()))


def _top(document: Any, index: int, mode: int, position: Sequence[float]) -> float | None:
    """Return how far down on its page a destination is; None where it is the whole page, or the page is turned."""
    at = {pdfium.PDFDEST_VIEW_XYZ: 1, pdfium.PDFDEST_VIEW_FITH: 0, pdfium.PDFDEST_VIEW_FITBH: 0}.get(mode)
    if at is None or len(position) <= at:
        return None
    try:
        page = document[index]
    except pypdfium2.PdfiumError:
        return None
    try:
        if page.get_rotation() != 0:
            return None
        return max(0.0, float(page.get_bbox()[3]) - position[at])
    finally:
        page.close()


def _bookmark_starts(pages: Sequence[Page], bookmarks: Sequence[Bookmark]) -> Iterator[_Start]:
    above: list[str] = []
    held: Bookmark | None = None  # one whose slice begins with the first below it
    for place, bookmark in enumerate(bookmarks):
        del above[bookmark.level - 1 :]
        above += [""] * (bookmark.level - 1 - len(above)) + [bookmark.title[:MAX_ABOVE]]
        if bookmark.page is None or bookmark.page >= len(pages):
            continue
        follower = bookmarks[place + 1] if place + 1 < len(bookmarks) else None
        place_of = held if held is not None and held.page == bookmark.page else bookmark
        if follower is not None and follower.level > bookmark.level and follower.page == bookmark.page:
            held = place_of
            continue
        held = None
        page = pages[bookmark.page]
        yield _Start(bookmark.title, page.index, _line_at(page, place_of.top), {"path": list(above)})


def _line_at(page: Page, top: float | None) -> int:
    if top is None:
        return 0
    found = (number for number, line in enumerate(page.lines) if line.bottom > top + _SAME_PLACE)
    return next(found, 0)


def _headings(pages: Sequence[Page], heading: Heading) -> Iterator[_Start]:
    for page in pages:
        extent = _extent(page) if heading.centred else (0.0, 0.0)
        for number, line in enumerate(page.lines):
            if line.size < heading.min_size or (heading.bold and not line.bold):
                continue
            text = " ".join(line.text[:MAX_HEADING].split())
            match = heading.pattern.search(text)
            if match is None or (heading.centred and not _is_centred(line, *extent)):
                continue
            yield _Start(_name(match.groupdict().get("name") or text), page.index, number)


def _extent(page: Page) -> tuple[float, float]:
    """Return the left and the right edge of a page's text, the outermost lines aside."""
    if not page.lines:
        return 0.0, page.width
    lefts, rights = sorted(line.left for line in page.lines), sorted(line.right for line in page.lines)
    aside = len(page.lines) // 20
    return lefts[aside], rights[-1 - aside]


def _is_centred(line: Line, left: float, right: float) -> bool:
    middle, width = (left + right) / 2, right - left
    for start, end in ((left, right), (left, middle), (middle, right)):
        indents = line.left - start, end - line.right
        if min(indents) >= _INDENT * (end - start) and abs(indents[0] - indents[1]) / 2 <= _OFF_CENTRE * width:
            return True
    return False


def _cut_at(pages: Sequence[Page], starts: list[_Start]) -> Cut:
    if len(starts) > MAX_PIECES:
        return _too_many(len(starts))
    first = starts[0]
    first.line = 0  # what stands above it on its page has no other place
    pieces = [_piece(pages, _pages_name(0, first.page - 1), 0, first.page - 1)] if first.page > 0 else []
    for start in starts:
        if _is_on_top(pages[start.page], start.line):
            start.line = 0
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        if following is None:
            end, end_line = len(pages) - 1, None
        elif following.line == 0 and following.page > start.page:
            end, end_line = following.page - 1, None
        else:
            end, end_line = following.page, following.line
        piece = _piece(pages, start.name, start.page, end, start.line, end_line)
        piece.extras.update(start.extras)
        pieces.append(piece)
    return Cut(pieces)


def _is_on_top(page: Page, line: int) -> bool:
    """Whether only a running header stands before a line of a page."""
    return all(before.bottom <= page.height * _TOP for before in page.lines[:line])


def _piece(
    pages: Sequence[Page], name: str, first: int, last: int, line: int = 0, end_line: int | None = None
) -> Piece:
    """Return the piece from one line to before another one."""
    texts: list[str] = []
    for page in pages[first : last + 1]:
        begin = line if page.index == first else 0
        end = end_line if page.index == last else None
        texts += [found.text for found in page.lines[begin:end]]
    text = "\n".join(texts)
    return Piece(
        name=name or _pages_name(first, last),
        start_page=first,
        end_page=last,
        full_text=text,
        short_description=shortened(text, 250),
        description=shortened(text, 1_250),
    )


def shortened(text: str, length: int) -> str:
    """Return the beginning of a text in one line, at most `length` characters, ended at a word."""
    squeezed = " ".join(text[: length * 4].split())
    if len(squeezed) <= length:
        return squeezed
    kept = squeezed[: length - 1]
    return (kept.rpartition(" ")[0] or kept) + "…"


def _name(text: str) -> str:
    return " ".join(text[: MAX_NAME * 4].split())[:MAX_NAME].rstrip()


def _pages_name(first: int, last: int) -> str:
    return f"{'Page' if first == last else 'Pages'} {as_text([(first + 1, last + 1)])}"


def _too_many(found: int) -> Cut:
    return Cut(flags=[f"{found:,} slices, at most {MAX_PIECES:,} are cut: nothing was cut"])
