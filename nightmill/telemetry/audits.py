"""What is recorded of each audit of the providers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nightmill.telemetry import instruments, metrics

if TYPE_CHECKING:
    from nightmill.contracts import AuditSummary

_logger = logging.getLogger("nightmill.recovery")


def record_audit(summary: AuditSummary) -> None:
    """Write the one log record of an audit and count what it found; each audit counts what is still there again."""
    fields = {
        "keys": summary.keys,
        "listed": summary.listed,
        "owned": summary.owned,
        "on_their_way": summary.on_their_way,
        "untagged_suspects": summary.untagged_suspects,
        "unclear": summary.unclear,
        **{f"{kind}s": count for kind, count in sorted(summary.counts.items())},
        "failures": [failure.message for failure in summary.failures],
        "news": summary.news,
        "duration_ms": round(summary.duration.total_seconds() * 1_000),
    }
    needs_a_look = summary.news or summary.failures
    _logger.log(logging.ERROR if needs_a_look else logging.INFO, "provider audit", extra=fields)
    measure = instruments.of_this_process()
    measure.add(metrics.AUDIT_LISTED, summary.listed, {})
    measure.add(metrics.AUDIT_FAILURES, len(summary.failures), {})
    for kind, count in summary.counts.items():
        measure.add(metrics.AUDIT_FINDINGS, count, {"kind": kind.value})


def begin_audits() -> None:
    """Let the series begin that alerts count, so that they see the first event."""
    instruments.of_this_process().add(metrics.AUDIT_FAILURES, 0, {})
