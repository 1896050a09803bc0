"""Lists the trademarks in the pages of `Marcas de Fábrica`: number, class and applicant of each."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from nightmill.slicer.columns import Row
from nightmill.slicer.naming import fold, squeezed

LONGEST = 20_000
"""Characters of a record that are looked at."""

_NUMBERED = re.compile(
    r"(?:\[?1\]?\s?[/.)]\s*)?(?:no\.?\s*(?:de\s*)?)?solicitud\s*(?:no\.?|:|numero)\s*:?\s*(?P<number>\d[\d./-]*\d)"
)
_CLASS = re.compile(r"\bclases?\s*(?:internacional(?:es)?)?\W{0,4}(\d{1,2})\b")
_APPLICANT = re.compile(r"(?:solicitante|titular)\s*:\s*(.{2,200})", re.IGNORECASE)
_NEXT_FIELD = re.compile(r"\s*(?:\[?\d{1,2}(?:\.\d)?\]?\s?[/.)]\s|[A-Z]\s?\.?-\s|Domicilio\b)")

_FILE = re.compile(r"\bexp(?:ediente)?\s*\.?\s*n[o°º]?\.?\s*[°º]?\s*(?P<number>\d[\d-]*\d)", re.IGNORECASE)
_ATTORNEY = re.compile(
    r"\b(?:apoderad|gestor|represent)\w*\s*(?:\(\s?\w+\s?\))?\s*(?:especial\s*)?(?:de|del)\s+", re.IGNORECASE
)
_ASKS = re.compile(r"\s*(?:,|\bde (?:la )?rep[uú]blica\b|\bde (?:los )?estados\b|\bsolicita\b)", re.IGNORECASE)


@dataclass(slots=True)
class Record:
    """A trademark.

    Attributes:
        number: The application's number.
        applicant: Who asks for it; empty where it was not read.
        international_class: The class; None where it was not read.
        page: On which page, from 0, it begins.
    """

    number: str
    applicant: str
    international_class: int | None
    page: int


def read_records(rows: Sequence[Row]) -> list[Record]:
    """Return the trademarks: of Honduras by their numbered fields, of Nicaragua by their sentences."""
    return _numbered(rows) or _told(rows)


def _numbered(rows: Sequence[Row]) -> list[Record]:
    starts = [
        (place, found["number"])
        for place, row in enumerate(rows)
        if (found := _NUMBERED.match(fold(row.text[:200]))) is not None
    ]
    records: list[Record] = []
    for step, (place, number) in enumerate(starts):
        end = starts[step + 1][0] if step + 1 < len(starts) else len(rows)
        text = " ".join(row.text for row in rows[place:end])[:LONGEST]
        applicant = _APPLICANT.search(text)
        name = _NEXT_FIELD.split(applicant[1], maxsplit=1)[0] if applicant else ""
        records.append(Record(number, _name(name), _class(text), rows[place].page))
    return records


def _told(rows: Sequence[Row]) -> list[Record]:
    """Return those that are told in sentences: somebody, attorney of the applicant, asks; the file's number ends it."""
    begins: list[int] = []
    length = 0
    for row in rows:
        begins.append(length)
        length += len(row.text) + 1
    text = " ".join(row.text for row in rows)
    records: list[Record] = []
    start = 0
    for found in _FILE.finditer(text):
        offset = max(start, found.start() - LONGEST)
        body = text[offset : found.start()]
        start = found.end()
        attorney = _ATTORNEY.search(body)
        if attorney is None:
            continue
        named = body[attorney.end() : attorney.end() + 200].replace(", S.", "\0S.")
        name = _ASKS.split(named, maxsplit=1)[0].replace("\0", ", ")
        place = bisect_right(begins, offset + attorney.start()) - 1
        records.append(Record(found["number"], _name(name), _class(body[attorney.end() :]), rows[place].page))
    return records


def _name(text: str) -> str:
    return squeezed(text).strip(" ,;")


def _class(text: str) -> int | None:
    found = _CLASS.search(fold(text))
    return int(found[1]) if found is not None else None
