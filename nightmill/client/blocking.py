"""Lets scripts and notebooks wait for what a service awaits: each call on a connection of its own."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from nightmill.assembly import Assembly, assembled
from nightmill.client.nightmill import Nightmill
from nightmill.settings import load_settings
from nightmill.storage import schema

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task

_T = TypeVar("_T")


def call(work: Callable[[Nightmill], Awaitable[_T]]) -> _T:
    """Return what a method of `Nightmill` comes to, also where an event loop runs already, as in Jupyter.

    There it runs in a thread while the loop stands still, and an interrupt cancels it: in Jupyter the first one, under
    `asyncio.run`, which keeps the first for itself, the second. See `Nightmill.connect` for the errors of the
    connection.
    """

    async def run() -> _T:
        async with Nightmill.connect() as nightmill:
            return await work(nightmill)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    return _in_a_thread(run)


def _in_a_thread(run: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    begun: Future[tuple[AbstractEventLoop, Task[_T]]] = Future()

    async def cancelable() -> _T:
        task = asyncio.create_task(run())
        begun.set_result((asyncio.get_running_loop(), task))
        return await task

    with ThreadPoolExecutor(1, thread_name_prefix="nightmill-client") as pool:
        # With the caller's context: the span that is open there is the parent here.
        ended = pool.submit(contextvars.copy_context().run, asyncio.run, cancelable())
        try:
            return ended.result()
        except KeyboardInterrupt:  # otherwise leaving the pool would wait for hours
            if not ended.done():
                loop, task = begun.result()
                with suppress(RuntimeError):  # it ended meanwhile, and its loop is closed
                    loop.call_soon_threadsafe(task.cancel)
            raise


def look(question: Callable[[Assembly], _T]) -> _T:
    """Return what the database answers; Temporal is not asked, and need not be there.

    Raises:
        SchemaOutdated: The database is of another version.
        StorageUnavailable: The database does not answer.
        NotConfigured: A setting cannot be used.
    """
    with _database() as assembly:
        return question(assembly)


def read(question: Callable[[Assembly], Iterator[_T]]) -> Iterator[_T]:
    """Yield what the database answers; what is wrong with the question is raised here, not by the first `next`.

    The connection is closed at the end, or when the iterator is dropped. See `look` for the errors.
    """
    reading = _reading(question)
    next(reading)
    return reading


def _reading(question: Callable[[Assembly], Iterator[Any]]) -> Iterator[Any]:
    with _database() as assembly:
        found = question(assembly)
        yield None  # for `read`: whatever the question has wrong is known by now
        yield from found


@contextmanager
def _database() -> Iterator[Assembly]:
    with assembled(load_settings()) as assembly:
        schema.check(assembly.database)
        yield assembly
