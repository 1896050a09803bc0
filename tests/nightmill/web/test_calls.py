"""What traces and metrics see of HTTP: enough to find what is slow or fails, and nothing that is secret."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nightmill.errors import AnswerLost, BodyTooLarge, NightmillError, ProviderUnreachable, RequestRefused
from nightmill.telemetry import calls
from nightmill.telemetry.instruments import Instruments
from nightmill.web.client import HttpClient
from nightmill.web.guard import guarded_client
from tests.stack import free_port

KEY = "sk-canary-0123456789"


class Seen:
    """What was traced and measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._spans = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        meter = MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False).get_meter("t")
        instruments = Instruments(meter)
        # The process's own can be set only once.
        monkeypatch.setattr(calls, "_tracer", provider.get_tracer("t"))
        monkeypatch.setattr(calls, "of_this_process", lambda: instruments)

    def spans(self) -> list[ReadableSpan]:
        return list(self._spans.get_finished_spans())

    def one(self) -> dict[str, Any]:
        (span,) = self.spans()
        return dict(span.attributes or {})

    def measured(self) -> list[dict[str, Any]]:
        data = self._reader.get_metrics_data()
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
        return [dict(point.attributes or {}) for metric in metrics for point in metric.data.data_points]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


class Door:
    """Answers `/STATUS/…`, `/cut` with half a body, and `/moved` with the address of `/200`."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        door = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                door.headers.append({name.lower(): value for name, value in self.headers.items()})
                self.rfile.read(int(self.headers.get("content-length", 0)))
                kind = self.path.split("?")[0].split("/")[1]
                status = {"cut": 200, "moved": 302}.get(kind) or int(kind)
                self.send_response(status)
                if kind == "moved":
                    self.send_header("location", "/200/there?secret=1")
                self.send_header("content-length", "100" if kind == "cut" else "14")
                self.end_headers()
                with suppress(OSError):  # who broke off its upload does not listen
                    self.wfile.write(b'{"said": "hi"}')

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def door() -> Iterator[Door]:
    opened = Door()
    yield opened
    opened.close()


def provider_at(url: str) -> HttpClient:
    return HttpClient(url, auth_headers={"Authorization": f"Bearer {KEY}"})


def test_a_request_to_a_provider_is_a_span_and_a_measurement_without_query_or_key(seen: Seen, door: Door) -> None:
    with provider_at(door.url) as client:
        client.request_json("POST", f"/200/{KEY}", params={"key": KEY}, json={"prompt": "hush"})
    assert seen.one() == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": door.port,
        "url.full": f"{door.url}/200/[redacted]",
    }
    assert seen.measured() == [
        {"http.request.method": "POST", "server.address": "127.0.0.1", "http.response.status_code": "200"}
    ]
    assert "traceparent" not in door.headers[0], "our trace is no business of a provider's"


def test_a_refusal_is_an_error_by_its_status(seen: Seen, door: Door) -> None:
    with provider_at(door.url) as client, pytest.raises(RequestRefused):
        client.request_json("GET", "/400")
    assert seen.one()["error.type"] == "400"
    assert not seen.spans()[0].events
    assert seen.measured()[0]["error.type"] == "400"


def test_a_provider_that_is_away_is_an_error_by_its_type(seen: Seen) -> None:
    with provider_at(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(ProviderUnreachable):
        client.request_json("GET", "/x")
    assert seen.one()["error.type"] == "ProviderUnreachable"
    assert "http.response.status_code" not in seen.one()


def test_what_the_content_of_an_upload_raises_ends_its_span_and_is_passed_on(seen: Seen, door: Door) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x"
        raise ZeroDivisionError

    with provider_at(door.url) as client, pytest.raises(ZeroDivisionError):
        client.stream_upload("POST", "/200", content=broken(), length=10)
    assert seen.one()["error.type"] == "ZeroDivisionError"


@pytest.mark.parametrize(
    ("path", "bound", "error"), [("/cut", 1_000, AnswerLost), ("/200", 5, BodyTooLarge), ("/200", 1_000, None)]
)
def test_a_download_lasts_until_its_body_does(
    path: str, bound: int, error: type[NightmillError] | None, seen: Seen, door: Door
) -> None:
    with provider_at(door.url) as client:
        download = client.download("GET", path, deadline=timedelta(seconds=5), max_bytes=bound)
        assert not seen.spans()
        try:
            list(download)
        except NightmillError as raised:
            assert type(raised) is error  # noqa: PT017 - None where there is none
    assert seen.one().get("error.type") == (error.__name__ if error else None)
    assert len(seen.measured()) == 1


def test_of_pages_only_the_host_is_shown_and_each_hop_by_itself(seen: Seen, door: Door) -> None:
    with guarded_client(allow_private=True, allowed_ports=None) as client:
        with client.fetch(f"{door.url}/moved?token=1") as page:
            list(page)
        with pytest.raises(RequestRefused):
            client.fetch(f"{door.url}/400")
    assert [span.attributes and span.attributes["http.response.status_code"] for span in seen.spans()] == [
        302,
        200,
        400,
    ]
    assert not [name for span in seen.spans() for name in span.attributes or {} if name.startswith("url.")]
    assert not seen.measured()
    assert not [headers for headers in door.headers if "traceparent" in headers], "nor of a site's"


def test_a_webhook_is_told_the_trace(seen: Seen, door: Door) -> None:
    with guarded_client(allow_private=True, allowed_ports=None) as client:
        client.post(f"{door.url}/200/token", headers={"webhook-id": "1"}, content=b"{}")
    (span,) = seen.spans()
    assert span.context is not None
    assert f"{span.context.trace_id:032x}-{span.context.span_id:016x}" in door.headers[0]["traceparent"]
    assert door.headers[0]["webhook-id"] == "1"


def test_without_a_tracer_nothing_is_told(door: Door) -> None:
    with guarded_client(allow_private=True, allowed_ports=None) as client:
        client.post(f"{door.url}/200", headers={}, content=b"{}")
    assert "traceparent" not in door.headers[0]
