"""Every metric is declared in one place, is on the page, and has in Prometheus the name that the page says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest

from nightmill.telemetry.instruments import Instruments
from nightmill.telemetry.kinds import Counter, Gauge, Histogram, Metric
from nightmill.telemetry.metrics import METRICS

ROOT = Path(__file__).parent.parent.parent.parent
MAKER = re.compile(r"\bcreate_(counter|up_down_counter|histogram|gauge|observable_\w+)\b")
CORE = "nightmill/client/runtime.py"
"""Makes instruments of what the SDK's core measures."""


def sources() -> Iterator[tuple[str, str]]:
    """Yield the program's modules by their paths."""
    for folder in ("nightmill", "activities", "workflows"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text()
    yield "worker.py", (ROOT / "worker.py").read_text()


def test_no_metric_is_made_that_is_not_declared_and_none_is_declared_that_nobody_measures() -> None:
    modules = dict(sources())
    text = modules.pop("nightmill/telemetry/metrics.py")
    declared = re.findall(r"^([A-Z]\w+) = (?:Counter|Histogram|Gauge)\(", text, re.MULTILINE)
    assert len(declared) == len(METRICS)
    assert {path for path, text in modules.items() if MAKER.search(text)} == {
        "nightmill/telemetry/instruments.py",
        CORE,
    }
    words = set(re.findall(r"\b[A-Z][A-Z_]+\b", " ".join(modules.values())))
    assert set(declared) <= words, "a metric that nobody measures"


def test_the_page_has_a_line_for_each_metric_and_for_no_other() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    table = text.partition("<!-- metrics:")[2].partition("<!-- end of metrics -->")[0]
    lines = re.findall(r"^\| `([a-z_.]+)` \| `([a-z_]+)` \|", table, re.MULTILINE)
    assert lines == [(metric.name, metric.prometheus_name) for metric in METRICS]


def test_what_the_page_says_of_other_names_is_true_of_a_metric() -> None:
    known = {metric.prometheus_name for metric in METRICS}
    text = (ROOT / "docs" / "metrics.md").read_text()
    for name in re.findall(r"\b(?:nightmill|http_client)_[a-z_]+\b", text):
        assert re.sub(r"_(bucket|count|sum)$", "", name) in known, name


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_prometheus_shows_a_metric_under_the_name_of_the_page(metric: Metric) -> None:
    registry = CollectorRegistry()
    provider = MeterProvider(metric_readers=[PrometheusMetricReader(scope_info_enabled=False, registry=registry)])
    measure, labels = Instruments(provider.get_meter("nightmill")), dict.fromkeys(metric.labels, "x")
    match metric:
        case Counter():
            measure.add(metric, 1, labels)
        case Histogram():
            measure.record(metric, 1, labels)
        case Gauge():
            measure.observe(metric, lambda: [(1, labels)])
    shown = generate_latest(registry).decode()
    provider.shutdown()
    assert f"# TYPE {metric.prometheus_name} {metric.kind}" in shown
    assert re.search(rf"^{metric.prometheus_name}(_count)?(\{{.*\}})? 1\.0$", shown, re.MULTILINE)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_histogram_has_bounds_of_its_own_and_no_label_names_a_single_thing(metric: Metric) -> None:
    if isinstance(metric, Histogram):
        assert metric.bounds
        assert list(metric.bounds) == sorted(set(metric.bounds))
    assert not {"batch", "batch_id", "document", "document_id", "custom_id", "host", "run_id"} & set(metric.labels)
