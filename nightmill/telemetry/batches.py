"""What is recorded of batches: a log record and a few counts for each that ended, and each question to a provider."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from nightmill.contracts import TERMINAL, BatchStatus
from nightmill.telemetry import instruments, metrics

if TYPE_CHECKING:
    from nightmill.contracts import BatchSummary

_logger = logging.getLogger("nightmill.batches")


class PollResult(StrEnum):
    """What a question for the status of a provider batch came to."""

    OPEN = "open"
    """It has not ended."""
    TERMINAL = "terminal"
    OVER_QUOTA = "over_quota"
    """The provider failed it for lack of quota; it is created anew."""
    TRANSIENT = "transient"
    """No answer; the next poll asks again."""
    PERMANENT = "permanent"
    """Refused: somebody must change something."""


def record_batch(summary: BatchSummary, *, provider: str, model: str, duration: timedelta) -> None:
    """Write the one log record of a batch that ended, and count what it came to.

    Args:
        summary: What became of it.
        provider: Its provider.
        model: Its model.
        duration: From its acceptance to its end.
    """
    tokens = {kind: int(number) for kind, number in summary.tokens.model_dump().items()}
    needs_a_look = summary.status is BatchStatus.FAILED or (summary.all_failed and not _is_wanted(summary))
    _logger.log(
        logging.ERROR if needs_a_look else logging.INFO,
        "batch ended",
        extra={
            "batch": summary.batch_id,
            "provider": provider,
            "model": model,
            "status": summary.status.value,
            "reason": summary.reason,
            "requests": summary.total,
            "completed": summary.completed,
            "failed": summary.failed,
            "failed_by_code": summary.failed_by_code,
            "tokens": tokens,
            "cost": None if summary.cost is None else str(summary.cost),
            "cost_complete": summary.cost_complete,
            "duration_ms": round(duration / timedelta(milliseconds=1)),
        },
    )
    measure = instruments.of_this_process()
    by, ended = {"provider": provider}, {"provider": provider, "status": summary.status.value}
    measure.add(metrics.BATCH_ENDED, 1, ended)
    measure.record(metrics.BATCH_DURATION, max(duration.total_seconds(), 0), ended)
    for code, number in {"": summary.completed, **summary.failed_by_code}.items():
        measure.add(metrics.BATCH_ENTRIES, number, by | {"code": code})
    for kind, number in tokens.items():
        measure.add(metrics.BATCH_TOKENS, number, by | {"model": model, "kind": kind})
    if summary.cost is not None:
        measure.add(metrics.BATCH_COST, float(summary.cost), by | {"model": model})


def _is_wanted(summary: BatchSummary) -> bool:
    """Whether somebody asked for this end."""
    return summary.status is BatchStatus.CANCELED


def record_poll(provider: str, result: PollResult) -> None:
    """Count a question to a provider."""
    instruments.of_this_process().add(metrics.BATCH_POLLS, 1, {"provider": provider, "outcome": result.value})


def record_poll_lag(provider: str, lag: timedelta) -> None:
    """Record how late a poll is asked; one before its time is not late."""
    instruments.of_this_process().record(metrics.BATCH_POLL_LAG, max(lag.total_seconds(), 0), {"provider": provider})


def record_created(provider: str) -> None:
    """Count a provider batch."""
    instruments.of_this_process().add(metrics.BATCH_CREATED, 1, {"provider": provider})


def begin_batches(providers: Iterable[str]) -> None:
    """Let the series begin that alerts count, so that they see the first event."""
    measure = instruments.of_this_process()
    for provider in providers:
        by = {"provider": provider}
        measure.add(metrics.BATCH_CREATED, 0, by)
        for status in sorted(TERMINAL):
            measure.add(metrics.BATCH_ENDED, 0, by | {"status": status.value})
        for result in PollResult:
            measure.add(metrics.BATCH_POLLS, 0, by | {"outcome": result.value})
