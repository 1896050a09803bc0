"""Batches past their max age that no workflow drives: harvested if they finished, else canceled, and the host told."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from sqlmodel import col
from temporalio import workflow
from temporalio.client import WorkflowExecutionStatus

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, BatchStatus, Finding
from nightmill.storage.models import ProviderBatchRow
from tests.lanes import PATIENCE, Lane, in_a_lane
from tests.repairs import lane_that_recovers, lost, nobody_works, working
from tests.stuck import described, ended, make_due, run_of, submitted, tick

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

EXPIRED = [(Finding.PAST_DEADLINE, Action.START_AFRESH)]


def make_old(nightmill: Nightmill, batch_id: str) -> None:
    """Let the batch have been submitted 28 h ago: its 26 h have passed, and the margin of one, as if nobody worked."""
    batch = nightmill.assembly.batches.get(batch_id)
    with nightmill.assembly.database.transaction() as session:
        of_batch = update(ProviderBatchRow).where(col(ProviderBatchRow.batch_key) == batch.key)
        session.connection().execute(of_batch.values(submitted_at=datetime.now(UTC) - timedelta(hours=28)))
    make_due(nightmill, batch_id)


async def check_left_to_the_sweep(nightmill: Nightmill) -> None:
    """The reconciler sees it, and does nothing about it."""
    summary = await nightmill.recovery.reconcile(timeout=PATIENCE)
    assert (summary.findings, summary.repairs) == ({Finding.LEFT_TO_EXPIRY: 1}, ())


@in_a_lane
async def test_a_lost_batch_past_its_max_age_that_finished_is_harvested(lane: Lane) -> None:
    lane_that_recovers(lane, BATCH__POLL_SCHEDULE="[600]")
    lane.sandbox.set_profile(finish_after=0)
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
        await lost(nightmill, batch_id)
        make_old(nightmill, batch_id)
        await check_left_to_the_sweep(nightmill)
        assert await tick(nightmill, expiry=True) == EXPIRED
        summary = await ended(nightmill, batch_id)
        assert await tick(nightmill, expiry=True) == []
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    assert lane.asked("batches.cancel") == []
    lane.assert_once()


@in_a_lane
async def test_a_lost_batch_past_its_max_age_is_canceled_and_keeps_what_had_finished(lane: Lane) -> None:
    lane.in_the_workflow_sandbox()
    lane_that_recovers(lane, BATCH__POLL_SCHEDULE="[600]")
    lane.sandbox.set_profile(finish_after=None, partial_share=0.6)
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
        await lost(nightmill, batch_id)
        make_old(nightmill, batch_id)
        assert lane.asked("batches.get") == []
        assert await tick(nightmill, expiry=True) == EXPIRED
        summary = await ended(nightmill, batch_id)
        codes = [each.error and each.error.code async for each in nightmill.results(batch_id)]
    assert (summary.status, summary.completed, summary.failed) == (BatchStatus.EXPIRED, 3, 2)
    assert sorted(str(code) for code in codes) == ["None", "None", "None", "expired", "expired"]
    asked = [each["operation"] for each in lane.sandbox.log() if each["operation"] in ("batches.get", "batches.cancel")]
    assert asked[:2] == ["batches.get", "batches.cancel"], "it was asked a last time, and then canceled"
    assert asked.count("batches.cancel") == 1
    [(_, told)] = lane.webhook.received
    assert json.loads(told)["status"] == "expired"
    lane.assert_once()


@workflow.defn(name="ModelCompletionBatch")
class Broken:
    """A batch's workflow of a build whose every task fails."""

    @workflow.run
    async def run(self, asked: dict[str, str]) -> None:
        raise RuntimeError("a bug")


@in_a_lane
async def test_a_run_whose_tasks_fail_past_its_max_age_is_replaced_by_one_that_ends_the_batch(lane: Lane) -> None:
    lane_that_recovers(lane, BATCH__POLL_SCHEDULE="[600]")
    lane.sandbox.set_profile(finish_after=0)
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
    queue = lane.stack.task_queue
    async with (
        nobody_works(lane) as nightmill,
        working(nightmill.temporal, queue, workflows=[Broken], identity="1@host#broken"),
    ):
        await run_of(nightmill, batch_id).signal("poll_now")
        async with asyncio.timeout(60):  # the third try waits ten seconds for the next one
            while (await described(nightmill, batch_id)).pending_workflow_task.attempt < 3:
                await asyncio.sleep(0.1)
        make_old(nightmill, batch_id)
        broken = (await described(nightmill, batch_id)).workflow_execution_info.execution.run_id
    async with lane.running() as nightmill:
        assert await tick(nightmill, expiry=True) == EXPIRED
        summary = await ended(nightmill, batch_id)
        handle = nightmill.temporal.get_workflow_handle(run_of(nightmill, batch_id).id, run_id=broken)
        assert (await handle.describe()).status is WorkflowExecutionStatus.TERMINATED
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    lane.assert_once()
