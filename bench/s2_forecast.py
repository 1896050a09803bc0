"""S2: is a regression over stored runs worth more than the constant rule? Errors of both, side by side.

    .venv/bin/python -m bench.s2_forecast [--database URL [--profile gazette] [--step slice]] [--runs 200] [--seed 1]

Half of the runs are learned from, the other half foretold, then the other way round. Printed is the median of the
absolute errors in proportion to what it took, for duration and memory, and how many times the rule's is larger. The
invented runs are of four machines and of documents of which some hang or fly; `--database` takes those of an
installation as well.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from statistics import median

from nightmill.contracts import SlicingEstimate, TextSource
from nightmill.settings import DatabaseSettings
from nightmill.slicing.forecast import fit, rule
from nightmill.storage.engine import open_database
from nightmill.storage.slicing_attempts import AttemptRepository, AttemptSample

PAGES = (8, 12, 16, 24, 32, 36, 44, 48, 60, 88, 120, 176)  # of official gazettes: printers' sheets of four pages
SOURCES: tuple[TextSource, ...] = ("digital", "digital", "digital", "mixed", "scanned")

# (name, milliseconds to start, for a digital page, for a recognized page, spread)
MACHINES = (
    ("as the rule has it", 500, 25, 8_000, 0.15),
    ("twice as fast", 250, 12, 4_000, 0.15),
    ("three times as slow", 1_500, 75, 24_000, 0.15),
    ("slow and busy", 1_500, 75, 24_000, 0.6),
)

Foretell = Callable[[AttemptSample], SlicingEstimate]


def invented(
    chance: random.Random, count: int, start: float, digital: float, recognized: float, spread: float
) -> list[AttemptSample]:
    """Return runs whose pages differ in density, as one document's do from another's; every fiftieth is odd."""
    found = []
    for number in range(count):
        pages, source = chance.choice(PAGES), chance.choice(SOURCES)
        density = chance.lognormvariate(0, 0.3)
        share = {"digital": 0.0, "scanned": 1.0}.get(source, chance.uniform(0.2, 0.8))
        took = start + pages * density * (share * recognized + (1 - share) * digital)
        took *= chance.lognormvariate(0, spread)
        if number % 50 == 49:
            took *= chance.choice((0.1, 10, 40))
        size = round(pages * density * (share * 400_000 + (1 - share) * 12_000))
        memory = (36e6 + pages * 120e3 * density + (95e6 if share else 0)) * chance.lognormvariate(0, 0.05)
        found.append(AttemptSample(pages, size, source, max(round(took), 1), round(memory)))
    return found


def error(samples: Sequence[AttemptSample], foretell: Foretell) -> tuple[float, float]:
    """Return the median absolute errors of duration and memory, in proportion."""
    durations, memories = [], []
    for sample in samples:
        found = foretell(sample)
        durations.append(abs(found.duration.total_seconds() * 1_000 - sample.duration_ms) / sample.duration_ms)
        if sample.peak_memory > 0:
            memories.append(abs(found.memory - sample.peak_memory) / sample.peak_memory)
    return median(durations), median(memories) if memories else float("nan")


def compare(name: str, samples: list[AttemptSample], chance: random.Random) -> None:
    """Print a line of each source of text."""
    chance.shuffle(samples)
    half = len(samples) // 2
    began = time.process_time()
    folds = [(samples[half:], fit(samples[:half])), (samples[:half], fit(samples[half:]))]
    took = time.process_time() - began
    for source in dict.fromkeys(SOURCES):
        by_rule: list[tuple[float, float]] = []
        learned: list[tuple[float, float]] = []
        for test, forecast in folds:
            its = [sample for sample in test if sample.text_source == source]
            if forecast is None or source not in forecast.durations or not its:
                continue
            by_rule.append(error(its, lambda s, source=source: rule(s.pages, s.size, source)))
            learned.append(error(its, lambda s, f=forecast, source=source: f.estimate(s.pages, s.size, source)))
        if not by_rule:
            print(f"{name:<22} {source:<8} too few runs to learn from")
            continue
        figures = []
        for at in (0, 1):
            plain, fitted = (median(pair[at] for pair in pairs) for pairs in (by_rule, learned))
            figures.append(f"{plain:7.1%} {fitted:10.1%} {plain / fitted:8.2f} x" if fitted else f"{plain:7.1%} exact")
        print(f"{name:<22} {source:<8} {figures[0]}   {figures[1]}")
    print(f"{name:<22} learned from {half} runs in {took / 2 * 1_000:.0f} CPU-ms")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database")
    parser.add_argument("--profile", default="gazette")
    parser.add_argument("--step", default="slice")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    print(f"{'':<31} {'duration: rule':>14} regression  ratio    memory: rule regression  ratio")
    for name, *machine in MACHINES:
        compare(name, invented(chance, given.runs, *machine), chance)
    if given.database:
        database = open_database(given.database, DatabaseSettings())
        try:
            compare(given.profile, AttemptRepository(database).samples(given.profile, given.step), chance)
        finally:
            database.close()


if __name__ == "__main__":
    main()
