"""A collector's door: takes OTLP over HTTP on loopback, and remembers what it was told."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue


@dataclass(frozen=True)
class Span:
    """One span as it was received, ids in hexadecimal."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    kind: int
    status: int
    attributes: dict[str, Any]


class Collector:
    """Takes what is exported; `answer` is the status that everybody gets."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        self.answer = 200
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.bodies.append((self.path, body))
                self.send_response(collector.answer)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def spans(self) -> list[Span]:
        found = []
        for body in self._of("/v1/traces"):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = _plain(resource.resource.attributes)["service.name"]
                found += [
                    Span(
                        service,
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.kind,
                        span.status.code,
                        _plain(span.attributes),
                    )
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
        return found

    def metrics(self) -> dict[str, list[dict[str, Any]]]:
        """Return the labels of each metric's series."""
        found: dict[str, list[dict[str, Any]]] = {}
        for body in self._of("/v1/metrics"):
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                    data = getattr(metric, str(metric.WhichOneof("data")))
                    found.setdefault(metric.name, []).extend(_plain(point.attributes) for point in data.data_points)
        return found

    def logs(self) -> list[dict[str, Any]]:
        """Return the records, with body, trace and span beside their fields."""
        found = []
        for body in self._of("/v1/logs"):
            for resource in ExportLogsServiceRequest.FromString(body).resource_logs:
                found += [
                    {
                        "body": record.body.string_value,
                        "logger": scope.scope.name,
                        "level": record.severity_text,
                        "trace": record.trace_id.hex(),
                        "span": record.span_id.hex(),
                        **_plain(record.attributes),
                    }
                    for scope in resource.scope_logs
                    for record in scope.log_records
                ]
        return found

    def resources(self) -> list[dict[str, Any]]:
        """Return what the senders of spans say of themselves."""
        return [
            _plain(resource.resource.attributes)
            for body in self._of("/v1/traces")
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        ]

    def _of(self, path: str) -> list[bytes]:
        return [body for received, body in list(self.bodies) if received == path]


def _plain(attributes: Any) -> dict[str, Any]:
    def value(one: KeyValue) -> Any:
        kind = one.value.WhichOneof("value")
        return getattr(one.value, kind) if kind else None

    return {one.key: value(one) for one in attributes}
