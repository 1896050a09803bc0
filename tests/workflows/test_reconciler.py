"""What the reconciler finds and repairs, provoked for real: one provider batch, one outcome, one delivery each."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.service import RPCError, RPCStatusCode

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, BatchStatus, BatchSummary, Finding, RepairState
from tests.lanes import Lane, in_a_lane, until

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

PATIENCE = timedelta(seconds=90)


def at_once(lane: Lane) -> None:
    """Let nothing be too early to be repaired."""
    lane.set(RECONCILER__GRACE="0", RECONCILER__SPACING="[0,0,0]")


async def submitted(lane: Lane, nightmill: Nightmill, **options: object) -> str:
    """Start a batch and return its id once the provider has it."""
    batch_id = await lane.submit(nightmill, **options)  # type: ignore[arg-type]
    await until(lambda: nightmill.assembly.batches.get(batch_id).status is not BatchStatus.PENDING)
    return batch_id


async def tick(nightmill: Nightmill, *, dry_run: bool = False) -> tuple[Finding, Action]:
    """Reconcile until something was found, and return the one thing that was found and done."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not (summary := await nightmill.recovery.reconcile(dry_run=dry_run)).repairs:
            assert summary.failed == 0
            await asyncio.sleep(0.2)
    assert summary.failed == 0
    [repair] = summary.repairs
    return repair.finding, repair.action


def workflow(nightmill: Nightmill, batch_id: str) -> object:
    return nightmill.temporal.get_workflow_handle(ids.batch_workflow_id(batch_id))


async def ended(nightmill: Nightmill, batch_id: str) -> BatchSummary:
    """Return the summary once the batch is terminal and its handler has been told."""

    def done() -> bool:
        row = nightmill.assembly.batches.get(batch_id)
        return row.status.is_terminal and row.handler_dispatched_at is not None

    await until(done)
    return await nightmill.summary(batch_id)


@in_a_lane
async def test_a_terminated_batch_goes_on_where_it_was(lane: Lane) -> None:
    at_once(lane)
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
        await workflow(nightmill, batch_id).terminate("by mistake")
        assert await tick(nightmill, dry_run=True) == (Finding.TERMINATED, Action.RESET)
        assert await tick(nightmill) == (Finding.TERMINATED, Action.RESET)
        summary = await ended(nightmill, batch_id)
        [repair] = await nightmill.recovery.repairs(subject_id=batch_id)
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    assert repair.state is RepairState.DONE
    assert repair.run_id != repair.new_run_id
    lane.assert_once()


@in_a_lane
async def test_a_batch_whose_workflow_was_deleted_is_started_again(lane: Lane) -> None:
    at_once(lane)
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
        await deleted(nightmill, ids.batch_workflow_id(batch_id))
        assert await tick(nightmill) == (Finding.NOT_FOUND, Action.START)
        summary = await ended(nightmill, batch_id)
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    lane.assert_once()


async def deleted(nightmill: Nightmill, workflow_id: str) -> None:
    """Delete a workflow with its history, as retention does in the end."""
    await nightmill.temporal.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(
            namespace=nightmill.temporal.namespace, workflow_execution=WorkflowExecution(workflow_id=workflow_id)
        )
    )
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            try:
                await nightmill.temporal.get_workflow_handle(workflow_id).describe()
            except RPCError as error:
                assert error.status is RPCStatusCode.NOT_FOUND
                return
            await asyncio.sleep(0.1)
