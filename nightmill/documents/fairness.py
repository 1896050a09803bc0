"""In which order accounts get their turns, so that none starves another, whatever its size."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Waiting:
    """An account with documents that wait.

    Attributes:
        account: Its name.
        documents: How many wait.
        weight: Its plan's weight; an account of weight 2 has two turns to another one's one.
        last_served_at: When it had a turn last; None: never.
    """

    account: str
    documents: int
    weight: float = 1.0
    last_served_at: datetime | None = None


def interleave(waiting: Iterable[Waiting], *, account_limit: int, limit: int) -> list[str]:
    """Return the accounts in the order of their turns, one turn a document.

    Each account has a clock, which starts at 0 and moves on by 1/weight a turn; the account whose clock is slowest is
    next, of several the one that waited longest, then by name. So everybody has a turn before anybody has a second one.

        a: 9 documents, weight 2   b: 2, weight 1   c: 1, weight 1     gives     a b c a a b a a a …

    Args:
        waiting: The accounts; those without documents get no turn.
        account_limit: Turns of one account at most.
        limit: Turns in all at most.
    """
    longest_first = sorted(waiting, key=lambda each: (each.last_served_at or _NEVER, each.account))
    heap = [(0.0, rank, each) for rank, each in enumerate(longest_first) if each.documents > 0 and account_limit > 0]
    taken = [0] * len(longest_first)
    turns: list[str] = []
    while heap and len(turns) < limit:
        _, rank, account = heap[0]
        turns.append(account.account)
        taken[rank] += 1
        if taken[rank] < min(account.documents, account_limit):
            # Multiplied, not added up: three thirds are to be one, so that ties stay ties.
            heapq.heapreplace(heap, (taken[rank] / account.weight, rank, account))
        else:
            heapq.heappop(heap)
    return turns
