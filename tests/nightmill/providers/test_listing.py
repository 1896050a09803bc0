"""How far a provider's list of batches is read, whichever way it goes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from nightmill.providers.base import Candidate
from nightmill.providers.config import Adapter, ProviderConfig
from nightmill.web.client import HttpClient

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
DAYS = [1, 2, 3, 40, 41, 42, 43, 44, 45]


class Pages(Adapter):
    """A provider whose list has pages of three batches, with that many days since each was created."""

    keeps_tags = True

    def __init__(self, days: list[int]) -> None:
        super().__init__(ProviderConfig(api_key=None, base_url="https://provider.example"))
        self.days = days
        self.read = 0

    def _connect(self) -> HttpClient:
        raise AssertionError("the pages are made here: nobody is asked for them")

    def _pages_of_batches(self) -> Iterator[list[Candidate]]:
        for start in range(0, len(self.days), 3):
            self.read += 1
            yield [
                Candidate(provider_batch_id=f"{days}", tag=f"{days}", created_at=NOW - timedelta(days=days))
                for days in self.days[start : start + 3]
            ]


@pytest.mark.parametrize(("days", "pages"), [(DAYS, 2), (DAYS[::-1], 3)], ids=["newest first", "oldest first"])
def test_a_batch_is_found_whichever_way_the_list_goes(days: list[int], pages: int) -> None:
    provider = Pages(days)
    [found] = provider.find(tag="2", since=NOW - timedelta(days=3))
    assert found.provider_batch_id == "2"
    assert provider.read == pages, "a list that begins with the newest is not read to its end"
