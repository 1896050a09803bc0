"""Blocking work off the event loop that has ended when its caller goes on, also where that is canceled meanwhile."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

_THREADS = ThreadPoolExecutor(128, thread_name_prefix="blocking")
"""Not the event loop's own threads, of which a machine with two cores has six: what waits for a slow storage here would
keep the heartbeats of other activities waiting there. Made when needed; a worker runs 64 programs at most."""


async def in_thread(work: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Return what `work` returns, from a thread; its files may be removed once this ends, in whatever way it does."""
    call = partial(contextvars.copy_context().run, work, *args, **kwargs)
    task = asyncio.get_running_loop().run_in_executor(_THREADS, call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # However often we are canceled: the thread cannot be, and uses the caller's files.
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()  # looked at, else it is reported as lost
        raise
