"""The instruments of the metrics: made when a metric is first measured, by the meter that the process has."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

    from nightmill.telemetry.kinds import Counter, Gauge, Histogram, Metric

Labels = Mapping[str, str]
Values = Iterable[tuple[float, Labels]]


class Instruments:
    """Measures. Any thread may use it.

    Args:
        meter: Makes the instruments.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._made: dict[str, Any] = {}
        self._making = threading.Lock()

    def add(self, metric: Counter, number: float, labels: Labels) -> None:
        """Count; 0 lets a series begin, so that its first event is seen as an increase."""
        counter: metrics.Counter = self._made.get(metric.name) or self._make(metric, lambda: self._counter(metric))
        counter.add(number, labels)

    def record(self, metric: Histogram, value: float, labels: Labels) -> None:
        """Take a value of a histogram."""
        histogram: metrics.Histogram = self._made.get(metric.name) or self._make(
            metric, lambda: self._histogram(metric)
        )
        histogram.record(value, labels)

    def observe(self, metric: Gauge, look: Callable[[], Values]) -> None:
        """Ask for a gauge's values whenever somebody collects; a second call for the same metric is ignored."""

        def measure(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, labels) for value, labels in look()]

        def gauge() -> Any:
            return self._meter.create_observable_gauge(
                metric.name, [measure], unit=metric.unit, description=metric.meaning
            )

        self._make(metric, gauge)

    def _make(self, metric: Metric, make: Callable[[], Any]) -> Any:
        with self._making:
            if metric.name not in self._made:
                self._made[metric.name] = make()
            return self._made[metric.name]

    def _counter(self, metric: Counter) -> metrics.Counter:
        return self._meter.create_counter(metric.name, unit=metric.unit, description=metric.meaning)

    def _histogram(self, metric: Histogram) -> metrics.Histogram:
        return self._meter.create_histogram(
            metric.name,
            unit=metric.unit,
            description=metric.meaning,
            explicit_bucket_boundaries_advisory=metric.bounds,
        )


@cache
def of_this_process() -> Instruments:
    """Return the process's instruments; without a meter provider they cost next to nothing."""
    return Instruments(metrics.get_meter("nightmill"))
