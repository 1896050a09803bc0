"""Runs of batches that have ended before their work had: one provider batch, one outcome, one delivery each."""

from __future__ import annotations

import asyncio
import shutil
from datetime import timedelta

import pytest
from temporalio.client import WorkflowExecutionStatus

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, BatchStatus, Finding, RepairState
from tests.lanes import Lane, in_a_lane
from tests.recovering import lose, recovering_at_once
from tests.stuck import ended, repaired, run_of, start_by_hand, submitted, submitted_by_hand, tick

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


async def closed(nightmill: Nightmill, batch_id: str) -> WorkflowExecutionStatus | None:
    """Return how the batch's run ended, once it has."""
    async with asyncio.timeout(60):
        while True:
            status = (await run_of(nightmill, batch_id).describe()).status
            if status is not WorkflowExecutionStatus.RUNNING:
                return status
            await asyncio.sleep(0.1)


@in_a_lane
async def test_a_terminated_batch_goes_on_where_it_was(lane: Lane) -> None:
    recovering_at_once(lane)
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
        await run_of(nightmill, batch_id).terminate("by mistake")
        assert await repaired(nightmill, dry_run=True) == [(Finding.TERMINATED, Action.RESET)]
        assert await nightmill.recovery.repairs() == [], "a dry run only reports"
        assert await repaired(nightmill) == [(Finding.TERMINATED, Action.RESET)]
        summary = await ended(nightmill, batch_id)
        [repair] = await nightmill.recovery.repairs(subject_id=batch_id)
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    assert repair.state is RepairState.DONE
    assert repair.run_id != repair.new_run_id
    lane.assert_once()


@in_a_lane
async def test_a_batch_whose_workflow_was_deleted_is_started_again(lane: Lane) -> None:
    recovering_at_once(lane)
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
        await lose(nightmill.temporal, ids.batch_workflow_id(batch_id), "deleted")
        assert await repaired(nightmill) == [(Finding.NOT_FOUND, Action.START)]
        summary = await ended(nightmill, batch_id)
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    lane.assert_once()


@in_a_lane
async def test_a_run_that_was_given_too_little_time_is_reset(lane: Lane) -> None:
    lane.in_the_workflow_sandbox()
    recovering_at_once(lane)
    lane.sandbox.set_profile(finish_after=None)
    async with lane.running() as nightmill:
        batch_id = await submitted_by_hand(lane, nightmill, run_timeout=timedelta(seconds=8))
        assert await closed(nightmill, batch_id) is WorkflowExecutionStatus.TIMED_OUT
        [batch] = lane.sandbox.batches()
        lane.sandbox.advance(batch["id"], "completed")
        assert await repaired(nightmill) == [(Finding.TIMED_OUT, Action.RESET)]
        summary = await ended(nightmill, batch_id)
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    lane.assert_once()


@in_a_lane
async def test_a_run_that_failed_for_want_of_its_row_is_reset_once_the_row_is_back(lane: Lane) -> None:
    """An operator brings an empty database up, and then the right one."""
    recovering_at_once(lane)
    database, empty, right = (lane.stack.folder / name for name in ("nightmill.db", "empty.db", "right.db"))
    shutil.copyfile(database, empty)
    with lane.stack.assembly() as assembly:
        batch_id = await lane.submit(await lane.stack.nightmill(assembly))
    database.rename(right)
    empty.rename(database)
    async with lane.running() as nightmill:
        assert await closed(nightmill, batch_id) is WorkflowExecutionStatus.FAILED
        assert await tick(nightmill) == [], "nobody knows of it"
    right.rename(database)
    async with lane.running() as nightmill:
        assert await repaired(nightmill) == [(Finding.FAILED, Action.RESET)]
        summary = await ended(nightmill, batch_id)
        [repair] = await nightmill.recovery.repairs(subject_id=batch_id)
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    assert "BatchNotFound" in repair.reason or "no batch" in repair.reason
    lane.assert_once()


@in_a_lane
async def test_a_run_that_somebody_started_with_input_that_does_not_fit_is_given_what_is_stored(lane: Lane) -> None:
    recovering_at_once(lane)
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
        await run_of(nightmill, batch_id).terminate("to start it anew")
        await start_by_hand(nightmill, batch_id, {"batch_id": batch_id, "retries": 3})
        assert await closed(nightmill, batch_id) is WorkflowExecutionStatus.FAILED
        assert await repaired(nightmill) == [(Finding.INVALID_INPUT, Action.START)]
        summary = await ended(nightmill, batch_id)
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    lane.assert_once()


@in_a_lane
async def test_a_batch_that_cannot_be_submitted_at_all_ends_failed_and_its_handler_is_told(lane: Lane) -> None:
    """No request fits into a provider batch any more since somebody has lowered the limit."""
    recovering_at_once(lane)
    with lane.stack.assembly() as assembly:
        batch_id = await lane.submit(await lane.stack.nightmill(assembly))
    lane.set(OPENAI__MAX_BYTES="1024")
    async with lane.running() as nightmill:
        assert await closed(nightmill, batch_id) is WorkflowExecutionStatus.FAILED
        assert await repaired(nightmill) == [(Finding.INVALID_INPUT, Action.START)]
        assert await closed(nightmill, batch_id) is WorkflowExecutionStatus.FAILED
        assert await repaired(nightmill) == [(Finding.INVALID_INPUT, Action.CLOSE)]
        summary = await ended(nightmill, batch_id)
        assert await closed(nightmill, batch_id) is WorkflowExecutionStatus.COMPLETED
        assert await tick(nightmill) == []
    assert (summary.status, summary.failed) == (BatchStatus.FAILED, 5)
    assert "a provider batch takes at most" in (summary.reason or "")
    assert lane.sandbox.log() == []
    assert len(lane.webhook.received) == 1
