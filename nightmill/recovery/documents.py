"""Documents whose sync is lost: which sync brings them in order, and which are put to rest instead."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightmill.contracts import Trigger
from nightmill.documents import plans
from nightmill.errors import DocumentNotFound

if TYPE_CHECKING:
    from nightmill.settings import PlanSettings
    from nightmill.storage.document_syncs import SyncRepository
    from nightmill.storage.documents import DocumentRepository

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LostSync:
    """A sync that is to be started.

    Attributes:
        document_id: The document.
        account: Its account, the fairness key.
        weight: Its plan's weight.
        trigger: `sweep` where sweeps see to the account, so that it waits as theirs do and a purge drops it; what they
            leave alone was asked for by somebody, and is `manual`.
        link: Its link, for people.
    """

    document_id: str
    account: str
    weight: float
    trigger: Trigger
    link: str


@dataclass(frozen=True)
class DocumentRecovery:
    """Says how documents are brought in order. Any thread may use it.

    Attributes:
        documents: The documents.
        syncs: What is written about them.
        plans: The plans of accounts, by name.
    """

    documents: DocumentRepository
    syncs: SyncRepository
    plans: Mapping[str, PlanSettings]

    def lost_sync(self, document_id: str) -> LostSync | None:
        """Return the sync that a document needs; None where there is none to start.

        A document that is switched off is put to rest, as it was before the sync that got lost; one that was deleted
        needs nothing. A second call finds the same.
        """
        try:
            stored = self.documents.get(document_id)
            if not stored.row.enabled:
                self.syncs.abandon(document_id, run_id=stored.row.sync_run or "")
                logger.info("document put to rest", extra={"document": document_id})
                return None
        except DocumentNotFound:
            return None
        return LostSync(
            document_id=document_id,
            account=stored.account.name,
            weight=plans.plan_of(stored.account.plan, self.plans).weight,
            trigger=Trigger.SWEEP if stored.account.auto_sync else Trigger.MANUAL,
            link=stored.row.external_link,
        )
