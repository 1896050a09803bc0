"""Metrics of recovery: what was found, and what was done about it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from nightmill.contracts import Action, RepairState, Subject
from nightmill.telemetry import instruments, metrics

if TYPE_CHECKING:
    from datetime import timedelta

    from nightmill.contracts import Finding


def record_finding(subject: Subject, finding: Finding) -> None:
    """Count a candidate."""
    labels = {"subject": subject.value, "finding": finding.value}
    instruments.of_this_process().add(metrics.RECONCILER_FINDINGS, 1, labels)


def record_repair(subject: Subject, action: Action, state: RepairState) -> None:
    """Count a repair."""
    _count_repairs(subject, action, state, 1)


def record_tick(workflow: str, duration: timedelta) -> None:
    """Record a run of the reconciler or of a sweep."""
    instruments.of_this_process().record(metrics.RECONCILER_DURATION, duration.total_seconds(), {"workflow": workflow})


def begin_repairs() -> None:
    """Let the series of failed repairs begin, so that alerts see the first one."""
    for subject, action in itertools.product(Subject, Action):
        _count_repairs(subject, action, RepairState.FAILED, 0)


def _count_repairs(subject: Subject, action: Action, state: RepairState, number: int) -> None:
    labels = {"subject": subject.value, "action": action.value, "state": state.value}
    instruments.of_this_process().add(metrics.RECONCILER_REPAIRS, number, labels)
