"""When a document is due: its plan's interval, spread over a part of it, and stretched where pages fail or rest."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightmill.settings import PlanSettings
    from nightmill.storage.document_models import DocumentRow

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST = timedelta(days=3_650)  # an interval that is longer would leave the calendar when it is stretched
_SLOWER = 1.5  # a page that rests is synced after 1, 1.5, 2.25, … intervals


@dataclass(frozen=True)
class Plan:
    """What an account's plan is worth.

    Attributes:
        interval: Time between syncs of a document; None: no automatic sync.
        jitter: The part of it over which documents are spread.
        weight: Share of the workers, when they are short.
    """

    interval: timedelta | None = None
    jitter: timedelta = timedelta(0)
    weight: float = 1.0


def plan_of(name: str | None, plans: Mapping[str, PlanSettings]) -> Plan:
    """Return the plan of that name, in any case; one without an interval where there is none of that name."""
    if name is not None:
        wanted = name.strip().casefold()
        for known, settings in plans.items():
            if known.strip().casefold() == wanted:
                return Plan(settings.interval, settings.jitter or timedelta(0), settings.weight)
    return Plan()


def interval_of(own: float | None, plan: Plan) -> timedelta | None:
    """Return the interval of a document: its own in seconds, else the plan's; one that makes no sense is none."""
    if own is not None and math.isfinite(own) and own > 0:
        return min(timedelta(seconds=min(own, _LONGEST.total_seconds())), _LONGEST)
    return None if plan.interval is None else min(plan.interval, _LONGEST)


def phase_of(document_id: str) -> float:
    """Return the document's place in the jitter: from 0 to below 1, the same for ever."""
    return int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:6], "big") / 2**48


def next_sync_at(
    *, last: datetime, interval: timedelta, jitter: timedelta, phase: float, pace: float = 1.0
) -> datetime:
    """Return when a document is due that was synced at `last`: after `interval` times `pace`, at its phase.

    The instants of a phase are as far apart as the jitter, shortened so that the interval is a whole number of such
    steps, at least two. The document is due at the latest of its instants within the interval. An interval of 24 h with
    a jitter of 6 h makes steps of 6 h; of four documents that were all synced at midnight on Monday,

        phase 0     is due at Tuesday 00:00, Wednesday 00:00, Thursday 00:00, …
        phase 0.25  is due at Monday  19:30, Tuesday   19:30, Wednesday 19:30, …
        phase 0.5   is due at Monday  21:00, Tuesday   21:00, Wednesday 21:00, …
        phase 0.75  is due at Monday  22:30, Tuesday   22:30, Wednesday 22:30, …

    So they spread at once, by up to a jitter before the interval and never after it, and keep their distance from then
    on, also when each sync is some minutes late.
    """
    due = last + interval * pace
    if jitter <= timedelta(0):
        return due
    step = interval / max(2, math.ceil(interval / jitter))
    if step <= timedelta(0):
        return due
    return due - (due - _EPOCH - step * phase) % step


def next_sync(row: DocumentRow, plan: Plan, *, last: datetime, pace: float = 1.0) -> datetime | None:
    """Return when a document is due that was synced, or tried, at `last`; None where nothing says how often."""
    interval = interval_of(row.interval, plan)
    if interval is None:
        return None
    # A document's own interval knows no jitter: the plan's, as far as it fits.
    return next_sync_at(last=last, interval=interval, jitter=plan.jitter, phase=phase_of(row.id), pace=pace)


def slowed(pace: float, slowest: float) -> float:
    """Return the pace after a sync that found nothing new: half as slow again, up to `slowest`.

    A change brings it back to 1; failures and syncs that people asked for leave it as it is.

        1, 1.5, 2.25, 3.4, 5.1, 7.6, 8, 8, …   with 8 as the slowest
    """
    return min(max(pace, 1.0) * _SLOWER, max(slowest, 1.0))


def failure_pace(failures: int, slowest: float) -> float:
    """Return how many intervals pass after so many failures in a row: the first one changes nothing, then it doubles.

    1, 2, 4, 8, 8, …   with 8 as the slowest
    """
    return min(2.0 ** min(max(failures - 1, 0), 30), max(slowest, 1.0))


def failure_interval(interval: timedelta, failures: int, slowest: float) -> timedelta:
    """Return the time to the next sync after so many failures in a row; see `failure_pace`."""
    return interval * failure_pace(failures, slowest)
