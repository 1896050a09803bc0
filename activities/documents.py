"""The steps of a document's sync. Each may run more than once; what an attempt may write is fenced in the row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities.boundary import LONGEST_MESSAGE, temporal_errors
from nightmill.contracts import ChangeRef, SyncInput, SyncOutcome
from nightmill.documents.alerts import Alerts
from nightmill.documents.syncing import Syncer
from nightmill.errors import DocumentNotFound, ExtractorUnavailable, NetworkDown, NightmillError, NotConfigured
from nightmill.storage.document_syncs import SyncRepository
from nightmill.telemetry.syncs import record_sync

AFTER_OUR_OWN_FAULT = timedelta(minutes=1)
"""When a sync goes on that our own set-up holds up; it costs the document no attempt."""


@dataclass(frozen=True)
class DocumentActivities:
    """Sync one document.

    Attributes:
        syncer: Fetches, compares, updates.
        syncs: What syncs write.
        alerts: Tells people, each thing once.
    """

    syncer: Syncer
    syncs: SyncRepository
    alerts: Alerts

    # A cancel must not break a fetch off: "sync now" cancels an attempt that waits, and lets one that runs end.
    @activity.defn(no_thread_cancel_exception=True)
    def sync_document(self, asked: SyncInput) -> SyncOutcome:
        """Fetch, compare, update. A second run is another attempt, with the budgets of failures that the row counts."""
        with temporal_errors():
            try:
                scheduled_at = activity.info().current_attempt_scheduled_time
                attempt = self.syncer.attempt(asked.model_copy(update={"scheduled_at": scheduled_at}))
            except (ExtractorUnavailable, NetworkDown, NotConfigured) as error:
                self.alerts.operator_fault("documents", str(error), key=error.code)
                raise ApplicationError(
                    str(error)[:LONGEST_MESSAGE], error.code, type=type(error).__name__,
                    next_retry_delay=AFTER_OUR_OWN_FAULT,
                ) from None  # fmt: skip
            except NightmillError:
                raise
            except Exception as error:
                # A bug that could not even be written into the row, so there is no budget: told, and tried again later.
                # The document is not named: of the same bug in all of them, people are told once.
                self.alerts.operator_fault("documents", f"documents cannot be synced: {type(error).__name__}")
                raise ApplicationError(
                    str(error)[:LONGEST_MESSAGE], type=type(error).__name__, next_retry_delay=AFTER_OUR_OWN_FAULT
                ) from error
        outcome = attempt.outcome
        record_sync(outcome, lag=attempt.lag)
        if attempt.needs_attention is not None:
            self.alerts.document(outcome.document_id, outcome.account, attempt.needs_attention)
        if attempt.retry_after is not None:
            what = outcome.error_code or outcome.result
            raise ApplicationError(
                f"{what}{f' ({outcome.reason})' if outcome.reason else ''}: attempt {outcome.attempt} failed",
                outcome.model_dump(mode="json", exclude_none=True),
                type=outcome.result.value,
                next_retry_delay=attempt.retry_after,
                category=ApplicationErrorCategory.BENIGN,
            )
        return outcome

    @activity.defn
    def finish_sync(self, change: ChangeRef) -> None:
        """Let the document rest after its handler's turn; a second run changes nothing."""
        with temporal_errors():
            try:
                self.syncs.finish(change.document_id, now=datetime.now(UTC))
            except DocumentNotFound:
                activity.logger.warning("document not found", extra={"document": change.document_id})

    @activity.defn
    def abandon_sync(self, asked: SyncInput) -> None:
        """Let the document rest as it was before a sync that somebody canceled; a second run changes nothing."""
        with temporal_errors():
            try:
                self.syncs.abandon(asked.document_id, run_id=asked.run_id)
            except DocumentNotFound:
                activity.logger.warning("document not found", extra={"document": asked.document_id})
