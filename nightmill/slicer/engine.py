"""Cuts a gazette into its documents: one engine for all, a profile for each.

Lines are freed from shadows and furniture, put into reading order, and searched for heads; the SUMARIO, the printed
page numbers and the masthead say what there should be, and what does not agree is flagged, never mended in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from nightmill.slicer import checks
from nightmill.slicer.columns import Row, Sheet, lay_out
from nightmill.slicer.entries import starts_of_entries
from nightmill.slicer.furniture import sorted_out
from nightmill.slicer.heads import find_heads, find_issuers, type_of, with_issuers
from nightmill.slicer.masthead import FRONT, read_masthead
from nightmill.slicer.model import Cut, Page
from nightmill.slicer.naming import AVISOS, MARCAS
from nightmill.slicer.profiles import PROFILES, GazetteProfile, profile_for
from nightmill.slicer.reconcile import starts_of_acts
from nightmill.slicer.records import read_records
from nightmill.slicer.sections import Sections, find_sections
from nightmill.slicer.spans import Start, cut
from nightmill.slicer.sumario import Sumario, read_sumario


def cut_pages(pages: Sequence[Page], profile: str = "auto") -> Cut:
    """Return the documents of a gazette; see `Cut`.

    Args:
        pages: All its pages, in order.
        profile: `honduras`, `nicaragua`, or `auto`, which tells by the masthead.

    Raises:
        ValueError: There is no such profile.
    """
    if profile != "auto" and profile not in PROFILES:
        raise ValueError(f"no profile {profile!r}; there are auto, {', '.join(PROFILES)}")
    if not pages:
        return Cut(flags=["the document has no pages"])
    chosen = PROFILES[profile] if profile != "auto" else profile_for(_first_words(pages))
    sheets = sorted_out(pages, chosen)
    lay_out(sheets)
    rows = [row for sheet in sheets for row in sheet.rows]
    type_facts = type_of(rows, [sheet.body for sheet in sheets])
    masthead = read_masthead(sheets, chosen)
    sumario = read_sumario(rows, chosen)
    sections = find_sections(sheets, rows, type_facts, chosen)
    left_out = sumario.places
    end = sections.b_row if sections.b_row is not None else len(rows)
    heads = [head for head in find_heads(rows, type_facts, chosen, left_out) if head.row < end]
    issuers = find_issuers(rows, type_facts, chosen, heads, left_out, sumario.issuers)
    with_issuers(heads, issuers, rows)
    if chosen.sections:
        starts, flags = starts_of_acts(rows, heads, sumario, sections, left_out, end)
    else:
        starts, flags = starts_of_entries(rows, heads, issuers, type_facts, sumario, sections)
    starts += _sections_as_starts(rows, sections)
    pieces = cut(rows, starts, left_out, len(pages), {start.issuer for start in starts if start.issuer})
    for piece, start, following in zip(pieces, starts, [*starts, None][1:], strict=True):
        _describe(piece.extras, rows[start.row : following.row if following else len(rows)], sheets, sections)
        if piece.name == MARCAS:
            records = read_records(rows[start.row : following.row if following else len(rows)])
            piece.extras["records"] = [asdict(record) for record in records]
    first = starts[0].row if starts else len(rows)
    front, total = _front(rows[:first], left_out, sheets), sum(len(row.text) for row in rows)
    all_flags = [
        *checks.text_flags(sheets),
        *checks.masthead_flags(masthead),
        *checks.section_flags(sections, sumario, len(pages), chosen),
        *checks.piece_flags(pieces, len(pages), _first_page(rows, sumario, sheets), front, total),
        *flags,
    ]
    return Cut(
        pieces,
        masthead.number,
        masthead.issued_on.isoformat() if masthead.issued_on else None,
        all_flags,
        {
            "profile": chosen.name,
            "confidence": round(masthead.agreement, 2),
            "masthead": {"numbers": masthead.numbers, "dates": masthead.dates},
            "sections": _section_ranges(sections, len(pages), chosen),
            "sumario": [
                {
                    "name": each.name,
                    "issuer": each.issuer,
                    "section": each.section,
                    "first": each.first,
                    "last": each.last,
                }
                for each in sumario.expected
            ],
        },
    )


def _first_words(pages: Sequence[Page]) -> list[str]:
    """Return the text of the first page, and of the upper edges of the next ones."""
    texts = [line.text for line in pages[0].lines]
    for page in pages[1:6]:
        texts += [line.text for line in page.lines if line.bottom < page.height / 8]
    return texts


def _sections_as_starts(rows: Sequence[Row], sections: Sections) -> list[Start]:
    starts: list[Start] = []
    if sections.b_row is not None and sections.b_row != sections.marcas_row:
        starts.append(Start(sections.b_row, AVISOS, AVISOS, after=sections.b_row))
    if sections.marcas_row is not None and sections.b_row is not None:
        starts.append(Start(sections.marcas_row, MARCAS, "Marcas", after=sections.marcas_row))
    return starts


def _describe(extras: dict[str, object], rows: Sequence[Row], sheets: Sequence[Sheet], sections: Sections) -> None:
    """Note a slice's printed pages and where its text comes from."""
    inside = sorted({row.page for row in rows})
    printed = [name for page in inside if (name := sections.printed(page))]
    extras["printed_pages"] = f"{printed[0]} - {printed[-1]}" if len(printed) > 1 else "".join(printed)
    sources = {sheets[page].page.source for page in inside}
    extras["text_source"] = "ocr" if "ocr" in sources else "digital"


def _front(rows: Sequence[Row], left_out: set[int], sheets: Sequence[Sheet]) -> int:
    """Return how many characters stand before the first slice, the masthead and the SUMARIO aside."""
    return sum(
        len(row.text)
        for place, row in enumerate(rows)
        if place not in left_out and (row.page > 0 or row.top > sheets[0].page.height * FRONT)
    )


def _first_page(rows: Sequence[Row], sumario: Sumario, sheets: Sequence[Sheet]) -> int:
    """Return the first page that has to be in a slice: not one that holds nothing but masthead and SUMARIO."""
    return next(
        (
            row.page
            for place, row in enumerate(rows)
            if place not in sumario.places and (row.page > 0 or row.top > sheets[0].page.height * FRONT)
        ),
        0,
    )


def _section_ranges(sections: Sections, page_count: int, profile: GazetteProfile) -> list[dict[str, object]]:
    if not profile.sections:
        return []
    end = sections.b_page if sections.b_page is not None else page_count
    ranges: list[dict[str, object]] = [{"name": "A", "start_page": 0, "end_page": end - 1}] if end else []
    if sections.b_page is not None:
        ranges.append({"name": "B", "start_page": sections.b_page, "end_page": page_count - 1})
    return ranges
