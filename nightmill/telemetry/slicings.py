"""What is recorded of slicings: a log record and a few measurements for each program and for each document.

No label names a document: labels are kept for ever, and documents come and go. Profiles are the operator's own, few.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from nightmill.contracts import BreakerState, SlicingStatus
from nightmill.errors import NightmillError
from nightmill.telemetry.process import open_descriptors, resident_memory
from nightmill.telemetry.redaction import without_secrets

if TYPE_CHECKING:
    from nightmill.contracts import SlicingErrorCode, SlicingSummary
    from nightmill.storage.slicing_attempts import NewAttempt

_logger = logging.getLogger("nightmill.slicing")

MAX_STDERR = 4_000
"""Characters of a program's standard error that a log record holds; the row of the attempt has more."""

# Targets and alerts are at 10 min (average), 15 min (a program) and 20 min (a job): each has a boundary of its own.
_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 900, 1_200, 1_800, 3_600)
_BYTES = tuple(2**power for power in range(24, 34))  # 16 MiB to 8 GiB
_RATES = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)

BREAKER_VALUES: Mapping[BreakerState, int] = {
    BreakerState.CLOSED: 0,
    BreakerState.HALF_OPEN: 1,
    BreakerState.OPEN: 2,
    BreakerState.HELD_OPEN: 3,
}
"""What the gauge `nightmill.slicing.breaker` shows for a state: anything over 0 means that work waits."""


class SlicingMetrics:
    """The instruments of slicing.

    Args:
        meter: Makes them.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._durations = meter.create_histogram(
            "nightmill.slicing.duration",
            unit="s",
            description="slicings, from the first start of the slicer to the end",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._outcomes = meter.create_counter(
            "nightmill.slicing.outcomes", unit="{slicing}", description="slicings, by what they came to"
        )
        self._failed = meter.create_counter(
            "nightmill.slicing.failed", unit="{slicing}", description="slicings that failed for good"
        )
        self._rates = meter.create_histogram(
            "nightmill.slicing.pages_per_second",
            unit="{page}/s",
            description="pages of a document for each second that it took",
            explicit_bucket_boundaries_advisory=_RATES,
        )
        self._waits = meter.create_histogram(
            "nightmill.slicing.queue.wait",
            unit="s",
            description="from the request to the first start of the slicer",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._program_durations = meter.create_histogram(
            "nightmill.slicing.program.duration",
            unit="s",
            description="programs, by step",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._program_memory = meter.create_histogram(
            "nightmill.slicing.program.memory",
            unit="By",
            description="memory of a program's processes together, at most",
            explicit_bucket_boundaries_advisory=_BYTES,
        )

    def program(self, run: NewAttempt) -> None:
        """Measure a program that ended."""
        labels = {"profile": run.ref.profile, "step": run.step}
        seconds = max(run.duration.total_seconds(), 0)
        self._program_durations.record(seconds, labels | {"error_code": _word(run.error_code)})
        if run.peak_memory > 0:
            self._program_memory.record(run.peak_memory, labels)

    def slicing(self, summary: SlicingSummary, *, queue_wait: timedelta | None = None) -> None:
        """Measure a slicing that ended."""
        profile = {"profile": summary.profile}
        outcome = profile | {"status": summary.status.value, "error_code": _word(summary.error_code)}
        self._outcomes.add(1, outcome)
        if summary.status is SlicingStatus.FAILED:
            self._failed.add(1, profile | {"error_code": _word(summary.error_code)})
        if queue_wait is not None:
            self._waits.record(max(queue_wait.total_seconds(), 0), profile)
        if summary.duration is None:
            return
        seconds = summary.duration.total_seconds()
        self._durations.record(max(seconds, 0), profile | {"status": summary.status.value})
        is_sliced = summary.status in {SlicingStatus.SLICED, SlicingStatus.NEEDS_REVIEW}
        if is_sliced and summary.page_count and seconds > 0:
            self._rates.record(summary.page_count / seconds, profile)

    def observe(
        self,
        *,
        oldest_running: Callable[[], timedelta | None],
        breakers: Callable[[], Mapping[str, BreakerState]],
    ) -> None:
        """Let whoever collects metrics see how things stand now; call it once a process.

        Args:
            oldest_running: Age of the oldest slicing whose slicer has started; None where none runs.
            breakers: How each profile's breaker stands.
        """

        def age(_: CallbackOptions) -> Iterable[Observation]:
            found = oldest_running()
            return [Observation(max(found.total_seconds(), 0.0) if found else 0.0)]

        def states(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(BREAKER_VALUES[state], {"profile": name}) for name, state in breakers().items()]

        self._gauge("nightmill.slicing.oldest", "s", "age of the oldest running slicing", age)
        self._gauge(
            "nightmill.slicing.breaker", "", "0 closed, 1 its canary is being sliced, 2 open, 3 held open", states
        )
        self._gauge("nightmill.worker.memory", "By", "memory of this process", lambda _: _one(resident_memory()))
        self._gauge(
            "nightmill.worker.open_descriptors",
            "{descriptor}",
            "open files, sockets and pipes of this process",
            lambda _: _one(open_descriptors()),
        )

    def _gauge(
        self, name: str, unit: str, description: str, look: Callable[[CallbackOptions], Iterable[Observation]]
    ) -> None:
        def measure(options: CallbackOptions) -> Iterable[Observation]:
            try:
                return look(options)
            except NightmillError as error:  # the database is away: a gap in a curve says so, and no trace a minute
                _logger.warning("no measurement", extra={"metric": name, "error": str(error)})
                return []

        self._meter.create_observable_gauge(name, [measure], unit=unit, description=description)


def record_program(run: NewAttempt) -> None:
    """Write the one log record of a program that ended and measure it (S21); a failed one's with its standard error.

    Its command is the one to be stored, so `nightmill.telemetry.redacted` has been over it.
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
    _process_metrics().program(run)


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
    _process_metrics().slicing(summary, queue_wait=queue_wait)


def observe_slicings(
    *, oldest_running: Callable[[], timedelta | None], breakers: Callable[[], Mapping[str, BreakerState]]
) -> None:
    """Let the process's metrics show how slicings and this worker stand. See `SlicingMetrics.observe`."""
    _process_metrics().observe(oldest_running=oldest_running, breakers=breakers)


@cache
def _process_metrics() -> SlicingMetrics:
    return SlicingMetrics(metrics.get_meter("nightmill"))


def _milliseconds(duration: timedelta | None) -> int | None:
    return None if duration is None else round(duration / timedelta(milliseconds=1))


def _word(code: SlicingErrorCode | None) -> str:
    return code.value if code else ""


def _one(value: int | None) -> Iterable[Observation]:
    return [] if value is None else [Observation(value)]
