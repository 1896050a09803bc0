"""Logging and metrics.

Metrics go to the meter provider that the process has set; without one they cost next to nothing.
"""

from nightmill.telemetry.audits import record_audit
from nightmill.telemetry.batches import PollResult, record_batch, record_created, record_poll, record_poll_lag
from nightmill.telemetry.logs import JsonFormatter, TextFormatter, set_up_logging
from nightmill.telemetry.recovery import record_finding, record_repair, record_tick
from nightmill.telemetry.redaction import redacted
from nightmill.telemetry.slicings import record_program, record_slicing
from nightmill.telemetry.syncs import record_sync

__all__ = [
    "JsonFormatter",
    "PollResult",
    "TextFormatter",
    "record_audit",
    "record_batch",
    "record_created",
    "record_finding",
    "record_poll",
    "record_poll_lag",
    "record_program",
    "record_repair",
    "record_slicing",
    "record_sync",
    "record_tick",
    "redacted",
    "set_up_logging",
]
