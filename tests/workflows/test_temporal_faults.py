"""Temporal's server or the way to it breaks: batches end late at worst, and nothing is done twice.

Where the server itself is killed or has its limits lowered, a test has one of its own; the others share one.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import BatchStatus, BatchSummary, PartRef
from nightmill.errors import InvalidInput, TemporalUnreachable
from nightmill.sandbox import Fault, Sandbox
from tests.lanes import PATIENCE, CuttableProxy, Lane, in_a_lane, running, until
from tests.stack import Stack, TemporalServer, WebhookSink

pytestmark = pytest.mark.server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[TemporalServer]:
    """A server that remembers across its death."""
    server = TemporalServer(database=tmp_path / "temporal.db", log=tmp_path / "temporal.log")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own(own_server: TemporalServer, sandbox: Sandbox, webhook: WebhookSink, tmp_path: Path, sqlite_url: str) -> Lane:
    """A Nightmill with a server of its own."""
    stack = Stack(
        folder=tmp_path, server=own_server, sandbox=sandbox, database_url=sqlite_url, task_queue="nightmill-own"
    )
    stack.extra = {"NIGHTMILL_WORKER__SHUTDOWN_GRACE": "1"}
    return Lane(stack, sandbox, webhook)


async def wait_it_out(nightmill: Nightmill, batch_id: str) -> BatchSummary:
    """Wait, and wait again where the server went away meanwhile."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            try:
                return await nightmill.wait(batch_id)
            except TemporalUnreachable:
                await asyncio.sleep(0.2)


async def down(server: TemporalServer, seconds: float) -> None:
    """Kill the server without a word, and start it again later."""
    await asyncio.to_thread(server.stop, signal.SIGKILL)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(server.start)


# --- the server dies


@pytest.mark.parametrize("seconds", [1.0, pytest.param(6.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("operation", ["batches.create", "results.get"])
def test_a_server_killed_while_an_activity_runs_costs_time_only(own: Lane, operation: str, seconds: float) -> None:
    async def go() -> None:
        async with own.running() as nightmill:
            loop = asyncio.get_running_loop()
            outage: list[Any] = []

            def begin() -> None:
                outage.append(asyncio.run_coroutine_threadsafe(down(own.stack.server, seconds), loop))
                time.sleep(0.5)  # the activity ends while the server is down

            own.sandbox.add_faults(Fault("call", operation=operation, when="after", call=begin))
            batch_id = await own.submit(nightmill)
            summary = await wait_it_out(nightmill, batch_id)
            assert len(outage) == 1
            assert outage[0].done()
        assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)

    asyncio.run(go())
    assert len(own.asked("batches.create")) == 1
    own.assert_once()


def test_timers_that_are_due_while_the_server_is_down_fire_late_and_once(own: Lane) -> None:
    own.sandbox.set_profile(finish_after=6.0)

    async def go() -> list[float]:
        async with own.running() as nightmill:
            batch_id = await own.submit(nightmill, poll_schedule=[timedelta(seconds=1)])
            await until(lambda: own.asked("batches.get"))
            await asyncio.sleep(0.3)
            began = time.time()
            await down(own.stack.server, 3)
            back = time.time()
            assert (await wait_it_out(nightmill, batch_id)).completed == 5
        polls = [entry["time"] for entry in own.asked("batches.get")]
        assert not [at for at in polls if began + 0.5 < at < back - 1.5], "nobody polls without a workflow"
        return [at for at in polls if at >= back - 1.5]

    after = asyncio.run(go())
    # A busy machine may hold a poll up for a while, which brings it nearer to the next one.
    assert len(after) <= after[-1] - after[0] + 2, "missed polls are not made up for"
    own.assert_once()


# --- the worker, or the way to it, dies


def test_another_worker_goes_on_where_one_died_with_the_workflow_in_its_cache(own: Lane) -> None:
    own.sandbox.set_profile(finish_after=None)

    async def go() -> float:
        doomed = own.stack.fork_worker()
        with own.stack.assembly() as assembly:
            nightmill = await own.stack.nightmill(assembly)
            batch_id = await own.submit(nightmill, poll_schedule=[timedelta(hours=1)])
            await until(lambda: own.sandbox.batches())
            await asyncio.sleep(1)
        async with own.running() as nightmill:
            doomed.kill()
            doomed.wait(10)
            own.sandbox.advance(own.sandbox.batches()[0]["id"], "completed")
            died = time.monotonic()
            await nightmill.poll_now(batch_id)  # goes to the dead worker's own queue first
            assert (await nightmill.wait(batch_id, timeout=PATIENCE)).completed == 5
            return time.monotonic() - died

    try:
        assert asyncio.run(go()) < 15
    finally:
        own.stack.stop()
    own.assert_once()


@in_a_lane
async def test_long_work_keeps_its_heartbeat_and_holds_nobody_up(lane: Lane) -> None:
    lane.sandbox.add_faults(Fault("delay", operation="files.create", seconds=6))  # the second beat is due at 4 s
    gaps: list[float] = []

    async def tick() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.05)
            gaps.append(time.monotonic() - began)

    ticking = asyncio.create_task(tick())
    assert (await lane.run()).completed == 5
    ticking.cancel()
    assert max(gaps) < 5, "the upload held the loop up"
    assert len(lane.asked("files.create")) == 1
    lane.assert_once()


@pytest.mark.slow
@in_a_lane
async def test_work_longer_than_the_heartbeat_timeout_is_one_attempt(lane: Lane) -> None:
    lane.sandbox.add_faults(Fault("delay", operation="files.create", seconds=14))
    assert (await lane.run()).completed == 5
    assert len(lane.asked("files.create")) == 1
    lane.assert_once()


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["files.create", "batches.create", "results.get"])
@in_a_lane
async def test_a_worker_cut_off_from_the_server_does_nothing_twice(lane: Lane, operation: str) -> None:
    """Everything between one worker and the server vanishes while its activity runs; another worker takes over."""
    server = lane.stack.server
    # The cut-off worker is still waiting for its answer when the other one looks: it must not be believed lost.
    lane.set(BATCH__FIND_DELAYS="[0,2,4,8]")
    lane.sandbox.add_faults(Fault("delay", operation=operation, when="after", seconds=16))
    async with (
        CuttableProxy(("127.0.0.1", server.port)) as proxy,
        running(lane.stack, address=proxy.address) as nightmill,
    ):
        batch_id = await lane.submit(nightmill)
        await until(lambda: lane.asked(operation))
        proxy.silent = True
        async with lane.running() as other:
            summary = await other.wait(batch_id, timeout=PATIENCE)
            await asyncio.sleep(6)  # the first worker's call ends meanwhile, and has nobody to tell
        proxy.silent = False
        proxy.cut()
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    assert len(lane.asked("batches.create")) == 1
    lane.assert_once()


# --- payloads over the server's limits


@in_a_lane
async def test_metadata_over_its_bound_is_refused_before_anything_is_stored(lane: Lane) -> None:
    async with lane.running() as nightmill:
        with pytest.raises(InvalidInput, match=r"metadata: .*larger than 16384 bytes"):
            await lane.submit(nightmill, batch_id="big", metadata={"note": "x" * 20_000})
        assert nightmill.assembly.batches.find("big") is None


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


OVERSIZED: dict[str, dict[str, Any]] = {
    "metadata": {"metadata": {"note": "x" * 1_900_000}},
    "metadata with many keys": {"metadata": {f"k{n}": n for n in range(100_000)}},
    "handler": {"completion_handler": {"kind": "activity", "type": "x" * 1_000_000, "task_queue": "q"}},
    "handler statuses": {"completion_handler": {"kind": "webhook", "url": "https://x.example", "on": ["no"] * 30_000}},
    "url": {"completion_handler": {"kind": "webhook", "url": "https://x.example/" + "x" * 1_900_000}},
    "schedule": {"poll_schedule": [60] * 500_000},
    "model": {"model": "m" * 1_900_000},
    "unknown field": {"x" * 1_900_000: 1},
    "deep metadata": {"metadata": nested(150) | {"pad": "x" * 20_000}},
}


@pytest.mark.parametrize("name", OVERSIZED)
@in_a_lane
async def test_an_input_that_is_too_large_fails_the_workflow_at_once_and_shortly(lane: Lane, name: str) -> None:
    asked = {"provider": "openai", "model": "m", "requests_uri": "/x", **OVERSIZED[name]}
    async with lane.running() as nightmill:
        with pytest.raises(WorkflowFailureError) as caught:
            async with asyncio.timeout(20):
                await nightmill.temporal.execute_workflow(
                    "ModelCompletionBatch", asked, id=f"batch/{lane.stack.task_queue}", task_queue=lane.stack.task_queue
                )
    cause = caught.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "InvalidInput"
    assert len(cause.message) < 5_000


@in_a_lane
async def test_what_the_server_itself_refuses_leaves_no_workflow_behind(lane: Lane) -> None:
    async with lane.running() as nightmill:
        start = nightmill.temporal.start_workflow
        for inputs in ([{"metadata": "x" * 2_200_000}], ["x" * 1_500_000] * 4):
            with pytest.raises((RPCError, Exception), match=r"(?i)size|large|exceed|limit"):
                await start("ModelCompletionBatch", args=inputs, id="batch/huge", task_queue=lane.stack.task_queue)
        with pytest.raises(RPCError, match="not found"):
            await nightmill.temporal.get_workflow_handle("batch/huge").describe()


@pytest.mark.parametrize("argument", ["x" * 1_900_000, {"unexpected": True}], ids=["huge", "unexpected"])
@in_a_lane
async def test_a_signal_or_update_with_a_strange_argument_does_no_harm(lane: Lane, argument: Any) -> None:
    lane.sandbox.set_profile(finish_after=2.0)
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill)
        handle = nightmill.temporal.get_workflow_handle(f"batch/{batch_id}")
        await until(lane.sandbox.batches)
        await handle.signal("poll_now", argument)
        await handle.signal("no_such_signal", argument)
        with pytest.raises(Exception, match=r"(?i)update|argument|failed"):
            await handle.execute_update("redispatch", argument, rpc_timeout=timedelta(seconds=10))
        assert (await nightmill.wait(batch_id, timeout=PATIENCE)).completed == 5
    lane.assert_once()


@in_a_lane
async def test_results_of_many_megabytes_stay_out_of_the_history(lane: Lane) -> None:
    lane.sandbox.set_profile(answer_chars=500_000)
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill, 10)
        assert (await nightmill.wait(batch_id, timeout=PATIENCE)).completed == 10
        history = await nightmill.temporal.get_workflow_handle(f"batch/{batch_id}").fetch_history()
        assert sum(event.ByteSize() for event in history.events) < 40_000
    assert len(lane.webhook.received[0][1]) < 10_000


# --- the server's limit on a history


@pytest.mark.parametrize("parts", [1, 2])
def test_a_history_at_its_limit_goes_on_in_a_new_run_with_its_polls_and_deadline(
    sandbox: Sandbox, webhook: WebhookSink, tmp_path: Path, sqlite_url: str, parts: int
) -> None:
    limits = (
        "limit.historyCount.error=200",
        "limit.historyCount.warn=150",
        "limit.historyCount.suggestContinueAsNew=60",
    )
    server = TemporalServer(extra=tuple(word for limit in limits for word in ("--dynamic-config-value", limit)))
    server.start()
    sandbox.set_profile(polls_to_finish=20)
    stack = Stack(folder=tmp_path, server=server, sandbox=sandbox, database_url=sqlite_url, task_queue="nightmill-can")
    lane = Lane(stack, sandbox, webhook)
    lane.set(WORKER__SHUTDOWN_GRACE="1", OPENAI__MAX_REQUESTS=str(6 // parts))

    async def go() -> None:
        async with lane.running() as nightmill:
            batch_id = await lane.submit(nightmill, 6, poll_schedule=[timedelta(seconds=0.1)])
            name = f"batch/{batch_id}" if parts == 1 else f"batch/{batch_id}/0/0"
            await until(lambda: len(lane.asked("batches.get")) >= 2)
            handle = nightmill.temporal.get_workflow_handle(name)
            before = await handle.query("progress")
            summary = await nightmill.wait(batch_id, timeout=PATIENCE)
            assert (summary.status, summary.completed) == (BatchStatus.ENDED, 6)
            statuses = {WorkflowExecutionStatus.RUNNING}
            async with asyncio.timeout(PATIENCE.total_seconds()):
                while WorkflowExecutionStatus.RUNNING in statuses:  # what is listed lags behind
                    runs = [run async for run in nightmill.temporal.list_workflows(f"WorkflowId = '{name}'")]
                    statuses = {run.status for run in runs}
            assert len(runs) >= 3
            assert statuses == {WorkflowExecutionStatus.CONTINUED_AS_NEW, WorkflowExecutionStatus.COMPLETED}
            if parts == 1:
                after = await handle.query("progress")
                assert after["status"] == "ended"
            _, part = nightmill.assembly.parts.get(PartRef(batch_id=batch_id))
            assert part.polls == 20
            assert part.submitted_at is not None
            deadline = part.submitted_at + timedelta(hours=26)
            assert before["deadline"].startswith(deadline.strftime("%Y-%m-%dT%H:%M:%S"))

    try:
        asyncio.run(go())
    finally:
        stack.stop()
        server.stop()
    assert len(lane.asked("batches.get")) == 20 * parts, "not one poll is lost or made twice"
    assert len(lane.asked("batches.create")) == parts
    assert len(webhook.received) == 1
