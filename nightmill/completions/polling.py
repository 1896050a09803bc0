"""Ask a provider how a batch is doing, and ask it to cancel one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from nightmill.contracts import BatchStatus, PartRef, PollInput, PollOutcome
from nightmill.errors import BatchNotFound, NightmillError, NotFound, ProviderUnavailable, TransientError
from nightmill.failpoints import fail_point
from nightmill.telemetry.batches import PollResult, record_poll, record_poll_lag

if TYPE_CHECKING:
    from nightmill.completions.submission import ProviderFor
    from nightmill.providers.base import ProviderStatus
    from nightmill.storage.models import BatchRow, ProviderBatchRow
    from nightmill.storage.provider_batches import ProviderBatchRepository

logger = logging.getLogger(__name__)

APPEARS_WITHIN = timedelta(minutes=15)
"""How long a new provider batch, or what a new end of one announces, may be unknown to the provider's own reads
(anthropic-sdk-python#1432)."""


@dataclass(frozen=True)
class Poller:
    """Polls and cancels parts.

    Attributes:
        provider_for: Gives a provider by name and account.
        parts: The records of provider batches.
    """

    provider_for: ProviderFor
    parts: ProviderBatchRepository

    def poll(self, asked: PollInput) -> PollOutcome:
        """Ask once and store the answer; when the next poll is due is stored even if asking fails.

        Raises:
            TransientError: The provider or the database could not be asked now.
            PermanentError: The provider will not answer until someone changes something.
        """
        try:
            return self._poll(asked)
        except BatchNotFound:  # at any point: rows can be deleted while the provider is asked
            logger.warning("batch not found", extra={"batch": asked.part.batch_id})
            return PollOutcome(status=BatchStatus.FAILED, lost=True)

    def _poll(self, asked: PollInput) -> PollOutcome:
        ref = asked.part
        batch, part = self.parts.get(ref)
        if part.settled_at is None and part.provider_batch_id is None:
            # Taken back for lack of quota; whoever took it did not live to tell.
            logger.warning("requeued before", extra=_names(batch, part))
            return PollOutcome(status=BatchStatus.PENDING, requeue=True)
        if part.settled_at is not None or part.provider_batch_id is None:
            logger.info("already terminal", extra={**_names(batch, part), "handler_dispatched_at": _text(batch)})
            return PollOutcome(status=part.status, provider_status=part.provider_status)
        logger.info("polling", extra={**_names(batch, part), "attempt": asked.attempt, "status": part.status})
        if part.next_poll_at is not None:
            record_poll_lag(batch.provider, datetime.now(UTC) - part.next_poll_at)
        try:
            status = self.provider_for(batch.provider, batch.account).status(part.provider_batch_id)
        except NightmillError as error:
            failure = self._judge(error, batch, part, asked)
            is_transient = isinstance(failure, TransientError)
            record_poll(batch.provider, PollResult.TRANSIENT if is_transient else PollResult.PERMANENT)
            self.parts.record_failed_poll(ref, next_poll_at=_next_poll(error, asked), attempt=asked.attempt)
            raise failure from error
        record_poll(batch.provider, _result(status))
        fail_point("poll.asked")
        previous = self.parts.record_poll(ref, status, next_poll_at=asked.next_poll_at, attempt=asked.attempt)
        if status.over_quota:
            logger.warning("requeued: over quota", extra={**_names(batch, part), "reason": status.reason})
            self.parts.requeue(ref, part.provider_batch_id, reason=status.reason)
            fail_point("poll.requeued")
            self._delete_upload(batch, part)
        fail_point("poll.saved")
        counts = status.counts.model_dump(exclude_none=True)
        changes = {"previous": previous, "status": status.status, "raw": status.raw, "counts": counts}
        logger.info("answer", extra={**_names(batch, part), **changes})
        if not status.known and status.raw != part.provider_status:
            logger.warning("unknown status, read as in progress", extra={**_names(batch, part), "raw": status.raw})
        if status.status.is_terminal:
            logger.info("terminal", extra={**_names(batch, part), "status": status.status, "reason": status.reason})
        return PollOutcome(
            status=status.status,
            provider_status=status.raw,
            counts=status.counts,
            requeue=status.over_quota,
            reason=status.reason,
            cancel_requested=batch.cancel_requested_at is not None,
        )

    @staticmethod
    def _judge(
        error: NightmillError, batch: BatchRow, part: ProviderBatchRow, asked: PollInput | None = None
    ) -> NightmillError:
        """Return the error to raise: a batch that is not known yet shortly after its creation is transient."""
        if isinstance(error, NotFound) and part.created_at and datetime.now(UTC) - part.created_at < APPEARS_WITHIN:
            error = ProviderUnavailable(f"{error} (created just now, so it may still appear)", http_status=404)
        if isinstance(error, TransientError):
            next_poll = asked.next_poll_at.isoformat() if asked else None
            details = {"error": type(error).__name__, "detail": str(error), "next_poll": next_poll}
            logger.warning("transient error", extra={**_names(batch, part), **details})
        return error

    def _delete_upload(self, batch: BatchRow, part: ProviderBatchRow) -> None:
        """Delete the file of a batch that is created anew; a failure costs a stray file, nothing more."""
        if part.input_file_id is None:
            return
        try:
            provider = self.provider_for(batch.provider, batch.account)
            provider.clean_up(part.provider_batch_id, part.refs, file_id=part.input_file_id)
        except NightmillError as error:
            logger.warning("uploaded file not deleted", extra={**_names(batch, part), "error": str(error)})

    def cancel(self, ref: PartRef) -> PollOutcome | None:
        """Ask the provider to cancel; asking twice is harmless.

        Returns:
            What the provider answered, where its answer is a status (xAI's is final, even with all counts zero).

        Raises:
            TransientError: It could not be asked now.
            PermanentError: It refuses.
        """
        try:
            return self._cancel(ref)
        except BatchNotFound:
            return None

    def _cancel(self, ref: PartRef) -> PollOutcome | None:
        batch, part = self.parts.get(ref)
        if part.settled_at is not None or part.provider_batch_id is None:
            return None
        self.parts.insist()
        try:
            answer = self.provider_for(batch.provider, batch.account).cancel(part.provider_batch_id)
        except NightmillError as error:
            raise self._judge(error, batch, part) from error
        fail_point("cancel.sent")
        self.parts.record_cancel_sent(ref, answer, now=datetime.now(UTC))
        logger.info("cancel sent", extra=_names(batch, part))
        if answer is None:
            return None
        return PollOutcome(status=answer.status, provider_status=answer.raw, counts=answer.counts, reason=answer.reason)


def _result(status: ProviderStatus) -> PollResult:
    if status.over_quota:
        return PollResult.OVER_QUOTA
    return PollResult.TERMINAL if status.status.is_terminal else PollResult.OPEN


def _next_poll(error: NightmillError, asked: PollInput) -> datetime:
    """Return when the next poll is due after a failed one: as planned, or later if the provider asks for it."""
    pause = error.retry_after if isinstance(error, TransientError) else None
    return max(asked.next_poll_at, datetime.now(UTC) + pause) if pause else asked.next_poll_at


def _names(batch: BatchRow, part: ProviderBatchRow) -> dict[str, object]:
    return {
        "batch": batch.id,
        "round": part.round,
        "part": part.part,
        "provider": batch.provider,
        "model": batch.model,
        "provider_batch_id": part.provider_batch_id,
    }


def _text(batch: BatchRow) -> str | None:
    return batch.handler_dispatched_at.isoformat() if batch.handler_dispatched_at else None
