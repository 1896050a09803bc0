"""Looks at the database for gauges: shared by all who collect, kept for a while, and never long to wait for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nightmill.errors import NightmillError

_logger = logging.getLogger("nightmill.telemetry")
_T = TypeVar("_T")

KEPT_FOR = 15.0
"""Seconds for which a look at the database is kept: gauges of one look, and whoever else collects, share it."""

PATIENCE = 3.0
"""Seconds that who collects waits for all looks together. Prometheus gives up after 10 s unless told otherwise, and
lacks the metrics that need no database as well; to connect to a database that is silent takes as long to fail."""


@dataclass(eq=False)
class _Kept:
    """A look, and what it found last."""

    look: Callable[[], Any]
    found: Any = None
    until: float | None = None


@dataclass(eq=False)
class _Round:
    """Looks that are made one after the other, on a thread of their own.

    Attributes:
        deadline: When who waits for it gives up, by the clock of `time.monotonic`.
        is_given_up: Whether somebody has.
    """

    deadline: float = field(default_factory=lambda: time.monotonic() + PATIENCE)
    is_given_up: bool = False


class Looks:
    """Looks at the database, each kept for a while. After one that failed nobody looks again for as long.

    One that takes longer than `PATIENCE` goes on when nobody waits for it any more, and stays the only one: what it
    finds is shown from its end on.

    Args:
        clock: Seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._away_until = clock()
        self._all: list[_Kept] = []
        self._round: _Round | None = None
        self._changed = threading.Condition()

    def kept(self, look: Callable[[], _T]) -> Callable[[], _T | None]:
        """Return a function that gives what `look` returned last, or None while the database is away or silent."""
        kept = _Kept(look)
        self._all.append(kept)

        def glance() -> _T | None:
            with self._changed:  # also against several that collect at once: one of them begins a round
                if not self._is_fresh(kept):
                    self._look_again(kept)
                return kept.found if self._is_fresh(kept) else None

        return glance

    def _is_fresh(self, kept: _Kept) -> bool:
        return kept.until is not None and self._clock() < kept.until

    def _look_again(self, kept: _Kept) -> None:
        """Wait for the round that is under way, or for a new one; not long, and not while the database is away."""
        if self._round is None:
            if self._clock() < self._away_until:
                return
            self._round = _Round()
            due = [one for one in self._all if not self._is_fresh(one)]
            threading.Thread(target=self._go_round, args=(self._round, due), name="gauges", daemon=True).start()
        under_way = self._round
        left = under_way.deadline - time.monotonic()
        if self._changed.wait_for(lambda: self._is_fresh(kept) or self._round is not under_way, max(0.0, left)):
            return
        if not under_way.is_given_up:
            under_way.is_given_up = True
            _logger.warning("no measurement", extra={"error": f"the database has not answered for {PATIENCE:g} s"})

    def _go_round(self, own: _Round, due: Sequence[_Kept]) -> None:
        try:
            for kept in due:
                began = self._clock()
                found = kept.look()
                with self._changed:
                    # One that took so long that nobody waited would be too old before anybody sees it.
                    kept.found, kept.until = found, (self._clock() if own.is_given_up else began) + KEPT_FOR
                    self._changed.notify_all()
        except Exception as error:
            # Once for all looks: each would wait for the same database in vain.
            self._away_until = self._clock() + KEPT_FOR
            is_away = isinstance(error, NightmillError)
            _logger.log(
                logging.WARNING if is_away else logging.ERROR,
                "no measurement",
                extra={"error": str(error) if is_away else type(error).__name__},
                exc_info=None if is_away else error,
            )
        finally:
            with self._changed:
                self._round = None
                self._changed.notify_all()
