"""Reads the SUMARIO, the gazette's own list of what is in it and where."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from nightmill.slicer.columns import ACROSS, Row
from nightmill.slicer.naming import ActKey, act_key, expanded, fold, squeezed
from nightmill.slicer.profiles import GazetteProfile

PAGES = 3
"""First pages on which it may begin."""

APART = 10
"""Rows between two of its references at most: it ends where there are more without one."""

LONGEST = 400
"""Characters of a row that are looked at."""

_TITLE = re.compile(r"s\s?u\s?m\s?a\s?r\s?i\s?o\W*(?:pag\W*)?")
_HEADING = re.compile(r"seccion [ab]|decretos y acuerdos|acuerdos y leyes|otros|contenido|pag(?:ina)?s?\W*|\W*")
_END = re.compile(r"desprendible")
_LEADERS = re.compile(r"[.\s…_·]{4,}")
_LEADER = re.compile(r"[\s.…_·]+$")
_INSET = 12.0


@dataclass(slots=True)
class Expected:
    """An act that the SUMARIO announces.

    Attributes:
        name: Its name there.
        key: What tells it from others.
        issuer: The institution over it.
        section: `A`, `B` or empty.
        first: The printed page on which its entry begins.
        last: The printed page on which its entry ends; as `first` where only one is given.
        alone: Whether the entry names only this act, so that its pages are the act's own.
        leads: Whether it is the first act of its entry, so that `first` is where it begins.
    """

    name: str
    key: ActKey
    issuer: str
    section: str
    first: int
    last: int
    alone: bool = True
    leads: bool = True


@dataclass(slots=True)
class Sumario:
    """The SUMARIO.

    Attributes:
        expected: What it announces, in order; the sections of advertisements are not in it.
        places: The places of its rows in the reading order.
        b_pages: The range of section B, as printed.
    """

    expected: list[Expected] = field(default_factory=list)
    places: set[int] = field(default_factory=set)
    b_pages: tuple[int, int] | None = None

    @property
    def issuers(self) -> set[str]:
        """The folded names of the institutions in it."""
        return {fold(each.issuer) for each in self.expected if each.issuer}


def read_sumario(rows: Sequence[Row], profile: GazetteProfile) -> Sumario:
    """Return what the SUMARIO says; an empty one if there is none."""
    sumario = Sumario()
    title = next(
        (place for place, row in enumerate(rows) if row.page < PAGES and _TITLE.fullmatch(fold(row.text[:40]))), None
    )
    if title is None:
        return sumario
    region = _region(rows, title, profile)
    sumario.places = {title, *region}
    issuer, waiting, section = "", "", ""
    issuer_goes_on = False
    for place in region:
        row = rows[place]
        line = _line(row)
        text = squeezed(line)
        found = profile.reference.search(line)
        if found is None:
            folded = fold(text)
            if named := re.fullmatch(r"seccion ([ab])\b.*", folded):
                section, waiting, issuer_goes_on = named[1].upper(), "", False
            elif _HEADING.fullmatch(folded) or _END.search(folded):
                waiting, issuer_goes_on = "", False
            elif not waiting and _is_institution(row, text, profile):
                issuer = f"{issuer} {text}" if issuer_goes_on else text
                issuer_goes_on = True
            else:
                waiting, issuer_goes_on = f"{waiting} {text}".strip(), False
            continue
        issuer_goes_on = False
        groups = found.groupdict()
        entry = squeezed(f"{waiting} {_LEADER.sub('', line[: found.start()])}")
        waiting = ""
        section = groups.get("section") or section
        first = int(groups["page"])
        last = max(int(groups["last"] or first), first)
        _add(sumario, entry, issuer, section if profile.sections else "", first, last)
    return sumario


def _add(sumario: Sumario, entry: str, issuer: str, section: str, first: int, last: int) -> None:
    if section == "B":
        low, high = sumario.b_pages or (first, last)
        sumario.b_pages = min(low, first), max(high, last)
        return
    names = [name for name in expanded(entry) if name]
    for place, name in enumerate(names):
        sumario.expected.append(
            Expected(name, act_key(name), issuer, section, first, last, len(names) == 1, place == 0)
        )


def _region(rows: Sequence[Row], title: int, profile: GazetteProfile) -> list[int]:
    """Return the places of its rows: from the title on down its column, to the last reference or the closing words."""
    head = rows[title]
    column = None if head.column == ACROSS or not profile.sections else head.column
    candidates = [
        place
        for place in range(title + 1, len(rows))
        if rows[place].page == head.page
        and (rows[place].column == column if column is not None else rows[place].top >= head.top)
    ]
    end = -1
    for step, place in enumerate(candidates):
        if step - end > APART:
            break
        line = _line(rows[place])
        if profile.reference.search(line) or _END.search(fold(line)):
            end = step
    return candidates[: end + 1]


def _line(row: Row) -> str:
    """Return the row's text with short leaders, and bounded: what looks for a reference at its end is quadratic."""
    return _LEADERS.sub("....", row.text[:LONGEST].strip())


def _is_institution(row: Row, text: str, profile: GazetteProfile) -> bool:
    if text != text.upper() or re.search(r"\d", text):
        return False
    if not profile.sections and row.left - row.column_left < _INSET:
        return False  # an entry's words in capitals; institutions stand in the middle
    return profile.act.fullmatch(text) is None
