"""Takes out what is printed several times over itself: a gazette's title and big initials have drop shadows."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nightmill.slicer.model import Line

NEAR = 4.0
"""Points by which copies are moved against each other."""

LARGE = 1.15
"""Of the body's size: only larger type has shadows, and only there are repeated words taken for one."""

_REPEATED = re.compile(r"(?<!\S)(\S.{0,60}?)(?: ?\1){2,}(?!\S)")
_INITIAL = re.compile(r"^(\w)(?: \1){2,} ?(?=\S)")


def unshadowed(lines: Sequence[Line], body: float) -> list[Line]:
    """Return the lines, each of those that repeat another within 4 points only once, and repeats within a line once.

    Args:
        lines: A page's lines; those with repeats inside are changed.
        body: The size of the page's running text.
    """
    kept: list[Line] = []
    seen: dict[str, list[Line]] = {}
    for line in lines:
        if line.size > body * LARGE:
            line.text = _single(line.text)
        twins = seen.setdefault(line.text, [])
        if any(abs(twin.left - line.left) <= NEAR and abs(twin.top - line.top) <= NEAR for twin in twins):
            continue
        twins.append(line)
        kept.append(line)
    return kept


def _single(text: str) -> str:
    text = text[:1_000]
    initial = _INITIAL.match(text)
    if initial is None:
        return _REPEATED.sub(r"\1", text)
    return initial[1] + _REPEATED.sub(r"\1", text[initial.end() :])
