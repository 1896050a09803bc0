"""The SDK's core in this process: its log lines become ours, its measurements go where ours go.

The SDK's own `MetricsExporter` (1.35) is not used: it tells sets of labels apart by the address of an object that the
core gives up after each call, so that addresses come again under other labels, and what it remembers of them grows with
each call. Of 300 activities, 31 measurements had the labels of another one.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from temporalio.runtime import (
    BUFFERED_METRIC_KIND_COUNTER,
    BUFFERED_METRIC_KIND_GAUGE,
    LogForwardingConfig,
    LoggingConfig,
    MetricBuffer,
    MetricBufferDurationFormat,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)

from nightmill.serving import served_if_free
from nightmill.telemetry.providers import start_telemetry
from nightmill.telemetry.redaction import without_secrets

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Counter, Histogram, MeterProvider, Observation
    from starlette.types import ASGIApp
    from temporalio.runtime import BufferedMetricUpdate

    from nightmill.settings import Settings

WORKER = "nightmill-worker"
"""The service's name, unless `OTEL_SERVICE_NAME` gives another one."""

BUFFER = 200_000
"""Measurements that wait to be taken over; a batch makes about a hundred. What is beyond is lost, and logged."""

EVERY = 1.0
"""Seconds between two takings-over."""

_DROPPED = frozenset({"temporal_long_request_latency"})  # how long polls waited for work: nothing, or a minute

_one_default = threading.Lock()
"""A cache lets two threads in at once, and `nightmill doctor` looks on several: each would make a runtime."""

_core = logging.getLogger("temporalio.core")
_logger = logging.getLogger("nightmill.telemetry")

_Labels = tuple[tuple[str, str | int | float | bool], ...]


@asynccontextmanager
async def worker_runtime(settings: Settings, build: str | None, *, service: str = WORKER) -> AsyncIterator[Runtime]:
    """Start a worker's telemetry, serve its `/metrics`, and give a runtime to connect with; stop it all at the end.

    Other processes that serve beside workers do the same under a `service` of their own.

    Raises:
        NotConfigured: A variable asks for what is not there, or the port that was set cannot be listened on.
    """
    own = settings.worker
    started = start_telemetry(service, build=build, prometheus=own.metrics_port > 0)

    def app() -> ASGIApp:
        from nightmill.telemetry.exposition import metrics_app

        assert started.registry is not None  # noqa: S101 - the port says so
        return metrics_app(started.registry)

    port = own.metrics_port if started.registry is not None else 0
    variable = "NIGHTMILL_WORKER__METRICS_PORT"
    chosen = "metrics_port" in own.model_fields_set
    try:
        async with served_if_free(app, own.host, port, setting=variable, chosen=chosen):
            with core_runtime(started.metrics) as runtime:
                yield runtime
    finally:
        await asyncio.to_thread(started.stop)


@contextmanager
def core_runtime(metrics: MeterProvider | None) -> Iterator[Runtime]:
    """Give a runtime to connect with; at the end of the block its last measurements are taken over.

    Args:
        metrics: Takes what the core measures, `temporal_…`, durations in seconds. None: it measures nothing.
    """
    logs = _forwarded_logs()
    if metrics is None:
        yield Runtime(telemetry=TelemetryConfig(logging=logs))
        return
    buffer = MetricBuffer(BUFFER, MetricBufferDurationFormat.SECONDS)
    runtime = Runtime(telemetry=TelemetryConfig(logging=logs, metrics=buffer, attach_service_name=False))
    with _taken_over(buffer, CoreMetrics(metrics)):
        yield runtime


def keep_core_off_standard_output() -> None:
    """Let the core of all connections that are made from now on, and are given no runtime, log as ours do.

    By itself it writes what it warns of to standard output, where a command's own output belongs.
    """
    with _one_default:
        _set_default()


@functools.cache
def _set_default() -> None:
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=_forwarded_logs())), error_if_already_set=False)


def _forwarded_logs() -> LoggingConfig:
    if _Fields not in map(type, _core.filters):
        _core.addFilter(_Fields())
    forwarding = LogForwardingConfig(
        _core, append_target_to_name=False, prepend_target_on_message=False, append_log_fields_to_message=False
    )
    return LoggingConfig(TelemetryFilter(core_level="WARN", other_level="ERROR"), forwarding=forwarding)


@contextmanager
def _taken_over(buffer: MetricBuffer, core: CoreMetrics) -> Iterator[None]:
    """Take measurements over within the block, on a thread: thousands at once would hold up an event loop."""
    ended = threading.Event()

    def take() -> None:
        while True:
            last = ended.wait(EVERY)
            try:
                core.take(buffer.retrieve_updates())
            except Exception:  # one that cannot be understood; the thread is for all of them
                _logger.exception("the core's measurements were lost")
            if last:
                return

    thread = threading.Thread(target=take, name="core metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(EVERY)


class CoreMetrics:
    """Hands the core's measurements to OpenTelemetry.

    Args:
        provider: Makes the instruments.
    """

    def __init__(self, provider: MeterProvider) -> None:
        self._meter = provider.get_meter("temporalio")
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._gauges: dict[str, dict[_Labels, float]] = {}
        self._writing = threading.Lock()

    def take(self, updates: Sequence[BufferedMetricUpdate]) -> None:
        """Count, record and remember; what is counted several times is added up first, which costs less."""
        counts: dict[tuple[str, _Labels], float] = defaultdict(float)
        for update in updates:
            metric = update.metric
            if metric.name in _DROPPED:
                continue
            labels: _Labels = tuple(sorted(update.attributes.items()))
            if metric.kind == BUFFERED_METRIC_KIND_COUNTER:
                self._counter(metric)
                counts[metric.name, labels] += update.value
            elif metric.kind == BUFFERED_METRIC_KIND_GAUGE:
                values = self._gauge(metric)
                with self._writing:
                    values[labels] = update.value
            else:
                self._histogram(metric).record(update.value, dict(labels))
        for (name, labels), count in counts.items():
            self._counters[name].add(count, dict(labels))

    def _counter(self, metric: Any) -> None:
        if metric.name not in self._counters:
            self._counters[metric.name] = self._meter.create_counter(
                metric.name, unit=metric.unit or "", description=metric.description or ""
            )

    def _histogram(self, metric: Any) -> Histogram:
        found = self._histograms.get(metric.name)
        if found is None:
            found = self._histograms[metric.name] = self._meter.create_histogram(
                metric.name, unit=metric.unit or "", description=metric.description or ""
            )
        return found

    def _gauge(self, metric: Any) -> dict[_Labels, float]:
        found = self._gauges.get(metric.name)
        if found is not None:
            return found
        values = self._gauges[metric.name] = {}

        def look(_: CallbackOptions) -> Iterable[Observation]:
            from opentelemetry.metrics import Observation

            with self._writing:
                return [Observation(value, dict(labels)) for labels, value in values.items()]

        self._meter.create_observable_gauge(
            metric.name, [look], unit=metric.unit or "", description=metric.description or ""
        )
        return values


class _Fields(logging.Filter):
    """Makes fields of what the core says beside its message."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = vars(record).get("temporal_log")
        if said is not None:
            fields = {name: without_secrets(str(value))[:500] for name, value in said.fields.items()}
            vars(record).update({"target": said.target, **{f"core_{name}": text for name, text in fields.items()}})
        return True
