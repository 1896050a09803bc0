"""P1: what it costs to take one batch through its life, beside other ways to do the very same.

    .venv/bin/python -m bench.p1_orchestration [--batches 15] [--rounds 3]

A batch is: prepare, submit, ten polls a second apart, harvest, close the round, call the webhook: fifteen steps. Every
way below runs the same fifteen methods with the same arguments, against the same sandbox and with SQLite, for as many
batches at once, in turns:

    bare      the steps one after another on threads, in memory: what the work itself costs
    naive     a workflow that sleeps and calls, by a worker as the SDK sets it up
    nightmill `ModelCompletionBatch` on `python -m worker`
    sandboxed the same with `NIGHTMILL_WORKER__WORKFLOW_SANDBOX=true`
    dbos      a DBOS workflow with a step each, its state in a SQLite file

Printed are the medians in CPU-ms of a batch, net of what the processes use when idle, the ratios of each round to its
naive loop, and what a batch leaves in the history. `net` is without the work itself.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from activities.batches import BatchActivities
from bench.naive import EVERY, POLLS, NaiveBatch
from bench.system import Child, System, answer, cpu, events_of, questions, start_worker, store, system
from nightmill.assembly import Assembly, assembled
from nightmill.client.nightmill import Nightmill
from nightmill.completions.submission import SubmitState
from nightmill.contracts import (
    BatchInput,
    BatchStatus,
    DeliverInput,
    PartRef,
    PollInput,
    PrepareInput,
    RoundInput,
    SettleInput,
    SubmitInput,
)
from nightmill.settings import load_settings
from tests.stack import Stack

STEPS = POLLS + 5
WAYS = ("bare", "naive", "nightmill", "sandboxed", "dbos")
OURS = ("nightmill", "sandboxed")
MAX_EVENTS, MAX_BYTES = 150, 40_000


# The same steps, for the ways without Temporal -----------------------------------------------------------------------


class Steps:
    """The fifteen steps as plain calls."""

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly

    def prepare(self, batch_id: str) -> None:
        asked = PrepareInput(batch_id=batch_id, asked=BatchInput(batch_id=batch_id), now=datetime.now(UTC))
        self.assembly.preparer.prepare(asked, heartbeat=lambda _: None)

    def submit(self, batch_id: str) -> None:
        asked = SubmitInput(part=PartRef(batch_id=batch_id), now=datetime.now(UTC))
        submission = self.assembly.submitter.submit(asked.part, now=asked.now, looked_for=None)
        assert submission.state is SubmitState.SUBMITTED

    def poll(self, batch_id: str, attempt: int) -> None:
        part = PartRef(batch_id=batch_id)
        asked = PollInput(part=part, next_poll_at=datetime.now(UTC) + EVERY, attempt=attempt)
        outcome = self.assembly.poller.poll(asked)
        assert outcome.status.is_terminal is (attempt == POLLS)

    def harvest(self, batch_id: str) -> None:
        end = SettleInput(part=PartRef(batch_id=batch_id), status=BatchStatus.ENDED)
        self.assembly.settler.settle_part(end, heartbeat=lambda _: None)

    def settle(self, batch_id: str) -> None:
        self.assembly.settler.settle_round(RoundInput(batch_id=batch_id, round=0, now=datetime.now(UTC)))

    def deliver(self, batch_id: str, webhook: str) -> None:
        self.assembly.deliverer.deliver(DeliverInput(batch_id=batch_id, url=webhook))


def run_bare(webhook: str) -> None:
    with assembled(load_settings()) as assembly:
        steps = Steps(assembly)

        def one(batch_id: str) -> None:
            steps.prepare(batch_id)
            steps.submit(batch_id)
            for attempt in range(1, POLLS + 1):
                time.sleep(EVERY.total_seconds())
                steps.poll(batch_id, attempt)
            steps.harvest(batch_id)
            steps.settle(batch_id)
            steps.deliver(batch_id, webhook)

        answer(None)
        for batch_ids in questions():
            with ThreadPoolExecutor(20) as pool:
                list(pool.map(one, batch_ids))
            answer(None)


def run_dbos(webhook: str, state: str) -> None:
    from dbos import DBOS, SetWorkflowID

    with assembled(load_settings()) as assembly:
        steps = Steps(assembly)
        DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{state}", "log_level": "WARNING"})

        def step(method: Callable[..., None]) -> Callable[..., None]:
            return DBOS.step(name=method.__name__)(lambda *arguments: method(*arguments))  # takes no bound methods

        prepare, submit, poll, harvest, settle, deliver = map(
            step, (steps.prepare, steps.submit, steps.poll, steps.harvest, steps.settle, steps.deliver)
        )

        @DBOS.workflow()
        def one(batch_id: str) -> None:
            prepare(batch_id)
            submit(batch_id)
            for attempt in range(1, POLLS + 1):
                DBOS.sleep(EVERY.total_seconds())
                poll(batch_id, attempt)
            harvest(batch_id)
            settle(batch_id)
            deliver(batch_id, webhook)

        DBOS.launch()
        answer(None)
        for batch_ids in questions():
            handles = []
            for batch_id in batch_ids:
                with SetWorkflowID(batch_id):
                    handles.append(DBOS.start_workflow(one, batch_id))
            for handle in handles:
                handle.get_result()
            answer(None)


async def run_naive_worker() -> None:
    """Run a worker with the defaults of the SDK and the activities of ours."""
    from temporalio.worker import Worker

    from nightmill.client.connection import connect

    settings = load_settings()
    with assembled(settings) as assembly:
        client = await connect(settings)
        activities = BatchActivities(
            preparer=assembly.preparer,
            submitter=assembly.submitter,
            poller=assembly.poller,
            settler=assembly.settler,
            deliverer=assembly.deliverer,
            batches=assembly.batches,
            notifier=assembly.notifier,
        )
        worker = Worker(
            client,
            task_queue=settings.worker.task_queue,
            workflows=[NaiveBatch],
            activities=[
                activities.prepare_batch,
                activities.submit_part,
                activities.poll_part,
                activities.harvest_part,
                activities.settle_round,
                activities.deliver_webhook,
            ],
            activity_executor=ThreadPoolExecutor(20),
            max_concurrent_activities=20,
        )
        async with worker:
            answer(None)
            await asyncio.to_thread(sys.stdin.read)  # until the parent ends


# The ways, side by side ----------------------------------------------------------------------------------------------


class Way:
    """One way to run batches, with what it uses."""

    def __init__(self, name: str, around: System) -> None:
        self.name, self.around = name, around
        self.stack: Stack = around.stack(name)
        self.child: Child | None = None
        log = self.stack.folder / "child.log"
        if name in OURS:
            self.pid = start_worker(self.stack, NIGHTMILL_WORKER__WORKFLOW_SANDBOX=str(name == "sandboxed").lower())
        else:
            state = str(self.stack.folder / "dbos.db")
            command = ("bench.p1_orchestration", "--child", name, around.webhook, state)
            self.child = Child(*command, environment=self.stack.environment, log=log)
            self.pid = self.child.pid
        self.uses_temporal = name in ("naive", *OURS)
        self.batches: list[str] = []

    def used(self) -> dict[str, float]:
        used = {"worker": cpu(self.pid), "server": 0.0, "client": 0.0}
        if self.uses_temporal:
            used |= {"server": cpu(self.around.server_pid), "client": time.process_time()}
        return used

    def run(self, count: int, nightmill: Nightmill | None = None) -> dict[str, float]:
        """Take a number of batches through their lives and return CPU and wall seconds."""
        with self.stack.assembly() as assembly:
            handler = {"kind": "webhook", "url": self.around.webhook}
            self.batches = store(assembly, count, poll_schedule=(EVERY,), completion_handler=handler)
            before, outside, start = self.used(), cpu(self.around.outside.pid), time.monotonic()
            if self.uses_temporal:
                asyncio.run(self._by_temporal(assembly))
            else:
                assert self.child
                self.child.ask(self.batches)
            wall = time.monotonic() - start
            spent = {name: value - before[name] for name, value in self.used().items()}
            for batch_id in self.batches:
                summary = assembly.outcomes.summarize(batch_id)
                assert (summary.status, summary.completed) == (BatchStatus.ENDED, 2), summary
        return spent | {"outside": cpu(self.around.outside.pid) - outside, "wall": wall}

    async def _by_temporal(self, assembly: Assembly) -> None:
        nightmill = await self.stack.nightmill(assembly)
        if self.name in OURS:
            await asyncio.gather(*map(nightmill.start, self.batches))
            await asyncio.gather(*(nightmill.wait(one, timeout=timedelta(minutes=3)) for one in self.batches))
            return
        client, queue = nightmill.temporal, self.stack.task_queue
        await asyncio.gather(
            *(
                client.execute_workflow(
                    NaiveBatch.run, args=[one, self.around.webhook], id=f"batch/{one}", task_queue=queue
                )
                for one in self.batches
            )
        )

    async def events(self) -> tuple[dict[str, int], int]:
        with self.stack.assembly() as assembly:
            return await events_of(await self.stack.nightmill(assembly), self.batches[-1])

    def stop(self) -> None:
        if self.child:
            self.child.stop()
        self.stack.stop()


def idle(ways: list[Way], seconds: float) -> dict[str, dict[str, float]]:
    """Return what each way's processes use in a second when there is nothing to do."""
    before = {way.name: way.used() for way in ways}
    time.sleep(seconds)
    return {
        way.name: {name: (value - before[way.name][name]) / seconds for name, value in way.used().items()}
        for way in ways
    }


def report(rounds: list[dict[str, dict[str, float]]], names: list[str]) -> None:
    def median(name: str, column: str) -> float:
        return statistics.median(each[name][column] for each in rounds)

    columns = ("server", "worker", "client", "total", "net")
    print(f"\nCPU-ms a batch of {STEPS} steps and {POLLS} sleeps, median of {len(rounds)}")
    print(
        f"{'':10}" + "".join(f"{column:>8}" for column in columns) + f"{'outside':>9}   total and net to the naive loop"
    )
    for name in names:
        ratios = ""
        if "naive" in names:
            whole, net = (
                statistics.median(each[name][column] / each["naive"][column] for each in rounds)
                for column in ("total", "net")
            )
            ratios = f"{whole:.2f} x   {net:.2f} x"
        figures = "".join(f"{median(name, column):8.1f}" for column in columns)
        print(f"{name:10}{figures}{median(name, 'outside'):9.1f}   {ratios}")


def main() -> None:
    """Run the ways in turns, or one of them as a child."""
    if sys.argv[1:2] == ["--child"]:
        _, _, name, webhook, state = sys.argv
        if name == "naive":
            asyncio.run(run_naive_worker())
        elif name == "bare":
            run_bare(webhook)
        else:
            run_dbos(webhook, state)
        return
    parser = argparse.ArgumentParser(description="P1: orchestration of one batch.")
    parser.add_argument("--batches", type=int, default=15, help="at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--events", action="store_true", help="show the events of a batch by type")
    asked = parser.parse_args()
    ways: list[Way] = []
    with system({"polls_to_finish": POLLS}) as around:
        try:
            for name in asked.ways:
                ways.append(Way(name, around))
                ways[-1].run(2)  # warms up
            quiet = idle(ways, 5)
            rounds = [measure(ways, quiet, asked.batches) for _ in range(asked.rounds)]
            report(rounds, list(asked.ways))
            for way in ways:
                if way.uses_temporal:
                    counts, size = asyncio.run(way.events())
                    print(f"{way.name}: {sum(counts.values())} events (at most {MAX_EVENTS}), ", end="")
                    print(f"{size / 1000:.1f} KB of history (at most {MAX_BYTES / 1000:.0f})")
                    if asked.events:
                        print("   " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
        finally:
            for way in ways:
                way.stop()


def measure(ways: list[Way], quiet: dict[str, dict[str, float]], count: int) -> dict[str, dict[str, float]]:
    """Run every way once; CPU-ms a batch."""
    found = {}
    for way in ways:
        spent = way.run(count)
        wall = spent.pop("wall")
        row = {name: (value - quiet[way.name].get(name, 0) * wall) / count * 1000 for name, value in spent.items()}
        row["total"] = row["server"] + row["worker"] + row["client"]
        found[way.name] = row
        print(f"{way.name:10} {row['total']:8.1f} CPU-ms a batch, {wall:.1f} s", flush=True)
    bare = found.get("bare", {}).get("total", 0.0)
    for row in found.values():
        row["net"] = row["total"] - bare
    if "bare" in found:
        found["bare"]["net"] = 0.0
    return found


if __name__ == "__main__":
    main()
