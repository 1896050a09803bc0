"""Sets text into the columns of pages, line by line, so that every line's place is known before anything is drawn.

All measures are points; `y` is a base line's distance from the upper edge of the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random
from typing import Literal

from reportlab.pdfbase.pdfmetrics import stringWidth

from nightmill.slicer.samples.prose import paragraph

WIDTH, HEIGHT = 612.0, 792.0
MARGIN, GUTTER = 40.0, 20.0
COLUMN = (WIDTH - 2 * MARGIN - GUTTER) / 2
BODY_TOP, BODY_BOTTOM = 74.0, 748.0
WIDE = 2
"""The column of what stands over both."""


@dataclass(frozen=True, slots=True)
class Style:
    """How a line looks.

    Attributes:
        font: One of the fonts that every PDF reader has.
        size: Its size.
        align: Where a line stands in its column; `both` are lines of equal length.
        gap: Room over the first line of a paragraph.
        shadow: How often it is printed over itself.
        indent: How far the column's left edge is away.
    """

    font: str
    size: float
    align: Literal["left", "center", "right", "both"] = "left"
    gap: float = 0.0
    shadow: int = 1
    indent: float = 0.0

    @property
    def leading(self) -> float:
        """From one base line to the next."""
        return self.size * 1.15


@dataclass(slots=True)
class Line:
    """A line before it has a place."""

    text: str
    style: Style
    gap: float = 0.0
    spacing: float = 0.0

    @property
    def height(self) -> float:
        """How much room it takes."""
        return self.style.leading + self.gap


@dataclass(slots=True)
class Run:
    """A line in its place."""

    x: float
    y: float
    text: str
    font: str
    size: float
    column: int = WIDE
    spacing: float = 0.0
    shadow: int = 1


@dataclass(slots=True)
class Rule:
    """A drawn line."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class Frame:
    """Where lines can go: a column of a page, or a part of it."""

    page: int
    column: int
    top: float = BODY_TOP
    bottom: float = BODY_BOTTOM

    @property
    def left(self) -> float:
        """Its left edge."""
        return MARGIN + (self.column % WIDE) * (COLUMN + GUTTER)


@dataclass(slots=True)
class Sheet:
    """A page with what stands on it."""

    runs: list[Run] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)


@lru_cache(maxsize=200_000)
def word_width(word: str, font: str) -> float:
    """Return a word's width at size 1."""
    return float(stringWidth(word, font, 1_000)) / 1_000


def text_width(text: str, font: str, size: float) -> float:
    """Return a line's width."""
    words = text.split(" ")
    return (sum(word_width(word, font) for word in words) + (len(words) - 1) * word_width(" ", font)) * size


def wrapped(text: str, style: Style, width: float = COLUMN) -> list[Line]:
    """Return the lines of a paragraph."""
    font, size = style.font, style.size
    blank = word_width(" ", font) * size
    room = width - style.indent
    lines: list[Line] = []
    words: list[str] = []
    used = 0.0
    for word in text.split(" "):
        added = word_width(word, font) * size + (blank if words else 0.0)
        if words and used + added > room:
            spacing = (room - used) / (len(words) - 1) if style.align == "both" and len(words) > 1 else 0.0
            lines.append(Line(" ".join(words), style, spacing=spacing))
            words, used, added = [], 0.0, added - blank
        words.append(word)
        used += added
    lines.append(Line(" ".join(words), style))
    lines[0].gap = style.gap
    return lines


@dataclass(slots=True)
class Press:
    """Fills frame after frame.

    Attributes:
        front: The first page's frames, in reading order; what they leave free is for masthead and SUMARIO. None where
            those have the page for themselves.
        banner: How much of a page's top is taken over both columns, by page.
        sheets: The pages.
    """

    front: Sequence[Frame]
    banner: dict[int, float] = field(default_factory=dict)
    sheets: list[Sheet] = field(default_factory=lambda: [Sheet()])
    _place: int = 0
    _y: float = 0.0
    _touched: bool = False

    def __post_init__(self) -> None:
        """Begin at the first frame."""
        self._y = self.frame.top
        self.sheets += [Sheet() for _ in range(self.page)]

    @property
    def frame(self) -> Frame:
        """Where the next line goes, if it has room."""
        if self._place < len(self.front):
            return self.front[self._place]
        page, column = divmod(self._place - len(self.front), 2)
        page += 1
        return Frame(page, column, BODY_TOP + self.banner.get(page, 0.0))

    @property
    def page(self) -> int:
        """The page of that frame."""
        return self.frame.page

    @property
    def room(self) -> float:
        """How much is left of the frame."""
        return self.frame.bottom - self._y

    @property
    def at_top(self) -> bool:
        """Whether nothing stands in the frame."""
        return not self._touched

    @property
    def first_on_page(self) -> bool:
        """Whether the next line would be the first in the body of its page."""
        return self.at_top and self.frame.column == 0 and not self.banner.get(self.page)

    def next_frame(self) -> None:
        """Go on in the next frame."""
        self._place += 1
        self._y = self.frame.top
        self._touched = False
        while len(self.sheets) <= self.page:
            self.sheets.append(Sheet())

    def next_page(self) -> None:
        """Go on at the top of a page."""
        if not self.first_on_page:
            page = self.page
            while self.page == page:
                self.next_frame()

    def reserve(self, room: float) -> None:
        """Go on in the next frame unless this one has as much room left, or nothing in it."""
        if room > self.room and not self.at_top:
            self.next_frame()

    def put(self, lines: Iterable[Line]) -> None:
        """Set lines, in the next frame where one has no room."""
        for line in lines:
            if line.height > self.room + 0.01 and not self.at_top:
                self.next_frame()
            self._set(line)

    def align(self, need: float, style: Style, filler: Callable[[int], list[Line]], *, at_page_end: bool) -> None:
        """Set so many lines that only so much room is left in a column, or in a page's last one.

        Args:
            need: The room.
            style: The lines' style.
            filler: Returns so many lines of one paragraph.
            at_page_end: Go on to the last column of a page.
        """

        def fill(room: float) -> None:
            self.put(filler(max(0, int((room - style.gap) / style.leading))))

        while self.room < need + 3 * style.leading or (at_page_end and self.frame.column == 0):
            fill(self.room)
            self.next_frame()
        fill(self.room - need)

    def _set(self, line: Line) -> None:
        frame, style = self.frame, line.style
        self._y += line.height - (line.gap if self.at_top else 0)
        self._touched = True
        run = placed(line, frame.left, self._y - style.size * 0.25, COLUMN)
        run.column = frame.column
        self.sheets[frame.page].runs.append(run)


def placed(line: Line, left: float, y: float, width: float) -> Run:
    """Return a line as it stands between two edges."""
    style = line.style
    x = left + style.indent
    if style.align in {"center", "right"}:
        free = width - text_width(line.text, style.font, style.size)
        x = left + (free / 2 if style.align == "center" else free)
    return Run(x, y, line.text, style.font, style.size, WIDE, line.spacing, style.shadow)


def lines_of(texts: Iterable[str], style: Style) -> list[Line]:
    """Return one line a text, the first with the style's gap."""
    lines = [Line(text, style) for text in texts]
    if lines:
        lines[0].gap = style.gap
    return lines


def height(lines: Iterable[Line]) -> float:
    """Return how much room lines take."""
    return sum(line.height for line in lines)


def bolder(style: Style) -> Style:
    """Return the same style in bold."""
    return replace(style, font={"Times-Roman": "Times-Bold", "Helvetica": "Helvetica-Bold"}[style.font])


def filler(count: int, style: Style, chance: Random) -> list[Line]:
    """Return exactly so many lines of one paragraph."""
    lines: list[Line] = []
    while len(lines) < count:
        more = wrapped(paragraph(chance, 4), style)
        more[0].gap = 0 if lines else style.gap
        lines += more
    return lines[:count]
