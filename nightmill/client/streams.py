"""Rows and bytes of the database and the file storage for an event loop, which does not wait for them."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import closing
from typing import TypeVar

T = TypeVar("T")

AT_ONCE = 100
"""Things of one visit to a thread, at most. A visit costs 0.12 ms of a processor, as much as to read four results."""

ENOUGH = 0.01
"""Seconds after which a visit ends with what it has, so that rows of megabytes do not pile up to a hundred."""


async def streamed(read: Callable[[], Iterator[T]], *, at_once: int = AT_ONCE) -> AsyncGenerator[T, None]:
    """Yield what an iterator that blocks yields, in its order, read by a thread; few are in memory at a time.

    An error comes after what was read before it. The iterator is closed at the end: after the last one, an error, a
    cancel, and where the consumer stops early (at once with `aclosing`, else when Python drops the generator). A
    cancel waits for the visit to the thread that is under way; one that is canceled again and again, as the scopes of
    anyio do, leaves it to end by itself, and closes the iterator then.

    Args:
        read: Makes the iterator, in the thread; what it raises is raised here.
        at_once: How many things a visit to the thread brings at most.
    """
    loop, pages = asyncio.get_running_loop(), _pages(read, at_once)
    visit: asyncio.Future[list[T] | None] | None = None

    def next_page() -> list[T] | None:
        return next(pages, None)

    try:
        while True:
            # A future, not a task: a loop that ends cancels all tasks, and the thread would still be reading.
            visit = loop.run_in_executor(None, contextvars.copy_context().run, next_page)
            await asyncio.wait({visit})
            if (page := visit.result()) is None:
                return
            for each in page:
                yield each
    finally:
        if visit is not None and not visit.done():
            await asyncio.wait({visit})
            visit.exception()  # nobody asks for it any more, and asyncio would complain that nobody did
        await asyncio.to_thread(pages.close)


def _pages(read: Callable[[], Iterator[T]], at_once: int) -> Generator[list[T], None, None]:
    """Yield what the iterator yields, some at a time: one at least."""
    with closing(_begun(read)) as found:
        page: list[T] = []
        until = time.monotonic() + ENOUGH
        try:
            for each in found:
                page.append(each)
                if len(page) >= at_once or time.monotonic() >= until:
                    yield page
                    page, until = [], time.monotonic() + ENOUGH
        except Exception:
            if page:
                yield page
            raise
        if page:
            yield page


def _begun(read: Callable[[], Iterator[T]]) -> Generator[T, None, None]:
    """Yield what the iterator yields; closing this closes it, where it can be closed at all."""
    yield from read()
