"""The engine against two hundred gazettes whose right answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nightmill.slicer.engine import cut_pages
from nightmill.slicer.reading import read_pages
from nightmill.slicer.samples import SampleOptions, make_sample, options_for_seed
from nightmill.slicer.samples.comparison import Comparison, compare

SEEDS = 200
CHUNKS = 8


def judged(options: SampleOptions) -> Comparison:
    sample = make_sample(options)
    return compare(sample.truth, cut_pages(list(read_pages(sample.pdf))))


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_document_is_cut_where_it_begins_and_nothing_else_is(chunk: int) -> None:
    wrong = {
        seed: found.differences
        for seed in range(chunk, SEEDS, CHUNKS)
        if (found := judged(options_for_seed(seed))).differences
    }
    assert not wrong, "\n".join(f"seed {seed}: {line}" for seed, lines in wrong.items() for line in lines)


@pytest.mark.parametrize("country", ["honduras", "nicaragua"])
def test_a_long_gazette_is_cut_as_exactly_as_a_short_one(country: str) -> None:
    options = replace(options_for_seed(1), country=country, acts=10, pages=40, column_end=True, column_top=True)
    assert not judged(options).differences
