"""One batch, one trace: from a host's own span over the workflow to the requests at the provider and the webhook."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.request import Request, urlopen
from uuid import UUID

import pytest

from nightmill.cli.ending import ExitCode
from nightmill.sandbox import Fault
from tests.collector import Collector, Span
from tests.stack import ROOT, Stack, WebhookSink, eventually, free_port, requests

pytestmark = pytest.mark.server

KEY = "sk-canary-0123456789abcdef"
PROMPT = "canary-prompt-5151"
TOKEN = "canary-token-7272"

TOLD = re.compile('"message": "([^"]*)"')

HOST = """
import json, sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from nightmill import client
provider = TracerProvider(resource=Resource({"service.name": "the-host"}))
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
with trace.get_tracer("host").start_as_current_span("checkout"):
    client.submit(**json.load(sys.stdin))
assert trace.get_tracer_provider() is provider
"""


@pytest.fixture
def collector() -> Iterator[Collector]:
    door = Collector()
    yield door
    door.close()


@pytest.fixture
def seen(stack: Stack, collector: Collector) -> Stack:
    """A Nightmill that tells the collector everything, soon."""
    stack.extra = {
        "NIGHTMILL_OPENAI__API_KEY": KEY,
        "NIGHTMILL_LOG_FORMAT": "json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_BLRP_SCHEDULE_DELAY": "200",
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    return stack


def submit_as_host(stack: Stack, collector: Collector, **asked: Any) -> None:
    given = {"provider": "openai", "model": "gpt-5-mini", "poll_schedule": [1], **asked}
    subprocess.run(
        [sys.executable, "-c", HOST],
        input=json.dumps(given).encode(),
        env=stack._whole_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}),
        cwd=ROOT,
        check=True,
    )


def of_batch(spans: list[Span], batch_id: str) -> list[Span]:
    """Return the trace in which the batch was run."""
    (trace,) = {span.trace for span in spans if span.attributes.get("nightmill.batch.id") == batch_id}
    return [span for span in spans if span.trace == trace]


def line(trace: list[Span], span: Span) -> list[str]:
    """Return the names of a span and all above it, the topmost first."""
    by_id = {one.id: one for one in trace}
    assert len(by_id) == len(trace), "no span comes twice"
    names = [span.name]
    while span.parent:
        span = by_id[span.parent]
        names.insert(0, span.name)
    return names


def test_a_batch_is_one_trace_from_the_host_to_the_provider_and_back(
    seen: Stack, collector: Collector, webhook: WebhookSink
) -> None:
    port = free_port()
    seen.sandbox.add_faults(Fault("status", operation="batches.get", status=503, times=1))
    worker = seen.fork_worker(NIGHTMILL_WORKER__METRICS_PORT=str(port))
    hook = f"{webhook.url}/{TOKEN}?token={TOKEN}"
    submit_as_host(
        seen,
        collector,
        requests=[{**one, "prompt": f"{PROMPT} {n}"} for n, one in enumerate(requests(3))],
        batch_id="traced",
        completion_handler={"kind": "webhook", "url": hook},
    )
    first_run = asyncio.run(start_from_elsewhere(seen, "untraced"))
    eventually(lambda: webhook.received)

    def ended() -> list[Span]:
        names = {(span.name, span.attributes.get("nightmill.batch.id")) for span in collector.spans()}
        wanted = {("CompleteWorkflow:ModelCompletionBatch", name) for name in ("traced", "untraced")}
        return collector.spans() if wanted <= names else []

    eventually(ended)
    scraped = scrape(port)
    worker.terminate()
    assert worker.wait(10) == 0
    spans = collector.spans()

    its_spans_hang_together(of_batch(spans, "traced"), webhook)
    nobodys_is_one_too(of_batch(spans, "untraced"), first_run)
    logs_name_the_trace(seen, collector, of_batch(spans, "traced")[0].trace)
    metrics_are_told(collector, scraped)
    (worker_resource,) = {
        json.dumps(one, sort_keys=True) for one in collector.resources() if one["service.name"] == "nightmill-worker"
    }
    assert {"service.version", "service.instance.id", "nightmill.build.id", "deployment.environment.name"} <= set(
        json.loads(worker_resource)
    )
    told = b"".join(body for _, body in collector.bodies) + scraped.encode() + seen.worker_log().encode()
    assert not [secret for secret in (KEY, PROMPT, TOKEN) if secret.encode() in told]


async def start_from_elsewhere(stack: Stack, batch_id: str) -> str:
    """Start a batch whose starter has never heard of traces, as the Temporal CLI; returns the id of its first run."""
    file = stack.folder / "requests.jsonl"
    file.write_text("\n".join(json.dumps(one) for one in requests(2)))
    with stack.assembly() as assembly:
        client = (await stack.nightmill(assembly)).temporal
        asked = {"provider": "openai", "model": "gpt-5-mini", "requests_uri": str(file), "poll_schedule": [1]}
        handle = await client.start_workflow(
            "ModelCompletionBatch", asked, id=f"batch/{batch_id}", task_queue=stack.task_queue
        )
        assert handle.first_execution_run_id
        return handle.first_execution_run_id


def its_spans_hang_together(trace: list[Span], webhook: WebhookSink) -> None:
    lines = {" > ".join(line(trace, span)) for span in trace}
    begin = "checkout > StartWorkflow:ModelCompletionBatch > RunWorkflow:ModelCompletionBatch"
    workflow = begin.rpartition(" > ")[0]
    assert f"{workflow} > StartActivity:submit_part > RunActivity:submit_part > POST" in lines
    assert f"{workflow} > StartActivity:poll_part > RunActivity:poll_part > GET" in lines
    assert f"{workflow} > StartActivity:harvest_part > RunActivity:harvest_part > GET" in lines
    assert begin in lines
    assert {span.service for span in trace} == {"the-host", "nightmill-worker"}

    asked = [span for span in trace if span.attributes.get("url.full")]
    assert all(span.kind == 3 for span in asked), "CLIENT"
    assert {span.attributes["http.response.status_code"] for span in asked} == {200, 503}
    assert not [span for span in asked if "?" in span.attributes["url.full"]]
    (failed,) = (span for span in asked if span.attributes["http.response.status_code"] == 503)
    assert failed.attributes["error.type"] == "503"
    assert failed.status == 2
    (poll,) = (span for span in trace if span.id == failed.parent)
    assert (poll.attributes["error.type"], poll.status) == ("ProviderUnavailable", 0), "it is asked again: no error"

    (told,) = (span for span in trace if span.name == "POST" and "url.full" not in span.attributes)
    assert line(trace, told)[-2] == "RunActivity:deliver_webhook"
    assert told.attributes["server.address"] == "127.0.0.1"
    ((headers, _),) = webhook.received
    assert headers["traceparent"].startswith(f"00-{told.trace}-{told.id}-0")


def nobodys_is_one_too(trace: list[Span], first_run: str) -> None:
    assert {span.trace for span in trace} == {UUID(first_run).hex}
    roots = {span.name for span in trace if not span.parent}
    assert roots == {"RunWorkflow:ModelCompletionBatch"}
    assert all(line(trace, span)[0] == "RunWorkflow:ModelCompletionBatch" for span in trace)


def logs_name_the_trace(stack: Stack, collector: Collector, trace: str) -> None:
    records = [record for record in collector.logs() if record["trace"] == trace]
    assert {"submitted", "polling", "batch ended"} <= {record["body"] for record in records}
    assert {record["batch"] for record in records if record["body"] == "batch ended"} == {"traced"}
    lines = [json.loads(text) for text in stack.worker_log().splitlines() if text.startswith("{")]
    (ended,) = (one for one in lines if one["message"] == "batch ended" and one["batch"] == "traced")
    assert ended["trace_id"] == trace
    assert len(ended["span_id"]) == 16
    assert not [one for one in lines if one["message"] == "worker ready" and "trace_id" in one]


def metrics_are_told(collector: Collector, scraped: str) -> None:
    told = collector.metrics()
    assert {"temporal_activity_execution_latency", "temporal_worker_task_slots_available"} <= set(told)
    assert {"nightmill.batch.ended", "nightmill.worker.memory"} <= set(told)
    calls = told["http.client.request.duration"]
    assert {one["http.response.status_code"] for one in calls} == {"200", "503"}
    assert {one["server.address"] for one in calls} == {"127.0.0.1"}, "webhooks are not counted"
    assert 'temporal_activity_execution_latency_seconds_bucket{activity_type="poll_part"' in scraped
    assert "nightmill_worker_memory_bytes" in scraped
    assert "target_info{" in scraped
    assert scraped.endswith("# EOF\n")


def scrape(port: int) -> str:
    """Ask as Prometheus does."""
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    with urlopen(Request(f"http://127.0.0.1:{port}/metrics", headers={"accept": accept}), timeout=5) as answer:
        return str(answer.read().decode())


def test_a_worker_whose_collector_is_away_works_and_stops_in_time(seen: Stack) -> None:
    seen.extra = {**seen.extra, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    (seen.folder / "worker.log").touch()
    worker = seen.fork_worker()
    eventually(lambda: {"worker ready", "telemetry is not taken"} <= set(TOLD.findall(seen.worker_log())))
    begun = time.monotonic()
    worker.terminate()
    assert worker.wait(10) == 0
    assert time.monotonic() - begun < 4
    log = seen.worker_log()
    assert log.count("telemetry is not taken") <= 3, "once for each signal"
    assert "Traceback" not in log


def test_a_worker_that_is_asked_for_grpc_says_what_to_do_instead(seen: Stack) -> None:
    worker = seen.fork_worker(OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert worker.wait(20) == ExitCode.USAGE
    assert "nightmill: OTEL_EXPORTER_OTLP_PROTOCOL=grpc: only http/protobuf is spoken" in seen.worker_log()


def test_a_command_is_the_root_of_what_it_starts(seen: Stack, collector: Collector) -> None:
    file = seen.folder / "requests.jsonl"
    file.write_text(json.dumps({"custom_id": "a", "prompt": PROMPT}))
    given = [str(file), "--provider", "openai", "--model", "gpt-5-mini", "--id", "by-command"]
    subprocess.run(
        [sys.executable, "-m", "nightmill.cli", "batch", "submit", *given],
        env=seen._whole_environment({}),
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    start, command = sorted(collector.spans(), key=lambda span: span.name)
    assert (start.name, command.name) == ("StartWorkflow:ModelCompletionBatch", "nightmill batch submit")
    assert (start.parent, command.parent) == (command.id, "")
    assert {start.service, command.service} == {"nightmill"}
    assert not command.attributes
