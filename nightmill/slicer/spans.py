"""Cuts the reading order into slices: each from its first row to the row before the next one's first."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from nightmill.slicer.columns import Row
from nightmill.slicer.model import Piece
from nightmill.slicer.naming import AVISOS, MARCAS, fold, squeezed

SHORT = 250
LONG = 1_250

_HYPHENATED = re.compile(r"(?<=[a-záéíóúñü])-\n(?=[a-záéíóúñü])")
_OPERATIVE = re.compile(
    r"\b(?:DECRETAN?|ACUERDAN?|RESUELVEN?|CERTIFICA|HACE(?:N)? SABER|POR TANTO)\s*:?\s+(?=\S)|CONSIDERANDO\s*:\s*"
)
_SENTENCE = re.compile(r"(?<=[a-záéíóúñ)\d])[.;]\s")


@dataclass(slots=True)
class Start:
    """Where a slice begins, and what it is.

    Attributes:
        row: The place of its first row.
        name: Its name.
        tag: What kind of act it is.
        issuer: Who issued it.
        after: The place of the first row after its head.
        confidence: From 0 to 1.
        flags: What a person should look at.
        extras: More about it, as JSON.
    """

    row: int
    name: str
    tag: str = ""
    issuer: str = ""
    after: int = 0
    confidence: float = 1.0
    flags: list[str] = field(default_factory=list)
    extras: dict[str, object] = field(default_factory=dict)

    @property
    def is_section(self) -> bool:
        """Whether it is one of the two sections that are kept whole."""
        return self.name in {AVISOS, MARCAS}


def cut(
    rows: Sequence[Row],
    starts: Sequence[Start],
    left_out: Collection[int],
    page_count: int,
    institutions: Collection[str] = (),
) -> list[Piece]:
    """Return the slices.

    A page on which one ends and the next begins belongs to both, unless the next one's first row is the first on it.

    Args:
        rows: The document in reading order.
        starts: Where slices begin, in order.
        left_out: Places of rows that belong to none: those of the SUMARIO.
        page_count: The document's pages; the last slice goes to the end.
        institutions: Names that are looked for in the texts.
    """
    first_rows: dict[int, int] = {}
    for place, row in enumerate(rows):
        if place not in left_out:
            first_rows.setdefault(row.page, place)
    wanted = {fold(name): name for name in institutions if len(name) > 5}
    pieces = []
    for step, start in enumerate(starts):
        following = starts[step + 1].row if step + 1 < len(starts) else len(rows)
        page = rows[start.row].page
        if step + 1 == len(starts):
            end = page_count - 1
        else:
            end = rows[following].page
            end -= first_rows[end] == following
        inside = [rows[place] for place in range(start.row, following) if place not in left_out]
        after = [rows[place] for place in range(max(start.after, start.row), following) if place not in left_out]
        text = flowing(inside)
        long, short = ("", "") if start.is_section else _descriptions(after)
        folded = fold(text) if wanted else ""
        pieces.append(
            Piece(
                name=start.name,
                start_page=page,
                end_page=max(end, page),
                full_text=text,
                short_description=short,
                description=long,
                tag=start.tag,
                issuer=start.issuer,
                institutions=sorted(name for key, name in wanted.items() if _is_named(key, folded)),
                extras={
                    "confidence": round(start.confidence, 2),
                    "flags": list(start.flags),
                    "top": round(rows[start.row].top, 1),
                    **start.extras,
                },
            )
        )
    return pieces


def flowing(rows: Sequence[Row]) -> str:
    """Return the rows' text, a row a line; words that were parted at a line's end are whole again."""
    return _HYPHENATED.sub("", "\n".join(row.text.strip() for row in rows))


def shortened(text: str, length: int) -> str:
    """Return the text, or as many of its words as fit, with an ellipsis."""
    if len(text) <= length:
        return text
    return text[: length - 1].rsplit(" ", 1)[0].rstrip(" ,;:") + "…"


def _is_named(name: str, text: str) -> bool:
    """Whether a text has a name as whole words; both are folded."""
    return name in text and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def _descriptions(rows: Sequence[Row]) -> tuple[str, str]:
    """Return what an act says first: from its operative part on, else from its beginning; long, and short."""
    text = squeezed(flowing(rows[:400]).replace("\n", " "))
    operative = [found for found in _OPERATIVE.finditer(text) if not found.group().startswith("CONSIDERANDO")]
    found = operative[0] if operative else None
    body = text[found.end() :] if found is not None and found.end() < len(text) else text
    long = shortened(body, LONG)
    sentence = _SENTENCE.search(body)
    return long, shortened(body[: sentence.start() + 1] if sentence else body, SHORT)
