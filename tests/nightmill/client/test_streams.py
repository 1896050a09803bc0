"""What blocks is read by a thread, in order, and is let go of however the reading ends."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from nightmill.client.document_syncs import _in_parallel
from nightmill.client.streams import streamed
from nightmill.errors import BatchNotFound
from nightmill.storage.engine import Database
from nightmill.storage.outcomes import OutcomeRepository


class Numbers:
    """Counts from 0 and holds a connection meanwhile; at one number it does something first.

    Attributes:
        database: Where the connection is from.
        read: The last number that was read.
        threads: Which threads have read, or closed the reading.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.read = -1
        self.threads: set[int] = set()

    def stream(self, at: int = -1, then: Callable[[], object] = lambda: None) -> AsyncGenerator[int, None]:
        return streamed(partial(self._count, at, then))

    @property
    def connections(self) -> int:
        pool: Any = self.database.engine.pool
        found: int = pool.checkedout()
        return found

    def _count(self, at: int, then: Callable[[], object]) -> Iterator[int]:
        with self.database.reading() as session:
            session.connection().execute(text("SELECT 1"))
            try:
                for number in itertools.count():
                    if number == at:
                        then()
                    self.read = number
                    self.threads.add(threading.get_ident())
                    yield number
            finally:
                self.threads.add(threading.get_ident())


@pytest.fixture
def numbers(database: Database) -> Numbers:
    """Numbers without end from each kind of database."""
    return Numbers(database)


class Gate:
    """Holds up the thread that reads until it is opened."""

    def __init__(self) -> None:
        self.is_reached, self._is_open = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        self.is_reached.set()
        assert self._is_open.wait(20)

    def open(self) -> None:
        self._is_open.set()

    async def reached(self) -> None:
        while not self.is_reached.is_set():
            await asyncio.sleep(0.01)


async def collect(rows: AsyncGenerator[int, None], into: list[int]) -> None:
    async for each in rows:
        into.append(each)


def test_results_come_whole_and_in_order(database: Database, store_part: Any) -> None:
    wanted = [f"r-{n}" for n in range(950)]
    store_part(database, *wanted)
    repository = OutcomeRepository(database)

    async def read() -> list[str]:
        with pytest.raises(BatchNotFound):
            await anext(streamed(partial(repository.results, "none")))
        return [each.custom_id async for each in streamed(partial(repository.results, "b1", page=300))]

    assert asyncio.run(read()) == wanted


@pytest.mark.parametrize("says_so", [True, False])
def test_a_consumer_that_stops_early_leaves_no_connection_in_use(numbers: Numbers, says_so: bool) -> None:
    async def stop_early() -> None:
        rows = numbers.stream()
        async for number in rows:
            if number == 250:
                break
        assert numbers.connections == 1
        if says_so:
            await rows.aclose()
        else:
            del rows
            async with asyncio.timeout(10):
                while numbers.connections:
                    await asyncio.sleep(0.01)
        assert numbers.connections == 0
        assert numbers.read < 350, "no more was read than a hundred ahead"
        assert threading.get_ident() not in numbers.threads

    asyncio.run(stop_early())


def test_an_error_comes_after_what_was_read_before_it(numbers: Numbers) -> None:
    def fail() -> None:
        raise LookupError("no more")

    async def read() -> list[int]:
        found: list[int] = []
        with pytest.raises(LookupError):
            await collect(numbers.stream(157, fail), found)
        assert numbers.connections == 0
        return found

    assert asyncio.run(read()) == list(range(157))


def test_a_cancel_waits_for_the_thread_and_the_loop_does_not(numbers: Numbers) -> None:
    async def cancel() -> None:
        gate = Gate()
        task = asyncio.create_task(collect(numbers.stream(130, gate.pass_through), []))
        await gate.reached()
        task.cancel()
        await asyncio.sleep(0.05)
        assert (task.done(), numbers.connections) == (False, 1)
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (task.cancelled(), numbers.connections) == (True, 0)

    asyncio.run(cancel())


def test_a_loop_that_ends_meanwhile_leaves_no_connection_in_use(numbers: Numbers) -> None:
    gate, tasks = Gate(), []

    async def leave() -> None:
        tasks.append(asyncio.create_task(collect(numbers.stream(130, gate.pass_through), [])))
        await gate.reached()
        threading.Timer(0.1, gate.open).start()

    asyncio.run(leave())
    assert (tasks[0].cancelled(), numbers.connections) == (True, 0)


def test_of_work_that_fails_at_once_one_failure_is_raised_the_others_are_quiet_and_none_outlives_it() -> None:
    complaints: list[Any] = []
    ended: list[str] = []

    async def work(name: str) -> str:
        if name == "slow":
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                ended.append(name)
        raise LookupError(name)

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
        with pytest.raises(LookupError):
            await anext(_in_parallel(["a", "b", "slow"], work, 3))
        assert ended == ["slow"]

    asyncio.run(run())
    gc.collect()
    assert complaints == []


def test_what_is_slow_comes_as_soon_as_it_is_there() -> None:
    made: list[int] = []

    def slow() -> Iterator[int]:
        for number in range(100):
            time.sleep(0.02)
            made.append(number)
            yield number

    async def first() -> list[int]:
        async with aclosing(streamed(slow)) as rows:
            await anext(rows)
            return list(made)

    assert asyncio.run(first()) == [0]
