"""What the SDK's core measures and says comes out among what we measure and say."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, Gauge
from temporalio.runtime import (
    BUFFERED_METRIC_KIND_COUNTER,
    BUFFERED_METRIC_KIND_GAUGE,
    BUFFERED_METRIC_KIND_HISTOGRAM,
    Runtime,
)

from nightmill.client import runtime
from nightmill.client.connection import interceptors
from nightmill.client.runtime import CoreMetrics, _Fields
from nightmill.serving import served
from nightmill.telemetry.exposition import metrics_app
from nightmill.telemetry.logs import JsonFormatter
from nightmill.web.library import httpx


@dataclass(frozen=True)
class Update:
    metric: Any
    value: float
    attributes: Mapping[str, str]


def metric(name: str, kind: int, unit: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(name=name, kind=kind, unit=unit, description=None)


def points(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    """Return the series of each metric, of which none comes twice."""
    data = reader.get_metrics_data()
    assert data is not None
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    found: dict[str, list[Any]] = {one.name: list(one.data.data_points) for one in metrics}
    assert len(found) == len(metrics)
    return found


REQUESTS = metric("temporal_request", BUFFERED_METRIC_KIND_COUNTER)
LATENCY = metric("temporal_request_latency", BUFFERED_METRIC_KIND_HISTOGRAM, "s")
SLOTS = metric("temporal_worker_task_slots_used", BUFFERED_METRIC_KIND_GAUGE)
WAITS = metric("temporal_long_request_latency", BUFFERED_METRIC_KIND_HISTOGRAM, "s")


def test_the_core_s_measurements_are_told_apart_by_their_labels_and_not_by_where_those_lie_in_memory() -> None:
    reader = InMemoryMetricReader()
    core = CoreMetrics(MeterProvider(metric_readers=[reader], shutdown_on_exit=False))
    labels: dict[str, str] = {}  # one object for all, as where the core's next labels come to lie where the last did
    for operation, times in (("Poll", 3), ("Respond", 2)):
        labels["operation"] = operation
        core.take([Update(REQUESTS, 1, labels), Update(LATENCY, 0.5, labels), Update(WAITS, 60, labels)] * times)
    core.take([Update(SLOTS, 4, {"worker_type": "A"}), Update(SLOTS, 7, {"worker_type": "A"})])

    found = points(reader)
    assert {point.attributes["operation"]: point.value for point in found["temporal_request"]} == {
        "Poll": 3,
        "Respond": 2,
    }
    timed = found["temporal_request_latency"]
    assert {point.attributes["operation"]: point.count for point in timed} == {"Poll": 3, "Respond": 2}
    assert [point.value for point in found["temporal_worker_task_slots_used"]] == [7]
    assert "temporal_long_request_latency" not in found, "how long polls wait says nothing"


def test_what_the_core_says_is_a_line_like_ours() -> None:
    said = SimpleNamespace(target="temporalio_client", fields={"message": "twice", "error": "token=abc", "n": 1})
    record = logging.makeLogRecord({"name": "temporalio.core", "msg": "gRPC failed", "temporal_log": said})
    assert _Fields().filter(record)
    line = JsonFormatter().format(record)
    assert '"message": "gRPC failed"' in line
    assert '"core_n": "1"' in line
    assert "abc" not in line


def test_a_client_is_not_traced_where_nobody_set_a_tracer() -> None:
    assert interceptors() == []


def test_prometheus_gets_the_format_it_asks_for_and_nothing_else_is_there() -> None:
    registry = CollectorRegistry()
    Gauge("nightmill_worker_memory_bytes", "memory", registry=registry).set(5)

    async def ask() -> list[Any]:
        async with (
            served(metrics_app(registry), "127.0.0.1", 0, setting="PORT") as address,
            httpx.AsyncClient(trust_env=False, base_url=address) as client,
        ):
            openmetrics = {"accept": "application/openmetrics-text;version=1.0.0"}
            answers = [client.get("/metrics"), client.get("/metrics", headers=openmetrics), client.get("/")]
            return [*(await asyncio.gather(*answers)), await client.post("/metrics")]

    plain, openmetrics, nothing, posted = asyncio.run(ask())
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "nightmill_worker_memory_bytes 5.0\n" in plain.text
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.text.endswith("# EOF\n")
    assert (nothing.status_code, posted.status_code) == (404, 405)


@pytest.mark.parametrize("kind", [BUFFERED_METRIC_KIND_COUNTER, BUFFERED_METRIC_KIND_GAUGE])
def test_an_instrument_is_made_once(kind: int) -> None:
    reader = InMemoryMetricReader()
    core = CoreMetrics(MeterProvider(metric_readers=[reader], shutdown_on_exit=False))
    for _ in range(2):
        core.take([Update(metric("temporal_x", kind), 1, {})])
    assert len(points(reader)["temporal_x"]) == 1


def test_threads_that_connect_at_once_make_one_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class SlowRuntime(Runtime):
        """Lets other threads on while it is made, as a busy machine does."""

        def __init__(self, **_: Any) -> None:
            time.sleep(0.1)
            made.append(self)

        @staticmethod
        def set_default(*_: Any, **__: Any) -> None:
            """Leave the one of this process."""

    monkeypatch.setattr(runtime, "Runtime", SlowRuntime)
    runtime._set_default.cache_clear()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: runtime.keep_core_off_standard_output(), range(4)))
    assert len(made) == 1
    runtime._set_default.cache_clear()
