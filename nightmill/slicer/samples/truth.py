"""What is true of a printed sample: what a slicer that makes no mistake finds in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

AVISOS = "Avisos Legales"
MARCAS = "Marcas de Fábrica"


@dataclass(frozen=True, slots=True)
class TruthPiece:
    """One document of the gazette. Pages are counted from 0, both ends included.

    A piece begins at its issuer's lines where these stand over its head, else at the head. It ends on the page on which
    the next one begins; on the page before, where that one is the first in the body of its page.

    Attributes:
        name: The identifier as its head prints it, or exactly `Avisos Legales` or `Marcas de Fábrica`.
        kind: `decreto`, `acuerdo`, …, `avisos`, `marcas`.
        issuer: The institution in its own lines' words, joined; that of the piece before where none is printed.
        start_page: Its first page.
        end_page: Its last page.
        on_shared_page: Whether its first page also holds the end of the piece before.
        headless: Whether its head is not printed, so that only the SUMARIO tells of it.
        listed: Whether the SUMARIO has it; `Marcas de Fábrica` is not in that of Honduras.
        marks: File numbers that stand in its first and last paragraph, and nowhere else.
    """

    name: str
    kind: str
    issuer: str
    start_page: int
    end_page: int
    on_shared_page: bool = False
    headless: bool = False
    listed: bool = True
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trademark:
    """One record of `Marcas de Fábrica`.

    Attributes:
        number: The application's number: `12345-2014`.
        applicant: Who asks for it.
        international_class: The class, 1 to 45.
        page: On which page the record begins.
    """

    number: str
    applicant: str
    international_class: int
    page: int


@dataclass(frozen=True, slots=True)
class Section:
    """A section: `A` or `B`, its first and its last page."""

    name: str
    start_page: int
    end_page: int


@dataclass(frozen=True, slots=True)
class Truth:
    """A gazette's right answer.

    Attributes:
        country: `honduras` or `nicaragua`.
        number: As printed: `33,463`.
        issued_on: ISO 8601; its weekday is the printed one.
        page_count: Its pages.
        sections: Its sections, in order; none where the gazette has no such thing.
        pieces: Its documents, in order.
        trademarks: The records of `Marcas de Fábrica`.
        has_sumario: Whether a SUMARIO is printed.
        password: What opens it, where it is encrypted.
    """

    country: str
    number: str
    issued_on: str
    page_count: int
    sections: tuple[Section, ...] = ()
    pieces: tuple[TruthPiece, ...] = ()
    trademarks: tuple[Trademark, ...] = ()
    has_sumario: bool = True
    password: str = ""

    def to_json(self) -> str:
        """Return it as JSON text, indented, with a line end."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> Truth:
        """Return what `to_json` has written."""
        read: Mapping[str, Any] = json.loads(text)
        return Truth(
            **{
                **read,
                "sections": tuple(Section(**each) for each in read["sections"]),
                "pieces": tuple(TruthPiece(**{**each, "marks": tuple(each["marks"])}) for each in read["pieces"]),
                "trademarks": tuple(Trademark(**each) for each in read["trademarks"]),
            }
        )


@dataclass(slots=True)
class Begun:
    """A piece while it is being set: all but its end is known.

    Attributes:
        name: As in `TruthPiece`, and so on.
    """

    name: str
    kind: str
    issuer: str
    start_page: int
    first_on_page: bool
    headless: bool = False
    listed: bool = True
    marks: list[str] = field(default_factory=list)


def ended(begun: list[Begun], last_page: int) -> tuple[TruthPiece, ...]:
    """Return the pieces with their ends, by the rule that `TruthPiece` gives."""
    ends = [piece.start_page - piece.first_on_page for piece in begun[1:]] + [last_page]
    return tuple(
        TruthPiece(
            name=piece.name,
            kind=piece.kind,
            issuer=piece.issuer,
            start_page=piece.start_page,
            end_page=max(end, piece.start_page),
            on_shared_page=bool(place) and not piece.first_on_page,
            headless=piece.headless,
            listed=piece.listed,
            marks=tuple(piece.marks),
        )
        for place, (piece, end) in enumerate(zip(begun, ends, strict=True))
    )
