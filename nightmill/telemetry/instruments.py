"""The instruments of the metrics: made when a metric is first measured, by the meter that the process has."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram, Meter

    from nightmill.telemetry.metrics import Metric

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

    def add(self, metric: Metric, number: float, labels: Labels) -> None:
        """Count; 0 lets a series begin, so that its first event is seen as an increase."""
        counter: Counter = self._made.get(metric.name) or self._make(metric, self._counter)
        counter.add(number, labels)

    def record(self, metric: Metric, value: float, labels: Labels) -> None:
        """Take a value of a histogram."""
        histogram: Histogram = self._made.get(metric.name) or self._make(metric, self._histogram)
        histogram.record(value, labels)

    def observe(self, metric: Metric, look: Callable[[], Values]) -> None:
        """Ask for a gauge's values whenever somebody collects; a second call for the same metric is ignored."""

        def measure(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, labels) for value, labels in look()]

        def gauge(metric: Metric) -> Any:
            return self._meter.create_observable_gauge(
                metric.name, [measure], unit=metric.unit, description=metric.meaning
            )

        self._make(metric, gauge)

    def _make(self, metric: Metric, make: Callable[[Metric], Any]) -> Any:
        with self._making:
            if metric.name not in self._made:
                self._made[metric.name] = make(metric)
            return self._made[metric.name]

    def _counter(self, metric: Metric) -> Counter:
        return self._meter.create_counter(metric.name, unit=metric.unit, description=metric.meaning)

    def _histogram(self, metric: Metric) -> Histogram:
        return self._meter.create_histogram(
            metric.name,
            unit=metric.unit,
            description=metric.meaning,
            explicit_bucket_boundaries_advisory=metric.bounds or None,
        )


@cache
def of_this_process() -> Instruments:
    """Return the process's instruments; without a meter provider they cost next to nothing."""
    return Instruments(metrics.get_meter("nightmill"))
