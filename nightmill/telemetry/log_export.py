"""Hands the records of Python's logging to OpenTelemetry, with their fields and the trace that they belong to."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry._logs import SeverityNumber

from nightmill.concealing import concealed
from nightmill.telemetry.logs import fields_of

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider

_SEVERITIES = (
    (logging.CRITICAL, SeverityNumber.FATAL, "FATAL"),
    (logging.ERROR, SeverityNumber.ERROR, "ERROR"),
    (logging.WARNING, SeverityNumber.WARN, "WARN"),
    (logging.INFO, SeverityNumber.INFO, "INFO"),
)
_OWN = "opentelemetry"
"""What the SDK itself says is not exported: where exporting fails, each failure would bring the next one."""


class ExportingHandler(logging.Handler):
    """Emits what the JSON lines hold: the constant message as the body, the fields as attributes.

    The SDK's own handler is deprecated, and its successor is a package that instruments; this is what we need of it.

    Args:
        provider: Takes the records.
    """

    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__()
        self._provider = provider

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`. The trace is the one of the calling thread's context."""
        if record.name.partition(".")[0] == _OWN:
            return
        try:
            attributes = {name: _value(value) for name, value in fields_of(record).items() if value is not None}
            if record.exc_info and record.exc_info[0] is not None:
                attributes["exception.type"] = record.exc_info[0].__name__
                attributes["exception.stacktrace"] = concealed(logging.Formatter().formatException(record.exc_info))
            number, text = next(
                ((number, text) for level, number, text in _SEVERITIES if record.levelno >= level),
                (SeverityNumber.DEBUG, "DEBUG"),
            )
            self._provider.get_logger(record.name).emit(
                timestamp=int(record.created * 1e9),
                severity_number=number,
                severity_text=text,
                body=concealed(record.getMessage()),
                attributes=attributes,
            )
        except Exception:  # noqa: BLE001 - as every handler does: what is logged never stops who logs it
            self.handleError(record)


def _value(value: Any) -> Any:
    """Return a field as OTLP can carry it."""
    if isinstance(value, str):
        return concealed(value)
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _value(one) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_value(one) for one in value]
    return concealed(str(value))
