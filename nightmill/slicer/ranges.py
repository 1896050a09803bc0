"""Page ranges as people write them: `1-3,4,7-` or `Introduction=1-3,Law=4-`; they count pages from 1."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

MAX_RANGES = 10_000
"""As many slices as a result may have."""

_RANGE = re.compile(r"([0-9]{1,9})?\s*(-)?\s*([0-9]{1,9})?")


class RangeError(ValueError):
    """The ranges cannot be understood, or name pages that there are not. `str()` is a line for people."""


class NamedRange(NamedTuple):
    """Some pages, from 1, both ends included.

    Attributes:
        name: What they are called; empty where no name is given.
        first: The first page.
        last: The last one; None for the document's last.
    """

    name: str
    first: int
    last: int | None


def parse_ranges(text: str) -> list[NamedRange]:
    """Return what is written in `text`: `4`, `1-3`, `7-` and `-3`, each perhaps named, separated by commas.

    Raises:
        RangeError: Something else is written there.
    """
    parts = text.split(",")
    if len(parts) > MAX_RANGES:
        raise RangeError(f"{len(parts):,} page ranges, at most {MAX_RANGES:,} are possible")
    return [_parse(part) for part in parts]


def resolve(found: NamedRange, page_count: int) -> tuple[int, int]:
    """Return a range in pages from 0, both ends included.

    Raises:
        RangeError: The document ends before.
    """
    last = page_count if found.last is None else found.last
    if found.first > page_count or last > page_count:
        raise RangeError(f"pages {as_text([(found.first, found.last)])}: the document has {page_count:,} pages")
    return found.first - 1, last - 1


def pages_as_text(pages: Iterable[int], *, at_most: int = 20) -> str:
    """Return pages from 0 as people write them: `1-3, 7`; `…` stands for what is more than `at_most` ranges."""
    runs: list[tuple[int, int | None]] = []
    for page in sorted(set(pages)):
        if runs and runs[-1][1] == page:
            runs[-1] = (runs[-1][0], page + 1)
        else:
            runs.append((page + 1, page + 1))
    shown = as_text(runs[:at_most])
    return f"{shown}, …" if len(runs) > at_most else shown


def as_text(runs: Iterable[tuple[int, int | None]]) -> str:
    """Return ranges of pages from 1 as they are written; None is an open end."""
    return ", ".join(
        f"{first}-" if last is None else str(first) if first == last else f"{first}-{last}" for first, last in runs
    )


def _parse(part: str) -> NamedRange:
    name, _, written = part.rpartition("=")
    match = _RANGE.fullmatch(written.strip())
    if match is None or (match[1] is None and match[3] is None) or (match[2] is None and match[3] is not None):
        raise RangeError(f"{part.strip()[:80]!r} is no page range; write 4, 1-3, 7- or NAME=1-3")
    first = int(match[1]) if match[1] else 1
    last = first if match[2] is None else int(match[3]) if match[3] else None
    if first < 1 or (last is not None and last < first):
        raise RangeError(f"{part.strip()[:80]!r}: pages are counted from 1, and the last one is not before the first")
    return NamedRange(" ".join(name.split()), first, last)
