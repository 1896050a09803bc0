"""Tell the host application by a signed webhook that a batch is finished."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from nightmill.contracts import DeliverInput, HandlerPayload
from nightmill.errors import BatchNotFound
from nightmill.failpoints import fail_point

if TYPE_CHECKING:
    from nightmill.storage.batches import BatchRepository
    from nightmill.storage.outcomes import OutcomeRepository

logger = logging.getLogger(__name__)

PostSigned = Callable[[str, str, bytes], None]
"""Posts (url, message id, body), signed; returns after a 2xx answer, raises `nightmill.errors` otherwise."""


@dataclass(frozen=True)
class Deliverer:
    """Calls webhooks and keeps the handler gate.

    Attributes:
        batches: The records of batches.
        outcomes: For the summary.
        post_signed: Sends one signed webhook.
    """

    batches: BatchRepository
    outcomes: OutcomeRepository
    post_signed: PostSigned

    def deliver(self, asked: DeliverInput) -> bool:
        """Post the payload and set the gate; return False where it had been delivered before.

        At least once: if this process dies between the answer and the gate, the receiver is called again with the same
        `webhook-id`, which is the batch id.

        Raises:
            TransientError: The receiver is away or answered 408, 409, 425, 429 or 5xx.
            PermanentError: It refused, or its address is not allowed.
        """
        fail_point("deliver.start")
        try:
            handler = self.batches.get(asked.batch_id).completion_handler or {}
            if not self.batches.begin_dispatch(asked.batch_id, asked.dispatch):
                logger.info("already delivered", extra={"batch": asked.batch_id})
                return False
        except BatchNotFound:
            logger.warning("batch not found", extra={"batch": asked.batch_id})
            return False
        summary = self.outcomes.summarize(asked.batch_id)
        payload = HandlerPayload(
            batch_id=asked.batch_id, status=summary.status, summary=summary, dispatch=asked.dispatch
        )
        self.post_signed(handler["url"], asked.batch_id, payload.model_dump_json().encode())
        fail_point("deliver.answered")
        self.batches.record_dispatched(asked.batch_id, now=datetime.now(UTC))
        fail_point("deliver.saved")
        logger.info("delivered", extra={"batch": asked.batch_id, "handler": "webhook"})
        return True
