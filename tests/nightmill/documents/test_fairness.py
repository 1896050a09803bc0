"""No account starves another: everybody has a turn before anybody has the next one."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from nightmill.documents.fairness import Waiting, interleave

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def before(minutes: int) -> datetime:
    return NOON - timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("waiting", "limits", "turns"),
    [
        ([], (50, 100), ""),
        ([Waiting("a", 0)], (50, 100), ""),
        ([Waiting("a", 3)], (50, 100), "aaa"),
        ([Waiting("a", 3)], (2, 100), "aa"),
        ([Waiting("a", 3)], (50, 1), "a"),
        ([Waiting("a", 3)], (50, 0), ""),
        ([Waiting("b", 2), Waiting("a", 3)], (50, 100), "ababa"),
        ([Waiting("a", 9, 2), Waiting("b", 2), Waiting("c", 1)], (50, 100), "abcaabaaaaaa"),
        ([Waiting("a", 4, 0.5), Waiting("b", 4)], (50, 100), "abbabbaa"),
        ([Waiting("a", 5, 3), Waiting("b", 5, 3)], (50, 100), "ababababab"),
        ([Waiting("a", 2, 1000), Waiting("b", 2)], (50, 100), "abab"),
    ],
)
def test_turns_are_interleaved_by_weight(waiting: list[Waiting], limits: tuple[int, int], turns: str) -> None:
    assert "".join(interleave(waiting, account_limit=limits[0], limit=limits[1])) == turns


def test_who_waited_longest_comes_first_and_who_was_never_served_before_that() -> None:
    waiting = [
        Waiting("served", 2, last_served_at=before(1)),
        Waiting("long ago", 2, last_served_at=before(60)),
        Waiting("new", 1),
        Waiting("also new", 1),
    ]
    turns = interleave(waiting, account_limit=50, limit=4)
    assert turns == ["also new", "new", "long ago", "served"]


def test_a_hundred_and_fifty_small_accounts_are_served_beside_a_huge_one() -> None:
    waiting = [Waiting("huge", 10_000, 4.0), *(Waiting(f"small{n:03}", 5) for n in range(150))]
    turns = interleave(waiting, account_limit=50, limit=1_000)
    counts = Counter(turns)
    assert counts.pop("huge") == 50
    assert counts == {f"small{n:03}": 5 for n in range(150)}
    assert set(turns[:151]) == {each.account for each in waiting}
    assert turns[:800].count("huge") >= 20


def test_with_more_accounts_than_turns_each_is_served_within_two_sweeps() -> None:
    served: dict[str, datetime] = {}
    seen: set[str] = set()
    for sweep in range(2):
        waiting = [Waiting(f"a{n}", 100, last_served_at=served.get(f"a{n}")) for n in range(150)]
        turns = interleave(waiting, account_limit=50, limit=100)
        assert len(set(turns)) == 100
        served |= dict.fromkeys(turns, NOON + timedelta(hours=sweep))
        seen |= set(turns)
    assert len(seen) == 150
