"""Batches that wait: which of them are helped on, which are left alone, and that all of them end well."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import PauseActivityRequest, ResetActivityRequest, UnpauseActivityRequest

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.client.schedules import RECONCILER, apply_schedule
from nightmill.contracts import Action, BatchStatus, Finding, ReconcileSummary, Source
from nightmill.sandbox import Fault
from tests.lanes import Lane, in_a_lane, shown, until
from tests.mailbox import Mailbox
from tests.recovering import recovering_at_once
from tests.slicing import command, small_pdf
from tests.stuck import described, ended, make_due, run_of, submitted, tick

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(300)]


def lane_that_recovers(lane: Lane) -> None:
    recovering_at_once(lane)
    lane.set(WORKER__WORKFLOW_SANDBOX="false")


async def activity_that_waits(nightmill: Nightmill, batch_id: str) -> str:
    """Return the id of the batch's activity that has failed and will be tried again."""
    async with asyncio.timeout(60):
        while True:
            pending = (await described(nightmill, batch_id)).pending_activities
            if pending and pending[0].attempt > 1:
                return pending[0].activity_id
            await asyncio.sleep(0.1)


def names_of(nightmill: Nightmill, batch_id: str) -> dict[str, Any]:
    """Return what requests to the server name a batch's run by."""
    execution = WorkflowExecution(workflow_id=ids.batch_workflow_id(batch_id))
    return {"namespace": nightmill.temporal.namespace, "execution": execution}


async def findings(nightmill: Nightmill, *, ticks: int) -> Counter[Finding]:
    """Reconcile some times, and return what was found in all; nothing may be repaired."""
    found: Counter[Finding] = Counter()
    for _ in range(ticks):
        summary = await nightmill.recovery.reconcile()
        assert (summary.repairs, summary.failed) == ((), 0)
        found.update(summary.findings)
        await asyncio.sleep(0.2)
    return found


async def assert_untouched(nightmill: Nightmill, batch_id: str) -> None:
    """Assert that the batch's first run has ended it, and heard of nobody."""
    history = await run_of(nightmill, batch_id).fetch_history()
    types = {event.event_type for event in history.events}
    assert EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED not in types
    assert EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED not in types, "that is how a reset run begins"
    assert await nightmill.recovery.repairs() == []


@in_a_lane
async def test_an_activity_that_would_wait_for_an_hour_is_tried_again_at_once_and_once(lane: Lane) -> None:
    lane_that_recovers(lane)
    lane.sandbox.add_faults(Fault("status", operation="results.get", status=503, retry_after=3600, times=2))
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
        first = (await described(nightmill, batch_id)).workflow_execution_info.execution.run_id
        await activity_that_waits(nightmill, batch_id)
        assert await findings(nightmill, ticks=1) == {}, "what was put off is not late"
        make_due(nightmill, batch_id)
        assert await tick(nightmill) == [(Finding.LONG_BACK_OFF, Action.RESET_ACTIVITY)]
        await until(lambda: len(lane.asked("results.get")) == 2)
        waits = await activity_that_waits(nightmill, batch_id)
        make_due(nightmill, batch_id)
        assert await findings(nightmill, ticks=2) == {Finding.HEALTHY: 2}, "the provider means it"
        service = nightmill.temporal.workflow_service
        await service.reset_activity(ResetActivityRequest(**names_of(nightmill, batch_id), id=waits))
        summary = await ended(nightmill, batch_id)
        last = (await described(nightmill, batch_id)).workflow_execution_info.execution.run_id
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    assert first == last
    lane.assert_once()


@in_a_lane
async def test_an_activity_that_somebody_has_paused_is_left_alone_until_it_goes_on(lane: Lane) -> None:
    lane_that_recovers(lane)
    lane.sandbox.add_faults(Fault("status", operation="results.get", status=503, retry_after=3600))
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
        waits = await activity_that_waits(nightmill, batch_id)
        service = nightmill.temporal.workflow_service
        await service.pause_activity(PauseActivityRequest(**names_of(nightmill, batch_id), id=waits))
        make_due(nightmill, batch_id)
        assert await findings(nightmill, ticks=3) == {Finding.PAUSED: 3}
        assert len(lane.asked("results.get")) == 1
        await service.unpause_activity(
            UnpauseActivityRequest(**names_of(nightmill, batch_id), id=waits, reset_attempts=True)
        )
        summary = await ended(nightmill, batch_id)
        await assert_untouched(nightmill, batch_id)
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    lane.assert_once()


@in_a_lane
async def test_a_batch_that_waits_for_an_operator_is_counted_and_left_to_the_operator(lane: Lane) -> None:
    lane_that_recovers(lane)
    lane.sandbox.set_profile(finish_after=0.0)
    lane.sandbox.add_faults(Fault("status", operation="batches.get", status=401, times=None))
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
        await shown(nightmill, batch_id)
        make_due(nightmill, batch_id)
        asked = len(lane.asked("batches.get"))
        assert await findings(nightmill, ticks=3) == {Finding.WAITS_FOR_OPERATOR: 3}
        assert len(lane.asked("batches.get")) == asked
        assert await nightmill.recovery.repairs() == []
        lane.sandbox.clear_faults()
        await nightmill.poll_now(batch_id)
        summary = await ended(nightmill, batch_id)
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    lane.assert_once()


@in_a_lane
async def test_batches_that_are_only_slow_stay_untouched(lane: Lane) -> None:
    """One whose provider takes its time, and one that waits for its place longer than the grace."""
    lane.set(RECONCILER__GRACE="5", OPENAI__MAX_OPEN_BATCHES="1", WORKER__WORKFLOW_SANDBOX="false")
    lane.sandbox.set_profile(finish_after=None)
    async with lane.running() as nightmill:
        slow = await submitted(lane, nightmill, poll_schedule=[timedelta(seconds=1)])
        waiting = await lane.submit(nightmill, prefix="w")
        await asyncio.sleep(5.5)
        assert await findings(nightmill, ticks=5) == {Finding.HEALTHY: 5}, "the one that waits is looked at"
        [batch] = lane.sandbox.batches()
        lane.sandbox.advance(batch["id"], "completed")
        assert (await ended(nightmill, slow)).completed == 5
        lane.sandbox.set_profile(finish_after=0.0)
        await assert_untouched(nightmill, waiting)
        await nightmill.poll_now(waiting)
        assert (await ended(nightmill, waiting)).completed == 5
        await assert_untouched(nightmill, slow)
    lane.assert_once(batches=2)


@in_a_lane
async def test_that_nobody_listens_to_a_queue_is_told_once_and_nothing_is_done_about_what_waits_there(
    lane: Lane,
) -> None:
    lane_that_recovers(lane)
    lane.set(SLICING__PROFILES=json.dumps({"cut": {"command": command("cut")}}))
    queue = f"{lane.stack.task_queue}-slicing"
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut")
            ticks = await scheduled_ticks(nightmill, 3)
    assert [tick.queues_without_worker for tick in ticks] == [(queue,)] * 3
    assert [tick.findings for tick in ticks] == [{Finding.NO_WORKER: 1}] * 3
    assert [tick.repairs for tick in ticks] == [()] * 3
    assert len([mail for mail in mailbox.mails if f"no worker on {queue}" in mail]) == 1


@in_a_lane
async def test_a_tick_that_reaches_its_bound_is_followed_by_one_that_goes_on_behind_it(lane: Lane) -> None:
    lane_that_recovers(lane)
    lane.set(RECONCILER__PER_TICK="1")
    lane.sandbox.set_profile(finish_after=0.0)
    lane.sandbox.add_faults(Fault("status", operation="batches.get", status=401, times=None))
    async with lane.running() as nightmill:
        for _ in range(2):
            batch_id = await submitted(lane, nightmill)
            await shown(nightmill, batch_id)
            make_due(nightmill, batch_id)
        ticks = await scheduled_ticks(nightmill, 4)
    assert [tick.candidates for tick in ticks] == [1, 1, 0, 1]
    first, second, third, again = (tick.go_on.get(Source.BATCHES) for tick in ticks)
    assert first is not None
    assert second is not None
    assert int(first) < int(second)
    assert (third, again) == (None, first)


async def scheduled_ticks(nightmill: Nightmill, times: int) -> list[ReconcileSummary]:
    """Let the schedule, under a name of this test's own, start the reconciler some times; return what it found."""
    settings = nightmill.assembly.settings
    name = f"reconciler-of-{settings.worker.task_queue}"
    await apply_schedule(nightmill.temporal, replace(RECONCILER, id=name), settings)
    handle = nightmill.temporal.get_schedule_handle(name)
    found: list[ReconcileSummary] = []
    try:
        async with asyncio.timeout(60):
            while len(found) < times:
                await handle.trigger()
                while len(started := (await handle.describe()).info.recent_actions) <= len(found):
                    await asyncio.sleep(0.1)
                run = nightmill.temporal.get_workflow_handle(
                    started[-1].action.workflow_id, result_type=ReconcileSummary
                )
                found.append(await run.result())
                while (await handle.describe()).info.running_actions:
                    await asyncio.sleep(0.1)
    finally:
        await handle.delete()
    return found
