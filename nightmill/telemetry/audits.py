"""What is recorded of each audit of the providers."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

from opentelemetry import metrics

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter

    from nightmill.contracts import AuditSummary

_logger = logging.getLogger("nightmill.recovery")


@cache
def _counter(name: str, unit: str, description: str) -> Counter:
    return metrics.get_meter("nightmill").create_counter(f"nightmill.audit.{name}", unit=unit, description=description)


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
    _counter("listed", "{batch}", "provider batches that audits listed").add(summary.listed)
    _counter("failures", "{key}", "keys that audits could not look at").add(len(summary.failures))
    findings = _counter("findings", "{batch}", "provider batches with which something is wrong, by kind")
    for kind, count in summary.counts.items():
        findings.add(count, {"kind": kind.value})
