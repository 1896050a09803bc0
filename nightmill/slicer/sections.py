"""Finds the sections of a gazette and its pages' printed numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from nightmill.slicer.columns import Row, Sheet
from nightmill.slicer.furniture import EDGE
from nightmill.slicer.heads import Type
from nightmill.slicer.naming import fold
from nightmill.slicer.profiles import GazetteProfile

_MARCAS = re.compile(r"marcas de fabrica(?:,? (?:y )?(?:de )?comercio)?(?:,? (?:y )?(?:de )?servicios?)?\W*")
_SECTION = re.compile(r"seccion\s+(?P<section>[ab])\b")
_SECTION_B = re.compile(r"seccion b\b.*|avisos legales\W*")


@dataclass(slots=True)
class Sections:
    """Where sections begin.

    Attributes:
        labels: By page: the section (`A`, `B` or empty) and the printed number, where a label was read.
        misplaced: Pages whose printed numbers say that pages are missing, doubled or out of order.
        b_page: The page with which section B begins.
        b_row: The place of its first row.
        marcas_row: The place of the row with which `Marcas de Fábrica` begins.
    """

    labels: dict[int, tuple[str, int]] = field(default_factory=dict)
    misplaced: list[int] = field(default_factory=list)
    b_page: int | None = None
    b_row: int | None = None
    marcas_row: int | None = None

    def physical(self, section: str, printed: int) -> int | None:
        """Return the page, from 0, that has a printed number; by its neighbours where its own label was not read."""
        for page, label in self.labels.items():
            if label == (section, printed):
                return page
        shifts = Counter(page - number for page, (named, number) in self.labels.items() if named == section)
        if shifts:
            return shifts.most_common(1)[0][0] + printed
        return printed - 1 if section == "A" else None

    def printed(self, page: int) -> str:
        """Return a page's printed number, `A. 2` or `9423`; empty where it was not read."""
        section, number = self.labels.get(page, ("", 0))
        if not number:
            return ""
        return f"{section}. {number}" if section else str(number)


def find_sections(sheets: Sequence[Sheet], rows: Sequence[Row], kind: Type, profile: GazetteProfile) -> Sections:
    """Return where the sections begin, by labels, running headers and their titles."""
    read = _labels(sheets, profile)
    labels = _consistent(read)
    sections = Sections(labels, _misplaced(read, labels))
    if not profile.sections:
        return sections
    sections.b_page = _b_page(sheets, sections.labels)
    if sections.b_page is None:
        titled = [
            row.page
            for row in rows
            if row.page and kind.is_large(row) and row.is_centred and _SECTION_B.fullmatch(fold(row.text[:80]))
        ]
        sections.b_page = titled[0] if titled else None
    if sections.b_page is None:
        return sections
    in_b = [place for place, row in enumerate(rows) if row.page >= sections.b_page]
    sections.b_row = in_b[0] if in_b else None
    sections.marcas_row = next((place for place in in_b if is_marcas(rows[place], kind)), None)
    if sections.marcas_row is None:
        sections.marcas_row = next(
            (place for place in in_b if re.match(r"\[?1\]?\s?/\s?(?:no\.?\s)?solicitud", fold(rows[place].text[:40]))),
            None,
        )
    return sections


def is_marcas(row: Row, kind: Type) -> bool:
    """Whether the row is the title of the trademarks."""
    return kind.stands_out(row) and row.is_centred and _MARCAS.fullmatch(fold(row.text[:80])) is not None


def _labels(sheets: Sequence[Sheet], profile: GazetteProfile) -> dict[int, tuple[str, int]]:
    found: dict[int, tuple[str, int]] = {}
    for sheet in sheets:
        height = sheet.page.height
        for line in (*sheet.furniture, *sheet.lines):
            if height * EDGE < line.bottom and line.top < height * (1 - EDGE):
                continue
            label = profile.label.fullmatch(line.text.strip())
            if label is not None and (profile.sections or line.top > height / 2):
                groups = label.groupdict()
                section = groups.get("section") or groups.get("section2") or ""
                found[sheet.page.index] = section, int(groups["page"] or groups.get("page2") or 0)
    return found


def _misplaced(read: dict[int, tuple[str, int]], consistent: dict[int, tuple[str, int]]) -> list[int]:
    """Return the pages whose labels contradict the others and are not just misread.

    Either one and its neighbour are off by the same, as all are behind a page that is missing, or it is the number that
    another page should have, which has another one.
    """
    off = {page: label for page, label in read.items() if page not in consistent}
    shifts = {section: page - number for page, (section, number) in consistent.items()}
    order = sorted(read)
    beside = {
        page: (*order[max(place - 1, 0) : place], *order[place + 1 : place + 2]) for place, page in enumerate(order)
    }
    return [
        page
        for page, (section, number) in off.items()
        if any(
            other in off and off[other][0] == section and other - off[other][1] == page - number
            for other in beside[page]
        )
        or number + shifts[section] in off
    ]


def _consistent(labels: dict[int, tuple[str, int]]) -> dict[int, tuple[str, int]]:
    """Return the labels without those that most of their section contradict: misread digits, numbers of tables."""
    shifts: dict[str, Counter[int]] = {}
    for page, (section, number) in labels.items():
        shifts.setdefault(section, Counter())[page - number] += 1
    usual = {section: counts.most_common(1)[0][0] for section, counts in shifts.items()}
    return {page: label for page, label in labels.items() if page - label[1] == usual[label[0]]}


def _b_page(sheets: Sequence[Sheet], labels: dict[int, tuple[str, int]]) -> int | None:
    """Return the page that parts those that say A best from those that say B."""
    votes: list[int] = []
    for sheet in sheets:
        vote = {"A": 1, "B": -1}.get(labels.get(sheet.page.index, ("", 0))[0], 0)
        if sheet.page.index:
            above = " ".join(
                line.text for line in (*sheet.furniture, *sheet.lines) if line.bottom <= sheet.page.height * EDGE
            )
            if named := _SECTION.search(fold(above)):
                vote += 1 if named["section"] == "a" else -1
        votes.append(vote)
    if not any(vote < 0 for vote in votes):
        return None
    total_b = -sum(vote for vote in votes if vote < 0)
    best, best_place = -1, None
    a_before, b_before = 0, 0
    for place, vote in enumerate(votes):
        score = a_before + total_b - b_before
        if score > best:
            best, best_place = score, place
        a_before += max(vote, 0)
        b_before += max(-vote, 0)
    return best_place
