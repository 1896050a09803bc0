"""Exporters that say in one line that nobody takes what they send, and in another one that somebody does again."""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter
from opentelemetry.sdk.trace.export import ConsoleSpanExporter

from nightmill.telemetry.environment import Exporter
from nightmill.telemetry.redaction import without_secrets

if TYPE_CHECKING:
    from opentelemetry.sdk._logs.export import LogRecordExporter
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace.export import SpanExporter

_logger = logging.getLogger("nightmill.telemetry")


class _LastWord(logging.Filter):
    """Keeps an exporter's own log lines, several for each attempt, to itself; the last one is the reason."""

    def __init__(self) -> None:
        super().__init__()
        self._said = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        self._said.text = record.getMessage()
        return False

    def take(self) -> str:
        """Return what was said last on this thread."""
        text = getattr(self._said, "text", "")
        self._said.text = ""
        return without_secrets(" ".join(text.split()))[:300]


_last_word = _LastWord()
for _module in ("trace_exporter", "metric_exporter", "_log_exporter"):
    logging.getLogger(f"opentelemetry.exporter.otlp.proto.http.{_module}").addFilter(_last_word)
# "Queue full, dropping …", for as long as nobody takes anything: the one line has said it.
logging.getLogger("opentelemetry.sdk._shared_internal").addFilter(_LastWord())


class _Telling:
    """The part that the exporters of the three signals share. Each tells for itself: a collector may take some only."""

    _signal: str
    _fails = False

    def export(self, *args: Any, **kwargs: Any) -> Any:
        result = super().export(*args, **kwargs)  # type: ignore[misc]
        fails = result.name != "SUCCESS"
        reason = _last_word.take()
        if fails and not self._fails:
            _logger.warning("telemetry is not taken", extra={"signal": self._signal, "reason": reason})
        elif self._fails and not fails:
            _logger.info("telemetry is taken again", extra={"signal": self._signal})
        self._fails = fails
        return result


class _Spans(_Telling, OTLPSpanExporter):
    _signal = "traces"


class _Metrics(_Telling, OTLPMetricExporter):
    _signal = "metrics"


class _Logs(_Telling, OTLPLogExporter):
    _signal = "logs"


def span_exporter(kind: Exporter) -> SpanExporter:
    """Return an exporter of spans, set up by OpenTelemetry's variables."""
    return _Spans() if kind is Exporter.OTLP else ConsoleSpanExporter(out=sys.stderr)


def metric_exporter(kind: Exporter) -> MetricExporter:
    """Return an exporter of metrics, set up by OpenTelemetry's variables."""
    return _Metrics() if kind is Exporter.OTLP else ConsoleMetricExporter(out=sys.stderr)


def log_exporter(kind: Exporter) -> LogRecordExporter:
    """Return an exporter of log records, set up by OpenTelemetry's variables."""
    return _Logs() if kind is Exporter.OTLP else ConsoleLogRecordExporter(out=sys.stderr)
