"""P2: what a worker and the server pay for batches that are asleep between two polls.

    .venv/bin/python -m bench.p2_sleepers [--few 100] [--many 2000] [--restart 1000] [--probes 60] [--rounds 3]

Two Temporal servers, each with a worker, run side by side: one has few sleeping batches, the other has many. They
poll once a day. Then, in turns:

    poll      `poll_now` wakes a number of batches that nothing has touched for a while; CPU of server and worker, net
              of idle, until all of them have been polled and sleep again
    miss      the same on a third worker, which keeps 10 workflows only, so that every poll replays its history
    restart   the worker is killed, and another is started: its CPU until 5 s after it is ready

Memory is what is not shared with files (`RssAnon`), before and after the second half of the many is seeded. Workers
run four activities at once: each of their connections to SQLite keeps up to 8 MB of pages, which grow with the database
and would be counted as the sleepers'.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from datetime import timedelta

from sqlmodel import col, func, select

from bench.system import System, cpu, memory, start_worker, store, system, wait_until
from nightmill.storage.models import ProviderBatchRow
from tests.stack import Stack

DAY = timedelta(days=1)
TARGET_POLL, TARGET_KB, TARGET_MISS, TARGET_RESTART = 1.15, 50, 1.5, 0.5
AT_ONCE = 50


class Sleepers:
    """A Temporal server, a worker, and batches asleep."""

    def __init__(self, around: System, name: str, **extra: str) -> None:
        self.around, self.extra = around, extra
        self.stack: Stack = around.stack(name)
        self.worker = start_worker(self.stack, **extra)
        self.asleep: list[str] = []
        self.idle = (0.0, 0.0)

    def seed(self, count: int) -> None:
        """Submit batches that are then followed by a workflow that waits for its timer."""
        with self.stack.assembly() as assembly:
            ids = store(assembly, count, poll_schedule=(DAY,), max_age=30 * DAY)

            def submitted() -> int:
                with assembly.database.reading() as session:
                    return session.exec(select(func.count(col(ProviderBatchRow.created_at)))).one()

            async def start(ids: list[str]) -> None:
                nightmill = await self.stack.nightmill(assembly)
                await asyncio.gather(*map(nightmill.start, ids))

            for first in range(0, count, AT_ONCE):
                asyncio.run(start(ids[first : first + AT_ONCE]))
                expected = len(self.asleep) + min(first + AT_ONCE, count)
                wait_until(lambda expected=expected: submitted() == expected, 60)
            time.sleep(1)  # the last ones go to sleep
        self.asleep += ids

    def used(self) -> tuple[float, float]:
        return cpu(self.around.server_pid), cpu(self.worker)

    def poll(self, count: int) -> tuple[float, float]:
        """Wake batches and return CPU-ms a poll, of the server and of the worker, net of idle."""
        chosen = self.asleep[:count]
        self.asleep = self.asleep[count:] + chosen  # the ones that were touched least recently
        with self.stack.assembly() as assembly:

            def polls() -> int:
                with assembly.database.reading() as session:
                    return session.exec(select(func.sum(ProviderBatchRow.polls))).one()

            async def wake() -> None:
                nightmill = await self.stack.nightmill(assembly)
                for first in range(0, count, 10):
                    await asyncio.gather(*map(nightmill.poll_now, chosen[first : first + 10]))

            known = polls()
            before, start = self.used(), time.monotonic()
            asyncio.run(wake())
            wait_until(lambda: polls() >= known + count, 60, every=0.2)
            time.sleep(0.5)  # the last ones go back to sleep
            wall = time.monotonic() - start
            server, worker = (
                (after - was - quiet * wall) / count * 1000
                for after, was, quiet in zip(self.used(), before, self.idle, strict=True)
            )
        return server, worker

    def restart(self) -> float:
        """Kill the worker, start another, and return its CPU seconds until 5 s after it is ready."""
        self.stack.stop()
        self.worker = start_worker(self.stack, **self.extra)
        time.sleep(5)
        return cpu(self.worker)


def verdict(value: float, most: float) -> str:
    return "met" if value <= most else f"missed by {(value / most - 1) * 100:.0f} %"


def show(name: str, values: Sequence[float], form: str = "6.1f") -> str:
    each = ", ".join(f"{value:{form}}".strip() for value in values)
    return f"{name}: {statistics.median(values):{form}} ({each})"


def main() -> None:
    """Seed, then measure in turns."""
    parser = argparse.ArgumentParser(description="P2: batches that are asleep.")
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=2_000)
    parser.add_argument("--restart", type=int, default=1_000, help="sleepers when the restart is measured; 0: never")
    parser.add_argument("--probes", type=int, default=60, help="polls in a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=int, help="workflows that the workers keep; default: as the settings say")
    parser.add_argument("--sandbox", action="store_true", help="with the SDK's workflow sandbox")
    asked = parser.parse_args()
    extra = {
        "NIGHTMILL_WORKER__WORKFLOW_SANDBOX": str(asked.sandbox).lower(),
        "NIGHTMILL_WORKER__MAX_ACTIVITIES": "4",
    }
    if asked.cache:
        extra["NIGHTMILL_WORKER__MAX_CACHED_WORKFLOWS"] = str(asked.cache)
    profile = {"finish_after": None, "expires_after": 30 * 86_400.0}
    with system(profile) as one, system(profile) as two:
        few, many = Sleepers(one, "few", **extra), Sleepers(two, "many", **extra)
        tight = Sleepers(one, "tight", **(extra | {"NIGHTMILL_WORKER__MAX_CACHED_WORKFLOWS": "10"}))
        for sleepers in (few, many, tight):
            sleepers.seed(asked.few)
        if 0 < asked.restart < asked.many:
            many.seed(asked.restart - asked.few)
            measure_restart(few, many, asked.rounds)
        more = (asked.many - len(many.asleep)) // 2
        many.seed(asked.many - len(many.asleep) - more)
        before, server = memory(many.worker), memory(two.server_pid)
        started = sum(many.used())
        many.seed(more)
        seeded = (sum(many.used()) - started) / more * 1000
        print(f"seeding: {seeded:.0f} CPU-ms a batch")
        grown = (memory(many.worker) - before) / more
        print(f"memory a sleeping batch in the worker: {grown:.1f} KB, {verdict(grown, TARGET_KB)}", end="")
        print(f"; in the server: {(memory(two.server_pid) - server) / more:.1f} KB", flush=True)
        measure_polls(few, many, tight, asked.probes, asked.rounds)


def measure_restart(few: Sleepers, many: Sleepers, rounds: int) -> None:
    pairs = [(few.restart(), many.restart()) for _ in range(rounds)]
    extra = len(many.asleep) - len(few.asleep)
    each = [(more - less) / extra * 1000 for less, more in pairs]
    shown = show(f"restart with {len(many.asleep)} asleep, CPU-ms each", each, "6.2f")
    print(f"{shown}, {verdict(statistics.median(each), TARGET_RESTART)}", flush=True)
    print(f"   CPU-s of a start with {len(few.asleep)} asleep: {statistics.median(less for less, _ in pairs):.2f}")


def rest(everyone: Sequence[Sleepers], seconds: float) -> None:
    """Find out what is used when nothing happens, in CPU-s per second."""
    time.sleep(3)
    before = [sleepers.used() for sleepers in everyone]
    time.sleep(seconds)
    for sleepers, (server, worker) in zip(everyone, before, strict=True):
        now = sleepers.used()
        sleepers.idle = (now[0] - server) / seconds, (now[1] - worker) / seconds


def measure_polls(few: Sleepers, many: Sleepers, tight: Sleepers, probes: int, rounds: int) -> None:
    everyone = (few, many, tight)
    for sleepers in everyone:
        random.shuffle(sleepers.asleep)
        sleepers.poll(probes)  # warms up; after a restart, the first poll of a batch is a miss
    rest(everyone, 6)
    found = [[sleepers.poll(probes) for sleepers in everyone] for _ in range(rounds)]
    for name, column in ((f"{len(few.asleep)} asleep", 0), (f"{len(many.asleep)} asleep", 1), ("cache of 10", 2)):
        server, worker = (statistics.median(row[column][which] for row in found) for which in (0, 1))
        whole = show(f"poll, {name}, CPU-ms", [sum(row[column]) for row in found])
        print(f"{whole}, of these server {server:.1f}, worker {worker:.1f}")
    for name, column, most in (("many/few", 1, TARGET_POLL), ("miss/hit", 2, TARGET_MISS)):
        ratios = [sum(row[column]) / sum(row[0]) for row in found]
        print(f"{show(name, ratios, '5.2f')}, {verdict(statistics.median(ratios), most)}")


if __name__ == "__main__":
    main()
