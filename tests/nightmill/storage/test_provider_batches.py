"""When a batch's next poll is due follows from its provider batches, whatever becomes of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from nightmill.contracts import BatchStatus, PartRef
from nightmill.providers.base import Created, ProviderStatus
from nightmill.storage.batches import BatchRepository
from nightmill.storage.engine import Database
from nightmill.storage.models import BatchRow, ProviderBatchRow
from nightmill.storage.provider_batches import ProviderBatchRepository

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
BUSY = ProviderStatus(status=BatchStatus.IN_PROGRESS, raw="busy")


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def ref(part: int) -> PartRef:
    return PartRef(batch_id="b1", round=0, part=part)


@pytest.fixture
def parts(database: Database) -> ProviderBatchRepository:
    """Of a batch of three, created at noon, polled first after ten minutes."""
    batch = BatchRow(id="b1", provider="openai", model="m", poll_schedule=[600.0], max_age=1.0, created_at=NOON)
    with database.transaction() as session:
        session.add(batch)
        session.flush()
        for number in range(3):
            session.add(
                ProviderBatchRow(
                    batch_key=batch.key or 0, part=number, first=0, last=0, requests=1, bytes=1, provider="p", model="m"
                )
            )
    repository = ProviderBatchRepository(database)
    for number in range(3):
        repository.begin_create(ref(number), now=NOON, sent_at=at(number), looked_for=None, max_open=9)
        repository.record_created(ref(number), Created(provider_batch_id=f"p{number}"), now=NOON)
    return repository


def due(parts: ProviderBatchRepository) -> datetime | None:
    return BatchRepository(parts.database).get("b1").next_poll_at


def test_it_is_the_earliest_of_those_that_are_not_settled(parts: ProviderBatchRepository) -> None:
    assert due(parts) == at(10)
    for number in range(3):
        parts.record_poll(ref(number), BUSY, next_poll_at=at(20 + number), attempt=1)
    assert due(parts) == at(20)
    parts.settle(ref(0), BatchStatus.ENDED, reason=None, now=NOON)
    assert due(parts) == at(21)
    parts.record_failed_poll(ref(1), next_poll_at=at(30), attempt=2)
    assert due(parts) == at(22)
    parts.requeue(ref(2), "p2", reason="quota")
    assert due(parts) == at(30)
    parts.settle(ref(1), BatchStatus.ENDED, reason=None, now=NOON)
    assert due(parts) is None
    parts.begin_create(ref(2), now=at(40), sent_at=at(40), looked_for=None, max_open=9)
    parts.record_created(ref(2), Created(provider_batch_id="p3"), now=at(40))
    assert due(parts) == at(50)


def test_what_is_put_off_is_due_later_and_never_sooner(parts: ProviderBatchRepository) -> None:
    parts.put_off(ref(0), until=at(5))
    assert due(parts) == at(10)
    for number in range(3):
        parts.put_off(ref(number), until=at(45 + number))
    assert due(parts) == at(45)
    parts.settle(ref(0), BatchStatus.ENDED, reason=None, now=NOON)
    parts.put_off(ref(0), until=at(1))
    assert due(parts) == at(46)


def test_nothing_is_due_of_a_batch_that_has_ended(parts: ProviderBatchRepository) -> None:
    BatchRepository(parts.database).finish("b1", BatchStatus.FAILED, reason=None, now=NOON, dispatch=False)
    parts.record_failed_poll(ref(1), next_poll_at=at(30), attempt=2)
    assert due(parts) is None


def test_nobody_is_waited_for_once_the_provider_has_answered_whichever_run_asked(
    parts: ProviderBatchRepository,
) -> None:
    def needed() -> str | None:
        return BatchRepository(parts.database).get("b1").needs_attention

    assert parts.set_attention(ref(0), "no key")
    assert not parts.set_attention(ref(1), "no quota")
    parts.record_failed_poll(ref(0), next_poll_at=at(30), attempt=2)
    assert needed() == "no key"
    parts.record_poll(ref(0), BUSY, next_poll_at=at(40), attempt=3)
    assert needed() == "no quota"
    parts.settle(ref(1), BatchStatus.ENDED, reason=None, now=NOON)
    assert needed() is None
    BatchRepository(parts.database).set_attention("b1", "handler: no answer")
    parts.record_poll(ref(2), BUSY, next_poll_at=at(40), attempt=1)
    assert needed() == "handler: no answer"
