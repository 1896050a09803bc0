"""HTTP requests as traces and metrics see them: from the sending to the last byte of the answer.

Names are those of opentelemetry.io/docs/specs/semconv/http (read 2026-11). A provider's path is shown, as it holds no
more than ids; of addresses that users give, nothing but the host. No query, no header, no body.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from nightmill.telemetry.instruments import of_this_process
from nightmill.telemetry.metrics import PROVIDER_REQUESTS

if TYPE_CHECKING:
    from collections.abc import Mapping

_tracer = trace.get_tracer("nightmill")
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class Call:
    """One request. Any thread may end it; what is said after its end is not heard.

    Args:
        method: `GET`, `POST`, …
        origin: Scheme, host and port.
        path: Shown in the trace; None where it is nobody's business.
        measured: Whether it counts among the requests to providers.
    """

    def __init__(self, method: str, origin: tuple[str, str, int], *, path: str | None, measured: bool) -> None:
        scheme, host, port = origin
        attributes: dict[str, str | int] = {
            "http.request.method": method if method in _METHODS else "_OTHER",
            "server.address": host,
            "server.port": port,
        }
        if path is not None:
            attributes["url.full"] = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"
        self._measured = measured
        self._labels = {name: str(attributes[name]) for name in ("http.request.method", "server.address")}
        self._began = time.perf_counter()
        self._span = _tracer.start_span(method, kind=SpanKind.CLIENT, attributes=attributes)
        self._ended = False

    def trace_headers(self) -> Mapping[str, str]:
        """Return the header that lets the receiver go on with the trace; none where nobody traces."""
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(self._span))
        return {name: value for name, value in carrier.items() if name == "traceparent"}

    def answered(self, status: int) -> None:
        """Take note of the answer's status."""
        self._labels["http.response.status_code"] = str(status)
        self._span.set_attribute("http.response.status_code", status)
        if status >= 400:
            self._fail(str(status))

    def failed(self, error: BaseException) -> None:
        """End it by an error; of its message nothing is said."""
        if "error.type" not in self._labels:  # a status says more than the error that is made of it
            self._fail(type(error).__name__)
        self.end()

    def end(self) -> None:
        """End it."""
        if self._ended:
            return
        self._ended = True
        self._span.end()
        if self._measured:
            of_this_process().record(PROVIDER_REQUESTS, time.perf_counter() - self._began, self._labels)

    def _fail(self, kind: str) -> None:
        self._labels["error.type"] = kind
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))
