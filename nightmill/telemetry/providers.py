"""Starts what OpenTelemetry's variables and Prometheus ask for, and stops it within a bound, whoever does not listen.

For processes of our own: workers and the command line. In a host's process `nightmill.client` starts nothing and takes
whatever providers the host has set.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightmill.telemetry.environment import Asked, asked_of

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from prometheus_client import CollectorRegistry

STOPS_WITHIN = 2.5
"""Seconds that the last export may take in all; a collector that is away must not hold up the end of a process."""

# Temporal's core: latencies of its own calls are milliseconds, activities and workflows take up to days.
_TEMPORAL_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600, 21_600, 86_400,
)  # fmt: skip


@dataclass
class Telemetry:
    """What runs in this process.

    Attributes:
        metrics: Takes measurements; None where nobody asked for any.
        registry: What Prometheus is answered from; None where it is not asked for.
    """

    metrics: MeterProvider | None = None
    registry: CollectorRegistry | None = None
    _flushes: list[Callable[[], object]] = field(default_factory=list)
    _cuts: list[Callable[[], object]] = field(default_factory=list)

    def ends_with(self, flush: Callable[[], object], cuts: Iterable[Callable[[], object]] = ()) -> None:
        """Let `stop` call `flush`, and the `cuts`, which end whatever still waits, where that takes too long."""
        self._flushes.append(flush)
        self._cuts += cuts

    def stop(self, within: float = STOPS_WITHIN) -> None:
        """Export what is left, all signals at once, and return after `within` seconds in any case."""
        ends = time.monotonic() + within
        threads = [threading.Thread(target=flush, name="telemetry ends", daemon=True) for flush in self._flushes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(ends - time.monotonic(), 0))
        if any(thread.is_alive() for thread in threads):
            for cut in self._cuts:
                cut()
        self._flushes.clear()
        self._cuts.clear()


def start_telemetry(
    service: str, *, build: str | None = None, prometheus: bool = False, only_traces: bool = False
) -> Telemetry:
    """Set this process's providers as the variables ask; the caller stops them. Nothing is imported for nothing.

    Args:
        service: Name of the service, unless a variable gives another one.
        build: Which build of the workflows' code this is.
        prometheus: Measure for Prometheus, whatever the variables say of metrics.
        only_traces: For a process that ends soon and has nothing to measure.

    Raises:
        NotConfigured: A variable asks for what is not there.
    """
    asked = asked_of(os.environ)
    if only_traces:
        asked = Asked(disabled=asked.disabled, traces=asked.traces)
    found = Telemetry()
    prometheus = prometheus and not asked.disabled
    if prometheus or asked.traces or asked.metrics or asked.logs:
        resource = _resource(service, build)
        if prometheus or asked.metrics:
            _start_metrics(found, asked, resource, prometheus=prometheus)
        if asked.traces:
            _start_traces(found, asked, resource)
        if asked.logs:
            _start_logs(found, asked, resource)
    return found


def _resource(service: str, build: str | None) -> Resource:
    from importlib.metadata import version

    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own = {
        "service.name": service,
        "service.version": version("nightmill"),
        "service.instance.id": str(uuid.uuid4()),
        **({"nightmill.build.id": build} if build else {}),
    }
    given = OTELResourceDetector().detect().attributes  # `create` would let ours win
    return Resource.create({name: value for name, value in own.items() if name not in given})


def _start_metrics(found: Telemetry, asked: Asked, resource: Resource, *, prometheus: bool) -> None:
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader, PeriodicExportingMetricReader
    from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View

    readers: list[MetricReader] = []
    exporters: list[MetricExporter] = []
    if prometheus:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from prometheus_client import CollectorRegistry

        found.registry = CollectorRegistry()
        # Which library measured is no question of Prometheus' users, and two labels on every series.
        readers.append(PrometheusMetricReader(scope_info_enabled=False, registry=found.registry))
    if asked.metrics:
        from nightmill.telemetry.exporters import metric_exporter

        exporters = [metric_exporter(kind) for kind in sorted(asked.metrics)]
        readers += [PeriodicExportingMetricReader(exporter) for exporter in exporters]
    buckets = ExplicitBucketHistogramAggregation(_TEMPORAL_SECONDS)
    found.metrics = MeterProvider(
        metric_readers=readers,
        resource=resource,
        shutdown_on_exit=False,
        views=[View(instrument_name="temporal_*", instrument_unit="s", aggregation=buckets)],
    )
    metrics.set_meter_provider(found.metrics)
    found.ends_with(found.metrics.shutdown, [exporter.shutdown for exporter in exporters])


def _start_traces(found: Telemetry, asked: Asked, resource: Resource) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from nightmill.telemetry.exporters import span_exporter
    from nightmill.telemetry.roots import ChosenIds

    provider = TracerProvider(resource=resource, id_generator=ChosenIds(), shutdown_on_exit=False)
    exporters = [span_exporter(kind) for kind in sorted(asked.traces)]
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    found.ends_with(provider.shutdown, [exporter.shutdown for exporter in exporters])


def _start_logs(found: Telemetry, asked: Asked, resource: Resource) -> None:
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    from nightmill.telemetry.exporters import log_exporter
    from nightmill.telemetry.log_export import ExportingHandler

    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    exporters = [log_exporter(kind) for kind in sorted(asked.logs)]
    for exporter in exporters:
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    handler = ExportingHandler(provider)
    logging.getLogger().addHandler(handler)

    def flush() -> None:
        logging.getLogger().removeHandler(handler)
        provider.shutdown()

    found.ends_with(flush, [exporter.shutdown for exporter in exporters])
