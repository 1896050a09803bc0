"""The steps of telling the host of a document's change. Each may run more than once."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio import activity

from activities.boundary import temporal_errors
from activities.handlers import handler_workflow_finished
from nightmill.contracts import ChangePayload, ChangeRef, ChangeTold, DocumentAttention
from nightmill.documents.alerts import Alerts
from nightmill.documents.delivery import ChangeDeliverer
from nightmill.errors import DocumentNotFound

FINGERPRINT_MEMO = "nightmill_fingerprint"
"""The memo of a handler workflow that says which content it was told of."""

UNKNOWN = "unknown"
"""Stands for the fingerprint where a handler workflow lost its memo: no content has it, so the present one is told."""


@dataclass(frozen=True)
class ChangeActivities:
    """Tell the host of changes.

    Attributes:
        deliverer: Knows what to tell, and calls webhooks.
        alerts: Tells people, each thing once.
    """

    deliverer: ChangeDeliverer
    alerts: Alerts

    @activity.defn
    def begin_change(self, change: ChangeRef) -> ChangePayload | None:
        """Return what the host's workflow or activity is to be told; None: nothing any more. Only reads."""
        with temporal_errors():
            return self.deliverer.begin(change)

    @activity.defn
    def deliver_change(self, change: ChangeRef) -> bool:
        """Post the signed payload and store that it was told: at least once, with one message id for one change."""
        with temporal_errors():
            return self.deliverer.deliver(change)

    @activity.defn
    def record_change_delivered(self, told: ChangeTold) -> None:
        """Store that the host's workflow or activity has succeeded; a second run changes nothing."""
        with temporal_errors():
            self.deliverer.record(told)

    @activity.defn
    def set_document_attention(self, attention: DocumentAttention) -> None:
        """Store what a document needs and notify once; a lost notification costs the notification only."""
        with temporal_errors():
            try:
                account = self.deliverer.documents.get(attention.document_id).account.name
            except DocumentNotFound:
                return
            self.alerts.document(attention.document_id, account, attention.message)

    @activity.defn
    async def find_change_told(self, workflow_id: str) -> str | None:
        """Return the fingerprint of the content that a handler workflow has completed with; None while it runs.

        Raises:
            ApplicationError: It failed; final.
        """
        if not await handler_workflow_finished(workflow_id):
            return None
        description = await activity.client().get_workflow_handle(workflow_id).describe()
        fingerprint: str = await description.memo_value(FINGERPRINT_MEMO, UNKNOWN, type_hint=str)
        return fingerprint
