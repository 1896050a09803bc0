"""Logs: JSON lines off a terminal, readable text on one; values are in fields, never in the message.

What the settings hold as secret is hidden. A JSON line that belongs to a trace names it, by `trace_id` and `span_id` as
OpenTelemetry's tools write them.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from nightmill.concealing import concealed

if TYPE_CHECKING:
    from nightmill.settings import Settings

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_TEMPORAL = frozenset({"temporal_activity", "temporal_workflow", "temporal_log", "__temporal_task_identifier"})
_NOISY = ("httpx", "httpcore", "alembic", "temporalio", "urllib3", "opentelemetry", "uvicorn")


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was passed as `extra`."""
    return {
        k: v for k, v in vars(record).items() if k not in _STANDARD and k not in _TEMPORAL and not k.startswith("_")
    }


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (RFC 3339, UTC), `level`, `logger`, `message`, and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
            **_trace(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return concealed(json.dumps(line, default=str, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """`12:30:05 INFO  polling  batch=… attempt=1`."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        fields = " ".join(f"{name}={value}" for name, value in fields_of(record).items() if value is not None)
        when = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        text = f"{when} {record.levelname:<7} {record.getMessage()}  {fields}".rstrip()
        return concealed(f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text)


def _trace() -> dict[str, str]:
    """Return the trace and the span that the calling thread works in, if any."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}


def set_up_logging(settings: Settings) -> None:
    """Send all logs to standard error, in the format that the settings ask for."""
    handler = logging.StreamHandler(sys.stderr)
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level)))
