"""The kinds of metrics: what is declared of each, so that nothing is counted that is a histogram."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: OpenTelemetry's name.
        unit: UCUM; what is counted stands in braces.
        labels: Names of its labels.
        meaning: What it says, in a line.
        when: When a value is recorded or read.
    """

    kind: ClassVar[str]

    name: str
    _: KW_ONLY
    unit: str
    labels: tuple[str, ...] = ()
    meaning: str
    when: str

    @property
    def prometheus_name(self) -> str:
        """The name of its series in Prometheus; a histogram's end in `_bucket`, `_count` and `_sum` besides."""
        return self.name.replace(".", "_") + {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")


@dataclass(frozen=True)
class Counter(Metric):
    """A number that only grows."""

    kind = "counter"

    @property
    def prometheus_name(self) -> str:
        """See `Metric.prometheus_name`."""
        return super().prometheus_name + "_total"


@dataclass(frozen=True)
class Histogram(Metric):
    """Values, each counted in its bucket.

    Attributes:
        bounds: The upper bounds of the buckets.
    """

    kind = "histogram"

    _: KW_ONLY
    bounds: tuple[float, ...]


@dataclass(frozen=True)
class Gauge(Metric):
    """A number that is read whenever somebody collects."""

    kind = "gauge"
