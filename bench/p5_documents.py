"""P5: what a sync of a page costs, Temporal and SQL included, beside its parts and beside a bare workflow.

    .venv/bin/python -m bench.p5_documents [--documents 100] [--rounds 3] [--database postgresql://…]

Pages of some 47 KB on as many hosts as there are documents, since a host is asked for one page at a time. In turns:

    bare      fetch and extraction of each page by the same fetcher and extractor, on threads: the work itself
    activity  a workflow that calls one activity that does nothing, by a worker as Nightmill's is set up
    changed   `DocumentSync` of a page that says something new in one paragraph
    same      of a page without validators whose bytes are the same
    kept      of a page that answers 304
    attempt   the last one's activity alone, called on threads without Temporal: fetch and SQL

Printed are medians of CPU-ms a document, net of what the processes use when idle, and the ratios of each round. The
worker's processes that read pages count as the worker's; PostgreSQL's server is not counted. While that runs, an event
loop's timer of 10 ms is watched in the worker and, beside it, in a process that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client

from bench.system import Child, System, answer, cpu, questions, system
from bench.web import KINDS, Web, add_documents, web
from nightmill import ids
from nightmill.assembly import Assembly, assembled
from nightmill.contracts import SyncInput, SyncResult, Trigger
from nightmill.settings import load_settings
from tests.stack import Stack

WAYS = ("bare", "activity", *KINDS, "attempt")
EXPECTED = {
    "changed": SyncResult.UPDATED,
    "same": SyncResult.UNCHANGED,
    "kept": SyncResult.NOT_MODIFIED,
    "attempt": SyncResult.NOT_MODIFIED,
}
AT_ONCE = 20
TICK = 0.01
TARGET_CHANGED, TARGET_UNCHANGED, TARGET_LAG = 2.0, 1.3, 50.0


@activity.defn
def do_nothing(document: SyncInput) -> str:
    return document.document_id


@workflow.defn
class OneActivity:
    @workflow.run
    async def run(self, document: SyncInput) -> str:
        return await workflow.execute_activity(do_nothing, document, start_to_close_timeout=timedelta(minutes=1))


# Children: a process each, so that each one's CPU is its own ----------------------------------------------------------


async def answer_with_lag(until: Awaitable[None] | None = None) -> None:
    """Watch this loop's timer; each question is answered with how late it was, in ms, since the last one."""
    late: list[float] = []

    async def watch() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(TICK)
            late.append((time.perf_counter() - start - TICK) * 1000)

    tasks = [asyncio.ensure_future(each) for each in (watch(), until) if each is not None]
    answer(None)
    while await asyncio.to_thread(sys.stdin.readline):
        seen = late[:]
        late.clear()
        answer(seen)
    for task in tasks:
        task.cancel()


def run_worker() -> None:
    """Run the worker as `python -m worker` does, with its loop watched."""
    import worker
    from nightmill.telemetry.logs import set_up_logging

    settings = load_settings()
    set_up_logging(settings)
    activity.logger.activity_info_on_message = False
    asyncio.run(answer_with_lag(worker.run(settings)))


async def run_bare_worker() -> None:
    from temporalio.worker import UnsandboxedWorkflowRunner, Worker

    from nightmill.client.connection import connect

    settings = load_settings()
    worker = Worker(
        await connect(settings),
        task_queue=settings.worker.task_queue,
        workflows=[OneActivity],
        activities=[do_nothing],
        activity_executor=ThreadPoolExecutor(AT_ONCE),
        max_concurrent_activities=AT_ONCE,
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_cached_workflows=settings.worker.max_cached_workflows,
    )
    async with worker:
        answer(None)
        await asyncio.to_thread(sys.stdin.read)  # until the parent ends


def run_calls(way: str) -> None:
    """Fetch and read pages, or call the activity's core, on threads."""
    with assembled(load_settings()) as assembly, ThreadPoolExecutor(AT_ONCE) as pool:

        def read(url: str) -> str:
            page: Any = assembly.page_fetcher.fetch(url)
            assembly.extractor.read(page.body, media_type=page.media_type, charset=page.charset, url=page.url)
            return ""

        def attempt(document_id: str) -> str:
            asked = SyncInput(document_id=document_id, trigger=Trigger.MANUAL, run_id=ids.new_id())
            return assembly.syncer.attempt(asked).outcome.result

        answer(None)
        for given in questions():
            answer(list(pool.map(read if way == "bare" else attempt, given)))


# The ways, side by side -----------------------------------------------------------------------------------------------


def family(pid: int) -> float:
    """Return the CPU seconds of a process and of all that it has started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # it has ended meanwhile
            continue
    seconds = cpu(pid)
    return seconds + sum(family(child) for child, parent in parents.items() if parent == pid)


class Way:
    """One way to look at pages, with what it uses."""

    def __init__(self, name: str, around: System, site: Web, documents: int, database: str | None) -> None:
        self.name, self.around, self.web = name, around, site
        # The activity alone runs on the same documents as one of the ways with Temporal: hosts and rows are known.
        extra = {"NIGHTMILL_WORKER__WORKFLOW_SANDBOX": "false"}
        self.stack: Stack = around.stack(name, **extra, **({"NIGHTMILL_DATABASE_URL": database} if database else {}))
        kind = {"bare": "changed", "attempt": "kept"}.get(name, name)
        urls = [site.url(kind, n, WAYS.index(name) + 1) for n in range(documents)]
        self.given = urls
        if name not in ("bare", "activity"):
            with self.stack.assembly() as assembly:
                self.given = add_documents(assembly, name, urls)
        child = "worker" if name in KINDS else name
        log = self.stack.folder / "child.log"
        self.child = Child("bench.p5_documents", "--child", child, environment=self.stack.environment, log=log)
        self.late: list[float] = []

    def used(self) -> dict[str, float]:
        used = {"server": 0.0, "worker": family(self.child.pid), "client": 0.0}
        if self.name in ("activity", *KINDS):
            used |= {"server": cpu(self.around.server_pid), "client": time.process_time()}
        return used

    def run(self) -> dict[str, float]:
        """Look at every page once and return CPU and wall seconds."""
        if self.name == "changed":
            self.web.change()
        with self.stack.assembly() as assembly:
            if self.name in KINDS:
                self.child.ask("begin")
            before, start = self.used(), time.monotonic()
            if self.name in KINDS:
                results = asyncio.run(self._sync(assembly))
            elif self.name == "activity":
                results = asyncio.run(self._call(assembly))
            else:
                results = self.child.ask(self.given)
            wall = time.monotonic() - start
            spent = {name: value - before[name] for name, value in self.used().items()}
            if self.name in KINDS:
                self.late += self.child.ask("lag")
        assert len(results) == len(self.given), results
        self.results = results
        return spent | {"wall": wall}

    async def _sync(self, assembly: Assembly) -> list[str]:
        nightmill = await self.stack.nightmill(assembly)
        return [outcome.result async for outcome in nightmill.documents.sync_many(self.given)]

    async def _call(self, assembly: Assembly) -> list[str]:
        client: Client = (await self.stack.nightmill(assembly)).temporal
        room = asyncio.Semaphore(50)  # as `sync_many` has it

        async def call(url: str) -> str:
            async with room:
                given = SyncInput(document_id=url.rpartition("/")[2], trigger=Trigger.MANUAL, run_id=ids.new_id())
                queue = self.stack.task_queue
                return await client.execute_workflow(OneActivity.run, given, id=f"bare/{url}", task_queue=queue)

        return await asyncio.gather(*map(call, self.given))


def measure(ways: list[Way], quiet: dict[str, dict[str, float]]) -> dict[str, float]:
    """Run every way once; CPU-ms a document."""
    found = {}
    for way in ways:
        spent = way.run()
        wall = spent.pop("wall")
        odd = [result for result in way.results if way.name in EXPECTED and result != EXPECTED[way.name]]
        assert not odd, (way.name, odd)
        row = {
            name: max(0.0, value - quiet[way.name][name] * wall) / len(way.given) * 1000
            for name, value in spent.items()
        }
        found[way.name] = sum(row.values())
        figures = ", ".join(f"{name} {value:.1f}" for name, value in row.items() if value)
        print(f"{way.name:9}{found[way.name]:7.1f} CPU-ms a document ({figures}), {wall:.1f} s", flush=True)
    return found


def idle(ways: list[Way], seconds: float) -> dict[str, dict[str, float]]:
    """Return what each way's processes use in a second when there is nothing to do."""
    before = {way.name: way.used() for way in ways}
    time.sleep(seconds)
    return {
        way.name: {name: (value - before[way.name][name]) / seconds for name, value in way.used().items()}
        for way in ways
    }


def p99(late: list[float]) -> float:
    return statistics.quantiles(late, n=100)[98]


def report(rounds: list[dict[str, float]], ways: list[Way], late: list[float]) -> None:
    names = [way.name for way in ways]
    print(f"\nCPU-ms a document, median of {len(rounds)}")
    for name in names:
        print(f"{name:9}{statistics.median(each[name] for each in rounds):7.1f}", end="")
        for beside in ("bare", "activity"):
            if beside in names and name in KINDS:
                ratio = statistics.median(each[name] / each[beside] for each in rounds)
                print(f"   {ratio:5.2f} x {beside}", end="")
        print()
    print(f"targets: changed {TARGET_CHANGED} x bare, same and kept {TARGET_UNCHANGED} x activity")
    watched = [way for way in ways if way.late]
    if watched and late:
        each = ", ".join(f"{way.name} {p99(way.late):.0f}" for way in watched)
        print(
            f"event loop's lag, p99 in ms: {each}; of an idle loop beside it {p99(late):.0f} (target {TARGET_LAG:.0f})"
        )


CHILDREN: dict[str, Callable[[], Any]] = {
    "worker": run_worker,
    "activity": lambda: asyncio.run(run_bare_worker()),
    "idle": lambda: asyncio.run(answer_with_lag()),
}


def main() -> None:
    """Run the ways in turns, or one of them as a child."""
    if sys.argv[1:2] == ["--child"]:
        CHILDREN.get(sys.argv[2], lambda: run_calls(sys.argv[2]))()
        return
    parser = argparse.ArgumentParser(description="P5: one sync of one page.")
    parser.add_argument("--documents", type=int, default=100, help="in a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--database", help="a PostgreSQL database of no further use; default: SQLite")
    asked = parser.parse_args()
    ways: list[Way] = []
    with ExitStack() as stack:
        around = stack.enter_context(system({}))
        site = stack.enter_context(web(around.folder))
        loop = Child("bench.p5_documents", "--child", "idle", environment=dict(os.environ), log=around.folder / "log")
        stack.callback(loop.stop)
        for name in asked.ways:
            ways.append(Way(name, around, site, asked.documents, asked.database))
            stack.callback(ways[-1].child.stop)
            ways[-1].run()  # the first time, every page is new
            ways[-1].late.clear()
        loop.ask("begin")
        quiet = idle(ways, 5)
        rounds = [measure(ways, quiet) for _ in range(asked.rounds)]
        report(rounds, ways, loop.ask("lag"))


if __name__ == "__main__":
    main()
