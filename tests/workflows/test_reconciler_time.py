"""Recovery neither shortens nor restarts a batch's max age, and leaves alone what only had no worker for a while."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, BatchStatus, Finding, PartRef
from nightmill.sandbox import Fault
from nightmill.storage.models import BatchRow, ProviderBatchRow
from tests.lanes import Lane, in_a_lane
from tests.recovering import lose
from tests.stuck import ended, make_due, repaired, run_of, submitted

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(300)]


def submitted_at(nightmill: Nightmill, batch_id: str) -> datetime:
    _, part = nightmill.assembly.parts.get(PartRef(batch_id=batch_id))
    assert part.submitted_at is not None
    return part.submitted_at


async def until_time(when: datetime) -> None:
    await asyncio.sleep(max((when - datetime.now(UTC)).total_seconds(), 0))


@in_a_lane
async def test_a_batch_that_was_lost_twice_expires_at_the_same_age_as_one_that_never_was(lane: Lane) -> None:
    lane.set(RECONCILER__GRACE="30", RECONCILER__SPACING="[0,0,0]", WORKER__WORKFLOW_SANDBOX="false")
    lane.sandbox.set_profile(finish_after=None)
    max_age = timedelta(seconds=12)
    options: dict[str, Any] = {"max_age": max_age, "poll_schedule": [timedelta(seconds=4)]}
    async with lane.running() as nightmill:
        quiet = await submitted(lane, nightmill, prefix="q", **options)
        lost = await submitted(lane, nightmill, **options)
        await run_of(nightmill, lost).terminate("by mistake")
        make_due(nightmill, lost)
        assert await repaired(nightmill) == [(Finding.TERMINATED, Action.RESET)]
        await until_time(submitted_at(nightmill, lost) + timedelta(seconds=7))
        await lose(nightmill.temporal, ids.batch_workflow_id(lost), "deleted")
        make_due(nightmill, lost)
        assert await repaired(nightmill) == [(Finding.NOT_FOUND, Action.START)]
        summaries = [await ended(nightmill, batch_id) for batch_id in (quiet, lost)]
        rows = [nightmill.assembly.parts.get(PartRef(batch_id=batch_id))[1] for batch_id in (quiet, lost)]
    assert [summary.status for summary in summaries] == [BatchStatus.EXPIRED] * 2
    canceled_at = {
        entry["batch_id"]: datetime.fromtimestamp(entry["time"], UTC) for entry in lane.asked("batches.cancel")
    }
    late = [canceled_at[str(row.provider_batch_id)] - (row.submitted_at + max_age) for row in rows if row.submitted_at]
    assert timedelta(0) <= min(late)
    assert max(late) < timedelta(seconds=6), "a machine that is busy, but no other deadline"
    lane.assert_once(batches=2)


def age(nightmill: Nightmill, batch_id: str, by: timedelta) -> None:
    """Let all that happened to the batch have happened so much longer ago."""
    batch = nightmill.assembly.batches.get(batch_id)
    _, part = nightmill.assembly.parts.get(PartRef(batch_id=batch_id))
    of_batch, of_part = ("created_at", "submitted_at", "next_poll_at"), ("created_at", "submitted_at", "next_poll_at")
    with nightmill.assembly.database.transaction() as session:
        for table, mine, row, names in (
            (BatchRow, col(BatchRow.key) == batch.key, batch, of_batch),
            (ProviderBatchRow, col(ProviderBatchRow.key) == part.key, part, of_part),
        ):
            older = {name: when - by for name in names if (when := getattr(row, name))}
            session.connection().execute(update(table).where(mine).values(**older))


@in_a_lane
async def test_a_batch_whose_worker_was_away_past_its_max_age_is_harvested_by_itself_once_one_is_back(
    lane: Lane,
) -> None:
    """The provider finished in time, and nobody was there to ask; neither sweep is in the way."""
    lane.set(WORKER__WORKFLOW_SANDBOX="false")
    lane.sandbox.set_profile(finish_after=None)
    max_age = timedelta(seconds=4)
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill, max_age=max_age, poll_schedule=[timedelta(seconds=3)])
        until = submitted_at(nightmill, batch_id) + max_age
    [batch] = lane.sandbox.batches()
    lane.sandbox.advance(batch["id"], "completed")
    await until_time(until + timedelta(seconds=0.5))
    with lane.stack.assembly() as assembly:
        age(Nightmill(nightmill.temporal, assembly), batch_id, timedelta(hours=30))
    asked, answer = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        answer.wait(60)

    lane.sandbox.add_faults(Fault("call", operation="batches.get", call=hold))
    before = len(lane.asked("batches.get"))
    async with lane.running() as nightmill:
        await asyncio.to_thread(asked.wait, 60)
        reconciled = await nightmill.recovery.reconcile()
        expired = await nightmill.recovery.reconcile(expiry=True)
        answer.set()
        summary = await ended(nightmill, batch_id)
        assert await nightmill.recovery.repairs() == []
    assert (reconciled.findings, expired.findings) == ({Finding.LEFT_TO_EXPIRY: 1}, {Finding.HEALTHY: 1})
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    assert len(lane.asked("batches.get")) == before + 1
    lane.assert_once()
