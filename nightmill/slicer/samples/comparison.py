"""Holds what a slicer has found against what is true."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from nightmill.slicer.model import Cut, Piece
from nightmill.slicer.samples.truth import MARCAS, Truth, TruthPiece


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is right and what is not. Each difference is a line for people, with pages counted from 0.

    Attributes:
        pieces: How many documents there are.
        exact_starts: How many of them were found on their first page.
        exact_ends: How many of these also end where they end.
        missed: Documents that were not found.
        extra: Cuts where no document begins.
        misplaced: Documents found on other pages.
        leaks: Text that is missing from its document, or stands in another one.
        issuers: Documents with another issuer.
        number: The gazette's number, if it is wrong.
        date: Its date, if it is wrong.
    """

    pieces: int
    exact_starts: int
    exact_ends: int
    missed: tuple[str, ...]
    extra: tuple[str, ...]
    misplaced: tuple[str, ...]
    leaks: tuple[str, ...]
    issuers: tuple[str, ...]
    number: str = ""
    date: str = ""

    @property
    def differences(self) -> tuple[str, ...]:
        """All of them; empty for the right answer."""
        single = tuple(text for text in (self.number, self.date) if text)
        return (*single, *self.missed, *self.extra, *self.misplaced, *self.leaks, *self.issuers)


def compare(truth: Truth, cut: Cut) -> Comparison:
    """Return how a cut differs from the truth."""
    pairs, missed, extra = _matched(truth.pieces, cut.pieces)
    return Comparison(
        pieces=len(truth.pieces),
        exact_starts=sum(true.start_page == found.start_page for true, found in pairs),
        exact_ends=sum(_pages(true) == _pages(found) for true, found in pairs),
        missed=tuple(f"missed: {true.name} {_pages(true)}" for true in missed),
        extra=tuple(f"extra: {found.name} {_pages(found)}" for found in extra),
        misplaced=tuple(
            f"misplaced: {true.name} {_pages(true)} is found on {_pages(found)}"
            for true, found in pairs
            if _pages(true) != _pages(found)
        ),
        leaks=tuple(_leaks(truth, pairs)),
        issuers=tuple(
            f"issuer: {true.name} is by {true.issuer!r}, not {found.issuer!r}"
            for true, found in pairs
            if true.issuer and letters(true.issuer) != letters(found.issuer)
        ),
        number="" if cut.number == truth.number else f"number: {truth.number}, not {cut.number}",
        date="" if cut.issued_on == truth.issued_on else f"date: {truth.issued_on}, not {cut.issued_on}",
    )


def letters(text: str) -> str:
    """Return the text's letters and digits in lower case, without accents."""
    return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFKD", text).lower())


def _key(name: str) -> str:
    """Return what makes two spellings of a name the same: the SUMARIO's `Edictos` has the head `EDICTO`."""
    key = letters(name)
    return letters(MARCAS) if key.startswith(letters(MARCAS)) else key.removesuffix("s")


def _pages(piece: TruthPiece | Piece) -> tuple[int, int]:
    return piece.start_page, piece.end_page


def _matched(
    true: Sequence[TruthPiece], found: Sequence[Piece]
) -> tuple[list[tuple[TruthPiece, Piece]], list[TruthPiece], list[Piece]]:
    """Return the pieces of the same name in the same order, and what is left on both sides."""
    matcher = SequenceMatcher(None, [_key(each.name) for each in true], [_key(each.name) for each in found], False)
    blocks = matcher.get_matching_blocks()
    pairs = [(true[at + n], found[to + n]) for at, to, size in blocks for n in range(size)]
    met_true, met_found = {id(each) for each, _ in pairs}, {id(each) for _, each in pairs}
    return (
        pairs,
        [each for each in true if id(each) not in met_true],
        [each for each in found if id(each) not in met_found],
    )


def _leaks(truth: Truth, pairs: Sequence[tuple[TruthPiece, Piece]]) -> list[str]:
    leaks = []
    for true, found in pairs:
        leaks += [f"leak: {mark} is missing from {true.name}" for mark in true.marks if mark not in found.full_text]
        leaks += [
            f"leak: {mark} of {other.name} stands in {true.name}"
            for other in truth.pieces
            if other is not true
            for mark in other.marks
            if mark in found.full_text
        ]
    return leaks
