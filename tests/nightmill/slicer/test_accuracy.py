"""The engine against two hundred gazettes whose right answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nightmill.slicer.engine import cut_pages
from nightmill.slicer.reading import read_pages
from nightmill.slicer.samples import SampleOptions, make_sample, options_for_seed
from nightmill.slicer.samples.comparison import compare

SEEDS = 200
CHUNKS = 8


def judged(options: SampleOptions) -> list[str]:
    """Return what is wrong with the engine's answer, a line each."""
    sample = make_sample(options)
    cut = cut_pages(list(read_pages(sample.pdf)))
    lines = list(compare(sample.truth, cut).differences)
    sound = options.sumario == "right" and not (options.unlisted or options.headless or options.misprint)
    if sound:
        lines += [f"false alarm: {flag}" for flag in cut.flags]
    if any(piece.headless for piece in sample.truth.pieces) and not cut.flags:
        lines.append("a document without a head is told to nobody")
    if options.country == "honduras":
        marks = [(mark.number, mark.page) for mark in sample.truth.trademarks]
        found = [(mark["number"], mark["page"]) for piece in cut.pieces for mark in piece.extras.get("records", ())]
        lines += [f"trademarks: {found}, not {marks}"] if found != marks else []
    return lines


# Fifty of them by default; a chunk has a seed of every kind.
@pytest.mark.parametrize(
    "chunk", [pytest.param(chunk, marks=[pytest.mark.slow] if chunk > 1 else []) for chunk in range(CHUNKS)]
)
def test_every_document_is_cut_where_it_begins_and_nothing_else_is(chunk: int) -> None:
    wrong = [f"seed {seed}: {line}" for seed in range(chunk, SEEDS, CHUNKS) for line in judged(options_for_seed(seed))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("country", ["honduras", "nicaragua"])
def test_a_long_gazette_is_cut_as_exactly_as_a_short_one(country: str) -> None:
    options = replace(options_for_seed(1), country=country, acts=10, pages=40, column_end=True, column_top=True)
    assert judged(options) == []
