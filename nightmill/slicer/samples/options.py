"""Which gazette is wanted: every way in which real ones differ is a knob here."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

Country = Literal["honduras", "nicaragua"]
Sumario = Literal["right", "wrong", "none"]


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """A gazette; the same options give the same bytes, unless it is encrypted.

    Attributes:
        seed: Chooses words, numbers, dates and lengths.
        country: Whose gazette.
        acts: How many acts.
        pages: About how many pages in all.
        section_b: Whether there is a section B (Honduras), a multiple of four pages.
        trademarks: Whether it ends with `Marcas de Fábrica`.
        sumario: `wrong` prints pages that are not true; `none` prints no SUMARIO.
        unlisted: An act that the SUMARIO does not have.
        headless: An act without its head, which only the SUMARIO tells of; needs a right SUMARIO.
        decoys: Citations in the bodies that look like heads, whole lines among them.
        column_end: A head whose text begins only in the next column.
        column_top: A head at the top of a column, and one at the top of a page.
        short_acts: Some acts of a few lines, so that a page holds several.
        long_issuer: Issuers of three and four lines.
        extra: An extra edition.
        rotated: Some pages carry `/Rotate`; a reader sees all of them upright.
        watermark: Letters down the margin, one by one between the lines.
        shadows: The title, its initials and the issuers are printed several times with a small offset.
        tangled: The page's parts stand in the file in another order than they are read in.
        forms: The pages' content stands in Form XObjects.
        misprint: A page's running header has a wrong number.
        wide: Some pages begin with a table over both columns.
        spelling: Chooses among the spellings of masthead, headers and labels.
        encrypted: Needs the password `gaceta`.
        scan: Images of pages without text, at 150 dpi, a little noisy and askew.
    """

    seed: int = 0
    country: Country = "honduras"
    acts: int = 5
    pages: int = 12
    section_b: bool = True
    trademarks: bool = True
    sumario: Sumario = "right"
    unlisted: bool = False
    headless: bool = False
    decoys: bool = True
    column_end: bool = False
    column_top: bool = False
    short_acts: bool = False
    long_issuer: bool = False
    extra: bool = False
    rotated: bool = False
    watermark: bool = False
    shadows: bool = True
    tangled: bool = False
    forms: bool = False
    misprint: bool = False
    wide: bool = False
    spelling: int = 0
    encrypted: bool = False
    scan: bool = False


def options_for_seed(seed: int) -> SampleOptions:
    """Return a gazette of 6 to 16 pages with a mixture of knobs; the seeds 0 to 199 turn each of them often.

    One in four is a Nicaraguan one. None is encrypted or a scan.
    """
    chance = Random(f"options {seed}")  # noqa: S311 - a sample, not a secret

    def one_in(count: int) -> bool:
        return chance.random() < 1 / count

    country: Country = "nicaragua" if seed % 4 == 3 else "honduras"
    sumario: Sumario = "right" if not one_in(4) else chance.choice(("wrong", "none"))
    acts = chance.randint(2, 8)
    return SampleOptions(
        seed=seed,
        country=country,
        acts=acts,
        pages=chance.randint(6, 16),
        section_b=not one_in(6),
        trademarks=not one_in(3),
        sumario=sumario,
        unlisted=one_in(5),
        headless=one_in(8) and acts > 2,
        decoys=not one_in(5),
        column_end=one_in(3),
        column_top=one_in(3),
        short_acts=one_in(3),
        long_issuer=one_in(3),
        extra=one_in(12),
        rotated=one_in(10),
        watermark=one_in(10),
        shadows=not one_in(3),
        tangled=one_in(4),
        forms=one_in(8),
        misprint=one_in(6),
        wide=one_in(8),
        spelling=chance.randrange(1_000),
    )
