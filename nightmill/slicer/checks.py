"""Checks a cut document against what must hold for every gazette; what fails is for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from nightmill.slicer.columns import Sheet
from nightmill.slicer.masthead import Masthead
from nightmill.slicer.model import Piece
from nightmill.slicer.profiles import GazetteProfile
from nightmill.slicer.sections import Sections
from nightmill.slicer.sumario import Sumario

SHEET = 4
"""Pages of a printer's sheet: section B had a multiple of them in all of 38 issues that were looked at."""

AGREEMENT = 0.6
"""Share of the votes that number and date need."""

EMPTY = 0.2
"""Share of the pages that may be blank, of those between chapters and at the end."""

LOST = 0.02
"""Share of the text that may belong to no slice, besides front page and SUMARIO."""


def masthead_flags(masthead: Masthead) -> list[str]:
    """Return what is doubtful about number and date."""
    flags = []
    if masthead.number is None:
        flags.append("the gazette's number was not found")
    if masthead.issued_on is None:
        flags.append("the gazette's date was not found")
    if masthead.weekday_agrees is False:
        flags.append(f"the printed weekday is not that of {masthead.issued_on}")
    if masthead.is_plausible is False:
        flags.append(f"number {masthead.number} does not fit the date {masthead.issued_on}")
    if 0 < masthead.agreement < AGREEMENT:
        flags.append("the pages do not agree on the gazette's number and date")
    return flags


def text_flags(sheets: Sequence[Sheet]) -> list[str]:
    """Return which pages have text that was recognized, or none; those with a `problem` are listed in any result."""
    flags = []
    recognized = [sheet.page.index for sheet in sheets if sheet.page.source == "ocr"]
    if recognized and len(recognized) < len(sheets):
        flags.append(f"recognized text on {pages(recognized)}, which has no bold type to tell heads by")
    without = [sheet.page.index for sheet in sheets if sheet.page.source == "none" and not sheet.page.problem]
    if len(without) > EMPTY * len(sheets):
        flags.append(f"no text on {pages(without)}")
    sideways = [
        sheet.page.index
        for sheet in sheets
        if sum(
            line.bottom - line.top > 2 * (line.right - line.left) and len(line.text) > 3 for line in sheet.page.lines
        )
        > 0.4 * len(sheet.page.lines)
        > 2
    ]
    if sideways:
        flags.append(f"much of the text runs sideways on {pages(sideways)}")
    return flags


def section_flags(sections: Sections, sumario: Sumario, page_count: int, profile: GazetteProfile) -> list[str]:
    """Return where the sections do not add up."""
    if not profile.sections:
        without = [] if sumario.expected else ["there is no SUMARIO to find the documents by: some may be in others"]
        return [*without, *_numbers_flags(sections.misplaced)]
    if sections.b_page is None:
        missing = [] if sumario.b_pages is None else ["the SUMARIO has a section B, which was not found"]
        return [*missing, *_numbers_flags(sections.misplaced)]
    flags = []
    count = page_count - sections.b_page
    if count % SHEET:
        flags.append(f"section B has {count} pages, which is no multiple of {SHEET}")
    if sumario.b_pages is not None and sumario.b_pages[1] != count:
        flags.append(f"section B has {count} pages, by the SUMARIO it ends on page B. {sumario.b_pages[1]}")
    wrong = {
        page
        for page, (section, number) in sections.labels.items()
        if section
        and (section, number) != (("A", page + 1) if page < sections.b_page else ("B", page - sections.b_page + 1))
    }
    return [*flags, *_numbers_flags([*wrong.union(sections.misplaced)])]


def _numbers_flags(wrong: Sequence[int]) -> list[str]:
    return [f"the printed page numbers do not add up on {pages(wrong)}"] if wrong else []


def piece_flags(pieces: Sequence[Piece], page_count: int, first_page: int, lost: int, total: int) -> list[str]:
    """Return what is wrong with the slices as a whole.

    Args:
        pieces: The slices.
        page_count: The document's pages.
        first_page: The first page that has text besides masthead and SUMARIO.
        lost: Characters of text that belong to no slice.
        total: Characters of text.
    """
    if not pieces:
        return ["no heads were found"]
    flags = []
    covered = {page for piece in pieces for page in range(piece.start_page, piece.end_page + 1)}
    missing = [page for page in range(first_page, page_count) if page not in covered]
    if missing:
        flags.append(f"no slice has {pages(missing)}")
    if any(piece.start_page > piece.end_page or piece.end_page >= page_count for piece in pieces):
        flags.append("a slice ends before it begins, or after the document")
    if any(one.start_page > other.start_page for one, other in pairwise(pieces)):
        flags.append("the slices are not in the order of their pages")
    if total and lost > max(LOST * total, 300):
        flags.append(f"{lost:,} of {total:,} characters belong to no slice")
    return flags


def pages(indices: Sequence[int]) -> str:
    """Return pages for people, counted from 1: `pages 3-5, 9`."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    named = [f"{first + 1}" if first == last else f"{first + 1}-{last + 1}" for first, last in runs[:20]]
    more = ", …" if len(runs) > 20 else ""
    return f"{'page' if len(indices) == 1 else 'pages'} {', '.join(named)}{more}"
