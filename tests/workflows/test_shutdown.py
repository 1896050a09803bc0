"""Workers that are told to stop in the middle of something: they end it, or hand it on, and end with 0 in time."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHistory
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from nightmill.contracts import BatchStatus, Finding
from nightmill.sandbox import Fault
from tests.lanes import HOST_DEPLOYMENT, MODELS, PATIENCE, Lane, in_a_lane, until
from tests.stack import requests
from tests.stuck import run_of
from worker import running

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]

LONG = 1.5
"""Seconds that what is interrupted still takes."""


def attempts(history: WorkflowHistory, activity: str) -> list[int]:
    """Return the attempt in which each activity of a type was completed."""
    events = {event.event_id: event for event in history.events}
    found = []
    for event in history.events:
        done = event.activity_task_completed_event_attributes
        if done.started_event_id:
            kind = events[done.scheduled_event_id].activity_task_scheduled_event_attributes.activity_type.name
            if kind == activity:
                found.append(events[done.started_event_id].activity_task_started_event_attributes.attempt)
    return found


async def stopped(lane: Lane, during: str, **options: Any) -> tuple[float, int, Any, WorkflowHistory]:
    """Run a batch whose worker gets SIGTERM during a step, and another worker; return how long the first one took.

    With it come its exit code, the batch's summary and its history.
    """
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    def reach() -> None:
        loop.call_soon_threadsafe(reached.set)
        time.sleep(LONG)

    match during:
        case "poll_part":
            lane.sandbox.add_faults(Fault("call", operation="batches.get", when="before", call=reach))
        case "harvest_part":
            lane.sandbox.add_faults(Fault("call", operation="results.get", when="before", call=reach))
        case "submit_part":
            lane.sandbox.add_faults(Fault("call", operation="batches.create", when="after", call=reach))
        case "deliver_webhook":
            lane.webhook.on_request = reach
    with lane.stack.assembly() as assembly:
        nightmill = await lane.stack.nightmill(assembly)
        first = lane.stack.fork_worker()
        batch_id = await nightmill.submit(
            requests(options.get("count", 5)),
            provider="openai",
            model=MODELS["openai"],
            completion_handler=lane.handler,
        )
        await asyncio.wait_for(reached.wait(), PATIENCE.total_seconds())
        lane.webhook.on_request = None
        began = time.monotonic()
        first.terminate()
        code = await asyncio.to_thread(first.wait, 60)
        took = time.monotonic() - began
        lane.stack.fork_worker()
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
        await until(lambda: nightmill.assembly.batches.get(batch_id).handler_dispatched_at)
        history = await run_of(nightmill, batch_id).fetch_history()
    return took, code, summary, history


def slow(step: str) -> ParameterSet:
    return pytest.param(step, marks=pytest.mark.slow)


@pytest.mark.parametrize("during", ["harvest_part", "deliver_webhook", slow("submit_part"), slow("poll_part")])
@in_a_lane
async def test_what_ends_within_the_grace_is_ended_and_costs_no_attempt(lane: Lane, during: str) -> None:
    lane.set(WORKER__SHUTDOWN_GRACE="20")
    took, code, summary, history = await stopped(lane, during)
    assert code == 0
    assert LONG / 2 < took < 10, "as long as the step still takes, and not the grace"
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    assert set(attempts(history, during)) == {1}
    lane.assert_once()


@pytest.mark.parametrize("during", ["deliver_webhook", slow("poll_part"), slow("harvest_part")])
@in_a_lane
async def test_what_does_not_is_handed_on_and_done_once(lane: Lane, during: str) -> None:
    lane.set(WORKER__SHUTDOWN_GRACE="0.2")
    took, code, summary, _ = await stopped(lane, during)
    assert code == 0
    assert took < 10
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    assert [batch["requests"] for batch in lane.sandbox.batches()] == [5]
    # A host that was reached and could not be heard any more is told again, by the same id.
    assert len({headers["webhook-id"] for headers, _ in lane.webhook.received}) == 1


@pytest.mark.slow
@in_a_lane
async def test_the_harvest_of_a_large_file_goes_on_where_the_worker_left_it(lane: Lane) -> None:
    """The file takes some 20 s to come in, far beyond the grace."""
    lane.set(WORKER__SHUTDOWN_GRACE="1")
    count = 20_000
    lane.sandbox.add_faults(Fault("drip", operation="results.get", size=500_000, seconds=1.0))
    with lane.stack.assembly() as assembly:
        nightmill = await lane.stack.nightmill(assembly)
        first = lane.stack.fork_worker()
        batch_id = await lane.submit(nightmill, count)
        await until(lambda: lane.asked("results.get"))
        await asyncio.sleep(2)
        began = time.monotonic()
        first.terminate()
        code = await asyncio.to_thread(first.wait, 60)
        took = time.monotonic() - began
        lane.stack.fork_worker()
        summary = await nightmill.wait(batch_id, timeout=timedelta(minutes=2))
        summary_of_reconciler = await nightmill.recovery.reconcile(timeout=PATIENCE)
    assert code == 0
    assert took < 8
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, count)
    assert Finding.TASKS_FAIL not in summary_of_reconciler.findings
    lane.assert_once(requests=count)


@workflow.defn
class Errand:
    """Has an activity carried out on a task queue."""

    @workflow.run
    async def run(self, name: str, queue: str) -> str:
        return str(await workflow.execute_activity(name, task_queue=queue, start_to_close_timeout=PATIENCE))


@in_a_lane
async def test_no_worker_of_a_process_takes_anything_new_while_another_one_drains(lane: Lane) -> None:
    began, done = asyncio.Event(), asyncio.Event()

    @activity.defn
    async def drain() -> str:
        began.set()
        await done.wait()
        return "drained"

    @activity.defn
    async def take() -> str:
        return f"taken after {'the' if done.is_set() else 'no'} end"

    client = await Client.connect(lane.stack.server.address)
    queue, other, home = (f"{lane.stack.task_queue}-{name}" for name in ("first", "last", "home"))

    def worker_of(queue: str, **given: Any) -> Worker:
        return Worker(
            client,
            task_queue=queue,
            graceful_shutdown_timeout=PATIENCE,
            workflow_runner=UnsandboxedWorkflowRunner(),
            deployment_config=HOST_DEPLOYMENT,
            **given,
        )

    async with worker_of(home, workflows=[Errand]):

        async def sent(name: str, queue: str) -> asyncio.Task[str]:
            handle = await client.start_workflow(Errand.run, args=[name, queue], id=f"{queue}-{name}", task_queue=home)
            return asyncio.create_task(handle.result())

        async def work() -> None:
            async with running([worker_of(queue, activities=[take]), worker_of(other, activities=[drain])]):
                await began.wait()

        draining = await sent("drain", other)
        ends = asyncio.create_task(work())
        await asyncio.wait_for(began.wait(), 30)
        await asyncio.sleep(
            0.3
        )  # what asks the server for work is told to stop; asked for by now, it may still be given
        taking = await sent("take", queue)
        await asyncio.wait({taking}, timeout=1.0)
        assert not taking.done()
        assert not ends.done(), "the other one drains"
        done.set()
        await asyncio.wait_for(ends, 30)
        async with worker_of(queue, activities=[take]):
            assert await asyncio.wait_for(asyncio.gather(draining, taking), 30) == ["drained", "taken after the end"]
