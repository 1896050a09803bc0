"""What slicing a document is expected to take, and into which parts a long one is divided.

A forecast is shown to people and decides the fan-out; no limit ever follows from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from nightmill.contracts import PageRange, SlicingEstimate, TextSource
from nightmill.slicing.regression import fit_positive, predict

if TYPE_CHECKING:
    from nightmill.storage.slicing_attempts import AttemptSample

LEAST_RUNS = 20
"""Runs of one kind of document from which a forecast is made; with fewer the rule holds."""

_MOST_RUNS = 100
"""Of one kind: more teach nothing new, and every document's inspection pays for them (40 CPU-ms a kind)."""

# Measured with the built-in slicer on two shared cores, 22 November 2026: 0.57 s for 9 pages, 1.13 for 35, 1.70 for 48,
# 3.38 for 133; recognition 6.6 s a page of a printed sample, 8 to 10.5 CPU-s of a real one (150 to 300 dpi).
START = 0.5
"""Seconds until the first page: the interpreter, its libraries, the sandbox."""
DIGITAL_PAGE = 0.025
RECOGNIZED_PAGE = 8.0

_MIB = 1024 * 1024
_MEMORY, _MEMORY_PAGE = 48 * _MIB, 128 * 1024  # 38 MB at 9 pages, 53 MB at 133; a denser gazette 81 MB at 48
_MEMORY_RECOGNITION = 96 * _MIB  # tesseract: 89 to 112 MB, one page at a time
_LONGEST = timedelta(days=1)
_LARGEST = 64 * 1024 * _MIB

_LEAST_PAGE_COUNTS = 3
_LEAST_SPREAD = 1.5  # of page counts: between 40 and 44 pages anything could be the reason

_SHARES: Mapping[TextSource, float] = {"digital": 0.0, "mixed": 0.5, "scanned": 1.0}

MAX_CHUNKS = 500
_DIGITAL_CHUNK = 500
_RECOGNIZED_LEAST, _RECOGNIZED_MOST = 4, 8
_ROUNDS = 3  # chunks for each slot, so that the slots end at about the same time
_MIXED_CHUNK = 60  # pages; the recognized ones may stand together, and this many take eight minutes
_ALONE = 300.0  # seconds of recognition that one slot does in one go: a second attempt begins anew


@dataclass(frozen=True)
class _Growth:
    """How something grows: for a run, for each page and for each byte."""

    coefficients: tuple[float, ...]

    def at(self, pages: int, size: int) -> float:
        return predict(self.coefficients, _row(pages, size))


@dataclass(frozen=True)
class Forecast:
    """What was learned from stored runs.

    Attributes:
        durations: Milliseconds, by the source of a document's text; a source with too few runs is missing.
        memory: Bytes, likewise.
    """

    durations: Mapping[TextSource, _Growth]
    memory: Mapping[TextSource, _Growth]

    def estimate(
        self,
        pages: int,
        size: int,
        text_source: TextSource,
        *,
        share_without_text: float | None = None,
        at_once: int = 1,
    ) -> SlicingEstimate:
        """Return what a document is expected to take; by the rule where too few like it were sliced.

        Args:
            pages: Its pages.
            size: Its bytes.
            text_source: Where its text comes from.
            share_without_text: See `rule`.
            at_once: See `rule`.
        """
        plain = rule(pages, size, text_source, share_without_text=share_without_text, at_once=at_once)
        duration, memory = self.durations.get(text_source), self.memory.get(text_source)
        if duration is None or pages <= 0:
            return plain
        return _estimate(
            _divided(duration.at(pages, size) / 1_000, at_once),
            memory.at(pages, size) if memory else plain.memory,
            "regression",
        )


def fit(samples: Sequence[AttemptSample]) -> Forecast | None:
    """Return a forecast from runs that ended well, or None where there are too few, or they are too much alike.

    Each source of text is learned by itself, from its first 100 runs: at least 20, of three page counts of which one is
    half as large again as another. A few runs that took far longer, or shorter, than their like do not move it.
    """
    durations: dict[TextSource, _Growth] = {}
    memory: dict[TextSource, _Growth] = {}
    for source in _SHARES:
        runs = [s for s in samples if s.text_source == source and s.pages > 0 and s.size >= 0 and s.duration_ms > 0]
        del runs[_MOST_RUNS:]
        if (growth := _growth(runs, [run.duration_ms for run in runs])) is None:
            continue
        durations[source] = growth
        measured = [run for run in runs if run.peak_memory > 0]
        if (growth := _growth(measured, [run.peak_memory for run in measured])) is not None:
            memory[source] = growth
    return Forecast(durations, memory) if durations else None


def rule(
    pages: int,
    size: int,
    text_source: TextSource,
    *,
    share_without_text: float | None = None,
    at_once: int = 1,
) -> SlicingEstimate:
    """Return what a document is expected to take where no runs are known to learn from.

    Half a second, 25 ms a page with text and 8 s a page without: 2 s for 60 digital pages, 8 min for 60 scanned ones.

    Args:
        pages: Its pages.
        size: Its bytes; it says little, and the rule does not look at it.
        text_source: Where its text comes from.
        share_without_text: The part of its pages that have no text, from 0 to 1; None: by the source.
        at_once: How many page ranges are read at once; the memory is one program's all the same.
    """
    del size
    pages = max(pages, 0)
    recognized = pages * _share(text_source, share_without_text)
    seconds = START + (pages - recognized) * DIGITAL_PAGE + recognized * RECOGNIZED_PAGE
    memory = _MEMORY + pages * _MEMORY_PAGE + (_MEMORY_RECOGNITION if recognized else 0)
    return _estimate(_divided(seconds, at_once), memory, "rule")


def plan_chunks(
    pages: int, text_source: TextSource, pages_without_text_share: float | None, *, concurrency: int
) -> tuple[PageRange, ...]:
    """Return the page ranges that are read by activities of their own, in order; none where one run does it all.

    Pages that are recognized are divided by cost, 4 to 8 of them a range and three ranges a slot; pages with text only
    above 500, evenly. At most 500 ranges, and only where time is won: with one slot recognition alone is divided, from
    five minutes on, because a second attempt then repeats one range and not all.

    For two slots:

        4 scanned pages      none           60 digital      none
        6                    2 of 3         500             none
        12                   3 of 4         501             251, 250
        60                   8 of 7 or 8    20,000          40 of 500
        20,000               500 of 40

    Args:
        pages: Pages of the document.
        text_source: Where its text comes from.
        pages_without_text_share: The part of its pages that have no text, from 0 to 1; None: by the source.
        concurrency: Programs that run at once.
    """
    share = _share(text_source, pages_without_text_share)
    recognized = math.ceil(round(pages * share, 6))
    chunks = 1
    if recognized > _RECOGNIZED_LEAST and (concurrency > 1 or recognized * RECOGNIZED_PAGE > _ALONE):
        each = math.ceil(recognized / (max(concurrency, 1) * _ROUNDS))
        chunks = math.ceil(recognized / min(max(each, _RECOGNIZED_LEAST), _RECOGNIZED_MOST))
        if recognized < pages:
            chunks = max(chunks, math.ceil(pages / _MIXED_CHUNK))
    if concurrency > 1:
        chunks = max(chunks, math.ceil(pages / _DIGITAL_CHUNK))
    chunks = min(chunks, MAX_CHUNKS)
    if chunks < 2:
        return ()
    starts = [pages * at // chunks for at in range(chunks + 1)]
    return tuple(PageRange(first=first, last=after - 1) for first, after in pairwise(starts))


def _share(text_source: TextSource, share: float | None) -> float:
    return _SHARES[text_source] if share is None else min(max(share, 0.0), 1.0)


def _row(pages: int, size: int) -> tuple[float, float, float]:
    return 1.0, float(pages), float(size)


def _growth(runs: Sequence[AttemptSample], values: Sequence[int]) -> _Growth | None:
    counts = {run.pages for run in runs}
    if len(runs) < LEAST_RUNS or len(counts) < _LEAST_PAGE_COUNTS or max(counts) < min(counts) * _LEAST_SPREAD:
        return None
    found = fit_positive([_row(run.pages, run.size) for run in runs], [float(value) for value in values])
    return None if found is None else _Growth(found)


def _divided(seconds: float, at_once: int) -> float:
    return seconds if at_once < 2 else min(seconds, START + seconds / at_once)


def _estimate(seconds: float, memory: float, basis: Literal["regression", "rule"]) -> SlicingEstimate:
    duration = min(timedelta(seconds=min(max(seconds, 0.0), _LONGEST.total_seconds())), _LONGEST)
    return SlicingEstimate(duration=duration, memory=round(min(max(memory, 0.0), _LARGEST)), basis=basis)
