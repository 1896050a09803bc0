"""Finds the entries of a SUMARIO that announces by institution and title, as La Gaceta of Nicaragua does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from nightmill.slicer.columns import Row
from nightmill.slicer.heads import Head, Issuer, Type
from nightmill.slicer.naming import MARCAS, fold, number_key, number_of, squeezed
from nightmill.slicer.reconcile import CONFIRMED, INFERRED, UNCHECKED, UNLISTED, tag_of
from nightmill.slicer.sections import Sections, is_marcas
from nightmill.slicer.spans import Start
from nightmill.slicer.sumario import Expected, Sumario

REGISTERED = re.compile(r"reg[.,]?\s*(?:no?\.?\s*)?[\dio]{3,}")
"""The line under or over a notice's title that says what was paid for it, in folded text."""

ALIKE = 0.84
"""How alike a title and an entry are at least; recognized text has wrong letters."""

TITLE_ROWS = 6
"""Rows of a title at most."""

NEAR = 3
"""Rows between a title and its registration line at most."""

_WORDS = re.compile(r"[^a-z0-9ñ]+")


@dataclass(slots=True)
class _Title:
    """Centred rows that belong together.

    Attributes:
        first: The place of the first.
        last: The place of the last.
        words: Their words, folded, without marks.
        text: Their text.
    """

    first: int
    last: int
    words: str
    text: str


def starts_of_entries(
    rows: Sequence[Row],
    heads: Sequence[Head],
    issuers: Sequence[Issuer],
    kind: Type,
    sumario: Sumario,
    sections: Sections,
) -> tuple[list[Start], list[str]]:
    """Return where the entries begin, and what the SUMARIO and the pages do not agree on.

    An entry begins at its institution's head where it is the first of that institution, else at its title. A numbered
    or registered head that no entry has begins a slice of its own, and is flagged; without a SUMARIO all of them do.
    """
    titles = _titles(rows, kind, sumario.places)
    starts: list[Start] = []
    flags: list[str] = []
    used: set[int] = set()
    after = max(sumario.places, default=-1)
    previous_issuer = ""
    for expected in sumario.expected:
        is_new = fold(expected.issuer) != previous_issuer
        previous_issuer = fold(expected.issuer)
        announced = sections.physical("", expected.first)
        start = _located(rows, expected, is_new, announced, after, titles, heads, issuers, used)
        if start is None:
            start = _inferred(rows, expected, announced, after, sumario.places)
            if start is None:
                flags.append(f"{expected.name} of the SUMARIO was not found")
                continue
            flags.append(f"{start.name} has no head; it is taken to begin on page {rows[start.row].page + 1}")
        elif announced is not None and rows[start.row].page != announced:
            start.confidence = UNCHECKED
            start.flags.append(f"the SUMARIO has it on page {announced + 1}")
            flags.append(
                f"{start.name} begins on page {rows[start.row].page + 1}, the SUMARIO has it on {announced + 1}"
            )
        after = max(start.row, start.after - 1)
        starts.append(start)
    for start in _unlisted(rows, heads, issuers, titles, kind, starts, used):
        if sumario.expected:
            flags.append(f"{start.name} on page {rows[start.row].page + 1} is not in the SUMARIO")
            start.flags.append("the SUMARIO does not have it")
        else:
            start.confidence = UNCHECKED
        starts.append(start)
    return sorted(starts, key=lambda start: start.row), flags


def _plain(text: str) -> str:
    return _WORDS.sub(" ", fold(text)).strip()


def _titles(rows: Sequence[Row], kind: Type, left_out: set[int]) -> list[_Title]:
    """Return blocks of rows in the middle of their column, of one type each."""
    found: list[_Title] = []
    place = 0
    while place < len(rows):
        row = rows[place]
        if place in left_out or not (row.is_centred and kind.stands_out(row)) or not row.text.strip()[:1].isalpha():
            place += 1
            continue
        last = place
        while (
            last + 1 < len(rows)
            and last - place < TITLE_ROWS - 1
            and last + 1 not in left_out
            and rows[last + 1].column == row.column
            and rows[last + 1].page == row.page
            and rows[last + 1].is_centred
            and rows[last + 1].bold == row.bold
            and abs(rows[last + 1].size - row.size) <= 0.4
            and rows[last + 1].top - rows[last].bottom < 0.6 * (row.bottom - row.top)
            and not REGISTERED.match(fold(rows[last + 1].text))
        ):
            last += 1
        text = squeezed(" ".join(rows[each].text for each in range(place, last + 1)))
        if len(text) <= 400:
            found.append(_Title(place, last, _plain(text), text))
        place = last + 1
    return found


def _is_alike(title: str, entry: str) -> bool:
    """Whether a title is that of an entry: equal, or longer, or with a few wrong letters, or one of a plural."""
    if not title or not entry:
        return False
    if title.startswith(entry) or (len(title) >= 12 and entry.startswith(title)):
        return True
    if " " not in entry and entry.endswith("s") and title in {entry[:-1], entry[:-2]}:
        return True
    if abs(len(title) - len(entry)) > max(4, 0.3 * len(entry)):
        return False
    return SequenceMatcher(None, title, entry, autojunk=False).ratio() >= ALIKE


def _located(
    rows: Sequence[Row],
    expected: Expected,
    is_new: bool,
    announced: int | None,
    after: int,
    titles: Sequence[_Title],
    heads: Sequence[Head],
    issuers: Sequence[Issuer],
    used: set[int],
) -> Start | None:
    """Return where an entry begins, on the page that the SUMARIO gives if it is there, else on the next that has it."""
    entry = _plain(expected.name)
    heading = _plain(expected.issuer)
    anchors: list[tuple[int, int]] = []
    if is_new and heading:
        anchors = [
            (issuer.first, issuer.last + 1)
            for issuer in issuers
            if issuer.first > after and _is_alike(_plain(issuer.name), heading)
        ]
    own: list[tuple[int, int]] = [
        (head.row, head.last + 1)
        for head in heads
        if head.row > after and expected.key.number and head.key.number == expected.key.number
    ]
    own += [
        (title.first, title.last + 1)
        for title in titles
        if title.first > after
        and _is_alike(title.words, entry)
        and expected.key.number in {"", number_key(number_of(title.text))}  # numbers are alike, and not the same
    ]
    anchor = _nearest(rows, anchors, announced)
    title = _nearest(rows, own, announced)
    if title is not None and (anchor is None or _is_between(anchor, title, titles, heads, rows)):
        first, end = title
        over = [issuer for issuer in issuers if issuer.first > after and first - NEAR <= issuer.last < first]
        if over and all(rows[place].is_centred for place in range(over[-1].last + 1, first)):
            first = over[-1].first
    elif anchor is not None:
        first, end = anchor
        if title is not None and first <= title[0] <= first + 2 * TITLE_ROWS:
            end = max(end, title[1])
    else:
        return None
    used.update(range(first, end))
    if title is not None:
        used.update(range(*title))
    name = MARCAS if entry.startswith("marcas de f") else squeezed(expected.name)
    return Start(
        first, name, tag_of(expected.key.kind), expected.issuer, end, CONFIRMED, extras={"sumario": expected.name}
    )


def _nearest(rows: Sequence[Row], found: Sequence[tuple[int, int]], announced: int | None) -> tuple[int, int] | None:
    """Return the first on the page that the SUMARIO gives, else the first of all."""
    return min([one for one in found if rows[one[0]].page == announced] or found, default=None)


def _is_between(
    anchor: tuple[int, int],
    title: tuple[int, int],
    titles: Sequence[_Title],
    heads: Sequence[Head],
    rows: Sequence[Row],
) -> bool:
    """Whether the title does not belong to the institution's head: it is before it, or another notice is between."""
    if title[0] < anchor[0]:
        return True
    numbered = {head.row for head in heads}
    return any(
        anchor[1] <= each.first < title[0] and each.first in numbered and _is_registered(rows, each) for each in titles
    )


def _inferred(
    rows: Sequence[Row], expected: Expected, announced: int | None, after: int, left_out: set[int]
) -> Start | None:
    """Return the first registered notice on the page that the SUMARIO gives, or the page's first row."""
    there = [place for place in range(after + 1, len(rows)) if rows[place].page == announced and place not in left_out]
    if not there:
        return None
    first = next((place for place in there if REGISTERED.match(fold(rows[place].text))), there[0])
    return Start(
        first,
        squeezed(expected.name),
        tag_of(expected.key.kind),
        expected.issuer,
        first,
        INFERRED,
        ["its head was not found; where it begins is inferred from the SUMARIO"],
        {"inferred": True},
    )


def _unlisted(
    rows: Sequence[Row],
    heads: Sequence[Head],
    issuers: Sequence[Issuer],
    titles: Sequence[_Title],
    kind: Type,
    starts: Sequence[Start],
    used: set[int],
) -> list[Start]:
    """Return the heads that no entry has: numbered acts, statutes and trademarks next to a registration line."""
    known = {start.row for start in starts}
    found: list[Start] = []
    by_row = {head.row: head for head in heads}
    for title in titles:
        if title.first in used or title.first in known:
            continue
        head = by_row.get(title.first)
        is_title = title.words.startswith("estatutos ") and len(title.words) > 12
        marcas = is_marcas(rows[title.first], kind)
        if not (head is not None or is_title or marcas) or not _is_registered(rows, title):
            continue
        inside = max((start for start in starts if start.row < title.first), key=lambda start: start.row, default=None)
        if inside is not None and _is_list_of(inside.name, title.words):
            continue
        over = next((i for i in issuers if i.last < title.first <= i.last + NEAR and i.first not in used), None)
        issuer = max((i for i in issuers if i.first < title.first), key=lambda i: i.first, default=None)
        name = MARCAS if marcas else head.name if head is not None else title.text
        found.append(
            Start(
                over.first if over is not None else title.first,
                name,
                tag_of(head.kind if head is not None else title.text),
                issuer.name if issuer is not None else "",
                title.last + 1,
                UNLISTED,
            )
        )
    return found


def _is_registered(rows: Sequence[Row], title: _Title) -> bool:
    around = [
        *range(max(title.first - NEAR, 0), title.first),
        *range(title.last + 1, min(title.last + 1 + NEAR, len(rows))),
    ]
    return any(REGISTERED.match(fold(rows[place].text)) for place in around)


def _is_list_of(name: str, words: str) -> bool:
    """Whether an entry announces several documents of this kind without naming them: `Resoluciones`."""
    plural = _plain(name)
    return " " not in plural and plural.endswith("s") and words.startswith(plural[:-2])
