"""What the slicer's parts hand to each other: pages of lines, and the pieces that a document falls into.

Coordinates are points (1/72 inch) from the upper left corner of the page as a reader sees it, so after its rotation;
pages are counted from 0 and both ends of a range are included.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(slots=True)
class Line:
    """One line of text.

    Attributes:
        text: Its characters, without a line end.
        left: Its left edge.
        top: Its upper edge.
        right: Its right edge.
        bottom: Its lower edge.
        size: Size of its first character's font in points, as shown.
        bold: Whether that font is a bold one.
    """

    text: str
    left: float
    top: float
    right: float
    bottom: float
    size: float = 0.0
    bold: bool = False


@dataclass(slots=True)
class Page:
    """One page, as it was read.

    Attributes:
        index: Its place in the document, from 0.
        width: Its width.
        height: Its height.
        lines: Its lines, in the order in which they were found.
        source: Where the text comes from; `none` for a page without any.
        label: Its label in the PDF's own page labels, if there is one.
        problem: Why its text could not be had, or not all of it; None for a page that is read or empty.
    """

    index: int
    width: float
    height: float
    lines: list[Line] = field(default_factory=list)
    source: Literal["digital", "ocr", "none"] = "digital"
    label: str | None = None
    problem: str | None = None


@dataclass(slots=True)
class Piece:
    """One slice, before its file is written.

    Attributes:
        name: An act's identifier, or exactly `Marcas de Fábrica` or `Avisos Legales`.
        start_page: Its first page.
        end_page: Its last page.
        full_text: Its text, cut exactly where it begins and ends.
        short_description: At most 250 characters.
        description: At most 1,250 characters.
        tag: What kind of act it is.
        issuer: Who issued it; empty where nobody is named.
        materia: Its subject; mostly empty.
        institutions: Institutions that it names.
        extras: More about it, as JSON: `confidence` from 0 to 1, `flags`, `printed_pages`, `top`, `text_source`.
    """

    name: str
    start_page: int
    end_page: int
    full_text: str = ""
    short_description: str = ""
    description: str = ""
    tag: str = ""
    issuer: str = ""
    materia: str = ""
    institutions: list[str] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Cut:
    """What a document falls into.

    Attributes:
        pieces: The slices, in order.
        number: The gazette's number, as printed: `33,463`.
        issued_on: Its date, ISO 8601.
        flags: What the slicer's own checks found, a short line each; anything here asks for a person's look.
        extras: More about the document, as JSON.
    """

    pieces: list[Piece] = field(default_factory=list)
    number: str | None = None
    issued_on: str | None = None
    flags: list[str] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)
