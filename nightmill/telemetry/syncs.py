"""What is recorded of each attempt to sync a document."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from nightmill.contracts import SyncResult
from nightmill.telemetry import instruments, metrics

if TYPE_CHECKING:
    from nightmill.contracts import SyncOutcome

_documents = logging.getLogger("nightmill.documents")


def record_sync(outcome: SyncOutcome, *, lag: timedelta | None = None) -> None:
    """Write the one log record of an attempt to sync a document, and measure it.

    Args:
        outcome: What it came to.
        lag: How late it began after the document was due; None where nobody waited for that.
    """
    code = outcome.error_code.value if outcome.error_code else None
    fields = {
        "document": outcome.document_id,
        "account": outcome.account,
        "collection": outcome.collection,
        "result": outcome.result.value,
        "error_code": code,
        "reason": outcome.reason,
        "exception_class": outcome.exception_class,
        "attempt": outcome.attempt,
        "duration_ms": outcome.duration_ms,
    }
    _documents.info("document sync", extra=fields)
    # Neither account nor document: a metric's labels are kept for ever, and customers come and go.
    measure, result = instruments.of_this_process(), {"result": outcome.result.value}
    measure.add(metrics.DOCUMENT_SYNCS, 1, result | {"error_code": code or ""})
    measure.record(metrics.DOCUMENT_SYNC_DURATION, outcome.duration_ms / 1_000, result)
    if lag is not None:
        measure.record(metrics.DOCUMENT_SYNC_LAG, max(lag.total_seconds(), 0), {})


def begin_syncs() -> None:
    """Let the series begin that alerts count, so that they see the first event."""
    for result in SyncResult:
        instruments.of_this_process().add(metrics.DOCUMENT_SYNCS, 0, {"result": result.value, "error_code": ""})
