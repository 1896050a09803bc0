from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import pytest

from nightmill.contracts import SlicingRef, TextSource
from nightmill.slicing.forecast import LEAST_RUNS, Forecast, fit, plan_chunks, rule
from nightmill.slicing.regression import fit_positive
from nightmill.storage.engine import Database
from nightmill.storage.slicing_attempts import AttemptRepository, AttemptSample, NewAttempt
from nightmill.storage.slicings import SlicingRepository

MB = 1024 * 1024


def runs(
    count: int = 60,
    *,
    start: float = 500,
    page: float = 25,
    source: TextSource = "digital",
    noise: float = 0.1,
    **fixed: Any,
) -> list[AttemptSample]:
    """Runs that take `start` and `page` milliseconds, more or less; memory grows likewise."""
    chance = random.Random(7)
    found = []
    for _ in range(count):
        pages = fixed.get("pages") or chance.choice((8, 12, 24, 36, 48, 60, 88, 176))
        size = round(pages * chance.uniform(5_000, 60_000))
        factor = chance.lognormvariate(0, noise)
        memory = (40 * MB + pages * 100_000) * chance.lognormvariate(0, noise / 2)
        found.append(AttemptSample(pages, size, source, round((start + page * pages) * factor), round(memory)))
    return found


def fitted(samples: list[AttemptSample]) -> Forecast:
    found = fit(samples)
    assert found is not None
    return found


def test_a_forecast_is_learned_from_runs() -> None:
    forecast = fitted(runs())
    for pages in (8, 60, 176, 600):
        found = forecast.estimate(pages, pages * 30_000, "digital")
        assert found.basis == "regression"
        assert found.duration.total_seconds() == pytest.approx(0.5 + 0.025 * pages, rel=0.15)
        assert found.memory == pytest.approx(40 * MB + pages * 100_000, rel=0.15)


def test_each_source_of_text_is_learned_by_itself_and_the_rule_stands_in_for_what_is_missing() -> None:
    samples = runs() + runs(start=1_000, page=7_000, source="scanned")
    forecast = fitted(samples)
    assert forecast.estimate(60, 10**6, "scanned").duration.total_seconds() == pytest.approx(421, rel=0.15)
    assert forecast.estimate(60, 10**6, "digital").duration.total_seconds() == pytest.approx(2, rel=0.15)
    assert forecast.estimate(60, 10**6, "mixed") == rule(60, 10**6, "mixed")


def test_a_few_odd_runs_do_not_move_it() -> None:
    samples = runs()
    odd = [AttemptSample(s.pages, s.size, s.text_source, s.duration_ms * 200, s.peak_memory) for s in samples[:6]]
    odd += [AttemptSample(s.pages, s.size, s.text_source, 1, s.peak_memory) for s in samples[6:9]]
    found = fitted(odd + samples[9:]).estimate(60, 60 * 30_000, "digital")
    assert found.duration.total_seconds() == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize(
    "samples",
    [
        [],
        runs(LEAST_RUNS - 1),
        runs(pages=60),
        runs(30, pages=60) + runs(30, pages=64),
        runs(30, pages=60) + runs(30, pages=120),
        [AttemptSample(0, 1, "digital", 10, 10)] * 50,
        [AttemptSample(n, 1, "digital", 0, 10) for n in range(1, 50)],
        [AttemptSample(n, 1, None, 10, 10) for n in range(1, 50)],
    ],
)
def test_too_few_runs_or_too_much_alike_teach_nothing(samples: list[AttemptSample]) -> None:
    assert fit(samples) is None


@pytest.mark.parametrize(
    "samples",
    [
        [AttemptSample(n, 0, "digital", 1_000, 1) for n in range(1, 60)],  # depends on nothing
        [AttemptSample(n, n * 1_000, "digital", n * 100, 1) for n in range(1, 60)],  # pages and bytes say the same
        [AttemptSample(n, 10, "digital", 10_000 // n, 1) for n in range(1, 60)],  # the longer, the sooner
        [AttemptSample(10**9, 10**15, "digital", 2**31 - 1, 2**62), *runs()],
        [AttemptSample(n, 10**15 * (n % 2), "digital", 1 + n * (n % 3), 0) for n in range(1, 60)],
    ],
)
def test_an_estimate_is_never_negative_or_beyond_all_measure(samples: list[AttemptSample]) -> None:
    forecast = fitted(samples)
    last = timedelta(0)
    for pages in (1, 10, 1_000, 10**9):
        found = forecast.estimate(pages, pages * 1_000, "digital")
        assert last <= found.duration <= timedelta(days=1)
        assert 0 <= found.memory <= 64 * 1024 * MB
        last = found.duration


def test_what_grows_by_bytes_is_learned_by_bytes() -> None:
    chance = random.Random(3)
    samples = []
    for _ in range(60):
        pages, size = chance.randint(4, 200), chance.randint(10_000, 50 * MB)
        samples.append(AttemptSample(pages, size, "digital", round(200 + 10 * pages + size / 10_000), 1))
    forecast = fitted(samples)
    small, large = (forecast.estimate(60, size, "digital").duration.total_seconds() for size in (MB, 40 * MB))
    assert small == pytest.approx(0.8 + MB / 10**7, rel=0.1)
    assert large == pytest.approx(0.8 + 40 * MB / 10**7, rel=0.1)


def test_a_column_that_says_nothing_is_left_out() -> None:
    chance = random.Random(5)
    rows = [(1.0, float(chance.randint(1, 100)), chance.random()) for _ in range(100)]
    found = fit_positive(rows, [5 + 2 * pages for _, pages, _ in rows])
    assert found is not None
    assert found == (pytest.approx(5, rel=0.01), pytest.approx(2, rel=0.01), 0)
    assert fit_positive([], []) is None


def test_it_foretells_what_it_has_not_seen_better_than_the_rule_does_on_a_slower_machine() -> None:
    samples = runs(200, start=1_500, page=80, noise=0.3)
    forecast = fitted(samples[:100])

    def off(of: Any) -> float:
        return median(
            abs(of(s.pages, s.size, s.text_source).duration.total_seconds() * 1_000 - s.duration_ms) / s.duration_ms
            for s in samples[100:]
        )

    assert off(forecast.estimate) < 0.3 < off(rule)


@pytest.mark.parametrize(
    ("pages", "source", "share", "seconds"),
    [
        (0, "digital", None, 0.5),
        (60, "digital", None, 2.0),
        (60, "digital", 0.0, 2.0),
        (60, "scanned", None, 480.5),
        (60, "mixed", None, 241.25),
        (60, "mixed", 0.1, 49.85),
        (-1, "scanned", None, 0.5),
        (10**9, "scanned", None, 86_400),
    ],
)
def test_the_rule_counts_pages_by_where_their_text_comes_from(
    pages: int, source: TextSource, share: float | None, seconds: float
) -> None:
    found = rule(pages, 10**6, source, share_without_text=share)
    assert found.duration.total_seconds() == pytest.approx(seconds)
    assert found.basis == "rule"


def test_samples_come_from_stored_runs(database: Database) -> None:
    slicings, attempts = SlicingRepository(database), AttemptRepository(database)
    ref = SlicingRef(sha256="ab" * 32, profile="gazette", run_id="run-1")
    now = datetime(2026, 11, 22, tzinfo=UTC)
    slicings.open(ref, name="g", source="/g.pdf", size=1, notify=(), metadata={}, now=now)
    for sample in runs(LEAST_RUNS):
        attempts.record(
            NewAttempt(
                ref=ref,
                attempt=1,
                step="slice",
                command="slicer",
                started_at=now,
                duration=timedelta(milliseconds=sample.duration_ms),
                exit_code=0,
                peak_memory=sample.peak_memory,
                pages=sample.pages,
                text_source=sample.text_source,
                size=sample.size,
            )
        )
    found = fitted(attempts.samples("gazette", "slice")).estimate(60, 10**6, "digital")
    assert found.duration.total_seconds() == pytest.approx(2, rel=0.25)


@pytest.mark.parametrize(
    ("pages", "source", "share", "concurrency", "chunks", "sizes"),
    [
        (0, "digital", None, 2, 0, set()),
        (4, "scanned", None, 2, 0, set()),
        (6, "scanned", None, 2, 2, {3}),
        (12, "scanned", None, 2, 3, {4}),
        (60, "scanned", None, 2, 8, {7, 8}),
        (60, "scanned", None, 8, 15, {4}),
        (20_000, "scanned", None, 2, 500, {40}),
        (37, "scanned", None, 1, 0, set()),
        (38, "scanned", None, 1, 5, {7, 8}),
        (60, "digital", None, 2, 0, set()),
        (500, "digital", None, 2, 0, set()),
        (501, "digital", None, 2, 2, {250, 251}),
        (501, "digital", 0.004, 2, 2, {250, 251}),  # two blank pages
        (501, "digital", None, 1, 0, set()),
        (20_000, "digital", None, 2, 40, {500}),
        (600_000, "digital", None, 2, 500, {1_200}),
        (60, "mixed", 0.05, 2, 0, set()),
        (60, "mixed", 0.5, 2, 6, {10}),
        (1_000, "mixed", 0.05, 2, 17, {58, 59}),
        (60, "scanned", 1.7, 2, 8, {7, 8}),
        (60, "digital", -1.0, 2, 0, set()),
    ],
)
def test_only_what_takes_long_is_divided(
    pages: int, source: TextSource, share: float | None, concurrency: int, chunks: int, sizes: set[int]
) -> None:
    found = plan_chunks(pages, source, share, concurrency=concurrency)
    assert len(found) == chunks
    assert {each.last - each.first + 1 for each in found} == sizes


def test_the_parts_are_the_whole_in_order() -> None:
    chance = random.Random(1)
    for _ in range(300):
        pages, share = chance.randint(1, 30_000), chance.random()
        found = plan_chunks(pages, "mixed", share, concurrency=chance.randint(1, 8))
        assert len(found) <= 500
        assert len(found) != 1
        if found:
            assert [each.first for each in found] == [0, *(each.last + 1 for each in found[:-1])]
            assert found[-1].last == pages - 1
            assert all(each.first <= each.last for each in found)


def test_what_is_read_at_once_takes_a_part_of_the_time_and_no_less_than_a_start() -> None:
    assert rule(60, 1, "scanned", at_once=4).duration.total_seconds() == pytest.approx(0.5 + 480.5 / 4)
    assert rule(0, 1, "scanned", at_once=4) == rule(0, 1, "scanned")
    forecast = fitted(runs(start=1_000, page=7_000, source="scanned"))
    alone, divided = (forecast.estimate(60, 10**6, "scanned", at_once=count).duration for count in (1, 2))
    assert divided.total_seconds() == pytest.approx(0.5 + alone.total_seconds() / 2)
