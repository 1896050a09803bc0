"""A provider's id leads to the batch, its account and the workflow that polls it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from nightmill.storage.engine import Database
from nightmill.storage.event_reads import EventReads, ToldOf
from nightmill.storage.models import BatchRow, ProviderBatchRow

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def store(database: Database, batch_id: str, *parts: tuple[int, int, str | None], **columns: object) -> None:
    """Store a batch and its provider batches: round, number, the provider's id."""
    given = {"provider": "openai", "model": "m", **columns}
    batch = BatchRow(id=batch_id, poll_schedule=[600.0], max_age=1.0, created_at=NOON, **given)
    settled = {"settled_at": NOON}
    with database.transaction() as session:
        session.add(batch)
        session.flush()
        for round_, part, provider_batch_id in parts:
            session.add(
                ProviderBatchRow(
                    batch_key=batch.key, round=round_, part=part, first=0, last=0, requests=1, bytes=1,
                    provider_batch_id=provider_batch_id, **given, **(settled if round_ == 0 and len(parts) > 2 else {}),
                )
            )  # fmt: skip


@pytest.fixture
def reads(database: Database) -> EventReads:
    store(database, "one", (0, 0, "pb-one"), account="Acme")
    store(database, "new", (0, 0, None))
    # Two parts, then a round of retries with one, which its batch's workflow follows itself.
    store(database, "many", (0, 0, "pb-0"), (0, 1, "pb-1"), (1, 0, "pb-again"))
    return EventReads(database)


@pytest.mark.parametrize(
    ("provider_batch_id", "found"),
    [
        ("pb-one", ToldOf("one", "Acme", "batch/one", settled=False)),
        ("pb-0", ToldOf("many", None, "batch/many/0/0", settled=True)),
        ("pb-1", ToldOf("many", None, "batch/many/0/1", settled=True)),
        ("pb-again", ToldOf("many", None, "batch/many", settled=False)),
        ("pb-of-nobody", None),
    ],
)
def test_a_provider_batch_is_found_with_the_workflow_that_polls_it(
    reads: EventReads, provider_batch_id: str, found: ToldOf | None
) -> None:
    assert reads.find("openai", provider_batch_id) == found


def test_another_providers_id_finds_nothing(reads: EventReads) -> None:
    assert reads.find("google", "pb-one") is None
