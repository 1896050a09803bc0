"""The end of a provider batch, of a round, and of a batch: harvest, fill what is missing, decide, close."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from nightmill.completions.planning import plan_parts
from nightmill.completions.polling import APPEARS_WITHIN
from nightmill.contracts import (
    BatchStatus,
    BatchSummary,
    ErrorCode,
    PartOutcome,
    PartRef,
    RoundInput,
    RoundOutcome,
    SettleInput,
)
from nightmill.errors import (
    BatchConflict,
    BatchNotFound,
    NightmillError,
    NotFound,
    ProviderUnavailable,
    StorageUnavailable,
    TransientError,
)
from nightmill.failpoints import fail_point
from nightmill.telemetry.batches import record_batch

if TYPE_CHECKING:
    from nightmill.completions.ingest import Harvester
    from nightmill.completions.submission import ProviderFor
    from nightmill.providers.base import BatchProvider
    from nightmill.storage.batches import BatchRepository
    from nightmill.storage.models import BatchRow, ProviderBatchRow
    from nightmill.storage.outcomes import OutcomeRepository
    from nightmill.storage.provider_batches import ProviderBatchRepository
    from nightmill.storage.requests import RequestRepository

logger = logging.getLogger(__name__)

MISSING: dict[BatchStatus, ErrorCode] = {
    BatchStatus.ENDED: ErrorCode.ENTRY_MISSING,
    BatchStatus.CANCELED: ErrorCode.CANCELED,
    BatchStatus.EXPIRED: ErrorCode.EXPIRED,
    BatchStatus.FAILED: ErrorCode.BATCH_FAILED,
}
"""What a request without a result failed with, by the status of its provider batch."""

SOONEST_OVERDUE, LATEST_OVERDUE = timedelta(minutes=2), timedelta(minutes=45)
"""When a harvest that failed is overdue, at the earliest and at the latest; see `overdue_at`."""

RETRIABLE = frozenset({ErrorCode.ENTRY_MISSING, ErrorCode.EXPIRED, ErrorCode.NOT_SUBMITTED})
"""Those of them that another round may heal; not where max age ended it, for a round would begin it anew."""


@dataclass(frozen=True)
class Settler:
    """Harvests parts, closes rounds and batches. Each method can be run again at any time.

    Attributes:
        provider_for: Gives a provider by name and account.
        batches: The records of batches.
        parts: The records of provider batches.
        requests: The stored requests.
        outcomes: The stored outcomes.
        harvester: Brings results into the database.
        renderer: Gives a provider by name, without a key, for what it knows of itself.
        deletes_files: Whether our files at a provider are deleted after the harvest.
    """

    provider_for: ProviderFor
    batches: BatchRepository
    parts: ProviderBatchRepository
    requests: RequestRepository
    outcomes: OutcomeRepository
    harvester: Harvester
    renderer: Callable[[str], BatchProvider]
    deletes_files: Callable[[str], bool]

    def settle_part(self, end: SettleInput, *, heartbeat: Callable[[dict[str, Any]], None]) -> PartOutcome:
        """Store all results that there are, fail what has none, and write the part's final status.

        Raises:
            TransientError: Results could not be fetched or stored now; what was stored stays.
            PermanentError: The provider does not give the results until someone changes something.
        """
        fail_point("harvest.start")
        try:
            try:
                return self._settle_part(end, heartbeat)
            except TransientError as error:
                self._put_off(end, error)
                raise
        except BatchNotFound:  # at any point: rows can be deleted meanwhile
            logger.warning("batch not found", extra={"batch": end.part.batch_id})
            return PartOutcome(status=BatchStatus.FAILED, lost=True)

    def _settle_part(self, end: SettleInput, heartbeat: Callable[[dict[str, Any]], None]) -> PartOutcome:
        ref = end.part
        batch, part = self.parts.get(ref)
        if part.settled_at is None:
            if part.provider_batch_id is not None and not end.without_results:
                self._harvest(end, batch, part, heartbeat)
            self._fill(end, part)
            fail_point("harvest.filled")
            status = end.status
            if status is BatchStatus.ENDED and self.renderer(batch.provider).entries_decide:
                status = self.parts.status_by_entries(ref)
            self.parts.settle(ref, status, reason=end.reason, now=datetime.now(UTC))
            fail_point("harvest.settled")
            _, part = self.parts.get(ref)
        if part.cleaned_at is None and self.deletes_files(batch.provider):
            self._clean_up(ref, batch, part)
        counted = self.parts.outcomes(ref)
        return PartOutcome(status=part.status, completed=counted.get(True, 0), failed=counted.get(False, 0))

    def _put_off(self, end: SettleInput, error: TransientError) -> None:
        """Let an outage not look like a stuck batch."""
        try:
            self.parts.put_off(end.part, until=overdue_at(end, error, datetime.now(UTC)))
        except StorageUnavailable as failure:  # the outage is our own: it will look stuck, which does no harm
            names = {"batch": end.part.batch_id, "part": end.part.part}
            logger.warning("harvest not put off", extra={**names, "error": str(failure)})

    def _harvest(
        self, end: SettleInput, batch: BatchRow, part: ProviderBatchRow, heartbeat: Callable[[dict[str, Any]], None]
    ) -> None:
        provider = self.provider_for(batch.provider, batch.account)
        # At max age we cancel ourselves; nobody who reads "canceled" should look for who did it.
        canceled_as = ErrorCode.EXPIRED if end.at_max_age else ErrorCode.CANCELED
        try:
            report = self.harvester.harvest(
                provider, part, batch, heartbeat=heartbeat, fail_point=fail_point, canceled_as=canceled_as
            )
        except BatchConflict:
            return  # a lost run of this activity has settled it in the meantime
        except NotFound as error:
            if end.ended_at is None or datetime.now(UTC) - end.ended_at > APPEARS_WITHIN:
                raise
            raise ProviderUnavailable(f"{error} (it ended just now, so they may still appear)") from error
        logger.info("harvested", extra={"batch": batch.id, "part": part.part, "report": str(report)})

    def _fill(self, end: SettleInput, part: ProviderBatchRow) -> None:
        code = end.code or MISSING[end.status]
        message = end.reason or part.provider_error or f"no result: the provider batch is {end.status}"
        assert part.key is not None  # noqa: S101 - a loaded row has its key
        retryable = code in RETRIABLE and not end.at_max_age
        filled = self.outcomes.fill_missing(part.key, code=code, message=message[:1000], retryable=retryable)
        if filled:
            logger.warning("completions without result", extra={"part": part.key, "code": code, "count": filled})

    def _clean_up(self, ref: PartRef, batch: BatchRow, part: ProviderBatchRow) -> None:
        """Delete our files at the provider; a failure leaves a stray file there, no reason to hold results back."""
        self.parts.insist()
        try:
            provider = self.provider_for(batch.provider, batch.account)
            provider.clean_up(part.provider_batch_id, part.refs, file_id=part.input_file_id)
        except NightmillError as error:
            logger.warning("files not deleted", extra={"batch": batch.id, "part": part.part, "error": str(error)})
            return
        self.parts.record_cleaned(ref, now=datetime.now(UTC))
        fail_point("clean_up.done")

    def settle_round(self, asked: RoundInput) -> RoundOutcome:
        """Plan another round if one is due, or else write the terminal status and return the summary."""
        fail_point("round.start")
        try:
            return self._settle_round(asked)
        except BatchNotFound:
            logger.warning("batch not found", extra={"batch": asked.batch_id})
            return RoundOutcome(lost=True)

    def _settle_round(self, asked: RoundInput) -> RoundOutcome:
        batch = self.batches.get(asked.batch_id)
        if batch.status.is_terminal:
            summary = self.summary(batch.id)
        else:
            if self._another_round_is_due(batch, asked.round):
                parts = self.plan_round(batch, asked.round + 1, now=asked.now)
                return RoundOutcome(next_round=asked.round + 1, parts=parts)
            status, reason = self.batches.round_verdict(batch.id)
            summary = self.finish(batch, status, reason=reason)
            logger.info("terminal", extra={"batch": batch.id, "status": summary.status, "reason": reason})
        fail_point("round.finished")
        return RoundOutcome(summary=summary)

    def finish(self, batch: BatchRow, status: BatchStatus, *, reason: str | None) -> BatchSummary:
        """Write how a batch ends, unless it has ended, and count that; return what became of it.

        What is counted is lost where the worker dies after the commit and before the count, and never counted twice.
        """
        now = datetime.now(UTC)
        dispatch = self.wants_to_know(batch, status)
        end = self.batches.finish(batch.id, status, reason=reason, now=now, dispatch=dispatch)
        summary = self.summary(batch.id)
        if end.is_new:
            record_batch(summary, provider=batch.provider, model=batch.model, duration=now - batch.created_at)
        return summary

    def _another_round_is_due(self, batch: BatchRow, round_: int) -> bool:
        if batch.round > round_:
            return True  # it is under way, and must be brought to its end
        if batch.cancel_requested_at is not None or round_ >= batch.retry_rounds:
            return False
        return self.batches.retriable_failures(batch.id, round_) > 0

    @staticmethod
    def wants_to_know(batch: BatchRow, status: BatchStatus) -> bool:
        """Whether the host application is to be told of a batch that ends like this."""
        handler = batch.completion_handler
        return handler is not None and (not handler.get("on") or status.value in handler["on"])

    def plan_round(self, batch: BatchRow, round_: int, *, now: datetime) -> int:
        """Divide a round's requests into provider batches and store the plan; return how many there are."""
        limits = self.renderer(batch.provider).limits
        assert batch.key is not None  # noqa: S101 - a loaded row has its key
        sizes: Iterable[tuple[int, int]] = self.requests.pending_sizes(batch.key, round_)
        # Read to the end first: inside the transaction, it would wait for a second connection while holding one.
        plan = list(plan_parts(sizes, limits))
        return self.batches.start_round(batch.id, round_, plan, now=now)

    def summary(self, batch_id: str) -> BatchSummary:
        """Return what became of a batch, or how it stands."""
        return self.outcomes.summarize(batch_id)


def overdue_at(end: SettleInput, error: TransientError, now: datetime) -> datetime:
    """Return when a harvest that failed just now is overdue.

    Its workflow pauses longer and longer, up to half an hour, and each pause is shorter than twice the time since the
    end: after 5 minutes the next try is overdue in 10 minutes, after 10 minutes in 20, after half an hour in 45.
    """
    since = now - end.ended_at if end.ended_at else LATEST_OVERDUE
    wait = min(max(2 * since, SOONEST_OVERDUE), LATEST_OVERDUE)
    return now + max(wait, SOONEST_OVERDUE + (error.retry_after or timedelta(0)))
