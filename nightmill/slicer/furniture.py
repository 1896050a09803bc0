"""Tells what every page has, its header, label and stamps, from what is the page's own text."""

from __future__ import annotations

import re
import statistics
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

STAMPED = 0.5
"""Of the pages: what stands at the very same place on as many is no text."""

_DIGITS = re.compile(r"\d+")
_NOT_WORDS = re.compile(r"[\W_]+")
_DRIFT = 14.0
"""Points by which a running header may stand higher or lower than usual: scanned pages do."""
_STACK = 12.0
_LETTERS = 6
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
        stacks = _stacks(lines)
        for line in lines:
            is_furniture = (
                _is_repeated(page, line, repeated)
                or (stamped and _place(line) in stamped)
                or (stacks and len(line.text) == 1 and _stand(line) in stacks)
                or (_zone(page, line) and _is_label_or_header(page, line, profile))
            )
            (sheet.furniture if is_furniture else sheet.lines).append(line)
        sheets.append(sheet)
    return sheets


def _cleaned(page: Page, document_body: float) -> list[Line]:
    """Return the lines without shadows, and without those that run sideways."""
    upright = [
        line for line in page.lines if len(line.text) < 3 or line.bottom - line.top <= 2 * (line.right - line.left)
    ]
    return unshadowed(upright, document_body or body_size(upright))


def _zone(page: Page, line: Line) -> str:
    """Return `top` or `bottom` for a line at the page's edge."""
    if line.bottom <= page.height * EDGE:
        return "top"
    return "bottom" if line.top >= page.height * (1 - EDGE) else ""


def _key(zone: str, line: Line) -> str:
    """Return what copies of a line have in common: in headers all but the digits, in footers all."""
    folded = fold(line.text)
    return _NOT_WORDS.sub(" ", _DIGITS.sub("0", folded) if zone == "top" else folded).strip()


def _repeated(pages: Sequence[Page], cleaned: Sequence[list[Line]]) -> dict[tuple[str, str], float]:
    """Return by zone and words the usual distance from the page's edge of what comes back on many pages."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for page, lines in zip(pages, cleaned, strict=True):
        for line in lines:
            if zone := _zone(page, line):
                place = line.top if zone == "top" else page.height - line.bottom
                found.setdefault((zone, _key(zone, line)), {})[page.index] = place
    least = max(2, REPEATED * len(pages))
    return {
        key: statistics.median(places.values())
        for key, places in found.items()
        if len(places) >= least and len(key[1]) > 1
    }


def _is_repeated(page: Page, line: Line, repeated: dict[tuple[str, str], float]) -> bool:
    zone = _zone(page, line)
    usual = repeated.get((zone, _key(zone, line))) if zone else None
    return usual is not None and abs((line.top if zone == "top" else page.height - line.bottom) - usual) <= _DRIFT


def _place(line: Line) -> tuple[str, int, int]:
    return line.text, int(line.left / _GRID), int(line.top / _GRID)


def _stamped(cleaned: Sequence[list[Line]]) -> set[tuple[str, int, int]]:
    """Return what stands at the same place with the same words on many pages: watermarks, letter by letter too.

    Whole words have to do so on half of the pages, for an institution's name may stand at the top of several.
    """
    counts: Counter[tuple[str, int, int]] = Counter()
    for lines in cleaned:
        counts.update({_place(line) for line in lines})
    few, many = max(3, REPEATED * len(cleaned)), max(5, STAMPED * len(cleaned))
    return {place for place, count in counts.items() if count >= (few if len(place[0]) <= 3 else many)}


def _stand(line: Line) -> int:
    return round((line.left + line.right) / 2 / _STACK)


def _stacks(lines: Sequence[Line]) -> set[int]:
    """Return where letters stand one under the other, as those of a watermark do; not the numerals over paragraphs."""
    letters: dict[int, set[str]] = {}
    counts: Counter[int] = Counter()
    for line in lines:
        if len(line.text) == 1 and line.text.isalpha():
            counts[_stand(line)] += 1
            letters.setdefault(_stand(line), set()).add(line.text)
    return {stand for stand, count in counts.items() if count >= _LETTERS and letters[stand] - set("IVX")}


def _is_label_or_header(page: Page, line: Line, profile: GazetteProfile) -> bool:
    text = line.text.strip()
    if profile.label.fullmatch(text):
        return True
    if page.index == 0 or _zone(page, line) != "top":
        return False
    return profile.header.search(text) is not None or (len(text) == 1 and text.isalpha() and text not in "IVXAOY")
