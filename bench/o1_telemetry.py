"""O1: what it costs a worker to be seen.

    .venv/bin/python -m bench.o1_telemetry [--batches 20] [--rounds 5]

Three workers side by side, on one Temporal server, each with a queue and a database of its own, run the same batches of
five polls in turns: one that nobody watches, one whose `/metrics` is asked every 15 s as Prometheus does, and one that
sends traces as well. Shown is the worker's CPU for a batch, net of idle, and idle itself with what is asked meanwhile.
The collector runs in this process and is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from bench.system import System, cpu, start_worker, store, system
from tests.collector import Collector
from tests.stack import free_port

POLLS = 5
SCRAPED_EVERY = 15.0
"""Seconds; as in deploy/prometheus/prometheus.yml."""
SHARED = {"NIGHTMILL_BATCH__POLL_SCHEDULE": "[0.2]"}


class Way:
    """A worker that is watched in one way."""

    def __init__(self, name: str, around: System, *, scraped: bool = False, collector: str | None = None) -> None:
        self.name = name
        self.port = free_port() if scraped else 0
        extra = {**SHARED, "NIGHTMILL_WORKER__METRICS_PORT": str(self.port)}
        if collector is not None:
            extra |= {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": collector}
        self.stack = around.stack(name.replace(" ", "-"), **extra)
        self.worker = start_worker(self.stack)
        self.idle = 0.0  # CPU seconds a second

    def run(self, count: int) -> float:
        """Run batches, all at once, and return the worker's CPU seconds for them."""
        with self.stack.assembly() as assembly:

            async def work() -> None:
                nightmill = await self.stack.nightmill(assembly)
                ids = store(assembly, count)
                await asyncio.gather(*map(nightmill.start, ids))
                await asyncio.gather(*map(nightmill.wait, ids))

            before, began = cpu(self.worker), time.monotonic()
            asyncio.run(work())
            return cpu(self.worker) - before - self.idle * (time.monotonic() - began)

    def rest(self, seconds: float) -> None:
        """Learn what the worker uses while it has nothing to do but to answer who watches it."""
        before = cpu(self.worker)
        time.sleep(seconds)
        self.idle = (cpu(self.worker) - before) / seconds


@contextmanager
def scraped(ways: list[Way]) -> Iterator[None]:
    """Ask `/metrics` as Prometheus does, until the block ends."""
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(SCRAPED_EVERY):
            for way in ways:
                if way.port:
                    with urllib.request.urlopen(f"http://127.0.0.1:{way.port}/metrics", timeout=10) as answer:
                        answer.read()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def main() -> None:
    """Run the ways in turns and print the table."""
    parser = argparse.ArgumentParser(description="O1: the cost of being seen.")
    parser.add_argument("--batches", type=int, default=20, help="at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=float, default=45, help="seconds for which all of them rest at first")
    asked = parser.parse_args()
    collector = Collector()
    try:
        with system({"polls_to_finish": POLLS}) as around:
            ways = [
                Way("nobody", around),
                Way("metrics", around, scraped=True),
                Way("metrics and traces", around, scraped=True, collector=collector.url),
            ]
            with scraped(ways):
                for way in ways:
                    way.run(5)  # warms up
                resting = [threading.Thread(target=way.rest, args=(asked.idle,)) for way in ways]
                for thread in resting:
                    thread.start()
                for thread in resting:
                    thread.join()
                spent: dict[str, list[float]] = {way.name: [] for way in ways}
                for turn in range(asked.rounds):
                    for way in ways[turn % 3 :] + ways[: turn % 3]:
                        spent[way.name].append(way.run(asked.batches) / asked.batches * 1000)
    finally:
        collector.close()
    least = statistics.median(spent["nobody"])
    print(f"{'':20}{'CPU-ms a batch':>16}{'ratio':>8}{'idle, CPU-ms a s':>18}   turns")
    for way in ways:
        values = spent[way.name]
        middle = statistics.median(values)
        turns = ", ".join(f"{value:.0f}" for value in values)
        print(f"{way.name:20}{middle:16.1f}{middle / least:8.2f}{way.idle * 1000:18.1f}   {turns}")
    print(f"{len(collector.bodies)} messages of traces were sent")


if __name__ == "__main__":
    main()
