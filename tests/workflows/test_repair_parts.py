"""Batches of several provider batches, each followed by a workflow of its own, where the batch or one of these is lost.

However it is lost, each provider batch is made once, each entry is stored once, and the host is told once.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from temporalio.client import WorkflowExecutionStatus

from activities.executions import Executions
from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, BatchStatus, Finding
from tests.lanes import Lane, in_a_lane, until
from tests.recovering import lose
from tests.repairs import closed, lane_that_recovers
from tests.stuck import ended, repaired, run_of
from workflows import policies

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
