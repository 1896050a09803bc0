"""What a process measures, as whoever collects it sees it."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from nightmill.telemetry.instruments import Instruments
from nightmill.telemetry.kinds import Gauge, Histogram, Metric
from nightmill.telemetry.metrics import METRICS

Series = dict[tuple[str, ...], Any]
_KNOWN = {metric.name: metric for metric in METRICS}


class Measured:
    """Stands in for the process's own meter provider, which can be set only once."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self.reader])
        self.instruments = Instruments(self.provider.get_meter("nightmill"))

    def points(self) -> dict[str, list[Any]]:
        """Collect, and return all points by the metric's name; each has the labels that its metric declares."""
        data = self.reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        found = {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}
        for name, points in found.items():
            for point in points:
                assert set(point.attributes) == set(_KNOWN[name].labels), name
        return found

    def series(self, metric: Metric) -> Series:
        """Collect, and return a metric's values by the values of its labels, in the order of their declaration.

        Of a histogram these are the numbers of its values. A counter's series that has only begun is left out.
        """
        values = {
            tuple(str(point.attributes[label]) for label in metric.labels): getattr(point, "count", None)
            if isinstance(metric, Histogram)
            else point.value
            for point in self.points().get(metric.name, [])
        }
        return {labels: value for labels, value in values.items() if value or isinstance(metric, Gauge)}

    def sums(self, metric: Histogram) -> Series:
        """Collect, and return the sums of a histogram's values."""
        points = self.points().get(metric.name, [])
        return {tuple(str(point.attributes[label]) for label in metric.labels): point.sum for point in points}
