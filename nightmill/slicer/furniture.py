"""Tells what every page has, its header, label and stamps, from what is the page's own text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from nightmill.slicer.columns import Sheet, body_size
from nightmill.slicer.model import Line, Page
from nightmill.slicer.naming import fold
from nightmill.slicer.profiles import GazetteProfile
from nightmill.slicer.shadows import unshadowed

EDGE = 0.09
"""Of the page's height: running headers stand above this line, labels and stamps under the same one from below.
Nothing is dropped for its place alone, or heads at the top of a column are lost."""

REPEATED = 0.3
"""Of the pages: what comes back on as many is furniture."""

_DIGITS = re.compile(r"\d+")
_NOT_WORDS = re.compile(r"[\W_]+")
_GRID = 6.0
"""Points: a stamp that comes back within them stands at the same place."""


def sorted_out(pages: Sequence[Page], profile: GazetteProfile) -> list[Sheet]:
    """Return the pages with their lines told apart: text, and furniture."""
    document_body = body_size(line for page in pages for line in page.lines if page.source == "digital")
    cleaned = [_cleaned(page, document_body) for page in pages]
    repeated = _repeated(pages, cleaned)
    stamped = _stamped(cleaned)
    sheets = []
    for page, lines in zip(pages, cleaned, strict=True):
        body = document_body if page.source == "digital" else body_size(lines)
        sheet = Sheet(page, body, [])
        for line in lines:
            is_furniture = (
                _key(page, line) in repeated
                or _place(line) in stamped
                or (_zone(page, line) and _is_label_or_header(page, line, profile))
            )
            (sheet.furniture if is_furniture else sheet.lines).append(line)
        sheets.append(sheet)
    return sheets


def _cleaned(page: Page, document_body: float) -> list[Line]:
    """Return the lines without shadows, and without those that run sideways."""
    upright = [
        line
        for line in page.lines
        if len(line.text) < 3 or line.bottom - line.top <= 2 * (line.right - line.left)
    ]
    return unshadowed(upright, document_body or body_size(upright))


def _zone(page: Page, line: Line) -> str:
    """Return `top` or `bottom` for a line at the page's edge."""
    if line.bottom <= page.height * EDGE:
        return "top"
    return "bottom" if line.top >= page.height * (1 - EDGE) else ""


def _key(page: Page, line: Line) -> tuple[str, str]:
    masked = _NOT_WORDS.sub(" ", _DIGITS.sub("0", fold(line.text))).strip()
    return _zone(page, line), masked


def _repeated(pages: Sequence[Page], cleaned: Sequence[list[Line]]) -> set[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for page, lines in zip(pages, cleaned, strict=True):
        counts.update({key for line in lines if (key := _key(page, line))[0]})
    least = max(2, REPEATED * len(pages))
    return {key for key, count in counts.items() if count >= least and len(key[1]) > 1}


def _place(line: Line) -> tuple[str, int, int]:
    return line.text, round(line.left / _GRID), round(line.top / _GRID)


def _stamped(cleaned: Sequence[list[Line]]) -> set[tuple[str, int, int]]:
    """Return what stands at the same place with the same words on many pages: watermarks, letter by letter too."""
    counts: Counter[tuple[str, int, int]] = Counter()
    for lines in cleaned:
        counts.update({_place(line) for line in lines})
    least = max(3, REPEATED * len(cleaned))
    return {place for place, count in counts.items() if count >= least}


def _is_label_or_header(page: Page, line: Line, profile: GazetteProfile) -> bool:
    text = line.text.strip()
    if profile.label.fullmatch(text):
        return True
    return page.index > 0 and _zone(page, line) == "top" and profile.header.search(text) is not None
