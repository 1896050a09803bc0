"""Completion handlers that fail, vanish or are called twice: the host is told until it has heard, and by one key.

The host's worker is this test's own, on a task queue of its own; what it did is judged by what its code wrote down.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import BatchStatus, HandlerPayload
from nightmill.errors import BatchConflict, BatchNotFound
from tests.lanes import HOST_DEPLOYMENT, PATIENCE, Lane, in_a_lane, shown, until
from tests.stack import Stack, WebhookSink
from workflows import policies

pytestmark = pytest.mark.server

NO_RETRY = RetryPolicy(maximum_attempts=1)


@dataclass
class Host:
    """The host application: what it was called with, and how often it is to fail first.

    Attributes:
        calls: Each call: batch id, dispatch and the activity's attempt.
        failures: What to raise first, one a call; before the effect or after it.
    """

    calls: list[tuple[str, int, int]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    @activity.defn
    async def take_note(self, payload: HandlerPayload) -> str:
        """Write down the call, then fail if told to: the effect has happened by then."""
        self.calls.append((payload.batch_id, payload.dispatch, activity.info().attempt))
        if self.failures:
            raise self.failures.pop(0)
        return "noted"

    @activity.defn
    async def answer_at_length(self, payload: HandlerPayload) -> str:
        """Return more than fits comfortably into a history."""
        await self.take_note(payload)
        return "x" * 1_900_000


@workflow.defn
class TakeNote:
    """A handler workflow with one effect."""

    @workflow.run
    async def run(self, payload: HandlerPayload) -> str:
        noted = await workflow.execute_activity_method(
            Host.take_note, payload, start_to_close_timeout=timedelta(seconds=5), retry_policy=NO_RETRY
        )
        return str(noted)


@asynccontextmanager
async def hosting(lane: Lane, nightmill: Nightmill, host: Host) -> AsyncIterator[None]:
    """Run the host's worker."""
    async with Worker(
        nightmill.temporal,
        task_queue=queue_of(lane),
        workflows=[TakeNote],
        activities=[host.take_note, host.answer_at_length],
        workflow_runner=UnsandboxedWorkflowRunner(),
        deployment_config=HOST_DEPLOYMENT,
    ):
        yield


def queue_of(lane: Lane) -> str:
    return f"{lane.stack.task_queue}-host"


def activity_handler(lane: Lane, kind: str = "take_note") -> dict[str, Any]:
    return {"kind": "activity", "type": kind, "task_queue": queue_of(lane)}


def workflow_handler(lane: Lane, kind: str = "TakeNote") -> dict[str, Any]:
    return {"kind": "workflow", "type": kind, "task_queue": queue_of(lane)}


def final(message: str) -> ApplicationError:
    """Return a failure that the host does not want tried again."""
    return ApplicationError(message, non_retryable=True)


def is_delivered(nightmill: Nightmill, batch_id: str) -> bool:
    return nightmill.assembly.batches.get(batch_id).handler_dispatched_at is not None


@pytest.mark.parametrize("make", [activity_handler, workflow_handler], ids=["activity", "workflow"])
@in_a_lane
async def test_a_host_that_works_is_told_once(lane: Lane, make: Any) -> None:
    host = Host()
    async with lane.running() as nightmill, hosting(lane, nightmill, host):
        batch_id = await lane.submit(nightmill, completion_handler=make(lane))
        assert (await nightmill.wait(batch_id, timeout=PATIENCE)).completed == 5
        assert is_delivered(nightmill, batch_id)
    assert host.calls == [(batch_id, 1, 1)]


@in_a_lane
async def test_an_activity_that_fails_after_its_effect_is_called_again_with_the_same_key(lane: Lane) -> None:
    host = Host(failures=[RuntimeError("the connection to the host's database was lost")])
    async with lane.running() as nightmill, hosting(lane, nightmill, host):
        batch_id = await lane.submit(nightmill, completion_handler=activity_handler(lane))
        assert (await nightmill.wait(batch_id, timeout=PATIENCE)).completed == 5
    assert host.calls == [(batch_id, 1, 1), (batch_id, 1, 2)]


@pytest.mark.parametrize("make", [activity_handler, workflow_handler], ids=["activity", "workflow"])
@in_a_lane
async def test_a_handler_that_keeps_failing_is_shown_and_called_again_by_an_operator(lane: Lane, make: Any) -> None:
    host = Host(failures=[final("no such customer"), final("still no such customer")])
    async with lane.running() as nightmill, hosting(lane, nightmill, host):
        batch_id = await lane.submit(nightmill, completion_handler=make(lane))
        assert "no such customer" in await shown(nightmill, batch_id)
        assert nightmill.assembly.batches.get(batch_id).status is BatchStatus.ENDED, "results do not wait for the host"
        other = await lane.submit(nightmill, prefix="other")
        assert (await nightmill.wait(other, timeout=PATIENCE)).completed == 5, "nor do other batches"
        await redispatch(nightmill, batch_id)
        await until(lambda: "still" in (nightmill.assembly.batches.get(batch_id).needs_attention or ""))
        assert not is_delivered(nightmill, batch_id)
        await redispatch(nightmill, batch_id)
        await nightmill.wait(batch_id, timeout=PATIENCE)
        assert is_delivered(nightmill, batch_id)
        assert nightmill.assembly.batches.get(batch_id).needs_attention is None
    assert [(called, dispatch) for called, dispatch, _ in host.calls] == [(batch_id, n) for n in (1, 2, 3)]


async def redispatch(nightmill: Nightmill, batch_id: str) -> None:
    """Call again as soon as the workflow waits for it."""
    async with asyncio.timeout(20):
        while True:
            try:
                await nightmill.redispatch(batch_id)
            except BatchConflict:  # it is being called just now
                await asyncio.sleep(0.1)
            else:
                return


@in_a_lane
async def test_a_webhook_that_refuses_is_shown_and_called_again_by_an_operator(lane: Lane) -> None:
    lane.webhook.answers[:] = [410]
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill)
        assert "410" in await shown(nightmill, batch_id)
        await redispatch(nightmill, batch_id)
        await nightmill.wait(batch_id, timeout=PATIENCE)
    lane.assert_once()


@in_a_lane
async def test_nobody_can_call_again_what_has_succeeded(lane: Lane) -> None:
    host = Host()
    async with lane.running() as nightmill, hosting(lane, nightmill, host):
        batch_id = await lane.submit(nightmill, completion_handler=workflow_handler(lane))
        await nightmill.wait(batch_id, timeout=PATIENCE)
        with pytest.raises(BatchNotFound, match="no workflow of batch"):
            await nightmill.redispatch(batch_id)
        with pytest.raises(BatchConflict, match="ended already"):
            await nightmill.start(batch_id)
    assert len(host.calls) == 1


@in_a_lane
async def test_a_handler_workflow_that_outlives_its_batch_s_run_is_waited_for_and_not_started_again(lane: Lane) -> None:
    """The batch's workflow is terminated while the host's runs; another run must not start a second one."""
    host = Host()
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill, completion_handler=workflow_handler(lane))
        handler = nightmill.temporal.get_workflow_handle(f"batch/{batch_id}/handler")
        first = await run_id(handler)
        await nightmill.temporal.get_workflow_handle(f"batch/{batch_id}").terminate("on purpose")
        async with hosting(lane, nightmill, host):
            await handler.result()
            assert not is_delivered(nightmill, batch_id)
            await nightmill.temporal.start_workflow(
                "ModelCompletionBatch", {"batch_id": batch_id}, id=f"batch/{batch_id}", task_queue=lane.stack.task_queue
            )
            await nightmill.wait(batch_id, timeout=PATIENCE)
        assert is_delivered(nightmill, batch_id)
        assert await run_id(handler) == first
    assert host.calls == [(batch_id, 1, 1)]


async def run_id(handle: WorkflowHandle[Any, Any]) -> str:
    """Return the run of a workflow, once it has been started."""
    async with asyncio.timeout(30):
        while True:
            with suppress(RPCError):
                return (await handle.describe()).run_id
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("make", [activity_handler, workflow_handler], ids=["activity", "workflow"])
def test_a_handler_that_nobody_runs_is_shown_once_patience_is_over(
    stack: Stack, webhook: WebhookSink, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    """The quarter of an hour that a host's worker is given is three seconds here."""
    monkeypatch.setattr(policies, "HANDLER_PATIENCE", timedelta(seconds=3))
    monkeypatch.setitem(policies.HOST_ACTIVITY, "schedule_to_start_timeout", timedelta(seconds=3))
    stack.extra = {"NIGHTMILL_WORKER__WORKFLOW_SANDBOX": "false"}  # so that it sees the patience of this process
    lane, host = Lane(stack, stack.sandbox, webhook), Host()

    async def go() -> None:
        async with lane.running() as nightmill:
            batch_id = await lane.submit(nightmill, completion_handler=make(lane))
            shown_for = await shown(nightmill, batch_id)
            assert "handler" in shown_for
            assert nightmill.assembly.batches.get(batch_id).status is BatchStatus.ENDED
            async with hosting(lane, nightmill, host):  # somebody starts the host's worker
                if make is activity_handler:
                    await redispatch(nightmill, batch_id)
                await nightmill.wait(batch_id, timeout=PATIENCE)
            assert is_delivered(nightmill, batch_id)

    asyncio.run(go())
    assert len(host.calls) == 1


@in_a_lane
async def test_an_answer_of_two_megabytes_does_not_hold_the_batch_up(lane: Lane) -> None:
    host = Host()
    async with lane.running() as nightmill, hosting(lane, nightmill, host):
        handler = activity_handler(lane, "answer_at_length")
        batch_id = await lane.submit(nightmill, completion_handler=handler)
        await nightmill.wait(batch_id, timeout=PATIENCE)
        assert is_delivered(nightmill, batch_id)


@in_a_lane
async def test_a_failure_of_two_megabytes_is_cut_to_a_line(lane: Lane) -> None:
    host = Host(failures=[final("no " * 600_000)])
    async with lane.running() as nightmill, hosting(lane, nightmill, host):
        batch_id = await lane.submit(nightmill, completion_handler=activity_handler(lane))
        assert len(await shown(nightmill, batch_id)) <= 2_000
        await redispatch(nightmill, batch_id)
        await nightmill.wait(batch_id, timeout=PATIENCE)
