"""What a gazette's readers are used to: fixed sections, fixed tags, and texts without debris before them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

from nightmill.slicing.cleaning import clean, shortened
from nightmill.slicing.dates import in_words
from nightmill.slicing.entries import MAX_INSTITUTIONS, Entry
from nightmill.slicing.institutions import InstitutionNames

MAX_SHORT = 500
MAX_DESCRIPTION = 5_000
MAX_TAGS = 250

TAG = "Gaceta"
"""Every slice has it."""

SECTION_ISSUER = "Varios"


@dataclass(frozen=True)
class Section:
    """A section that is one slice, though many have written it.

    Attributes:
        name: Its name, exactly.
        tags: What it can be found by.
    """

    name: str
    tags: tuple[str, ...]


SECTIONS: dict[str, Section] = {
    section.name: section
    for section in (
        Section("Marcas de Fábrica", ("Marcas", "Mercantil", "Propiedad Intelectual")),
        Section("Avisos Legales", ("Avisos Legales", "Licitaciones")),
    )
}


def with_rules(
    entry: Entry, *, number: str | None, issued_on: date | None, institutions: InstitutionNames | None = None
) -> Entry:
    """Return an entry, as a slicer gives it with its name in `issue_id`, as it is to be stored.

    A section keeps its name and has no identifier, an act has an identifier and no name.

    Args:
        entry: The entry.
        number: The gazette's number.
        issued_on: Its date.
        institutions: Names to look for in the text; what is found joins what the slicer says.
    """
    found = institutions.found_in(entry.full_text) if institutions else ()
    named = _unique((*entry.institutions, *found))[:MAX_INSTITUTIONS]
    entry = replace(entry, institutions=named)
    section = SECTIONS.get(unicodedata.normalize("NFC", entry.issue_id))
    if section is None:
        return replace(
            entry,
            tags=_unique((TAG, *entry.tags, entry.materia, *named))[:MAX_TAGS],
            short_description=shortened(clean(entry.short_description), MAX_SHORT),
            description=shortened(clean(entry.description), MAX_DESCRIPTION),
        )
    entry = replace(
        entry,
        name=section.name,
        issue_id="",
        issuer=SECTION_ISSUER,
        tags=_unique((TAG, *section.tags, *entry.tags, entry.materia, *named))[:MAX_TAGS],
        description="",
    )
    return with_masthead(entry, number=number, issued_on=issued_on)


def with_masthead(entry: Entry, *, number: str | None, issued_on: date | None) -> Entry:
    """Return an entry for the gazette of this number and date: a section's short description names them."""
    if entry.name not in SECTIONS:
        return entry
    gazette = f" de La Gaceta No. {number}" if number else " de La Gaceta"
    day = f" del {in_words(issued_on)}" if issued_on else ""
    return replace(entry, short_description=f"{entry.name}{gazette}{day}")


def _unique(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for word in words if word))
