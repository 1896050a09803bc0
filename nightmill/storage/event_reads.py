"""Whose a provider batch is that somebody tells of, and which workflow polls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlmodel import col

from nightmill.ids import batch_workflow_id, part_workflow_id
from nightmill.storage.models import BatchRow, ProviderBatchRow

if TYPE_CHECKING:
    from nightmill.storage.engine import Database


@dataclass(frozen=True)
class ToldOf:
    """A provider batch of ours.

    Attributes:
        batch_id: The batch that it is part of.
        account: Under whose key it was created; None: the default one.
        workflow_id: What polls it: the batch's workflow, or one of its own where its round has several.
        settled: Its results are applied: nothing polls it any more.
    """

    batch_id: str
    account: str | None
    workflow_id: str
    settled: bool


@dataclass(frozen=True)
class EventReads:
    """Finds provider batches by the providers' ids. Any thread may use it."""

    database: Database

    def find(self, provider: str, provider_batch_id: str) -> ToldOf | None:
        """Return the provider batch with this id; None: it is none of ours, or its id is not known yet.

        Two reads of an index each.

        Raises:
            StorageUnavailable: The database does not answer.
        """
        part = ProviderBatchRow
        query: Any = (
            select(*map(col, (BatchRow.id, part.account, part.batch_key, part.round, part.part, part.settled_at)))
            .join(part, col(part.batch_key) == BatchRow.key)
            .where(col(part.provider) == provider, col(part.provider_batch_id) == provider_batch_id)
        )
        with self.database.reading() as session:
            row = session.execute(query).first()
            if row is None:
                return None
            batch_id, account, batch_key, round_, number, settled_at = row
            in_round: Any = select(func.count()).where(col(part.batch_key) == batch_key, col(part.round) == round_)
            parts = session.execute(in_round).scalar_one()
        own = part_workflow_id(batch_id, round_, number)
        return ToldOf(
            batch_id=batch_id,
            account=account,
            workflow_id=own if parts > 1 else batch_workflow_id(batch_id),
            settled=settled_at is not None,
        )
