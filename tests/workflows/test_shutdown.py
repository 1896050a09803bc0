"""Workers that are told to stop in the middle of something: they end it, or hand it on, and end with 0 in time."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from temporalio.client import WorkflowHistory

from nightmill.contracts import BatchStatus, Finding
from nightmill.sandbox import Fault
from tests.lanes import MODELS, PATIENCE, Lane, in_a_lane, until
from tests.stack import requests
from tests.stuck import run_of

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
