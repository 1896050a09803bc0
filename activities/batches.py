"""The steps of a batch. Each may run more than once, and at the same time as a lost run of itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from temporalio import activity

from activities.boundary import temporal_errors
from activities.heartbeats import tell
from nightmill.completions.delivery import Deliverer
from nightmill.completions.polling import Poller
from nightmill.completions.preparation import Preparer
from nightmill.completions.settlement import Settler
from nightmill.completions.submission import Submitter
from nightmill.contracts import (
    Attention,
    BatchStatus,
    DeliverInput,
    PartOutcome,
    PartRef,
    PollInput,
    PollOutcome,
    PreparedBatch,
    PrepareInput,
    RoundInput,
    RoundOutcome,
    SettleInput,
    Submission,
    SubmitInput,
)
from nightmill.errors import BatchConflict, BatchNotFound, NotificationFailed
from nightmill.failpoints import fail_point
from nightmill.notify import Notification, Notifier
from nightmill.storage.batches import BatchRepository


@dataclass(frozen=True)
class BatchActivities:
    """Take a batch from its requests to the host's handler.

    Attributes:
        preparer: Reads and stores requests.
        submitter: Uploads and creates.
        poller: Asks and cancels.
        settler: Harvests and closes.
        deliverer: Calls webhooks.
        batches: The records of batches.
        notifier: Tells operators.
    """

    preparer: Preparer
    submitter: Submitter
    poller: Poller
    settler: Settler
    deliverer: Deliverer
    batches: BatchRepository
    notifier: Notifier

    @activity.defn
    def prepare_batch(self, asked: PrepareInput) -> PreparedBatch:
        """Store the requests and plan the provider batches; a second run finds both and changes nothing."""
        with temporal_errors():
            return self.preparer.prepare(asked, heartbeat=tell)

    @activity.defn
    def submit_part(self, asked: SubmitInput) -> Submission:
        """Upload and create; a second run finds what the first one did, or says that it cannot know."""
        with temporal_errors():
            return self.submitter.submit(asked.part, now=asked.now, looked_for=asked.looked_for)

    @activity.defn
    def find_part(self, part: PartRef) -> Submission:
        """Look for a create whose answer was lost; only reads at the provider."""
        with temporal_errors():
            return self.submitter.find(part)

    @activity.defn
    def poll_part(self, asked: PollInput) -> PollOutcome:
        """Ask the provider for the status; only reads there."""
        with temporal_errors():
            return self.poller.poll(asked)

    @activity.defn
    def cancel_part(self, part: PartRef) -> PollOutcome | None:
        """Ask the provider to cancel; asking twice is harmless."""
        with temporal_errors():
            return self.poller.cancel(part)

    @activity.defn
    def harvest_part(self, end: SettleInput) -> PartOutcome:
        """Store the results; a second run goes on after the last page that was stored."""
        with temporal_errors():
            return self.settler.settle_part(end, heartbeat=tell)

    @activity.defn
    def settle_round(self, asked: RoundInput) -> RoundOutcome:
        """Plan another round or close the batch; a second run returns what the first one decided."""
        with temporal_errors():
            return self.settler.settle_round(asked)

    @activity.defn
    def request_cancel(self, batch_id: str) -> BatchStatus:
        """Store that a cancel is asked for; of a batch that has ended, return how it ended."""
        with temporal_errors():
            try:
                status = self.batches.request_cancel(batch_id, now=datetime.now(UTC))
            except BatchConflict:
                return self.batches.get(batch_id).status
            fail_point("cancel.saved")
            return status

    @activity.defn
    def set_attention(self, attention: Attention) -> None:
        """Store what waits for an operator and notify once; a lost notification costs the notification only."""
        with temporal_errors():
            try:
                if attention.part is not None:
                    is_new = self.submitter.parts.set_attention(attention.part, attention.message)
                else:
                    is_new = self.batches.set_attention(attention.batch_id, attention.message)
            except BatchNotFound:
                return
            if not is_new or attention.message is None:
                return
            activity.logger.warning("needs attention", extra={"batch": attention.batch_id, "reason": attention.message})
            notification = Notification(
                subject=f"Nightmill: batch {attention.batch_id} needs attention",
                body=attention.message,
                component="batches",
                batch_id=attention.batch_id,
            )
            try:
                self.notifier.notify(notification)
            except NotificationFailed as error:
                activity.logger.warning("notification failed", extra={"error": str(error)})

    @activity.defn
    def begin_delivery(self, asked: DeliverInput) -> bool:
        """Store that the host's workflow or activity is about to be called; False: it has succeeded before."""
        with temporal_errors():
            try:
                return self.batches.begin_dispatch(asked.batch_id, asked.dispatch)
            except BatchNotFound:
                return False

    @activity.defn
    def deliver_webhook(self, asked: DeliverInput) -> bool:
        """Post the signed payload and set the handler gate: at least once, with the batch id as message id."""
        with temporal_errors():
            return self.deliverer.deliver(asked)

    @activity.defn
    def record_delivered(self, batch_id: str) -> None:
        """Set the handler gate after the host's workflow or activity has succeeded."""
        with temporal_errors():
            try:
                self.batches.record_dispatched(batch_id, now=datetime.now(UTC))
            except BatchNotFound:
                activity.logger.warning("batch not found", extra={"batch": batch_id})
                return
            fail_point("deliver.saved")
