"""What is recorded of each attempt to sync a document."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

from opentelemetry import metrics

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram

    from nightmill.contracts import SyncOutcome

_documents = logging.getLogger("nightmill.documents")


@cache
def _syncs() -> Counter:
    return metrics.get_meter("nightmill").create_counter(
        "nightmill.document.syncs", unit="{sync}", description="attempts to sync a document, by what they came to"
    )


@cache
def _sync_durations() -> Histogram:
    return metrics.get_meter("nightmill").create_histogram(
        "nightmill.document.sync.duration", unit="ms", description="how long attempts to sync a document took"
    )


def record_sync(outcome: SyncOutcome) -> None:
    """Write the one log record and count the one metric of an attempt to sync a document (D14)."""
    fields = {
        "document": outcome.document_id,
        "account": outcome.account,
        "collection": outcome.collection,
        "result": outcome.result.value,
        "error_code": outcome.error_code.value if outcome.error_code else None,
        "reason": outcome.reason,
        "exception_class": outcome.exception_class,
        "attempt": outcome.attempt,
        "duration_ms": outcome.duration_ms,
    }
    _documents.info("document sync", extra=fields)
    # Neither account nor document: a metric's labels are kept for ever, and customers come and go.
    labels = {"result": outcome.result.value, "error_code": fields["error_code"] or ""}
    _syncs().add(1, labels)
    _sync_durations().record(outcome.duration_ms, {"result": outcome.result.value})
