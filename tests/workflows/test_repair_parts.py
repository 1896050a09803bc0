"""Batches of several provider batches, each followed by a workflow of its own, where the batch or one of these is lost.

However it is lost, each provider batch is made once, each entry is stored once, and the host is told once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest
from temporalio import workflow
from temporalio.client import WorkflowExecutionStatus

import worker
from activities.executions import Executions
from activities.sightings import worker_identity
from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, BatchStatus, Finding, FollowInput
from tests.lanes import PATIENCE, Lane, in_a_lane, until
from tests.recovering import lose
from tests.repairs import closed, lane_that_recovers, nobody_works, poke, working
from tests.stuck import ended, make_due, repaired, run_of
from workflows import policies
from workflows.batch_completion import ModelCompletionBatch

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def _quick_restarts() -> Iterator[None]:
    """Let a batch start the workflow of a provider batch again after a second, where it waits a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, "BACK_OFF", (timedelta(seconds=1),))
        yield


async def check_parts(lane: Lane, nightmill: Nightmill, batch_id: str) -> None:
    """Three provider batches were made, each once, and every request has its answer."""
    summary = await ended(nightmill, batch_id)
    assert (summary.status, summary.completed, summary.failed) == (BatchStatus.ENDED, 5, 0)
    assert sorted(each["requests"] for each in lane.sandbox.batches()) == [1, 2, 2]
    assert len({each["tag"] for each in lane.sandbox.batches()}) == 3
    assert len(lane.webhook.received) == 1


async def in_parts(lane: Lane, nightmill: Nightmill) -> str:
    """Return a batch of three provider batches, once the provider has them all."""
    batch_id = await lane.submit(nightmill)
    await until(lambda: [each.polls > 0 for each in nightmill.assembly.batches.parts(batch_id)] == [True] * 3)
    return batch_id


def let_finish(lane: Lane) -> None:
    for each in lane.sandbox.batches():
        lane.sandbox.advance(each["id"], "completed")


@in_a_lane
async def test_a_terminated_batch_of_several_provider_batches_follows_them_all_again(lane: Lane) -> None:
    lane_that_recovers(lane, OPENAI__MAX_REQUESTS="2")
    lane.sandbox.set_profile(finish_after=None)
    async with lane.running() as nightmill:
        batch_id = await in_parts(lane, nightmill)
        await run_of(nightmill, batch_id).terminate("a test")
        let_finish(lane)
        # A provider batch that is late by next to nothing may be asked to poll by the same tick.
        assert (await repaired(nightmill))[0] == (Finding.TERMINATED, Action.RESET)
        await check_parts(lane, nightmill, batch_id)


@in_a_lane
async def test_a_batch_that_is_reset_while_its_provider_batches_are_followed_waits_for_them(lane: Lane) -> None:
    lane_that_recovers(lane, OPENAI__MAX_REQUESTS="2")
    lane.sandbox.set_profile(finish_after=None)
    async with lane.running() as nightmill:
        batch_id = await in_parts(lane, nightmill)
        executions = Executions(nightmill.temporal, None, lane.stack.task_queue, "")
        workflow_id = ids.batch_workflow_id(batch_id)
        before = await executions.present_run(workflow_id)
        assert before is not None
        after, _ = await executions.reset(workflow_id, before, finding=Finding.STILL_OVERDUE, reason="by hand")
        parts = [ids.part_workflow_id(batch_id, 0, part) for part in range(3)]
        described = [await nightmill.temporal.get_workflow_handle(part).describe() for part in parts]
        assert [each.status for each in described] == [WorkflowExecutionStatus.RUNNING] * 3
        let_finish(lane)
        await check_parts(lane, nightmill, batch_id)
        assert await closed(nightmill, batch_id) is WorkflowExecutionStatus.COMPLETED
        assert await executions.present_run(workflow_id) == after != before


@pytest.mark.parametrize("way", ["terminated", "deleted"])
@in_a_lane
async def test_a_provider_batch_whose_workflow_is_lost_is_followed_again_by_its_batch(lane: Lane, way: str) -> None:
    lane_that_recovers(lane, OPENAI__MAX_REQUESTS="2")
    lane.sandbox.set_profile(finish_after=None)
    async with lane.running() as nightmill:
        batch_id = await in_parts(lane, nightmill)
        await lose(nightmill.temporal, ids.part_workflow_id(batch_id, 0, 1), way)
        let_finish(lane)
        await check_parts(lane, nightmill, batch_id)
        assert await nightmill.recovery.repairs() == []


@workflow.defn(name="ProviderBatch")
class Broken:
    """A provider batch's workflow whose every task fails."""

    @workflow.run
    async def run(self, asked: FollowInput) -> None:
        raise RuntimeError("a bug")


@pytest.mark.slow
@in_a_lane
async def test_a_provider_batch_whose_workflow_s_tasks_fail_is_reset_and_its_batch_hears_of_its_end(lane: Lane) -> None:
    lane_that_recovers(lane, OPENAI__MAX_REQUESTS="2", BATCH__POLL_SCHEDULE="[0.5,600]")
    lane.sandbox.set_profile(finish_after=None)
    async with lane.running() as nightmill:
        batch_id = await in_parts(lane, nightmill)
    part = ids.part_workflow_id(batch_id, 0, 1)
    same_build = worker_identity(1, "host", worker.own_deployment().build)
    async with (
        nobody_works(lane) as nightmill,
        working(
            nightmill.temporal, lane.stack.task_queue, workflows=[ModelCompletionBatch, Broken], identity=same_build
        ),
    ):
        handle = nightmill.temporal.get_workflow_handle(part)
        await handle.signal("poll_now")
        async with asyncio.timeout(60):  # the third try waits ten seconds for the next one
            while (await handle.describe()).raw_description.pending_workflow_task.attempt < 3:
                await asyncio.sleep(0.1)
        make_due(nightmill, batch_id)
        let_finish(lane)
    async with lane.running() as nightmill:
        summary = await nightmill.recovery.reconcile(timeout=PATIENCE)
        [repair] = [each for each in summary.repairs if each.id == f"{batch_id}/0/1"]
        assert (repair.finding, repair.action) == (Finding.TASKS_FAIL, Action.RESET)
        await poke(nightmill, batch_id)  # whichever of the others was reset, too
        await check_parts(lane, nightmill, batch_id)
        assert await closed(nightmill, batch_id) is WorkflowExecutionStatus.COMPLETED
