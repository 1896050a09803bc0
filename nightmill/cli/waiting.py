"""Waiting for ends that are hours away, on a terminal that somebody may look at meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

LOOKS_EVERY = timedelta(seconds=1)
"""How often what is waited for is asked how far it is, and Temporal whether it is back."""

OUTAGE = timedelta(minutes=2)
"""How long Temporal may be away before the waiting ends."""

_T = TypeVar("_T")


async def over_outages(wait: Callable[[], Awaitable[_T]]) -> _T:
    """Wait for the end, also over a short outage of Temporal.

    Raises:
        TemporalUnreachable: It has been away for `OUTAGE`.
    """
    from nightmill.errors import TemporalUnreachable

    away_since: float | None = None
    while True:
        started = time.monotonic()
        try:
            return await wait()
        except TemporalUnreachable:
            now = time.monotonic()
            if away_since is None or now - started > OUTAGE.total_seconds():
                away_since = now
            if now - away_since > OUTAGE.total_seconds():
                raise
            await asyncio.sleep(LOOKS_EVERY.total_seconds())
