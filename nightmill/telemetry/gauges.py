"""Gauges of how everything stands now, read from the database when somebody collects.

Every worker shows the same numbers, so that one of them is enough. A database that is away leaves a gap in their curves
and one line in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from nightmill.contracts import TERMINAL, BatchStatus, BreakerState
from nightmill.telemetry import instruments, metrics
from nightmill.telemetry.process import open_descriptors, resident_memory

if TYPE_CHECKING:
    from nightmill.storage.gauge_reads import DueDocuments, OpenBatches
    from nightmill.telemetry.instruments import Labels, Values
    from nightmill.telemetry.kinds import Gauge

_T = TypeVar("_T")

NO_ACCOUNT = "(default)"
"""How the backlog names batches under a provider's default key."""

BREAKER_VALUES: Mapping[BreakerState, int] = {
    BreakerState.CLOSED: 0,
    BreakerState.HALF_OPEN: 1,
    BreakerState.OPEN: 2,
    BreakerState.HELD_OPEN: 3,
}
"""What the gauge `nightmill.slicing.breaker` shows for a state: anything over 0 means that work waits."""

_OPEN = [status for status in BatchStatus if status not in TERMINAL]


def observe_process() -> None:
    """Show what this process takes of its machine."""
    measure = instruments.of_this_process()
    measure.observe(metrics.WORKER_MEMORY, lambda: _one(resident_memory()))
    measure.observe(metrics.WORKER_DESCRIPTORS, lambda: _one(open_descriptors()))


def observe_batches(look: Callable[[], OpenBatches | None], *, providers: Iterable[str]) -> None:
    """Show how batches stand.

    Args:
        look: Returns that; None leaves a gap.
        providers: Providers of which also 0 is told.
    """
    known = sorted(set(providers))

    def numbers(found: OpenBatches) -> Values:
        shown = {(provider, status.value): 0 for provider in known for status in _OPEN} | dict(found.numbers)
        return [(number, {"provider": provider, "status": status}) for (provider, status), number in shown.items()]

    def ages(found: OpenBatches) -> Values:
        shown = dict.fromkeys(known, 0.0) | {provider: _since(when) for provider, when in found.oldest.items()}
        return [(age, {"provider": provider}) for provider, age in shown.items()]

    _observe(metrics.BATCH_OPEN, look, numbers)
    _observe(metrics.BATCH_OLDEST, look, ages)
    _observe(metrics.BATCH_OVERDUE, look, lambda found: [(_since(found.due), {})])
    _observe(metrics.BATCH_ATTENTION, look, lambda found: [(found.attention, {})])


def observe_documents(look: Callable[[], DueDocuments | None]) -> None:
    """Show how documents stand; where `look` returns None, there is a gap."""
    _observe(metrics.DOCUMENT_DUE, look, lambda found: [(found.number, {})])
    _observe(metrics.DOCUMENT_OVERDUE, look, lambda found: [(_since(found.since), {})])
    _observe(metrics.DOCUMENT_ATTENTION, look, lambda found: [(found.attention, {})])


def observe_accounts(batches: Callable[[], OpenBatches | None], documents: Callable[[], DueDocuments | None]) -> None:
    """Show the work of accounts that waits for us; one without any is not shown."""

    def backlog() -> Values:
        found, due = batches(), documents()
        for account, number in (found.waiting if found else {}).items():
            yield number, {"account": account or NO_ACCOUNT, "kind": "batch"}
        for name, number in (due.waiting if due else {}).items():
            yield number, {"account": name, "kind": "document"}

    instruments.of_this_process().observe(metrics.ACCOUNT_BACKLOG, backlog)


def observe_slicings(
    *,
    oldest_running: Callable[[], tuple[timedelta | None] | None],
    breakers: Callable[[], Mapping[str, BreakerState] | None],
    waiting: Callable[[], Mapping[str, int] | None],
    profiles: Iterable[str],
) -> None:
    """Show how slicings stand; where a look returns None, there is a gap.

    Args:
        oldest_running: Age of the oldest slicing whose slicer has started, if one runs.
        breakers: How each profile's breaker stands.
        waiting: Slicings that are queued or parked, by profile.
        profiles: Profiles of which is also told that nothing waits, and that their breaker was never opened.
    """
    known = sorted(profiles)

    def by_profile(found: Mapping[str, int]) -> Values:
        shown = dict.fromkeys(known, 0) | dict(found)
        return [(number, {"profile": name}) for name, number in shown.items()]

    def states(found: Mapping[str, BreakerState]) -> Values:
        shown = dict.fromkeys(known, BreakerState.CLOSED) | dict(found)
        return [(BREAKER_VALUES[state], {"profile": name}) for name, state in shown.items()]

    def age(found: tuple[timedelta | None]) -> Values:
        return [((found[0] or timedelta(0)).total_seconds(), {})]

    _observe(metrics.SLICING_OLDEST, oldest_running, age)
    _observe(metrics.SLICING_WAITING, waiting, by_profile)
    _observe(metrics.SLICING_BREAKER, breakers, states)


def _observe(metric: Gauge, look: Callable[[], _T | None], values: Callable[[_T], Values]) -> None:
    def shown() -> Values:
        found = look()
        return [] if found is None else values(found)

    instruments.of_this_process().observe(metric, shown)


def _since(when: datetime | None) -> float:
    """Return the seconds since then; 0 where it is yet to come, or never."""
    return 0.0 if when is None else max((datetime.now(UTC) - when).total_seconds(), 0.0)


def _one(value: int | None) -> list[tuple[float, Labels]]:
    return [] if value is None else [(value, {})]
