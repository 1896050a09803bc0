"""Batches whose workflow tasks fail since the code was changed, and what becomes of them with each build."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import ModuleType

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

import worker
from nightmill import ids
from nightmill.assembly import assembled
from nightmill.client.connection import register_search_attributes
from nightmill.client.converter import data_converter
from nightmill.client.deployment import DEFAULT_NAME, Deployment
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, BatchInput, BatchStatus, BatchSummary, Finding, PollOutcome, PreparedBatch
from nightmill.recovery.decisions import SURE_FAILURE
from tests.lanes import Lane, in_a_lane, until
from tests.recovering import recovering_at_once
from tests.stuck import described, ended, repaired, submitted, submitted_by_hand, tick
from workflows.batch_completion import ModelCompletionBatch
from workflows.following import ProviderBatchFollower

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


class TidyFollower(ProviderBatchFollower):
    """Clears what may have needed attention before it first waits: a step that the code of today does not know."""

    async def _sleep_until(self, when: datetime) -> None:
        if self.polls == 0:
            await self._set_attention(None)
        await super()._sleep_until(when)


class BrokenFollower(ProviderBatchFollower):
    """Has a bug where it should poll."""

    async def _poll(self) -> PollOutcome | None:
        raise RuntimeError("a bug")


class OtherBatch(ModelCompletionBatch):
    """The batches of another build."""

    follower: type[ProviderBatchFollower] = ProviderBatchFollower

    async def _follow(self, prepared: PreparedBatch) -> None:
        asked = self._follow_input(prepared, 0)
        self._follower = self.follower(asked, on_change=self._tell, start_afresh=self._start_afresh)
        await self._follower.run()


@workflow.defn(name="ModelCompletionBatch", failure_exception_types=[TypeError])
class TidyBatch(OtherBatch):
    follower = TidyFollower

    @workflow.run
    async def run(self, asked: BatchInput) -> BatchSummary:
        return await super().run(asked)


@workflow.defn(name="ModelCompletionBatch", failure_exception_types=[TypeError])
class BrokenBatch(OtherBatch):
    follower = BrokenFollower

    @workflow.run
    async def run(self, asked: BatchInput) -> BatchSummary:
        return await super().run(asked)


def build_of(batch: type) -> ModuleType:
    """Return the composition root of another build: `worker`, with other code for batches."""
    spec = importlib.util.spec_from_file_location(f"worker_with_{batch.__name__}", worker.__file__)
    assert spec is not None
    assert spec.loader is not None
    other = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other)
    workflows = [batch if one is ModelCompletionBatch else one for one in other.WORKFLOWS]
    vars(other).update(WORKFLOWS=workflows)
    return other


@asynccontextmanager
async def running(lane: Lane, batch: type) -> AsyncIterator[Nightmill]:
    """Run a worker of another build in this process, and give a client of it."""
    settings, other = lane.stack.settings(), build_of(batch)
    with assembled(settings) as assembly:
        converter = data_converter(settings.encryption_key, settings.encryption_old_keys)
        client = await Client.connect(lane.stack.server.address, data_converter=converter)
        await register_search_attributes(client, worker.SEARCH_ATTRIBUTES)
        own = Deployment(DEFAULT_NAME, batch.__name__, versioned=False)
        async with other.running(other.build_workers(client, assembly, own)):
            yield Nightmill(client, assembly)


async def until_tasks_fail(nightmill: Nightmill, batch_id: str, *, times: int = 1) -> None:
    """Wait until the workflow task that is pending has failed, or has failed so often."""
    async with asyncio.timeout(60):
        while (await described(nightmill, batch_id)).pending_workflow_task.attempt <= times:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("source", ["reported problems", pytest.param("rows", marks=pytest.mark.slow)])
@in_a_lane
async def test_a_run_that_the_code_of_today_does_not_replay_is_reset_to_what_it_does(lane: Lane, source: str) -> None:
    recovering_at_once(lane)
    # By its rows it is late by nothing, or only Temporal has something to say.
    lane.set(RECONCILER__GRACE="0" if source == "rows" else "3600", WORKER__WORKFLOW_SANDBOX="false")
    lane.sandbox.set_profile(finish_after=None)
    async with running(lane, TidyBatch) as nightmill:
        batch_id = await submitted(lane, nightmill)
        await until(lambda: lane.asked("batches.get"))
    lane.sandbox.advance(lane.sandbox.batches()[0]["id"], "completed")
    async with lane.running() as nightmill:
        await until_tasks_fail(nightmill, batch_id)
        assert await repaired(nightmill) == [(Finding.TASKS_FAIL, Action.RESET)]
        summary = await ended(nightmill, batch_id)
        [repair] = await nightmill.recovery.repairs(subject_id=batch_id)
        history = await nightmill.temporal.get_workflow_handle(ids.batch_workflow_id(batch_id)).fetch_history()
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    kept = [event for event in history.events if event.event_id < (repair.event_id or 0)]
    done = [event for event in kept if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED]
    assert len(done) == 2, "it is neither prepared nor submitted again"
    lane.assert_once()


@in_a_lane
async def test_a_build_that_cannot_go_on_is_given_one_reset_and_the_next_build_goes_on_by_itself(lane: Lane) -> None:
    recovering_at_once(lane)
    lane.set(WORKER__WORKFLOW_SANDBOX="false")
    async with running(lane, BrokenBatch) as nightmill:
        # A task that fails is tried again after this, ten seconds by default; the fifth failure is one for sure.
        batch_id = await submitted_by_hand(lane, nightmill, task_timeout=timedelta(seconds=1))
        await until_tasks_fail(nightmill, batch_id)
        assert await repaired(nightmill) == [(Finding.TASKS_FAIL, Action.RESET)]
        await until_tasks_fail(nightmill, batch_id, times=SURE_FAILURE)
        assert await repaired(nightmill) == [(Finding.TASKS_FAIL, Action.GIVE_UP)]
        assert await tick(nightmill) == []
        attention = nightmill.assembly.batches.get(batch_id).needs_attention
        assert "was reset for build BrokenBatch already" in (attention or "")
    async with lane.running() as nightmill:
        summary = await ended(nightmill, batch_id)
        assert nightmill.assembly.batches.get(batch_id).needs_attention is None
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    lane.assert_once()


@in_a_lane
async def test_a_run_that_failed_with_another_build_goes_on_by_itself(lane: Lane) -> None:
    recovering_at_once(lane)
    lane.set(WORKER__WORKFLOW_SANDBOX="false")
    async with running(lane, BrokenBatch) as nightmill:
        batch_id = await submitted(lane, nightmill)
        await until_tasks_fail(nightmill, batch_id)
    queues = {"WORKER__TASK_QUEUE": lane.stack.task_queue, "WORKER__QUEUES": lane.stack.task_queue}
    # The build of today reconciles, but does not take the failed task before it does.
    lane.set(**{name: f"{queue}-next" for name, queue in queues.items()})
    async with lane.running() as nightmill:
        summary = await nightmill.recovery.reconcile()
        assert (summary.findings, summary.repairs) == ({Finding.TASKS_FAILED_ELSEWHERE: 1}, ())
    lane.set(**queues)
    async with lane.running() as nightmill:
        batch = await ended(nightmill, batch_id)
        assert await nightmill.recovery.repairs() == []
    assert (batch.status, batch.completed) == (BatchStatus.ENDED, 5)
    lane.assert_once()
