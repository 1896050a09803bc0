"""A batch of several provider batches is known as one, in the round that it is in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nightmill.storage.candidates import CandidateReads
from nightmill.storage.engine import Database
from nightmill.storage.requests import RequestRepository

NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("rounds", "present", "parts"), [([], 0, 1), ([1], 0, 1), ([3], 0, 3), ([3, 1], 1, 1), ([1, 2], 1, 2)]
)
def test_the_provider_batches_of_the_present_round_are_counted(
    database: Database, build: Any, rounds: list[int], present: int, parts: int
) -> None:
    batch = build.batch(round=present, next_poll_at=NOW - timedelta(hours=1))
    batch = RequestRepository(database).store(batch, build.requests(["a", "b", "c"]))
    for round_, count in enumerate(rounds):
        settled = {"settled_at": NOW} if round_ < present else {}
        for number in range(count):
            build.part(database, batch, number, number, round=round_, part=number, **settled)

    [candidate] = CandidateReads(database).batches(
        after=None, limit=10, now=NOW, grace=timedelta(minutes=5), pending_ttl=timedelta(days=7)
    )

    assert candidate.parts == parts
