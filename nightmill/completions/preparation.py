"""From what a user asked for to a stored batch with its plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from nightmill.completions.pricing import Tally, find_price
from nightmill.completions.requests import RequestReader, StoredRequest, read_requests
from nightmill.completions.sources import Fetch, open_requests
from nightmill.contracts import (
    BatchInput,
    BatchStatus,
    CompletionHandler,
    PreparedBatch,
    PrepareInput,
)
from nightmill.contracts.handlers import without_address
from nightmill.errors import BatchConflict, BatchNotFound, OverBudget
from nightmill.failpoints import fail_point
from nightmill.storage.models import BatchRow

if TYPE_CHECKING:
    from nightmill.completions.settlement import Settler
    from nightmill.providers.base import BatchProvider
    from nightmill.settings import BatchSettings
    from nightmill.storage.batches import BatchRepository
    from nightmill.storage.requests import RequestRepository

logger = logging.getLogger(__name__)

SHORTEST_MAX_AGE = timedelta(hours=26)
"""Default max age; rises to the provider's own expiry plus `EXPIRY_MARGIN` where that is later."""

EXPIRY_MARGIN = timedelta(hours=2)

EMPTY_SCHEDULE = (timedelta(seconds=60),)
"""What an empty poll schedule means."""

_HANDLER: TypeAdapter[CompletionHandler] = TypeAdapter(CompletionHandler)


@dataclass(frozen=True)
class Preparer:
    """Stores batches and plans them.

    Attributes:
        defaults: For what the user did not say.
        batches: The records of batches.
        requests: The stored requests.
        settler: Plans rounds and sums up.
        renderer: Gives a provider by name, without a key.
        prices: See `NIGHTMILL_PRICES`.
        input_roots: See `NIGHTMILL_INPUT_ROOTS`.
        fetch: Downloads a public address.
    """

    defaults: BatchSettings
    batches: BatchRepository
    requests: RequestRepository
    settler: Settler
    renderer: Callable[[str], BatchProvider]
    prices: Mapping[str, Mapping[str, Decimal]]
    input_roots: Sequence[Path]
    fetch: Fetch

    def prepare(self, asked: PrepareInput, *, heartbeat: Callable[[dict[str, Any]], None]) -> PreparedBatch:
        """Return the stored batch and its plan; store and plan whatever is not stored and planned yet.

        Raises:
            InvalidInput: The input cannot be used; nothing was stored.
            BatchNotFound: `batch_id` names no batch.
        """
        fail_point("prepare.start")
        batch = self.batches.find(asked.batch_id)
        if batch is None:
            if asked.asked.requests_uri is None:
                raise BatchNotFound(f"batch_id: no batch {asked.batch_id!r} is stored")
            batch = self._store_from_uri(asked, heartbeat)
        fail_point("prepare.stored")
        _insist_on_the_same(asked, batch)
        if batch.status is BatchStatus.PENDING and not batch.started_at:
            logger.info("planning", extra={"batch": batch.id, "requests": batch.requests})
        parts = self.settler.plan_round(batch, batch.round, now=asked.now) if not batch.status.is_terminal else 0
        fail_point("prepare.planned")
        return self._prepared(batch, parts)

    def _store_from_uri(self, asked: PrepareInput, heartbeat: Callable[[dict[str, Any]], None]) -> BatchRow:
        given = asked.asked
        assert given.provider and given.model and given.requests_uri  # noqa: S101, PT018 - BatchInput has seen to it
        provider = self.renderer(given.provider)
        name, chunks = open_requests(given.requests_uri, roots=self.input_roots, fetch=self.fetch)
        reader = read_requests(chunks, provider=provider, model=given.model, endpoint=given.endpoint, source=name)
        try:
            return self.store(asked.batch_id, given, reader, heartbeat=heartbeat)
        except BatchConflict:  # a lost run of this activity was faster
            return self.batches.get(asked.batch_id)

    def store(
        self,
        batch_id: str,
        given: BatchInput,
        reader: RequestReader,
        *,
        heartbeat: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> BatchRow:
        """Store a batch with all its requests, or nothing.

        Raises:
            InvalidInput: A request cannot be used; the message names every one, up to a bound.
            OverBudget: The estimate is over the budget, or there is a budget and no price.
            BatchConflict: The id is taken.
        """
        assert given.provider and given.model  # noqa: S101, PT018 - BatchInput has seen to it
        provider = self.renderer(given.provider)
        price = find_price(provider, given.model, self.prices)
        handler = given.completion_handler
        schedule = given.poll_schedule if given.poll_schedule is not None else self.defaults.poll_schedule
        batch = BatchRow(
            id=batch_id,
            provider=given.provider,
            model=given.model,
            account=given.account,
            user_metadata=given.metadata,
            completion_handler=handler.model_dump(mode="json") if handler else None,
            poll_schedule=[delay.total_seconds() for delay in schedule or EMPTY_SCHEDULE],
            max_age=(given.max_age or self.max_age(provider)).total_seconds(),
            retry_rounds=self.defaults.retry_rounds if given.retry_rounds is None else given.retry_rounds,
            budget=str(given.budget) if given.budget is not None else None,
            prices=price.to_json() if price else None,
            created_at=datetime.now(UTC),
        )
        return self.requests.store(batch, self._checked(batch, reader, Tally(provider, price), heartbeat))

    @staticmethod
    def _checked(
        batch: BatchRow,
        reader: RequestReader,
        tally: Tally,
        heartbeat: Callable[[dict[str, Any]], None],
    ) -> Iterator[StoredRequest]:
        """Pass the requests on; at their end settle the endpoint and hold the estimate against the budget."""
        for request in reader:
            tally.add(request.line)
            if request.seq % 10_000 == 0:
                heartbeat({"requests": request.seq})
            yield request
        batch.endpoint = reader.endpoint
        if batch.budget is not None:
            estimate = tally.estimate()
            if estimate.cost is None:
                raise OverBudget(f"budget: cannot be held against the cost: {estimate.no_cost_because}")
            if estimate.cost > batch.budget_decimal:
                raise OverBudget(
                    f"budget: up to ${estimate.cost:.4f} by the estimate, over the budget of ${batch.budget}; "
                    "raise it or send fewer requests"
                )

    def store_retry(self, batch_id: str, of: BatchRow, requests: Iterable[StoredRequest]) -> BatchRow:
        """Store a new batch of requests of an older one, with the older one's settings."""
        copied = of.model_dump(
            include={
                "provider", "model", "account", "endpoint", "user_metadata", "completion_handler", "poll_schedule",
                "max_age", "retry_rounds", "budget", "prices",
            }
        )  # fmt: skip
        batch = BatchRow(id=batch_id, retry_of=of.id, created_at=datetime.now(UTC), **copied)
        return self.requests.store(batch, requests)

    def max_age(self, provider: BatchProvider) -> timedelta:
        """Return the max age of a batch that was given none."""
        return self.defaults.max_age or max(SHORTEST_MAX_AGE, provider.limits.expires_after + EXPIRY_MARGIN)

    def _prepared(self, batch: BatchRow, parts: int) -> PreparedBatch:
        terminal = batch.status.is_terminal
        return PreparedBatch(
            batch_id=batch.id,
            provider=batch.provider,
            model=batch.model,
            account=batch.account,
            total=batch.requests,
            status=batch.status,
            round=batch.round,
            parts=parts,
            poll_schedule=tuple(timedelta(seconds=s) for s in batch.poll_schedule),
            max_age=timedelta(seconds=batch.max_age),
            retry_rounds=batch.retry_rounds,
            handler=_without_address(batch),
            cancel_requested=batch.cancel_requested_at is not None,
            handled=batch.handler_dispatched_at is not None,
            dispatches=batch.dispatches,
            summary=self.settler.summary(batch.id) if terminal else None,
            pending_ttl=self.defaults.pending_ttl,
            find_delays=self.defaults.find_delays or (timedelta(0),),
        )


def _without_address(batch: BatchRow) -> CompletionHandler | None:
    """Return the handler as histories may show it: the path of a webhook often holds a token, and stays in the row."""
    if batch.completion_handler is None:
        return None
    return without_address(_HANDLER.validate_python(batch.completion_handler))


def _insist_on_the_same(asked: PrepareInput, batch: BatchRow) -> None:
    """Refuse to answer for another batch that has this id already."""
    given = asked.asked
    if given.requests_uri is not None and (given.provider, given.model) != (batch.provider, batch.model):
        raise BatchConflict(f"batch id {batch.id!r} is taken by a batch of {batch.provider} {batch.model}")
