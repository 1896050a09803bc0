"""R2: two reconcilers at once over 1,000 workflows: each that is stuck is repaired once, none that works is touched.

    .venv/bin/python -m bench.r2_together [--stuck 600] [--healthy 400] [--batches 40]

Two processes and two runs of the reconciler, which begin together and go through the same candidates. What stands in
for the batches' runs is cheap: a third of the stuck ones is overdue (`poll_now`), a third was terminated (reset), a
third is not found (start). The healthy ones are candidates as well: their polls are overdue, and an activity of theirs
waits for its turn. What was done is read from Temporal, not from our own records: runs and signals of each workflow.

Then two workers bring real batches back that were terminated once they were at the provider, and the provider and the
host tell how often each was submitted and told.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.heartbeats import HeartbeatInterceptor
from bench.stuck import Scene, StandIn, batch_ids, scene, seed, start_stand_ins
from bench.system import MODEL, Child, answer, questions, start_worker, wait_until
from nightmill.assembly import Assembly, assembled
from nightmill.client.connection import connect
from nightmill.contracts import ReconcileInput, ReconcileSummary, RepairState
from nightmill.ids import batch_workflow_id
from nightmill.sandbox import Profile, Sandbox
from nightmill.settings import load_settings
from tests.stack import Stack, WebhookSink, requests
from worker import _recovery_activities
from workflows.reconciler import Reconciler

TOGETHER = 2
EXPECTED = {
    "overdue": {(1, 1)},
    "terminated": {(2, 0), (2, 1)},
    "missing": {(1, 0), (1, 1)},
    "healthy": {(1, 0)},
}
"""Runs and signals of a workflow once reconcilers have passed. One that was reset or started a moment ago, and whose
rows still say that it is overdue, the other reconciler may ask to go on: its run is another, and so is the repair."""

NOBODY = "nobody"


@workflow.defn
class Busy:
    """Works: an activity of it waits for its turn."""

    @workflow.run
    async def run(self) -> None:
        """Never return."""
        await workflow.execute_activity("never", task_queue=NOBODY, start_to_close_timeout=timedelta(days=1))


@workflow.defn(name="ModelCompletionBatch")
class Started:
    """Stands in for what a start begins."""

    @workflow.run
    async def run(self, _asked: dict[str, Any]) -> None:
        """Never return."""
        await workflow.wait_condition(lambda: False)

    @workflow.signal
    def poll_now(self) -> None:
        """Be asked for nothing."""


async def _serve() -> None:
    """Run the reconciler, and what stands in for batches, until the parent ends."""
    with assembled(load_settings()) as assembly:
        client = await connect(assembly.settings)
        worker = Worker(
            client, task_queue=assembly.settings.worker.task_queue, workflows=[Reconciler, StandIn, Busy, Started],
            activities=_recovery_activities(client, assembly), workflow_runner=UnsandboxedWorkflowRunner(),
            activity_executor=ThreadPoolExecutor(8), max_cached_workflows=5_000, interceptors=[HeartbeatInterceptor()],
        )  # fmt: skip
        async with worker:
            answer(None)
            await asyncio.to_thread(list, questions())


async def reconcile(client: Client, queue: str) -> list[ReconcileSummary]:
    """Let reconcilers run at once."""
    handles: list[WorkflowHandle[object, ReconcileSummary]] = [
        await client.start_workflow(
            "Reconciler", ReconcileInput(), id=f"reconciler-{uuid.uuid4()}", task_queue=queue,
            result_type=ReconcileSummary,
        )
        for _ in range(TOGETHER)
    ]  # fmt: skip
    return list(await asyncio.gather(*(handle.result() for handle in handles)))


async def get_stuck(around: Scene, batches: dict[str, list[str]], queue: str) -> None:
    """Start what stands in for batches' runs, and stop some of them."""
    client, known = await around.client(), around.requests()
    waiting = batches["overdue"] + batches["terminated"]
    await start_stand_ins(client, waiting, queue=queue)
    await start_stand_ins(client, batches["healthy"], type_="Busy", queue=queue)
    started = len(waiting) + len(batches["healthy"])
    while (around.requests() - known)["RespondWorkflowTaskCompleted"] < started:
        await asyncio.sleep(0.2)
    for batch_id in batches["terminated"]:
        await client.get_workflow_handle(batch_workflow_id(batch_id)).terminate("a benchmark")


async def done_to(client: Client, batches: Sequence[str]) -> Counter[tuple[int, int]]:
    """Return how many workflows have so many runs and signals, as Temporal tells."""
    wanted = {batch_workflow_id(each) for each in batches}
    runs: Counter[str] = Counter()
    signals: Counter[str] = Counter()
    async for run in client.list_workflows():
        if run.id not in wanted:
            continue
        runs[run.id] += 1
        async for event in client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history_events():
            signals[run.id] += event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    return Counter((runs[each], signals[each]) for each in wanted)


def show(name: str, summaries: Sequence[ReconcileSummary], wall: float) -> None:
    """Print what each of the reconcilers did."""
    print(f"{name}: {TOGETHER} reconcilers, {wall:.1f} s")
    for each in summaries:
        found = ", ".join(f"{count:,} {finding}" for finding, count in sorted(each.findings.items()))
        print(f"    {each.candidates:,} looked at, {each.repaired:,} repaired, {each.failed} failed ({found})")


def stand_in_scene(around: Scene, kind: str, stuck: int, healthy: int) -> None:
    """Repair what stands in, and count what was done to it."""
    stack: Stack = around.stack(kind.lower(), around.migrated(kind, kind))
    third = stuck // 3
    sizes = {"overdue": third, "terminated": third, "missing": stuck - 2 * third, "healthy": healthy}
    batches = {way: batch_ids(size, 0, f"{kind.lower()}-{way}") for way, size in sizes.items()}
    due = datetime.now(UTC) - timedelta(minutes=10)
    for some in batches.values():
        seed(stack.database_url, some, due=due)
    children = [
        Child("bench.r2_together", "--child", environment=stack.environment, log=stack.folder / "child.log")
        for _ in range(TOGETHER)
    ]

    async def go() -> None:
        client = await around.client()
        await get_stuck(around, batches, stack.task_queue)
        began = time.monotonic()
        show(kind, await reconcile(client, stack.task_queue), time.monotonic() - began)
        await asyncio.sleep(2)  # until it is visible
        for way, some in batches.items():
            found = await done_to(client, some)
            seen = ", ".join(
                f"{count:,} with {runs} runs and {signals} signals" for (runs, signals), count in found.items()
            )
            wrong = sum(count for each, count in found.items() if each not in EXPECTED[way])
            print(f"    {way}, {len(some):,}: {seen}; {wrong} not as they should be")

    try:
        asyncio.run(go())
        with stack.assembly() as assembly:
            records(assembly)
    finally:
        for child in children:
            child.stop()


def records(assembly: Assembly) -> None:
    """Print what the table of repairs says."""
    rows = assembly.recovery.repairs.newest(limit=100_000)
    states = Counter(row.state for row in rows)
    epochs = Counter((row.workflow_id, row.epoch) for row in rows if row.state is RepairState.DONE)
    twice = sum(count > 1 for count in epochs.values())
    print(
        f"    repairs: {', '.join(f'{n:,} {state}' for state, n in states.items())}; {twice} epochs twice", flush=True
    )


def real_scene(around: Scene, count: int) -> None:
    """Terminate batches that are at the provider, bring them back, and count what the provider and the host saw."""
    with Sandbox(profile=Profile(finish_after=None)) as sandbox:
        sink = WebhookSink()
        stack = around.stack(
            "real",
            around.migrated("SQLite", "real"),
            NIGHTMILL_RECONCILER__GRACE="0",
            NIGHTMILL_RECONCILER__SPACING="[0,0,0]",
            NIGHTMILL_BATCH__POLL_SCHEDULE="[3]",
        )
        stack.sandbox = sandbox
        try:
            with stack.assembly() as assembly:
                _bring_back(around, stack, assembly, sandbox, sink, count)
        finally:
            stack.stop()
            sink.close()


def _bring_back(
    around: Scene, stack: Stack, assembly: Assembly, sandbox: Sandbox, sink: WebhookSink, count: int
) -> None:
    async def submit() -> list[str]:
        nightmill = await stack.nightmill(assembly)
        handler = {"kind": "webhook", "url": sink.url}
        return [
            await nightmill.submit(requests(2, f"r{n}-"), provider="openai", model=MODEL, completion_handler=handler)
            for n in range(count)
        ]

    async def bring_back(batches: Sequence[str]) -> None:
        client = await around.client()
        for batch_id in batches:
            await client.get_workflow_handle(batch_workflow_id(batch_id)).terminate("a benchmark")
        await asyncio.sleep(4)
        began = time.monotonic()
        show("terminated batches", await reconcile(client, stack.task_queue), time.monotonic() - began)

    for _ in range(TOGETHER):
        start_worker(stack)
    batches = asyncio.run(submit())
    wait_until(lambda: len(sandbox.batches()) >= count, 120)
    asyncio.run(bring_back(batches))
    for each in sandbox.batches():
        sandbox.advance(each["id"], "completed")
    wait_until(lambda: all(assembly.batches.get(each).handler_dispatched_at for each in batches), 180, every=0.5)
    made = Counter(each["tag"] for each in sandbox.batches())
    records(assembly)
    print(f"    provider batches: {len(made)} tags, {sum(made.values())} batches; host told {len(sink.received)} times")


def main() -> None:
    """Stand-ins on both databases, then real batches."""
    if sys.argv[1:] == ["--child"]:
        asyncio.run(_serve())
        return
    parser = argparse.ArgumentParser(description="R2: two reconcilers at once.")
    parser.add_argument("--stuck", type=int, default=600)
    parser.add_argument("--healthy", type=int, default=400)
    parser.add_argument("--batches", type=int, default=40)
    asked = parser.parse_args()
    with scene() as around:
        for kind in ("SQLite", "PostgreSQL"):
            stand_in_scene(around, kind, asked.stuck, asked.healthy)
        real_scene(around, asked.batches)


if __name__ == "__main__":
    main()
