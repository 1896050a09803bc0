"""Reads the pages of a PDF as lines with boxes, about as fast as their bare text.

One call gives a page's text, which is split where lines end; the box of a line is that of its first and last character,
its size and weight that of the first. Asking for every character costs five to seven times as much.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pypdfium2
import pypdfium2.raw as pdfium

from nightmill.slicer.model import Line, Page
from nightmill.slicer.opening import open_pdf

USABLE_LETTERS = 20
"""Fewer letters than this on a page are a stamp or noise, not its text."""

MAX_CHARACTERS = 1_000_000
"""Characters of a page that are read: the densest page of a gazette that was measured has 12,700."""

MAX_LINES = 20_000
"""Lines of a page that are read."""

_LINE = re.compile("[^\r\n\ufffe\x02]+[\ufffe\x02]?")
"""A line. The last two characters stand for a hyphen at a line's end, after which pdfium writes no line end."""

_BOLD_NAME = re.compile(rb"bold|black|heavy|demi", re.IGNORECASE)
_BOLD_WEIGHT = 600
_FORCE_BOLD = 1 << 18
"""A font descriptor's flag: ISO 32000-1, table 123."""

_WIDE = 0.45
"""Of the page's width: a wider line may be two, one of each column."""

_MIDDLE = (0.36, 0.64)
"""Of the page's width: here is the gap between two columns, if there is one."""

_GAP = 1.3
"""Of the type's size: a wider gap in the middle parts two columns; between words of a justified line it is under 1."""

_MARGIN_GAP = 1.0
"""The same for a single letter at a line's end."""

_get_box = pdfium.FPDFText_GetLooseCharBox
_get_size = pdfium.FPDFText_GetFontSize
_get_matrix = pdfium.FPDFText_GetMatrix
_get_font = pdfium.FPDFText_GetFontInfo
_char_index = pdfium.FPDFText_GetCharIndexFromTextIndex

_Turn = Literal[0, 90, 180, 270]


_BLANKS = re.compile("(?<! ) ")

MAX_JUMPING = 500
"""Characters of a line that are looked at for a jump back."""

_JUNK = " \t\xa0\x00\ufffe\x02"

_Box = Sequence[float]
"""Left, top, right and bottom; in the PDF's own coordinates, in which the top is the larger one, or in the reader's."""

_NOWHERE: _Box = (0.0, 0.0, 0.0, 0.0)


class _Found(NamedTuple):
    text: str
    first: int
    start: _Box
    end: _Box
    is_even: bool = True
    """Whether its characters have the numbers from `first` on, without one that is hidden between them."""


def read_pages(
    source: Path | bytes,
    *,
    first: int = 0,
    last: int | None = None,
    on_page: Callable[[int, int], None] | None = None,
) -> Iterator[Page]:
    """Give the pages of a PDF one after the other, with the text that is in it; each is closed before the next.

    A page is turned until most of its text runs from left to right, whatever the PDF says of its rotation. A page with
    fewer than 20 letters, or one that cannot be read, has the source `none`.

    Args:
        source: The PDF.
        first: The first page, from 0.
        last: The last one, included; the document's last without it.
        on_page: Told after each page how many are done, and of how many.

    Raises:
        PdfProblem: It cannot be opened.
        OSError: The file cannot be read.
    """
    with open_pdf(source) as document:
        end = len(document) - 1 if last is None else min(last, len(document) - 1)
        for index in range(first, end + 1):
            yield read_page(document, index)
            if on_page is not None:
                on_page(index - first + 1, end - first + 1)


def read_page(document: Any, index: int) -> Page:
    """Return one page of a document from `open_pdf`; see `read_pages`."""
    label = document.get_page_label(index) or None
    try:
        page = document[index]
    except pypdfium2.PdfiumError:
        return Page(index, 612.0, 792.0, source="none", label=label, problem="the page cannot be opened")
    try:
        left, bottom, right, top = page.get_bbox()
        text_page = page.get_textpage()
        try:
            turn, lines = _Reader(text_page.raw, (left, top, right, bottom), page.get_rotation()).read()
        finally:
            text_page.close()
    except pypdfium2.PdfiumError:
        width, height = page.get_size()
        return Page(index, width, height, source="none", label=label, problem="the page's text cannot be read")
    finally:
        page.close()
    width, height = right - left, top - bottom
    if turn in {90, 270}:
        width, height = height, width
    return Page(index, width, height, lines, "digital" if has_usable_text(lines) else "none", label)


def has_usable_text(lines: list[Line]) -> bool:
    """Whether there are 20 letters or more."""
    letters = 0
    for line in lines:
        letters += sum(map(str.isalpha, line.text))
        if letters >= USABLE_LETTERS:
            return True
    return False


class _Reader:
    """Reads the lines of one page."""

    def __init__(self, text: Any, frame: _Box, rotation: int) -> None:
        self._text = text
        self._left, self._top, self._right, self._bottom = frame
        self._rotation = rotation
        self._rect = pdfium.FS_RECTF()
        self._sides = (ctypes.c_float * 4).from_buffer(self._rect)  # left, top, right, bottom: fpdfview.h
        self._matrix = pdfium.FS_MATRIX()
        self._name = ctypes.create_string_buffer(128)
        self._flags = ctypes.c_int()
        self._same_index = True
        self._fonts: dict[tuple[bytes, int], bool] = {}

    def read(self) -> tuple[_Turn, list[Line]]:
        """Return how far the page was turned clockwise, and its lines."""
        found = list(self._found())
        turn = self._direction(found)
        width = self._right - self._left if turn in {0, 180} else self._top - self._bottom
        low, high = width * _MIDDLE[0], width * _MIDDLE[1]
        lines: list[Line] = []
        for one in found:
            line = self._line(one, turn)
            text = line.text
            if (
                (line.left < low and line.right > high)
                or text[-2:-1] == " "
                or text[1:2] == " "
                or (one.end[0] < one.start[0] if turn == 0 else self._runs_back(one, turn))
            ):
                lines.extend(self._line(part, turn) for part in self._parts(one, turn))
            else:
                lines.append(line)
        return turn, lines

    def _found(self) -> Iterator[_Found]:
        text = self._content()
        wide_characters = max(text, default="") > "\uffff"
        for count, match in enumerate(_LINE.finditer(text)):
            if count == MAX_LINES:
                return
            raw = match[0]
            line = raw.strip(_JUNK)
            if not line:
                continue
            start = match.start()
            if raw[0] != line[0]:
                start += raw.index(line[0])
            if wide_characters:  # pdfium counts them twice
                start = len(text[:start].encode("utf-16-le", "surrogatepass")) // 2
            length = len(line)
            first, last = start, start + length - 1
            if raw[-1] in "\ufffe\x02":
                line += "-"
            if not self._same_index:
                first, last = self._index(first), self._index(last)
            is_even = last - first == length - 1
            yield _Found(line, first, self._box(first), self._box(last), is_even)

    def _content(self) -> str:
        count = min(pdfium.FPDFText_CountChars(self._text), MAX_CHARACTERS)
        if count <= 0:
            return ""
        buffer = ctypes.create_string_buffer((count + 1) * 2)
        units = pdfium.FPDFText_GetText(self._text, 0, count, ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ushort)))
        self._same_index = units == count + 1
        return buffer.raw[: max(units - 1, 0) * 2].decode("utf-16-le", "replace")

    def _index(self, place: int) -> int:
        return max(0, int(_char_index(self._text, place)))

    def _box(self, index: int) -> _Box:
        return self._sides[:] if _get_box(self._text, index, self._rect) else _NOWHERE

    def _direction(self, found: list[_Found]) -> _Turn:
        """Return the turn that sets most of the text upright."""
        votes: dict[_Turn, int] = {}
        for text, first, (left, top, right, bottom), (end_left, end_top, end_right, end_bottom), _ in found:
            if len(text) < 4:
                continue
            along = end_bottom + end_top - bottom - top
            turn: _Turn = 0
            if abs(along) > abs(end_left + end_right - left - right):
                turn = 90 if along > 0 else 270
            elif end_left < left and math.cos(pdfium.FPDFText_GetCharAngle(self._text, first)) < 0:
                turn = 180  # not a line of a script that runs to the left
            votes[turn] = votes.get(turn, 0) + len(text)
        if votes:
            return max(votes, key=lambda turn: votes[turn])
        turns: tuple[_Turn, ...] = (0, 90, 180, 270)
        return turns[self._rotation // 90 % 4]

    def _turned(self, box: _Box, turn: _Turn) -> _Box:
        """Return a box from the upper left corner of the page when it is turned."""
        left, top, right, bottom = box
        if turn == 0:
            return left - self._left, self._top - top, right - self._left, self._top - bottom
        if turn == 90:
            return bottom - self._bottom, left - self._left, top - self._bottom, right - self._left
        if turn == 180:
            return self._right - right, bottom - self._bottom, self._right - left, top - self._bottom
        return self._top - top, self._right - right, self._top - bottom, self._right - left

    def _line(self, one: _Found, turn: _Turn) -> Line:
        text, index, start, end, _ = one
        if turn == 0:  # nearly always
            left, top, right, bottom = start
            end_left, end_top, end_right, end_bottom = end
            left, right = min(left, end_left) - self._left, max(right, end_right) - self._left
            top, bottom = self._top - max(top, end_top), self._top - min(bottom, end_bottom)
        else:
            left, top, right, bottom = self._turned(start, turn)
            end_left, end_top, end_right, end_bottom = self._turned(end, turn)
            left, top = min(left, end_left), min(top, end_top)
            right, bottom = max(right, end_right), max(bottom, end_bottom)
        size = _get_size(self._text, index)
        matrix = self._matrix
        if _get_matrix(self._text, index, matrix):
            size *= math.hypot(matrix.c, matrix.d)
        if size < 1:  # an invisible text layer may have any
            size = (bottom - top) * 0.8
        return Line(text, left, top, right, bottom, size, self._is_bold(index))

    def _is_bold(self, index: int) -> bool:
        _get_font(self._text, index, self._name, 128, self._flags)
        font = self._name.value, self._flags.value
        bold = self._fonts.get(font)
        if bold is None:
            bold = self._fonts[font] = (
                _BOLD_NAME.search(font[0]) is not None
                or bool(font[1] & _FORCE_BOLD)
                or pdfium.FPDFText_GetFontWeight(self._text, index) >= _BOLD_WEIGHT
            )
        return bold

    def _parts(self, one: _Found, turn: _Turn) -> Iterator[_Found]:
        """Give the line, or those that it is: what stands at the same height may come as one, in any order."""
        for split in (
            self._backwards(one, turn),
            self._letter(one, turn, at_end=True),
            self._letter(one, turn, at_end=False),
            self._gap(one, turn),
        ):
            if split is not None:
                yield from self._split(one, split)
                return
        yield one

    def _runs_back(self, one: _Found, turn: _Turn) -> bool:
        return self._turned(one.end, turn)[0] < self._turned(one.start, turn)[0]

    def _backwards(self, one: _Found, turn: _Turn) -> int | None:
        """Return where a line that ends left of its beginning jumps back."""
        if not self._runs_back(one, turn) or not one.is_even:
            return None
        widths = [
            (self._width(one, match.start(), turn), match.start()) for match in _BLANKS.finditer(one.text[:MAX_JUMPING])
        ]
        found = min(widths, default=(0.0, 0))
        return found[1] if found[0] < -self._height(one, turn) else None

    def _split(self, one: _Found, place: int) -> tuple[_Found, _Found]:
        left, right = one.text[:place].rstrip(), one.text[place:].lstrip()
        second = one.first + len(one.text) - len(right)
        return (
            _Found(left, one.first, one.start, self._box(one.first + len(left) - 1)),
            _Found(right, second, self._box(second), one.end),
        )

    def _letter(self, one: _Found, turn: _Turn, *, at_end: bool) -> int | None:
        """Return where a single letter in the margin, as of a watermark, is apart from the line beside it."""
        text = one.text
        if len(text) < 4 or text[-2 if at_end else 1] != " " or not one.is_even:
            return None
        place = len(text[:-1].rstrip()) if at_end else 1
        return place if abs(self._width(one, place, turn)) > _MARGIN_GAP * self._height(one, turn) else None

    def _width(self, one: _Found, place: int, turn: _Turn) -> float:
        """Return how wide the blank at a place is."""
        after = place
        while after < len(one.text) - 1 and one.text[after] == " ":
            after += 1
        before = self._turned(self._box(one.first + place - 1), turn)[2]
        return self._turned(self._box(one.first + after), turn)[0] - before

    def _height(self, one: _Found, turn: _Turn) -> float:
        box = self._turned(one.start, turn)
        return abs(box[3] - box[1])

    def _gap(self, one: _Found, turn: _Turn) -> int | None:
        """Return where in a wide line the gap between two columns is, looking at few characters only."""
        width = self._right - self._left if turn in {0, 180} else self._top - self._bottom
        left, right = self._turned(one.start, turn)[0], self._turned(one.end, turn)[2]
        low, high = width * _MIDDLE[0], width * _MIDDLE[1]
        text = one.text
        if right - left < width * _WIDE or left > low or right < high or " " not in text or not one.is_even:
            return None
        begin, end = self._reach(one, turn, low), self._reach(one, turn, high)
        least = _GAP * self._height(one, turn)
        best: tuple[float, int] | None = None
        place = text.find(" ", max(text.rfind(" ", 0, begin + 1), 0))
        while 0 < place <= end:
            gap = self._width(one, place, turn)
            if gap > least and (best is None or gap > best[0]):
                best = gap, place
            place = text.find(" ", place + 1)
        return best[1] if best is not None else None

    def _reach(self, one: _Found, turn: _Turn, x: float) -> int:
        """Return the first character that begins right of `x`, by bisection."""
        low, high = 0, len(one.text) - 1
        while low < high:
            middle = (low + high) // 2
            if self._turned(self._box(one.first + middle), turn)[0] < x:
                low = middle + 1
            else:
                high = middle
        return low
