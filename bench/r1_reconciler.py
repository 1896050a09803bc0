"""R1: a tick of the reconciler over 10,000 overdue batches: memory, time, CPU and calls of Temporal.

    .venv/bin/python -m bench.r1_reconciler [--many 10000] [--rounds 1]

One worker, as it is deployed. The first ticks only report, and find none of the workflows: they show what a look costs,
and that ten times the candidates take no more memory. Beside them a bare loop that describes the same workflows, one
after another and eight at a time, and does nothing else. Then 1,000 runs that are overdue and healthy are asked to go
on. Calls are those that the Temporal server counts, CPU is that of the worker, Temporal's server and PostgreSQL's.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError

from bench.d2_sweep import server_cpu
from bench.stuck import Peak, Scene, batch_ids, scene, seed, stand_ins, start_stand_ins
from bench.system import Child, answer, cpu, memory, questions, start_worker, wait_until
from nightmill.client.converter import data_converter
from nightmill.contracts import ReconcileSummary
from nightmill.ids import batch_workflow_id
from tests.stack import Stack

KINDS = ("SQLite", "PostgreSQL")
RUNNING = 1_000
DESCRIBED = 2_000
"""Workflows that the bare loop describes at most; the ten thousandth costs what the first does."""
OF_A_LOOK = ("DescribeWorkflowExecution", "DescribeTaskQueue", "SignalWorkflowExecution", "ListWorkflowExecutions")


@dataclass(frozen=True)
class Tick:
    """What a tick cost: CPU in seconds of worker, Temporal's server and PostgreSQL's, memory in KB."""

    summary: ReconcileSummary
    wall: float
    worker: float
    server: float
    postgres: float
    before: float
    peak: float
    after: float
    calls: Counter[str]

    def shown(self) -> str:
        """Return it in two lines."""
        count = self.summary.candidates
        cpu_ = self.worker + self.server + self.postgres
        findings = ", ".join(f"{n:,} {name}" for name, n in self.summary.findings.items())
        calls = ", ".join(f"{self.calls[name] / count:.3f} {name}" for name in OF_A_LOOK if self.calls[name])
        return (
            f"{count:,} ({findings}): {self.wall:.1f} s, {cpu_ / count * 1000:.2f} CPU-ms a candidate (worker "
            f"{self.worker / count * 1000:.2f}, Temporal {self.server / count * 1000:.2f}, PostgreSQL "
            f"{self.postgres / count * 1000:.2f})\n    memory of the worker: {self.before / 1024:.1f} MB before, "
            f"{self.peak / 1024:.1f} at most, {self.after / 1024:.1f} after; calls a candidate: {calls}; in all "
            f"{sum(self.calls.values()) / count:.3f}"
        )


class Site:
    """A database, its worker, and ticks."""

    def __init__(self, around: Scene, kind: str, name: str) -> None:
        self.around, self.kind, self.prefix, self.stored = around, kind, name, 0
        self.stack: Stack = around.stack(name, around.migrated(kind, name))
        self.worker = start_worker(self.stack)

    def grow(self, count: int) -> None:
        """Store overdue batches until there are `count`."""
        due = datetime.now(UTC) - timedelta(minutes=10)
        more = batch_ids(count - self.stored, self.stored, self.prefix)
        seed(self.stack.database_url, more, due=due)
        self.stored = count

    def used(self) -> tuple[float, float, float]:
        postgres = server_cpu(self.around.postgres_pid) if self.kind == "PostgreSQL" else 0.0
        return cpu(self.worker), cpu(self.around.server_pid), postgres

    def tick(self, *, dry_run: bool) -> Tick:
        """Let the reconciler run once."""

        async def reconcile() -> ReconcileSummary:
            nightmill = await self.stack.nightmill(assembly)
            return await nightmill.recovery.reconcile(dry_run=dry_run)

        with self.stack.assembly() as assembly:
            calls = self.around.requests()
            used, before = self.used(), memory(self.worker)
            began = time.monotonic()
            with Peak(self.worker) as peak:
                summary = asyncio.run(reconcile())
            wall = time.monotonic() - began
            worker, server, postgres = (now - was for now, was in zip(self.used(), used, strict=True))
            took = self.around.requests() - calls
        return Tick(summary, wall, worker, server, postgres, before, peak.highest, memory(self.worker), took)


async def _describe(address: str) -> None:
    """Describe as many workflows as each question says, as many at a time."""
    client = await Client.connect(address, data_converter=data_converter(None))
    answer(None)
    loop = asyncio.get_running_loop()
    asked = questions()
    while (question := await loop.run_in_executor(None, next, asked, None)) is not None:
        used, began = time.process_time(), time.monotonic()
        left = iter([batch_workflow_id(one) for one in batch_ids(question["count"], 0, question["prefix"])])

        async def describe_all(left: Any = left) -> None:
            for workflow_id in left:
                with suppress(RPCError):  # there is none
                    await client.workflow_service.describe_workflow_execution(
                        DescribeWorkflowExecutionRequest(
                            namespace=client.namespace, execution=WorkflowExecution(workflow_id=workflow_id)
                        )
                    )

        await asyncio.gather(*(describe_all() for _ in range(question["at_once"])))
        answer({"cpu": time.process_time() - used, "wall": time.monotonic() - began})


def bare(around: Scene, prefix: str, count: int, at_once: int) -> tuple[float, float]:
    """Describe and return ms and CPU-ms of each, the server's included."""
    child = Child(
        "bench.r1_reconciler", "--child", around.server.address, environment={}, log=around.folder / "bare.log"
    )
    try:
        child.ask({"prefix": prefix, "count": 100, "at_once": at_once})  # warms up
        before = cpu(around.server_pid)
        took = child.ask({"prefix": prefix, "count": count, "at_once": at_once})
        used = took["cpu"] + cpu(around.server_pid) - before
        return took["wall"] / count * 1000, used / count * 1000
    finally:
        child.stop()


def beside(name: str, ticks: list[Tick], loops: dict[int, list[tuple[float, float]]]) -> None:
    count = ticks[0].summary.candidates
    tick = statistics.median(one.worker + one.server + one.postgres for one in ticks) / count * 1000
    wall = statistics.median(one.wall for one in ticks) / count * 1000
    for at_once, found in loops.items():
        loop_wall, loop_cpu = (statistics.median(each[which] for each in found) for which in (0, 1))
        print(
            f"{name}, beside describing them {at_once} at a time: {loop_wall:.2f} ms and {loop_cpu:.2f} CPU-ms each; "
            f"the tick takes {wall / loop_wall:.2f} x its time and {tick / loop_cpu:.2f} x its CPU",
            flush=True,
        )


def main() -> None:
    """Report over ever more candidates, then repair."""
    if sys.argv[1:2] == ["--child"]:
        asyncio.run(_describe(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description="R1: a tick of the reconciler over many candidates.")
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--few", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    asked = parser.parse_args()
    with scene() as around:
        for kind in asked.kinds:
            site = Site(around, kind, kind.lower())
            site.grow(100)
            site.tick(dry_run=True)  # warms up
            for count in (asked.few, asked.many):
                site.grow(count)
                ticks: list[Tick] = []
                loops: dict[int, list[tuple[float, float]]] = {1: [], 8: []}
                for _ in range(asked.rounds):
                    ticks.append(site.tick(dry_run=True))
                    print(f"{kind}, {ticks[-1].shown()}", flush=True)
                    for at_once, found in loops.items():
                        found.append(bare(around, kind.lower(), min(count, DESCRIBED), at_once))
                beside(kind, ticks, loops)
            site.stack.stop()
            repair(around, kind)


def repair(around: Scene, kind: str) -> None:
    """Ask runs that are overdue to go on, then look at them again."""
    site = Site(around, kind, f"{kind.lower()}-running")
    site.grow(RUNNING)
    batches = batch_ids(RUNNING, 0, site.prefix)
    child = stand_ins(around)
    try:
        known = around.requests()
        asyncio.run(_start(around, batches))
        wait_until(lambda: (around.requests() - known)["RespondWorkflowTaskCompleted"] >= RUNNING, 120)
        for name, dry_run in (("a dry run", True), ("repairs", False), ("again, at once", False)):
            tick = site.tick(dry_run=dry_run)
            print(f"{kind}, {name}: {tick.summary.repaired:,} repaired of {tick.shown()}", flush=True)
    finally:
        child.stop()
        site.stack.stop()


async def _start(around: Scene, batches: list[str]) -> None:
    await start_stand_ins(await around.client(), batches)


if __name__ == "__main__":
    main()
