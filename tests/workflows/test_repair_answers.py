"""What a repair makes of Temporal's answers: those that say no, those that are lost, and those that come too late."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse
from temporalio.service import RPCError, RPCStatusCode

from activities.executions import Executions
from activities.other_repairs import OtherRepairs
from activities.repairing import Handled, Repairer
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, Finding, RepairState, Source
from nightmill.recovery.model import Candidate, Here
from nightmill.recovery.past import IN_HAND
from nightmill.storage.recovery_models import RepairRow
from tests.lanes import Lane, in_a_lane
from tests.repairs import lane_that_recovers, nobody_works
from tests.stuck import ended, make_due, run_of, submitted

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Answering(Executions):
    """A server that answers some calls otherwise than it should, which a real one does not do when it is asked to."""

    to_reset: RPCStatusCode | None = None
    of_old_runs: RPCStatusCode | None = None

    async def reset(self, *args: Any, **options: Any) -> tuple[str, int]:
        if self.to_reset is not None:
            raise RPCError("as a test wants it", self.to_reset, b"")
        return await super().reset(*args, **options)

    async def _describe(self, workflow_id: str, run_id: str = "") -> DescribeWorkflowExecutionResponse | None:
        if run_id and self.of_old_runs is not None:
            raise RPCError("as a test wants it", self.of_old_runs, b"")
        return await super()._describe(workflow_id, run_id)


class Scene:
    """A reconciler that is driven step by step."""

    def __init__(self, nightmill: Nightmill, **answers: Any) -> None:
        settings, self.parts = nightmill.assembly.settings, nightmill.assembly.recovery
        queues = (settings.worker.task_queue, settings.slicing.task_queue)
        executions = replace(Answering(nightmill.temporal, None, *queues), **answers)
        others = OtherRepairs.of(nightmill.temporal, nightmill.assembly)
        self.repairer = Repairer(self.parts, nightmill.assembly.batches, executions, others)

    def candidate(self) -> Candidate:
        [found] = self.parts.candidates.page(Source.BATCHES, after=None, limit=9, now=datetime.now(UTC))
        return found

    async def handle(self, candidate: Candidate | None = None) -> Handled:
        candidate, now = candidate or self.candidate(), datetime.now(UTC)
        past = self.parts.repairs.past([candidate.workflow_id]).get(candidate.workflow_id, [])
        here = Here(
            now=now, build="b", grace=timedelta(0), spacing=(timedelta(0),) * 3, expiry_margin=timedelta(hours=1)
        )
        return await self.repairer.handle(candidate, past, here, tick="t", dry_run=False)

    async def settle(self) -> None:
        await self.repairer.settle_left_over(datetime.now(UTC) + 2 * IN_HAND)

    @property
    def newest(self) -> RepairRow:
        return self.parts.repairs.newest()[0]


@contextmanager
def told(nightmill: Nightmill) -> Iterator[list[str]]:
    """Take down what operators are told."""
    subjects: list[str] = []
    alarms = nightmill.assembly.recovery.alarms

    class Ear:
        def notify(self, notification: Any) -> None:
            subjects.append(notification.subject)

    object.__setattr__(alarms, "notifier", Ear())
    yield subjects


async def left_at_the_provider(lane: Lane) -> str:
    """Start a batch that the provider takes for ever, and end the worker; return its id."""
    lane_that_recovers(lane, BATCH__POLL_SCHEDULE="[600]")
    lane.sandbox.set_profile(finish_after=None)
    async with lane.running() as nightmill:
        return await submitted(lane, nightmill)


@in_a_lane
async def test_a_cancel_is_not_lost_where_only_the_reset_was_answered(lane: Lane) -> None:
    batch_id = await left_at_the_provider(lane)
    async with nobody_works(lane) as nightmill:
        await run_of(nightmill, batch_id).cancel()
        await run_of(nightmill, batch_id).terminate("a test")
        make_due(nightmill, batch_id)
        old = (await run_of(nightmill, batch_id).describe()).run_id
        busy = Scene(nightmill, of_old_runs=RPCStatusCode.RESOURCE_EXHAUSTED)
        assert (await busy.handle()).failed
        assert (busy.newest.action, busy.newest.state, busy.newest.run_id) == (Action.RESET, RepairState.ASKED, old)
        await busy.settle()  # still busy: nothing is decided
        assert busy.newest.state is RepairState.ASKED
        scene = Scene(nightmill)
        await scene.settle()
        present = (await run_of(nightmill, batch_id).describe()).run_id
        assert (scene.newest.state, scene.newest.new_run_id, scene.newest.error) == (RepairState.DONE, present, None)
    async with lane.running() as nightmill:
        assert (await ended(nightmill, batch_id)).status == "canceled"
    lane.assert_once()


@in_a_lane
async def test_a_fresh_run_takes_over_the_cancel_of_one_that_could_not_be_reset(lane: Lane) -> None:
    batch_id = await left_at_the_provider(lane)
    async with nobody_works(lane) as nightmill:
        await run_of(nightmill, batch_id).cancel()
        await run_of(nightmill, batch_id).terminate("a test")
        make_due(nightmill, batch_id)
        scene = Scene(nightmill, to_reset=RPCStatusCode.INVALID_ARGUMENT)
        assert (await scene.handle()).failed
        handled = await scene.handle()
        assert handled.view is not None
        assert handled.view.action is Action.START
    async with lane.running() as nightmill:
        assert (await ended(nightmill, batch_id)).status == "canceled"
    lane.assert_once()


@in_a_lane
async def test_a_reset_that_never_gets_a_clear_answer_is_told_of_once_and_a_start_takes_its_place(lane: Lane) -> None:
    batch_id = await left_at_the_provider(lane)
    async with nobody_works(lane) as nightmill:
        await run_of(nightmill, batch_id).terminate("a test")
        make_due(nightmill, batch_id)
        scene = Scene(nightmill, to_reset=RPCStatusCode.INTERNAL)
        with told(nightmill) as subjects:
            assert (await scene.handle()).failed
            await scene.settle()
            assert scene.newest.state is RepairState.FAILED
        assert subjects == [f"Nightmill: batch {batch_id} could not be repaired"]
        handled = await scene.handle()
        assert handled.view is not None
        assert (handled.finding, handled.view.action) == (Finding.TERMINATED, Action.START)
    async with lane.running() as nightmill:
        await nightmill.cancel(batch_id)
        assert (await ended(nightmill, batch_id)).status == "canceled"
    lane.assert_once()


@in_a_lane
async def test_a_server_that_has_no_time_is_asked_for_the_same_again(lane: Lane) -> None:
    batch_id = await left_at_the_provider(lane)
    async with nobody_works(lane) as nightmill:
        await run_of(nightmill, batch_id).terminate("a test")
        make_due(nightmill, batch_id)
        busy = Scene(nightmill, to_reset=RPCStatusCode.RESOURCE_EXHAUSTED)
        with told(nightmill) as subjects:
            assert not (await busy.handle()).failed
        assert (busy.newest.state, subjects) == (RepairState.VOID, [])
        handled = await Scene(nightmill).handle()
        assert handled.view is not None
        assert handled.view.action is Action.RESET
    async with lane.running() as nightmill:
        await nightmill.cancel(batch_id)
        assert (await ended(nightmill, batch_id)).status == "canceled"
    lane.assert_once()


@in_a_lane
async def test_a_batch_that_ends_while_it_is_looked_at_is_left_alone(lane: Lane) -> None:
    lane_that_recovers(lane, BATCH__POLL_SCHEDULE="[600]")
    lane.sandbox.set_profile(finish_after=0)
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
        make_due(nightmill, batch_id)
        scene = Scene(nightmill)
        late = scene.candidate()
        await run_of(nightmill, batch_id).signal("poll_now")
        await ended(nightmill, batch_id)
        await run_of(nightmill, batch_id).result()
        assert await scene.handle(late) == Handled(Finding.HEALTHY)
        assert scene.parts.repairs.newest() == []
    lane.assert_once()
