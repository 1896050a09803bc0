"""When a document is due next: within the interval, spread over the jitter, at a phase that stays."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime, timedelta

import pytest

from nightmill.documents.plans import (
    Plan,
    failure_interval,
    interval_of,
    next_sync,
    next_sync_at,
    phase_of,
    plan_of,
    slowed,
)
from nightmill.settings import DocumentSettings
from nightmill.storage.document_models import DocumentRow

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.mark.parametrize("name", ["daily", "Daily", " DAILY "])
def test_a_plan_is_found_in_any_case(name: str) -> None:
    assert plan_of(name, DocumentSettings().plans) == Plan(DAY, 6 * HOUR, 2.0)


@pytest.mark.parametrize("name", [None, "", "enterprise"])
def test_without_a_plan_there_is_no_interval(name: str | None) -> None:
    assert plan_of(name, DocumentSettings().plans) == Plan()
    assert next_sync(DocumentRow(id="d1"), Plan(), last=MONDAY) is None


def test_a_plan_whose_interval_cannot_be_read_has_none() -> None:
    settings = DocumentSettings.model_validate({"plans": {"odd": {"interval": "soon", "jitter": [], "weight": 3}}})
    assert plan_of("odd", settings.plans) == Plan(None, timedelta(0), 3.0)


@pytest.mark.parametrize(
    ("own", "expected"),
    [(None, DAY), (3600.0, HOUR), (0.0, DAY), (-1.0, DAY), (float("nan"), DAY), (1e300, timedelta(days=3_650))],
)
def test_a_document_has_its_own_interval_if_that_makes_sense(own: float | None, expected: timedelta) -> None:
    assert interval_of(own, Plan(interval=DAY)) == expected


@pytest.mark.parametrize(
    ("phase", "due"),
    [(0.0, "Tue 00:00"), (0.25, "Mon 19:30"), (0.5, "Mon 21:00"), (0.75, "Mon 22:30")],
)
def test_documents_of_one_moment_spread_and_then_stay_where_they_are(phase: float, due: str) -> None:
    found = next_sync_at(last=MONDAY, interval=DAY, jitter=6 * HOUR, phase=phase)
    assert f"{found:%a %H:%M}" == due
    for late in (timedelta(minutes=7), HOUR, timedelta(seconds=1)):
        following = next_sync_at(last=found + late, interval=DAY, jitter=6 * HOUR, phase=phase)
        assert following == found + DAY
        found = following


@pytest.mark.parametrize("jitter", [0 * HOUR, HOUR, 5 * HOUR, 23 * HOUR, DAY, 30 * DAY, timedelta(microseconds=1)])
@pytest.mark.parametrize("interval", [timedelta(minutes=1), HOUR, DAY, 7 * DAY])
def test_nothing_is_due_after_the_interval_nor_before_the_jitter_allows(interval: timedelta, jitter: timedelta) -> None:
    chance = random.Random(7)
    for _ in range(50):
        last = MONDAY + DAY * chance.uniform(0, 900)
        found = next_sync_at(last=last, interval=interval, jitter=jitter, phase=chance.random())
        assert last + interval - min(jitter, interval / 2) <= found <= last + interval


def test_ten_thousand_documents_of_one_moment_spread_evenly() -> None:
    plan = Plan(DAY, 6 * HOUR)
    hours = [0] * 6
    for number in range(10_000):
        due = next_sync(DocumentRow(id=f"d{number}"), plan, last=MONDAY)
        assert due is not None
        hours[int((due - MONDAY - 18 * HOUR - timedelta(microseconds=1)) / HOUR)] += 1
    assert sum(hours) == 10_000
    assert all(1_500 < each < 1_850 for each in hours)
    assert phase_of("d1") == phase_of("d1") != phase_of("d2")


def test_pages_that_rest_slow_down_and_pages_that_fail_do_on_their_own() -> None:
    paces = list(itertools.accumulate(range(7), lambda pace, _: slowed(pace, 8.0), initial=1.0))
    assert [round(pace, 2) for pace in paces] == [1, 1.5, 2.25, 3.38, 5.06, 7.59, 8, 8]
    assert slowed(8.0, 0.1) == 1.0
    assert [failure_interval(HOUR, failures, 8.0) / HOUR for failures in (0, 1, 2, 3, 4, 5, 9_999)] == [
        1, 1, 2, 4, 8, 8, 8,
    ]  # fmt: skip
    assert next_sync_at(last=MONDAY, interval=DAY, jitter=0 * HOUR, phase=0.5, pace=2.0) == MONDAY + 2 * DAY
