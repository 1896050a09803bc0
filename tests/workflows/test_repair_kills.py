"""Reconcilers that are killed at any step of a repair, and two at once: each repair is made once, and none is lost."""

from __future__ import annotations

import asyncio

import pytest

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, Finding, ReconcileInput, ReconcileSummary, RepairState
from nightmill.failpoints import RECOVERY_POINTS
from nightmill.recovery.past import IN_HAND
from tests.lanes import PATIENCE, Lane, in_a_lane, until
from tests.repairs import age_repairs, at_rest, lane_that_recovers, lost, nobody_works, poke, runs
from tests.stuck import ended, run_of, submitted

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.kill, pytest.mark.timeout(300)]

REPAIRS = {"terminated": (Finding.TERMINATED, Action.RESET), "deleted": (Finding.NOT_FOUND, Action.START)}
LEFT: dict[str, list[RepairState]] = {
    "repair.found": [],
    "repair.recorded": [RepairState.ASKED],
    "repair.done": [RepairState.ASKED],
    "repair.saved": [RepairState.DONE],
}
"""What the table of repairs says after a death at this point."""

MADE = ("repair.done", "repair.saved")
"""Points behind which the repair has been made."""

NEIGHBOURS = {
    ("repair.found", "deleted"),
    ("repair.recorded", "deleted"),
    ("repair.saved", "terminated"),
    ("repair.saved", "deleted"),
}


def cases() -> list[object]:
    """Every point and both repairs; hardly another state than before or after is left to the long run."""
    every = [(point, way) for point in RECOVERY_POINTS for way in REPAIRS]
    return [pytest.param(*each, marks=[pytest.mark.slow] if each in NEIGHBOURS else []) for each in every]


async def states(nightmill: Nightmill) -> list[RepairState]:
    return [each.state for each in await nightmill.recovery.repairs()]


async def reconcile(nightmill: Nightmill, name: str) -> ReconcileSummary:
    """Run a reconciler beside all others."""
    queue = nightmill.assembly.settings.worker.task_queue
    summary: ReconcileSummary = await nightmill.temporal.execute_workflow(
        "Reconciler", ReconcileInput(), id=f"{name}/{queue}", task_queue=queue, result_type=ReconcileSummary
    )
    return summary


@pytest.mark.parametrize(("point", "way"), cases())
@in_a_lane
async def test_a_reconciler_killed_at_any_step_repairs_once(lane: Lane, point: str, way: str) -> None:
    lane_that_recovers(lane, BATCH__POLL_SCHEDULE="[600]")
    lane.sandbox.set_profile(finish_after=0)
    async with nobody_works(lane) as nightmill:
        doomed = lane.stack.fork_worker(NIGHTMILL_FAIL_POINT=point)
        batch_id = await submitted(lane, nightmill)
        await lost(nightmill, batch_id, way)
        tick = asyncio.create_task(reconcile(nightmill, "doomed"))
        assert await until(doomed.poll) == -9
        tick.cancel()
        await nightmill.temporal.get_workflow_handle(f"doomed/{lane.stack.task_queue}").terminate("its worker died")
        assert await states(nightmill) == LEFT[point]
    async with lane.running() as nightmill:
        if point in MADE:
            await poke(nightmill, batch_id)
            await ended(nightmill, batch_id)  # nobody has to look at it
        elif LEFT[point]:
            early = await nightmill.recovery.reconcile(timeout=PATIENCE)
            assert (early.findings, early.repairs) == ({Finding.BEING_REPAIRED: 1}, ())
        age_repairs(nightmill, IN_HAND)
        later = await nightmill.recovery.reconcile(timeout=PATIENCE)
        made = [] if point in MADE else [REPAIRS[way]]
        assert [(each.finding, each.action) for each in later.repairs] == made
        assert later.failed == 0
        await poke(nightmill, batch_id)
        assert (await ended(nightmill, batch_id)).completed == 5
        all_states = await states(nightmill)
        present = (await run_of(nightmill, batch_id).describe()).run_id
        [record] = [each for each in await nightmill.recovery.repairs() if each.state is RepairState.DONE]
        assert record.new_run_id == present
        async with asyncio.timeout(20):
            while len(every := await runs(nightmill, batch_id)) != (2 if way == "terminated" else 1):
                await asyncio.sleep(0.2)
        assert every == {present, *([record.run_id] if record.run_id else [])}
    assert all_states == ([RepairState.DONE, RepairState.VOID] if point == "repair.recorded" else [RepairState.DONE])
    lane.assert_once()


@pytest.mark.parametrize("count", [5, pytest.param(20, marks=pytest.mark.slow)])
@in_a_lane
async def test_two_reconcilers_at_once_move_what_is_stuck_once_and_nothing_else(lane: Lane, count: int) -> None:
    lane_that_recovers(lane, BATCH__POLL_SCHEDULE="[600]")
    lane.sandbox.set_profile(finish_after=0)
    async with lane.running() as nightmill:
        every = await asyncio.gather(
            *(submitted(lane, nightmill, 1, prefix=f"batch{number}-") for number in range(2 * count))
        )
        stuck, healthy = every[::2], every[1::2]
        before = [await at_rest(nightmill, each) for each in healthy]
        for each in stuck:
            await lost(nightmill, each)
        ticks = await asyncio.gather(*(reconcile(nightmill, f"reconciler-{number}") for number in range(2)))
        # One that was moved may be asked to poll by the other tick, as its row says that it is late.
        moved = [each.id for tick in ticks for each in tick.repairs if each.action is not Action.POLL_NOW]
        assert sorted(moved) == sorted(stuck)
        assert [tick.failed for tick in ticks] == [0, 0]
        for each in stuck:
            await poke(nightmill, each)
            assert (await ended(nightmill, each)).completed == 1
            assert len(await runs(nightmill, each)) == 2
        assert [await at_rest(nightmill, each) for each in healthy] == before
        assert {each.state for each in await nightmill.recovery.repairs(limit=100)} == {RepairState.DONE}
        assert {each.subject_id for each in await nightmill.recovery.repairs(limit=100)} == set(stuck)
    assert len(lane.sandbox.batches()) == len({each["tag"] for each in lane.sandbox.batches()}) == 2 * count
    told = [headers["webhook-id"] for headers, _ in lane.webhook.received]
    assert len(told) == len(set(told)) == count
