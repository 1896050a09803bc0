"""What a prune is about, in words and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

SHORTEST = timedelta(days=1)
"""What is younger is never pruned: runs end, and files are written, within hours; and `30` means seconds, not days."""


class Kind(StrEnum):
    """What a prune may be limited to."""

    BATCHES = "batches"
    DOCUMENTS = "documents"
    SLICINGS = "slicings"
    REPAIRS = "repairs"
    FILES = "files"


@dataclass
class Pile:
    """Things of one sort that go, or went.

    Attributes:
        kind: What they belong to.
        what: Their sort, in the plural.
        number: How many there are.
        bytes: What they hold; None where that is little, or not known.
    """

    kind: Kind
    what: str
    number: int = 0
    bytes: int | None = None

    def add(self, number: int, size: int = 0) -> None:
        """Count some more."""
        self.number += number
        if size:
            self.bytes = (self.bytes or 0) + size


Tell = Callable[["Pile"], None]
"""Is told of a pile whenever it has grown."""


@dataclass
class Tally:
    """The piles of a prune, in the order in which they were begun.

    Attributes:
        before: What ended before then goes.
        piles: By kind and sort.
    """

    before: datetime
    piles: dict[tuple[Kind, str], Pile] = field(default_factory=dict)
    tell: Tell = lambda _: None

    def add(self, kind: Kind, what: str, number: int, size: int = 0) -> None:
        """Count some things."""
        pile = self.piles.setdefault((kind, what), Pile(kind, what))
        pile.add(number, size)
        if number:
            self.tell(pile)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing."""
        return not any(pile.number for pile in self.piles.values())
