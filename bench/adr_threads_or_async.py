"""Activities on threads, or on the event loop? One status poll (HTTP, then a SQLite write), three ways, side by side.

    .venv/bin/python -m bench.adr_threads_or_async

A real worker on a real Temporal server runs the same fan-out of polls with each kind of activity, in turn, several
times; the provider is a local server that takes 20 ms to answer. Printed are medians, and ratios to the first row.
`loop` is the worst delay of a timer on the worker's event loop: what heartbeats and workflow tasks have to wait.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from temporalio import activity, workflow
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

POLLS, AT_ONCE, ROUNDS, ANSWER_AFTER = 300, 20, 5, 0.02
BODY = b'{"id": "batch_1", "status": "in_progress", "request_counts": {"total": 1000, "completed": 10, "failed": 0}}'


@dataclass
class Polls:
    """The same poll as three activities."""

    url: str
    folder: Path
    client: httpx.Client
    async_client: httpx.AsyncClient

    def write(self, status: str) -> None:
        """Write as the repositories do: a connection a transaction, durable."""
        with sqlite3.connect(self.folder / "bench.db", timeout=30) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO polls (status) VALUES (?)", (status,))
        db.close()

    @activity.defn
    def on_a_thread(self) -> None:
        self.write(self.client.get(self.url).json()["status"])

    @activity.defn
    async def on_the_loop_with_a_thread_for_the_database(self) -> None:
        answer = await self.async_client.get(self.url)
        await asyncio.to_thread(self.write, answer.json()["status"])

    @activity.defn
    async def on_the_loop_database_too(self) -> None:
        answer = await self.async_client.get(self.url)
        self.write(answer.json()["status"])


KINDS: tuple[Callable[..., Any], ...] = (
    Polls.on_a_thread,
    Polls.on_the_loop_with_a_thread_for_the_database,
    Polls.on_the_loop_database_too,
)


@workflow.defn
class FanOut:
    """Runs one kind of activity many times at once."""

    @workflow.run
    async def run(self, kind: str) -> None:
        timeout = timedelta(seconds=60)
        await asyncio.gather(*(workflow.execute_activity(kind, start_to_close_timeout=timeout) for _ in range(POLLS)))


async def serve() -> asyncio.Server:
    """Start the provider."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(ANSWER_AFTER)
                writer.write(head + BODY)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


def provider() -> str:
    """Run the provider on a thread of its own and return its address."""
    ready = threading.Event()
    ports: list[int] = []

    def run() -> None:
        async def forever() -> None:
            server = await serve()
            ports.append(server.sockets[0].getsockname()[1])
            ready.set()
            await server.serve_forever()

        asyncio.run(forever())

    threading.Thread(target=run, daemon=True).start()
    ready.wait()
    return f"http://127.0.0.1:{ports[0]}/v1/batches/batch_1"


async def worst_delay(until: asyncio.Event) -> float:
    """Return the longest delay of a 10 ms timer, in seconds."""
    worst = 0.0
    while not until.is_set():
        start = time.perf_counter()
        await asyncio.sleep(0.01)
        worst = max(worst, time.perf_counter() - start - 0.01)
    return worst


async def main() -> None:
    """Measure and print."""
    folder = Path(tempfile.mkdtemp(prefix="nightmill-bench-"))
    sqlite3.connect(folder / "bench.db").execute("CREATE TABLE polls (id INTEGER PRIMARY KEY, status TEXT)")
    binary = shutil.which("temporal", path=f"{Path(__file__).parent.parent}/.venv/bin") or shutil.which("temporal")
    limits = httpx.Limits(max_connections=AT_ONCE)
    polls = Polls(provider(), folder, httpx.Client(limits=limits), httpx.AsyncClient(limits=limits))
    figures: dict[str, list[tuple[float, float, float]]] = {kind.__name__: [] for kind in KINDS}
    async with await WorkflowEnvironment.start_local(dev_server_existing_path=binary) as env:
        worker = Worker(
            env.client,
            task_queue="bench",
            workflows=[FanOut],
            workflow_runner=UnsandboxedWorkflowRunner(),
            activities=[getattr(polls, kind.__name__) for kind in KINDS],
            activity_executor=ThreadPoolExecutor(AT_ONCE),
            max_concurrent_activities=AT_ONCE,
        )
        async with worker:
            for turn in range(ROUNDS + 1):
                for kind in KINDS:
                    over = asyncio.Event()
                    watch = asyncio.create_task(worst_delay(over))
                    wall, cpu = time.perf_counter(), time.process_time()
                    await env.client.execute_workflow(
                        FanOut.run, kind.__name__, id=f"{kind.__name__}-{turn}", task_queue="bench"
                    )
                    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                    over.set()
                    if turn:  # the first is a warm-up
                        figures[kind.__name__].append((wall, cpu, await watch))
    print(f"{POLLS} polls, {AT_ONCE} at once, medians of {ROUNDS}; in brackets the ratio to the first row")
    first = [statistics.median(column) for column in zip(*figures[KINDS[0].__name__], strict=True)]
    for name, rows in figures.items():
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        text = "  ".join(
            f"{label} {value * 1000:7.0f} ms [{value / base:4.2f}]"
            for label, value, base in zip(("wall", "CPU", "loop"), medians, first, strict=True)
        )
        print(f"{name:45} {text}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    asyncio.run(main())
