"""S1: does the built-in slicer cut where documents begin, and nowhere else?

    .venv/bin/python -m bench.s1_accuracy [--seeds 200] [--first 0] [--verbose]

Each seed is a gazette with its own mixture of difficulties, whose right answer is known (`nightmill.slicer.samples`).
Shown are the documents found on their first page, cuts where no document begins, documents that were not found, and
gazettes with the right number and date; CPU is that of reading and cutting, without printing the sample.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

from nightmill.slicer.engine import cut_pages
from nightmill.slicer.reading import read_pages
from nightmill.slicer.samples import make_sample, options_for_seed
from nightmill.slicer.samples.comparison import Comparison, compare


@dataclass
class Tally:
    """Sums over gazettes."""

    gazettes: int = 0
    exact: int = 0
    pages: int = 0
    pieces: int = 0
    starts: int = 0
    ends: int = 0
    extra: int = 0
    missed: int = 0
    leaks: int = 0
    numbers: int = 0
    dates: int = 0
    flagged: int = 0
    seconds: float = 0.0

    def add(self, found: Comparison, pages: int, flagged: bool, seconds: float) -> None:
        """Count a gazette."""
        self.gazettes += 1
        self.exact += not found.differences
        self.pages += pages
        self.pieces += found.pieces
        self.starts += found.exact_starts
        self.ends += found.exact_ends
        self.extra += len(found.extra)
        self.missed += len(found.missed)
        self.leaks += len(found.leaks)
        self.numbers += not found.number
        self.dates += not found.date
        self.flagged += flagged
        self.seconds += seconds

    def row(self, name: str) -> str:
        """Return a line of the table."""
        return (
            f"{name:<10} {self.gazettes:>8} {self.pages:>6} {self.exact:>6} {self.pieces:>9} {self.starts:>7} "
            f"{self.ends:>6} {self.extra:>6} {self.missed:>7} {self.leaks:>6} {self.numbers:>7} {self.dates:>6} "
            f"{self.flagged:>8} {1_000 * self.seconds / max(self.pages, 1):>9.2f}"
        )


HEAD = (
    f"{'':<10} {'gazettes':>8} {'pages':>6} {'exact':>6} {'documents':>9} {'starts':>7} {'ends':>6} {'extra':>6} "
    f"{'missed':>7} {'leaks':>6} {'numbers':>7} {'dates':>6} {'flagged':>8} {'ms/page':>9}"
)


def main() -> None:
    """Cut gazette after gazette and print the table."""
    parser = argparse.ArgumentParser(description="S1: the built-in slicer's accuracy.")
    parser.add_argument("--seeds", type=int, default=200, help="how many gazettes")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    parser.add_argument("--verbose", action="store_true", help="also print each difference")
    asked = parser.parse_args()
    tallies = {"honduras": Tally(), "nicaragua": Tally(), "all": Tally()}
    for seed in range(asked.first, asked.first + asked.seeds):
        sample = make_sample(options_for_seed(seed))
        start = time.process_time()
        cut = cut_pages(list(read_pages(sample.pdf)))
        seconds = time.process_time() - start
        found = compare(sample.truth, cut)
        for name in (sample.truth.country, "all"):
            tallies[name].add(found, sample.truth.page_count, bool(cut.flags), seconds)
        if asked.verbose:
            for line in found.differences:
                print(f"seed {seed}: {line}")
    print(HEAD)
    for name, tally in tallies.items():
        print(tally.row(name))


if __name__ == "__main__":
    main()
