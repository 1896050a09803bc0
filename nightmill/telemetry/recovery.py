"""Metrics of recovery: what was found, and what was done about it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from opentelemetry import metrics

if TYPE_CHECKING:
    from datetime import timedelta

    from opentelemetry.metrics import Counter, Histogram

    from nightmill.contracts import Action, Finding, RepairState, Subject


@cache
def _findings() -> Counter:
    return metrics.get_meter("nightmill").create_counter(
        "nightmill.reconciler.findings", unit="{candidate}", description="candidates by what was found of them"
    )


@cache
def _repairs() -> Counter:
    return metrics.get_meter("nightmill").create_counter(
        "nightmill.reconciler.repairs", unit="{repair}", description="repairs by action and how far they came"
    )


@cache
def _ticks() -> Histogram:
    return metrics.get_meter("nightmill").create_histogram(
        "nightmill.reconciler.duration", unit="s", description="how long a run of the reconciler or a sweep took"
    )


def record_finding(subject: Subject, finding: Finding) -> None:
    """Count a candidate."""
    _findings().add(1, {"subject": subject.value, "finding": finding.value})


def record_repair(subject: Subject, action: Action, state: RepairState) -> None:
    """Count a repair."""
    _repairs().add(1, {"subject": subject.value, "action": action.value, "state": state.value})


def record_tick(workflow: str, duration: timedelta) -> None:
    """Record a run of the reconciler or of a sweep."""
    _ticks().record(duration.total_seconds(), {"workflow": workflow})
