"""Brings together what the SUMARIO announces and what the pages have."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from nightmill.slicer.columns import Row
from nightmill.slicer.heads import Head
from nightmill.slicer.naming import fold, squeezed
from nightmill.slicer.sections import Sections
from nightmill.slicer.spans import Start
from nightmill.slicer.sumario import Expected, Sumario

_CLOSING = re.compile(r"^(?:dad[oa] en\b)|\b(?:publiquese|comuniquese|cumplase|archivese)\b")
_OPENING = re.compile(
    r"(?:considerando|el congreso nacional|el presidente|la presidenta|el (?:sub)?secretario|la (?:sub)?secretaria|"
    r"el infrascrito|la infrascrita|el suscrito|la suscrita|vist[oa]s?\b|el directorio|el pleno|articulo 1\b|primero\b)"
)
UNDER = 10
"""Rows under an act's first one that still belong to its beginning."""

CONFIRMED, UNCHECKED, UNLISTED, INFERRED = 1.0, 0.8, 0.6, 0.3


@dataclass(slots=True)
class _Match:
    expected: Expected
    head: Head | None = None


def starts_of_acts(
    rows: Sequence[Row],
    heads: Sequence[Head],
    sumario: Sumario,
    sections: Sections,
    left_out: Collection[int],
    end: int,
) -> tuple[list[Start], list[str]]:
    """Return where acts begin, and what the SUMARIO and the pages do not agree on.

    What both have is confirmed; a head that the SUMARIO does not have is kept and flagged; an act whose head was not
    found begins on the page that the SUMARIO gives, and is flagged. A page that the SUMARIO gives never moves a head.

    Args:
        rows: The document in reading order.
        heads: The heads, with their institutions.
        sumario: What is announced.
        sections: Which page has which printed number.
        left_out: Places of rows that are no text.
        end: The place at which the acts end.
    """
    matches = _matched(rows, heads, sumario, sections)
    flags: list[str] = []
    by_head = {match.head.row: match.expected for match in matches if match.head is not None}
    starts: list[Start] = []
    for head in heads:
        start = Start(head.first, head.name, tag_of(head.kind), head.issuer, head.last + 1)
        expected = by_head.get(head.row)
        if not sumario.expected:
            start.confidence = UNCHECKED
        elif expected is None:
            start.confidence = UNLISTED
            start.flags.append("the SUMARIO does not have it")
            flags.append(f"{start.name} on page {rows[start.row].page + 1} is not in the SUMARIO")
        else:
            start.extras["sumario"] = expected.name
            announced = sections.physical(expected.section, expected.first) if expected.leads else None
            if announced is not None and announced != rows[start.row].page:
                start.confidence = UNCHECKED
                start.flags.append(f"the SUMARIO has it on page {announced + 1}")
                flags.append(
                    f"{start.name} begins on page {rows[start.row].page + 1}, the SUMARIO has it on {announced + 1}"
                )
        starts.append(start)
    for place, match in enumerate(matches):
        if match.head is None:
            inferred = _inferred(rows, matches, place, sections, left_out, end, {start.row for start in starts})
            if inferred is None:
                flags.append(f"{match.expected.name} of the SUMARIO was not found")
                continue
            flags.append(f"{inferred.name} has no head; it is taken to begin on page {rows[inferred.row].page + 1}")
            starts.append(inferred)
    return sorted(starts, key=lambda start: start.row), flags


def tag_of(kind: str) -> str:
    """Return the name of a kind of act for people: `Decreto`."""
    word = squeezed(kind).split(" ", 1)[0] if kind else ""
    if word.lower() == "fe":
        return "Fe de Erratas"
    return word.capitalize()


def _matched(rows: Sequence[Row], heads: Sequence[Head], sumario: Sumario, sections: Sections) -> list[_Match]:
    matches = [_Match(expected) for expected in sumario.expected]
    free = list(heads)

    def take(match: _Match, found: Head) -> None:
        match.head = found
        free.remove(found)

    for match in matches:
        key = match.expected.key
        if key.number:
            same = [head for head in free if head.key.number == key.number]
            same.sort(key=lambda head: head.key.kind != key.kind)
            if same:
                take(match, same[0])
    # What has no number is told by its kind and page, else by its kind and the order.
    for needs_page in (True, False):
        for match in matches:
            if match.head is not None or match.expected.key.number:
                continue
            announced = sections.physical(match.expected.section, match.expected.first)
            low, high = _between(matches, match)
            for head in free:
                if head.key.number or head.key.kind != match.expected.key.kind or not low < head.row < high:
                    continue
                if not needs_page or rows[head.first].page == announced:
                    take(match, head)
                    break
    return matches


def _between(matches: Sequence[_Match], match: _Match) -> tuple[float, float]:
    """Return the places of the found heads around an entry."""
    place = next(step for step, each in enumerate(matches) if each is match)
    before = [each.head.row for each in matches[:place] if each.head is not None]
    after = [each.head.row for each in matches[place + 1 :] if each.head is not None]
    return max(before, default=-1), min(after, default=float("inf"))


def _inferred(
    rows: Sequence[Row],
    matches: Sequence[_Match],
    place: int,
    sections: Sections,
    left_out: Collection[int],
    end: int,
    taken: Collection[int],
) -> Start | None:
    """Return where an act without a head may begin: after another one's end, on the page that the SUMARIO gives."""
    expected = matches[place].expected
    first = sections.physical(expected.section, expected.first)
    last = sections.physical(expected.section, expected.last)
    if first is None or last is None:
        return None
    if expected.leads:
        last = first
    low, high = _between(matches, matches[place])
    rows_there = [
        each
        for each in range(len(rows))
        if first <= rows[each].page <= last and low < each < min(high, end) and each not in left_out
    ]
    if not rows_there:
        return None
    row = _after_a_closing(rows, rows_there, taken)
    exact = row is not None
    return Start(
        row if row is not None else rows_there[0],
        squeezed(expected.name),
        tag_of(expected.key.kind),
        expected.issuer,
        row if row is not None else rows_there[0],
        INFERRED if exact else INFERRED / 2,
        ["its head was not found; where it begins is inferred from the SUMARIO"],
        {"inferred": True},
    )


def _after_a_closing(rows: Sequence[Row], places: Sequence[int], taken: Collection[int]) -> int | None:
    """Return where an act seems to open: after another's closing words, else where opening words stand centred."""
    closed = False
    centred: int | None = None
    for each in places:
        folded = fold(rows[each].text[:200])
        if each in taken:
            closed = False
        elif _OPENING.match(folded):
            if closed:
                return each
            if centred is None and rows[each].is_inset and not any(0 <= each - start <= UNDER for start in taken):
                centred = each
        elif _CLOSING.search(folded):
            closed = True
    return centred
