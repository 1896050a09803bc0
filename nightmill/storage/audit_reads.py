"""What an audit reads of provider batches: who owns what is listed, what should be listed, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from sqlmodel import col, func, or_, select, tuple_

from nightmill.storage.models import BatchRow, OutcomeRow, ProviderBatchRow

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlmodel.sql.expression import Select

    from nightmill.ids import TaggedPart
    from nightmill.storage.engine import Database

PAGE = 200
"""Rows in a page: some hundred kilobytes."""

PAGE_OF_KEYS = 5_000


class Charged(NamedTuple):
    """What a part's stored outcomes cost.

    Attributes:
        picodollars: Their sum; None: nothing is known.
        unpriced: How many have tokens or an answer and no price.
    """

    picodollars: int | None
    unpriced: int


OwnedPart = tuple[BatchRow, ProviderBatchRow]


@dataclass(frozen=True)
class AuditReads:
    """Reads for audits; each is one query, and none writes. Any thread may use it."""

    database: Database

    def keys_used(self, since: datetime) -> list[tuple[str, str | None]]:
        """Return provider and account of the provider batches that an audit looks for, as far back as that."""
        query = select(ProviderBatchRow.provider, ProviderBatchRow.account).where(*_expected(since)).distinct()
        with self.database.reading() as session:
            return list(session.exec(query))

    def owners(self, provider: str, ids: Sequence[str]) -> dict[str, int]:
        """Return the keys of the rows that own these provider batches, by the provider's id."""
        query = select(ProviderBatchRow.provider_batch_id, ProviderBatchRow.key).where(
            ProviderBatchRow.provider == provider, col(ProviderBatchRow.provider_batch_id).in_(ids)
        )
        with self.database.reading() as session:
            return {owned: key for owned, key in session.exec(query) if owned is not None and key is not None}

    def tagged(self, provider: str, parts: Sequence[TaggedPart]) -> dict[tuple[str, int, int], OwnedPart]:
        """Return the rows that tags name, by batch, round and part."""
        wanted = {(one.batch_id, one.round, one.part) for one in parts}
        query = _with_batches().where(
            ProviderBatchRow.provider == provider,
            tuple_(col(BatchRow.id), col(ProviderBatchRow.round), col(ProviderBatchRow.part)).in_(sorted(wanted)),
        )
        with self.database.reading() as session:
            return {(batch.id, part.round, part.part): (batch, part) for batch, part in session.exec(query)}

    def expected(
        self, provider: str, accounts: Sequence[str | None], *, since: datetime, until: datetime
    ) -> Iterator[int]:
        """Yield the keys of the rows whose provider batch must be there, rising: not settled, or created since then.

        Args:
            provider: The provider.
            accounts: The accounts, as the rows spell them.
            since: What was settled and created before that is left out.
            until: What was created after that is left out.
        """
        named = [account for account in accounts if account is not None]
        mine = col(ProviderBatchRow.account).in_(named)
        query = (
            select(ProviderBatchRow.key)
            .where(
                ProviderBatchRow.provider == provider,
                or_(mine, col(ProviderBatchRow.account).is_(None)) if None in accounts else mine,
                col(ProviderBatchRow.created_at) < until,
                *_expected(since),
            )
            .order_by(col(ProviderBatchRow.key))
            .limit(PAGE_OF_KEYS)
        )
        after = 0
        while True:
            with self.database.reading() as session:
                keys = [key for key in session.exec(query.where(col(ProviderBatchRow.key) > after)) if key is not None]
            yield from keys
            if len(keys) < PAGE_OF_KEYS:
                return
            after = keys[-1]

    def owned(self, key: int) -> OwnedPart | None:
        """Return a row that owns a provider batch, with its batch; None: it owns none any more, or nobody misses it."""
        query = _with_batches().where(
            ProviderBatchRow.key == key,
            col(ProviderBatchRow.provider_batch_id).is_not(None),
            col(BatchRow.deleted_at).is_(None),
        )
        with self.database.reading() as session:
            return session.exec(query).first()

    def creates(self, provider: str, *, earliest: datetime, latest: datetime) -> Iterator[ProviderBatchRow]:
        """Yield the rows whose last create was sent since `earliest` and whose first one was meant by `latest`."""
        query = (
            select(ProviderBatchRow)
            .where(
                ProviderBatchRow.provider == provider,
                col(ProviderBatchRow.create_sent_at) >= earliest,
                col(ProviderBatchRow.submitted_at) <= latest,
            )
            .order_by(col(ProviderBatchRow.key))
            .limit(PAGE)
        )
        after = 0
        while True:
            with self.database.reading() as session:
                rows = list(session.exec(query.where(col(ProviderBatchRow.key) > after)))
            yield from rows
            if len(rows) < PAGE:
                return
            after = rows[-1].key or after

    def charged(self, part: ProviderBatchRow) -> Charged:
        """Return what the outcomes of a part cost in its round."""
        has_price = col(OutcomeRow.cost_picodollars).is_not(None)
        query = select(
            func.sum(OutcomeRow.cost_picodollars),
            func.count().filter(
                ~has_price, or_(col(OutcomeRow.ok).is_(True), col(OutcomeRow.input_tokens).is_not(None))
            ),
        ).where(
            OutcomeRow.batch_key == part.batch_key,
            OutcomeRow.round == part.round,
            col(OutcomeRow.seq).between(part.first, part.last),
        )
        with self.database.reading() as session:
            total, unpriced = session.exec(query).one()
        return Charged(None if total is None else int(total), unpriced)  # PostgreSQL sums to a decimal


def _with_batches() -> Select[BatchRow, ProviderBatchRow]:
    return select(BatchRow, ProviderBatchRow).join(ProviderBatchRow, col(ProviderBatchRow.batch_key) == BatchRow.key)


def _expected(since: datetime) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return (
        col(ProviderBatchRow.provider_batch_id).is_not(None),
        or_(col(ProviderBatchRow.settled_at).is_(None), col(ProviderBatchRow.created_at) >= since),
    )
