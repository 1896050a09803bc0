"""What is recorded of slicings: a log record and a few measurements for each program and for each document."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

from nightmill.contracts import SlicingErrorCode, SlicingStatus
from nightmill.telemetry import instruments, metrics
from nightmill.telemetry.redaction import without_secrets

if TYPE_CHECKING:
    from nightmill.contracts import SlicingSummary
    from nightmill.storage.slicing_attempts import NewAttempt

_logger = logging.getLogger("nightmill.slicing")

MAX_STDERR = 4_000
"""Characters of a program's standard error that a log record holds; the row of the attempt has more."""

_ENDS = [status for status in SlicingStatus if status.is_terminal and status is not SlicingStatus.FAILED]


def record_program(run: NewAttempt) -> None:
    """Write the one log record of a program that ended and measure it; a failed one's with its standard error.

    Its command is the one to be stored, so `nightmill.telemetry.redaction.redacted` has been over it.
    """
    failed = run.error_code is not None or run.signal is not None or bool(run.exit_code)
    fields = {
        "document": run.ref.sha256,
        "profile": run.ref.profile,
        "run_id": run.ref.run_id,
        "step": run.step,
        "attempt": run.attempt,
        "command": run.command,
        "exit_code": run.exit_code,
        "signal": run.signal,
        "error_code": run.error_code.value if run.error_code else None,
        "stdout_bytes": run.stdout_bytes,
        "stderr_bytes": run.stderr_bytes,
        "duration_ms": _milliseconds(run.duration),
        "cpu_ms": _milliseconds(run.cpu),
        "peak_memory": run.peak_memory,
        "pages": run.pages,
    }
    if failed:
        # A secret that the cut would split is whole in the tail.
        fields["stderr"] = without_secrets(run.stderr_tail[-2 * MAX_STDERR :])[-MAX_STDERR:]
    _logger.log(logging.ERROR if failed else logging.INFO, "slicing program", extra=fields)
    measure, labels = instruments.of_this_process(), {"profile": run.ref.profile, "step": run.step}
    seconds = max(run.duration.total_seconds(), 0)
    measure.record(metrics.PROGRAM_DURATION, seconds, labels | {"error_code": _word(run.error_code)})
    if run.peak_memory > 0:
        measure.record(metrics.PROGRAM_MEMORY, run.peak_memory, labels)


def record_slicing(summary: SlicingSummary, *, queue_wait: timedelta | None = None) -> None:
    """Write the one log record of a slicing that ended and measure it.

    Args:
        summary: What it came to.
        queue_wait: From the request to the first start of its slicer.
    """
    _logger.log(
        logging.ERROR if summary.status is SlicingStatus.FAILED else logging.INFO,
        "slicing ended",
        extra={
            "document": summary.sha256,
            "profile": summary.profile,
            "status": summary.status.value,
            "error_code": summary.error_code.value if summary.error_code else None,
            "reason": summary.message,
            "pages": summary.page_count,
            "slices": summary.slices,
            "flagged": summary.flagged,
            "duration_ms": _milliseconds(summary.duration),
            "queue_wait_ms": _milliseconds(queue_wait),
        },
    )
    _measure(summary, queue_wait)


def _measure(summary: SlicingSummary, queue_wait: timedelta | None) -> None:
    measure, profile, code = instruments.of_this_process(), {"profile": summary.profile}, _word(summary.error_code)
    status = profile | {"status": summary.status.value}
    measure.add(metrics.SLICING_OUTCOMES, 1, status | {"error_code": code})
    if summary.status is SlicingStatus.FAILED:
        measure.add(metrics.SLICING_FAILED, 1, profile | {"error_code": code})
    if queue_wait is not None:
        measure.record(metrics.SLICING_QUEUE_WAIT, max(queue_wait.total_seconds(), 0), profile)
    if summary.duration is None:
        return
    seconds = summary.duration.total_seconds()
    measure.record(metrics.SLICING_DURATION, max(seconds, 0), status)
    is_sliced = summary.status in {SlicingStatus.SLICED, SlicingStatus.NEEDS_REVIEW}
    if is_sliced and summary.page_count and seconds > 0:
        measure.record(metrics.SLICING_RATE, summary.page_count / seconds, profile)


def begin_slicings(profiles: Iterable[str]) -> None:
    """Let the series begin that alerts count, so that they see the first event."""
    measure = instruments.of_this_process()
    for name in profiles:
        profile = {"profile": name}
        for status in _ENDS:
            measure.add(metrics.SLICING_OUTCOMES, 0, profile | {"status": status.value, "error_code": ""})
        for code in SlicingErrorCode:
            measure.add(metrics.SLICING_FAILED, 0, profile | {"error_code": code.value})


def _milliseconds(duration: timedelta | None) -> int | None:
    return None if duration is None else round(duration / timedelta(milliseconds=1))


def _word(code: SlicingErrorCode | None) -> str:
    return code.value if code else ""
