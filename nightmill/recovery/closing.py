"""What a batch's run would have written, had it come so far: a refusal, the handler's gate, a need for attention."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from nightmill.completions.planning import Part
from nightmill.contracts import BatchStatus, ErrorCode, PartRef, SettleInput
from nightmill.errors import BatchConflict
from nightmill.recovery.decisions import GAVE_UP

if TYPE_CHECKING:
    from nightmill.completions.settlement import Settler
    from nightmill.storage.batches import BatchRepository
    from nightmill.storage.models import BatchRow, ProviderBatchRow

logger = logging.getLogger(__name__)

LONGEST_MESSAGE = 1_000


@dataclass(frozen=True)
class Closer:
    """Writes ends that runs could not write. Each method can be run again at any time.

    Attributes:
        batches: The records of batches.
        settler: Closes provider batches.
    """

    batches: BatchRepository
    settler: Settler

    def refuse(self, batch_id: str, reason: str) -> BatchStatus:
        """Close a batch that was never submitted as failed, with all its requests; return the status in force.

        One that has ended stays as it ended. The provider is asked nothing, but to delete a file that was uploaded.

        Raises:
            BatchConflict: Something was sent to the provider, so that results may exist.
            BatchNotFound: There is none.
        """
        batch = self.batches.get(batch_id)
        if batch.status.is_terminal:
            return batch.status
        for part in self._unsubmitted(batch_id) or self._one_for_all(batch):
            end = SettleInput(
                part=PartRef(batch_id=batch_id, round=part.round, part=part.part),
                status=BatchStatus.FAILED,
                reason=reason,
                code=ErrorCode.NOT_SUBMITTED,
            )
            self.settler.settle_part(end, heartbeat=lambda _: None)
        self._unsubmitted(batch_id)  # whoever was about to submit has done so by now, or finds it settled
        status = self.settler.finish(batch, BatchStatus.FAILED, reason=reason).status
        logger.warning("refused", extra={"batch": batch_id, "status": status, "reason": reason})
        return status

    def _unsubmitted(self, batch_id: str) -> list[ProviderBatchRow]:
        """Return the planned provider batches, none of which was ever meant to be created."""
        parts = self.batches.parts(batch_id)
        if any(part.create_sent_at or part.provider_batch_id or part.epoch for part in parts):
            raise BatchConflict(f"batch {batch_id} was submitted: it is followed to its end, not refused")
        return parts

    def _one_for_all(self, batch: BatchRow) -> list[ProviderBatchRow]:
        """Plan one provider batch of all requests, however large: it only holds their outcomes.

        The provider's limits do not matter then, and may be what could not be kept to.
        """
        assert batch.key is not None  # noqa: S101 - a loaded row has its key
        total = sum(size for _, size in self.settler.requests.pending_sizes(batch.key, batch.round))
        part = Part(first=0, last=batch.requests - 1, requests=batch.requests, bytes=total)
        self.batches.start_round(batch.id, batch.round, [part], now=datetime.now(UTC))
        return self._unsubmitted(batch.id)

    def record_delivery(self, batch_id: str) -> None:
        """Store that the handler was told, as it is known that the run that told it has completed.

        Raises:
            BatchNotFound: There is none.
        """
        self.batches.record_dispatched(batch_id, now=datetime.now(UTC))

    def needs_attention(self, batch_id: str, message: str) -> bool:
        """Store that recovery gave a batch up; return whether that is news. Of a batch that is gone it is none."""
        text = message if message.startswith(GAVE_UP) else f"{GAVE_UP}{message}"
        if self.batches.find(batch_id) is None:
            return False
        return self.batches.set_attention(batch_id, text[:LONGEST_MESSAGE])

    def goes_on(self, batch_id: str) -> bool:
        """Withdraw what `needs_attention` stored; return whether there was anything. Others' messages stay."""
        batch = self.batches.find(batch_id)
        if batch is None or batch.needs_attention is None or not batch.needs_attention.startswith(GAVE_UP):
            return False
        self.batches.set_attention(batch_id, None)
        return True
