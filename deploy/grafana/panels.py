"""What panels are made of, and how they ask.

Counts are of the window that the reader picks (`$window`), the same for all panels; an hour, as for the alerts, by
default. Gauges come from the database, and every worker reports the same, hence `max by`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

JOB = 'job=~"$job"'
PROVIDER = f'{JOB}, provider=~"$provider"'
PROFILE = f'{JOB}, profile=~"$profile"'


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: What it shows.
        description: What to read out of it, in a line or two.
        unit: Grafana's name of the unit.
        queries: Queries, each with the legend of its series.
        limits: Where the colour changes, from good to bad; one or two.
        rising: Whether more is worse.
        words: What the values 0, 1, 2 … are called.
    """

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    limits: tuple[float, ...] = ()
    rising: bool = True
    stacked: bool = False
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A row of panels under a title."""

    title: str
    panels: list[Panel] = field(default_factory=list)


def counted(metric: str, matchers: str = JOB) -> str:
    """Return the increase of each series over the window; one that was not there before counts as it stands.

    A series begins when something is counted first, often a whole batch at once, which increase() does not see.
    """
    series = f"{metric}{{{matchers}}}"
    return f"(({series} unless present_over_time({series}[10m] offset $window)) or increase({series}[$window]))"


def quantile(q: float, metric: str, by: str, matchers: str = JOB) -> str:
    """Return a quantile over the window, by some labels."""
    return f"histogram_quantile({q}, sum by ({by}, le) (rate({metric}_bucket{{{matchers}}}[$window])))"


def quantiles(metric: str, by: str, matchers: str = JOB) -> tuple[tuple[str, str], ...]:
    """Return the median and the 95th percentile over the window, by a label."""
    return (
        (quantile(0.5, metric, by, matchers), f"{{{{{by}}}}} median"),
        (quantile(0.95, metric, by, matchers), f"{{{{{by}}}}} 95 %"),
    )


def mean(metric: str, by: str, matchers: str = JOB) -> str:
    """Return the mean of a histogram's values over the window, by some labels."""
    added_up, number = counted(f"{metric}_sum", matchers), counted(f"{metric}_count", matchers)
    return f"sum by ({by}) ({added_up}) / sum by ({by}) ({number})"


def stat(title: str, description: str, unit: str, query: str, *limits: float, rising: bool = True) -> Panel:
    """Return a number."""
    return Panel(title, description, unit, ((query, ""),), "stat", 3, 4, limits, rising)


def total(by: str, metric: str, matchers: str = JOB) -> str:
    """Return what was counted within the window, by some labels."""
    return f"sum by ({by}) ({counted(metric, matchers)})"
