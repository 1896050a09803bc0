"""Is it the sites, or is it us? Where none of many sites can be reached, no document is to be blamed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightmill.errors import PageUnavailable

MANY = 5
"""Hosts that cannot be reached, with none reached in between, before it is taken for our own network's fault."""

LATELY = timedelta(minutes=15)
"""How long a host that could not be reached counts: sites that are dead for good are met one by one, now and then."""

LONGEST = timedelta(hours=1)
"""After so long the sites are believed to be away themselves: a worker may have no others to ask."""

_UNREACHED = frozenset({"dns", "connect", "tls"})  # no word from the other side; see `nightmill.web.classify.Trouble`


class Outlook:
    """Remembers which sites this worker could not reach lately; any thread may use it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._unreached: dict[str, float] = {}
        self._dark_since: float | None = None
        self._lock = threading.Lock()

    def reached(self) -> None:
        """Note that a site has answered, whatever it said."""
        if self._unreached or self._dark_since is not None:
            with self._lock:
                self._unreached.clear()
                self._dark_since = None

    def failed(self, host: str, error: PageUnavailable) -> bool:
        """Note a fetch that failed; return whether it looks as if nothing could be reached from here."""
        if not _is_silence(error):
            self.reached()
            return False
        with self._lock:
            present = self._clock()
            self._unreached[host] = present
            for known, at in list(self._unreached.items()):
                if present - at > LATELY.total_seconds():
                    del self._unreached[known]
            if len(self._unreached) < MANY:
                return False
            if self._dark_since is None:
                self._dark_since = present
            return present - self._dark_since < LONGEST.total_seconds()


def _is_silence(error: PageUnavailable) -> bool:
    """Whether not a word came from the other side, or none from the one that has its robots.txt."""
    before = error.__cause__
    return error.reason in _UNREACHED or getattr(before, "reason", None) in _UNREACHED
