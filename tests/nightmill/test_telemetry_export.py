"""Telemetry goes where OpenTelemetry's variables say, and holds up nothing where nobody takes it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping

import pytest

from nightmill.errors import NotConfigured
from nightmill.telemetry.environment import Asked, Exporter, asked_of
from tests.collector import Collector
from tests.stack import eventually

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
OTLP = frozenset({Exporter.OTLP})
HERE = "http://127.0.0.1:4318"

SAYS = """
import logging, sys, time
from nightmill.settings import load_settings
from nightmill.telemetry.logs import set_up_logging
from nightmill.telemetry.providers import start_telemetry
set_up_logging(load_settings())
started = start_telemetry("tester", build="b1")
from opentelemetry import metrics, trace
with trace.get_tracer("t").start_as_current_span("work"):
    metrics.get_meter("t").create_counter("worked").add(1)
    logging.getLogger("nightmill.test").info("said", extra={"batch": "b", "counts": {"ok": 1}, "none": None})
    try:
        raise ValueError("odd")
    except ValueError:
        logging.getLogger("nightmill.test").exception("failed")
time.sleep(float(sys.argv[1]))
begun = time.monotonic()
started.stop()
print(time.monotonic() - begun, "opentelemetry.sdk" in sys.modules)
"""


def run(variables: Mapping[str, str], *, busy: float = 0.0) -> tuple[float, bool, list[dict[str, object]]]:
    """Say something and stop; returns how long stopping took, whether the SDK was needed, and the log lines."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "NIGHTMILL_"))}
    done = subprocess.run(
        [sys.executable, "-c", SAYS, str(busy)],
        env={**kept, "NIGHTMILL_LOG_FORMAT": "json", **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    took, needed = done.stdout.split()
    return float(took), needed == "True", [json.loads(line) for line in done.stderr.splitlines()]


@pytest.fixture
def collector() -> Iterator[Collector]:
    door = Collector()
    yield door
    door.close()


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        ({}, Asked()),
        ({ENDPOINT: HERE}, Asked(traces=OTLP, metrics=OTLP, logs=OTLP)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": HERE}, Asked(traces=OTLP)),
        ({ENDPOINT: HERE, "OTEL_LOGS_EXPORTER": "none"}, Asked(traces=OTLP, metrics=OTLP)),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, Asked(traces=OTLP)),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, Asked(traces=frozenset(Exporter))),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, Asked()),
        ({ENDPOINT: HERE, "OTEL_SDK_DISABLED": "True"}, Asked(disabled=True)),
        ({ENDPOINT: "", "OTEL_TRACES_EXPORTER": " "}, Asked()),
        ({ENDPOINT: HERE, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_LOGS_EXPORTER": "none"},
         Asked(traces=OTLP, metrics=OTLP)),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, Asked()),
    ],
)  # fmt: skip
def test_the_variables_say_what_goes_where(variables: dict[str, str], asked: Asked) -> None:
    assert asked_of(variables) == asked


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: only http/protobuf is spoken"),
        ({"OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL=http/json: only"),
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "OTEL_TRACES_EXPORTER=jaeger: give otlp, console or none"),
        ({"OTEL_LOGS_EXPORTER": "prometheus"}, "OTEL_LOGS_EXPORTER=prometheus: give"),
    ],
)
def test_what_is_not_there_is_refused_in_a_line_that_says_what_is(variables: dict[str, str], says: str) -> None:
    with pytest.raises(NotConfigured, match=f"^{says}") as refused:
        asked_of({ENDPOINT: HERE, **variables})
    assert "\n" not in str(refused.value)


def test_nothing_is_loaded_and_nothing_sent_where_nothing_is_asked(collector: Collector) -> None:
    for variables in ({}, {ENDPOINT: collector.url, "OTEL_SDK_DISABLED": "true"}):
        took, needed, _ = run(variables)
        assert (took < 0.2, needed) == (True, False)
    assert not collector.bodies


def test_what_was_said_last_is_still_sent(collector: Collector) -> None:
    took, _, lines = run({ENDPOINT: collector.url, "OTEL_SERVICE_NAME": "mine"})
    assert took < 2.5
    (span,) = collector.spans()
    assert (span.service, span.name) == ("mine", "work")
    assert "worked" in collector.metrics()
    said, failed = collector.logs()
    assert (said["body"], said["level"], said["batch"], said["trace"]) == ("said", "INFO", "b", span.trace)
    assert "none" not in said
    assert (failed["level"], failed["exception.type"]) == ("ERROR", "ValueError")
    assert [line["message"] for line in lines] == ["said", "failed"]
    assert {line["span_id"] for line in lines} == {span.id}


def test_a_collector_that_is_away_costs_a_line_and_no_time_to_speak_of() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://someone:hunter2@127.0.0.1:{closed.getsockname()[1]}"
        quick = {"OTEL_METRIC_EXPORT_INTERVAL": "300", "OTEL_BSP_SCHEDULE_DELAY": "100"}
        took, _, lines = run({ENDPOINT: url, "OTEL_EXPORTER_OTLP_TIMEOUT": "1", **quick}, busy=2.5)
    assert took < 3
    warned = [line for line in lines if line["level"] == "WARNING"]
    assert {line["message"] for line in warned} == {"telemetry is not taken"}
    assert sorted(str(line["signal"]) for line in warned) == ["logs", "metrics", "traces"], "a line for each, once"
    assert all(line["reason"] for line in warned)
    assert "hunter2" not in json.dumps(lines)
    assert [line["message"] for line in lines if line["level"] == "ERROR"] == ["failed"], "ours, and none of the SDK's"


def test_a_collector_that_never_answers_does_not_hold_up_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        took, _, _ = run({ENDPOINT: f"http://127.0.0.1:{silent.getsockname()[1]}"})
    assert took < 3
    assert time.monotonic() - begun < 8


def test_it_is_said_once_that_a_collector_refuses_and_once_that_it_takes_again(collector: Collector) -> None:
    collector.answer = 401

    def relent() -> None:
        eventually(lambda: len([path for path, _ in collector.bodies if path == "/v1/metrics"]) >= 3)
        collector.answer = 200

    relenting = threading.Thread(target=relent)
    relenting.start()
    only = {"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", "OTEL_METRIC_EXPORT_INTERVAL": "200"}
    _, _, lines = run({ENDPOINT: collector.url, **only}, busy=1.5)
    relenting.join()
    refused, again = (line for line in lines if line["logger"] == "nightmill.telemetry")
    assert (refused["message"], again["message"]) == ("telemetry is not taken", "telemetry is taken again")
    assert "401" in str(refused["reason"])
