"""A stored batch with its provider batch, as submission leaves it: what outcomes and harvests start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from nightmill.completions.requests import StoredRequest
from nightmill.storage.engine import Database
from nightmill.storage.models import BatchRow, ProviderBatchRow
from nightmill.storage.requests import RequestRepository

StorePart = Callable[..., tuple[BatchRow, ProviderBatchRow]]


def a_batch(batch_id: str = "b1", **columns: Any) -> BatchRow:
    given = {"provider": "openai", "model": "gpt-x", "poll_schedule": [60.0], "max_age": 1.0}
    return BatchRow(id=batch_id, created_at=datetime.now(UTC), **given | columns)


def some_requests(ids: Sequence[str], *, schema: str | None = None) -> list[StoredRequest]:
    return [
        StoredRequest(seq=seq, custom_id=name, wire_id=name, line=b'{"id":"%d"}' % seq, response_schema=schema)
        for seq, name in enumerate(ids)
    ]


def add_part(db: Database, batch: BatchRow, first: int, last: int, **columns: Any) -> ProviderBatchRow:
    part = ProviderBatchRow(
        batch_key=batch.key or 0,
        first=first,
        last=last,
        **{"requests": last - first + 1, "bytes": 100, "provider": "openai", "model": "gpt-x"} | columns,
    )
    with db.transaction() as session:
        session.add(part)
    return part


@pytest.fixture
def store_part() -> StorePart:
    """Stores a batch of requests with these ids, and one provider batch that holds them all."""

    def store(db: Database, *ids: str, schema: str | None = None, **columns: Any) -> tuple[BatchRow, ProviderBatchRow]:
        batch = RequestRepository(db).store(a_batch(), some_requests(ids, schema=schema))
        return batch, add_part(db, batch, 0, len(ids) - 1, **{"provider_batch_id": "pb1"} | columns)

    return store


@pytest.fixture
def build() -> Any:
    """The functions above, for tests that need more than one of something."""

    class Build:
        batch = staticmethod(a_batch)
        requests = staticmethod(some_requests)
        part = staticmethod(add_part)

    return Build
