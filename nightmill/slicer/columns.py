"""Puts a page's lines into the order in which a person reads them: in bands, the left column, then the right one."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from nightmill.slicer.model import Line, Page

ACROSS = -1
"""The column of what stands over both."""

_SEARCHED = (0.38, 0.62)
"""Of the page's width: where the gutter is looked for."""

_CROSSING = 0.15
"""Of the lines: where more than this cross it, there is no gutter."""

_MASTHEAD = 0.3
"""Of the first page's height."""

_OVERHANG = 12.0
"""Points that a line reaches beyond the gutter on both sides before it is one over both columns."""

_STEP = 1.5
"""Points: how finely the valley between the columns is looked for."""

_NARROWEST = 4.0
"""Points of the valley."""

_ENOUGH = 3
"""Lines on each side that a page needs to have a gutter of its own."""


@dataclass(slots=True)
class Row:
    """What stands on one line of a column, at its place in reading order.

    Attributes:
        text: Its characters.
        page: Its page, from 0.
        column: 0 for the left or only one, 1 for the right one, -1 for both.
        left: Its left edge.
        top: Its upper edge.
        right: Its right edge.
        bottom: Its lower edge.
        size: Size of its type.
        bold: Whether it begins in bold type.
        column_left: The column's left edge.
        column_right: The column's right edge.
    """

    text: str
    page: int
    column: int
    left: float
    top: float
    right: float
    bottom: float
    size: float
    bold: bool
    column_left: float = 0.0
    column_right: float = 0.0

    @property
    def is_centred(self) -> bool:
        """Whether it stands in the middle of its column, with room at both sides or all over it."""
        before, after = self.left - self.column_left, self.column_right - self.right
        width = self.column_right - self.column_left
        return abs(before - after) <= max(8.0, width * 0.045) and before > -_OVERHANG and after > -_OVERHANG

    @property
    def is_inset(self) -> bool:
        """Whether it is centred with visible room at both sides, as no line of running text is."""
        width = self.column_right - self.column_left
        return self.is_centred and self.left - self.column_left > width * 0.03


@dataclass(slots=True)
class Sheet:
    """A page whose lines are sorted.

    Attributes:
        page: The page.
        body: Size of its running text.
        lines: Its lines that are text.
        furniture: Those that every page has: headers, labels, stamps.
        gutter: Where its columns part; None for a single column.
        rows: Its text in reading order.
    """

    page: Page
    body: float
    lines: list[Line]
    furniture: list[Line] = field(default_factory=list)
    gutter: float | None = None
    rows: list[Row] = field(default_factory=list)


def lay_out(sheets: Sequence[Sheet]) -> None:
    """Find the columns of all pages, and fill their `rows`."""
    valleys = [_valley(sheet) for sheet in sheets]
    own = [sum(valley) / 2 if valley is not None else None for valley in valleys]
    by_size: dict[tuple[int, int], list[float]] = {}
    for sheet, gutter in zip(sheets, own, strict=True):
        if gutter is not None:
            by_size.setdefault(_size(sheet.page), []).append(gutter)
    usual = {size: statistics.median(found) for size, found in by_size.items()}
    everywhere = statistics.median([g / s.page.width for g, s in zip(own, sheets, strict=True) if g] or [0.0])
    for sheet, gutter, valley in zip(sheets, own, valleys, strict=True):
        if valley is not None and valley[0] <= usual[_size(sheet.page)] <= valley[1]:
            gutter = usual[_size(sheet.page)]  # the middle of ragged lines is not that of the columns
        elif gutter is None:
            inherited = usual.get(_size(sheet.page)) or everywhere * sheet.page.width or None
            text = [line for line in sheet.lines if not _is_title(sheet, line)]
            if inherited is not None and _crossing(text, inherited) <= _CROSSING * len(text):
                gutter = inherited
        sheet.gutter = gutter
    edges = _usual_edges(sheets)
    for sheet in sheets:
        sheet.rows = _rows(sheet, edges)


def body_size(lines: Iterable[Line]) -> float:
    """Return the size of type that most characters have, to half a point; 0 without lines."""
    counts: dict[float, int] = {}
    for line in lines:
        size = round(line.size * 2) / 2
        counts[size] = counts.get(size, 0) + len(line.text)
    return max(counts, key=lambda size: counts[size]) if counts else 0.0


def _size(page: Page) -> tuple[int, int]:
    return round(page.width / 20), round(page.height / 20)


def _valley(sheet: Sheet) -> tuple[float, float] | None:
    """Return the ends of the widest low valley in the page's projection on its width."""
    width = sheet.page.width
    low, high = int(width * _SEARCHED[0] / _STEP), int(width * _SEARCHED[1] / _STEP)
    steps = [0] * (high - low + 2)
    near = [line for line in sheet.lines if line.right - line.left < width * 0.6 and not _is_title(sheet, line)]
    for line in near:
        left, right = max(int(line.left / _STEP), low), min(int(line.right / _STEP) + 1, high)
        if left < right:
            steps[left - low] += 1
            steps[right - low] -= 1
    counts: list[int] = []
    count = 0
    for step in steps[: high - low]:
        count += step
        counts.append(count)
    if not counts or not near:
        return None
    floor = min(counts)
    if floor > _CROSSING * len(near):
        return None
    best = (0, 0)
    start = 0
    for place, count in enumerate([*counts, floor + len(near)]):
        if count > floor + 0.02 * len(near):
            best = max(best, (place - start, -start))
            start = place + 1
    begin, wide = (low - best[1]) * _STEP, best[0] * _STEP
    gutter = begin + wide / 2
    before = sum(line.right <= gutter + 2 for line in near)
    after = sum(line.left >= gutter - 2 for line in near)
    return (begin, begin + wide) if before >= _ENOUGH and after >= _ENOUGH and wide >= _NARROWEST else None


def _is_title(sheet: Sheet, line: Line) -> bool:
    """Whether a line belongs to the first page's masthead, which stands over both columns."""
    return sheet.page.index == 0 and line.bottom < sheet.page.height * _MASTHEAD


def _crossing(lines: Iterable[Line], gutter: float) -> int:
    return sum(line.left < gutter - _OVERHANG and line.right > gutter + _OVERHANG for line in lines)


def _column(line: Line, gutter: float | None) -> int:
    if gutter is None:
        return 0
    if line.left < gutter - _OVERHANG and line.right > gutter + _OVERHANG:
        return ACROSS
    return int(line.left + line.right > 2 * gutter)


def _edges(sheet: Sheet) -> dict[int, tuple[float, float]]:
    """Return the left and right edge of the columns that have enough full lines to tell."""
    sides: dict[int, list[Line]] = {}
    for line in sheet.lines:
        sides.setdefault(_column(line, sheet.gutter), []).append(line)
    found: dict[int, tuple[float, float]] = {}
    for column, lines in sides.items():
        if column == ACROSS:
            continue
        widths = sorted(line.right - line.left for line in lines)
        usual = widths[int(len(widths) * 0.9)]
        full = [line for line in lines if line.right - line.left >= 0.93 * usual]
        if len(full) >= 6 and usual > sheet.page.width * 0.2:
            found[column] = statistics.median(x.left for x in full), statistics.median(x.right for x in full)
    return found


def _usual_edges(sheets: Sequence[Sheet]) -> dict[tuple[int, int], tuple[float, float]]:
    """Return by page and column its edges; a column that cannot tell has the usual distance to the gutter."""
    found = {sheet.page.index: _edges(sheet) for sheet in sheets}
    offsets: dict[tuple[bool, int], list[tuple[float, float]]] = {}
    for sheet in sheets:
        origin = sheet.gutter or 0.0
        for column, (left, right) in found[sheet.page.index].items():
            offsets.setdefault((sheet.gutter is None, column), []).append((left - origin, right - origin))
    usual_widths = {
        kind: (statistics.median(left for left, _ in each), statistics.median(right for _, right in each))
        for kind, each in offsets.items()
    }
    edges: dict[tuple[int, int], tuple[float, float]] = {}
    for sheet in sheets:
        for column in (0, 1) if sheet.gutter is not None else (0,):
            own = found[sheet.page.index].get(column)
            width = usual_widths.get((sheet.gutter is None, column))
            if width is not None and (own is None or own[1] - own[0] < 0.98 * (width[1] - width[0])):
                origin = sheet.gutter or 0.0
                own = origin + width[0], origin + width[1]
            if own is None:
                lines = [line for line in sheet.lines if _column(line, sheet.gutter) == column]
                left = min((line.left for line in lines), default=0.0)
                own = left, max((line.right for line in lines), default=sheet.page.width)
            edges[sheet.page.index, column] = own
        if sheet.gutter is not None:
            edges[sheet.page.index, ACROSS] = edges[sheet.page.index, 0][0], edges[sheet.page.index, 1][1]
    return edges


def _rows(sheet: Sheet, edges: dict[tuple[int, int], tuple[float, float]]) -> list[Row]:
    bands: list[tuple[list[Line], list[Line]]] = [([], [])]
    ordered: list[Row] = []
    columns = [(line, _column(line, sheet.gutter)) for line in sorted(sheet.lines, key=_middle)]

    def close() -> None:
        for column, lines in enumerate(bands[-1]):
            if lines:
                ordered.extend(_joined(lines, sheet, column, edges))
        bands.append(([], []))

    for line, column in columns:
        if column == ACROSS:
            close()
            ordered.extend(_joined([line], sheet, ACROSS, edges))
        else:
            bands[-1][column].append(line)
    close()
    return ordered


def _middle(line: Line) -> float:
    return line.top + line.bottom


def _joined(
    lines: Sequence[Line], sheet: Sheet, column: int, edges: dict[tuple[int, int], tuple[float, float]]
) -> list[Row]:
    """Return a column's rows, from above; parts that stand at the same height are one row."""
    left, right = edges[sheet.page.index, column]
    rows: list[Row] = []
    for line in lines:
        last = rows[-1] if rows else None
        if last is not None and abs(last.top + last.bottom - line.top - line.bottom) < 0.8 * min(
            last.bottom - last.top, line.bottom - line.top
        ):
            if line.left >= last.right - 1:
                last.text = f"{last.text} {line.text}"
                last.right = line.right
                continue
            if line.right <= last.left + 1:
                last.text = f"{line.text} {last.text}"
                last.left, last.size, last.bold = line.left, line.size, line.bold
                continue
        rows.append(
            Row(
                line.text, sheet.page.index, column, line.left, line.top, line.right, line.bottom, line.size,
                line.bold, left, right,
            )
        )  # fmt: skip
    return rows
