"""Repairs where something else goes wrong, too: cancels, rows that are behind, bad candidates, lost tries, hosts.

Whatever it is, the provider's own log and the sink say it: one provider batch, every entry once, one call of the host.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col
from temporalio import activity, workflow
from temporalio.client import WorkflowExecutionStatus

from activities.executions import Executions
from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import (
    LONGEST_HOST_CALL,
    Action,
    BatchStatus,
    Finding,
    HandlerPayload,
    ReconcileSummary,
    Source,
)
from nightmill.recovery.decisions import decide
from nightmill.recovery.model import Here
from nightmill.storage.models import BatchRow
from tests.lanes import PATIENCE, Lane, in_a_lane, until
from tests.mailbox import Mailbox
from tests.recovering import lose
from tests.repairs import age_repairs, closed, lane_that_recovers, lost, nobody_works, poke, working
from tests.stuck import ended, make_due, repaired, run_of, start_by_hand, submitted, tick

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(300)]

BATCH = "ModelCompletionBatch"


# --- canceled by a person


async def check_canceled(lane: Lane, nightmill: Nightmill, batch_id: str) -> None:
    """The provider was asked to cancel, and what it had finished by then was kept."""
    summary = await ended(nightmill, batch_id)
    assert (summary.status, summary.completed, summary.failed) == (BatchStatus.CANCELED, 3, 2)
    assert lane.asked("batches.cancel")
    lane.assert_once()


@in_a_lane
async def test_a_cancel_is_carried_out_though_its_run_was_terminated_before_it_knew(lane: Lane) -> None:
    lane_that_recovers(lane)
    lane.sandbox.set_profile(finish_after=None, partial_share=0.6)
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
    async with nobody_works(lane) as nightmill:
        await run_of(nightmill, batch_id).cancel()
        await run_of(nightmill, batch_id).terminate("it does not end")
        assert nightmill.assembly.batches.get(batch_id).cancel_requested_at is None
        make_due(nightmill, batch_id)
    async with lane.running() as nightmill:
        assert await repaired(nightmill) == [(Finding.TERMINATED, Action.RESET)]
        await check_canceled(lane, nightmill, batch_id)
        assert await closed(nightmill, batch_id) is WorkflowExecutionStatus.CANCELED


@workflow.defn(name=BATCH)
class Careless:
    """A batch's workflow that ends at once where it is canceled, and puts nothing in order."""

    @workflow.run
    async def run(self, asked: dict[str, Any]) -> None:
        await workflow.sleep(timedelta(days=1))


@in_a_lane
async def test_a_run_that_ended_canceled_with_nothing_in_order_is_canceled_at_the_provider(lane: Lane) -> None:
    lane_that_recovers(lane)
    lane.sandbox.set_profile(finish_after=None, partial_share=0.6)
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
    async with (
        nobody_works(lane) as nightmill,
        working(nightmill.temporal, lane.stack.task_queue, workflows=[Careless]),
    ):
        await lose(nightmill.temporal, ids.batch_workflow_id(batch_id), "terminated")
        await start_by_hand(nightmill, batch_id, {"batch_id": batch_id})
        await run_of(nightmill, batch_id).cancel()
        assert await closed(nightmill, batch_id) is WorkflowExecutionStatus.CANCELED
        make_due(nightmill, batch_id)
    async with lane.running() as nightmill:
        assert await repaired(nightmill) == [(Finding.CANCELED, Action.CANCEL)]
        await check_canceled(lane, nightmill, batch_id)


# --- rows that are behind


@in_a_lane
async def test_a_batch_whose_rows_are_from_a_copy_before_its_end_is_harvested_again_and_told_nothing_twice(
    lane: Lane,
) -> None:
    lane_that_recovers(lane)
    database, copy = lane.stack.folder / "nightmill.db", lane.stack.folder / "copy.db"
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
    shutil.copy(database, copy)
    async with lane.running() as nightmill:
        await ended(nightmill, batch_id)
        assert await closed(nightmill, batch_id) is WorkflowExecutionStatus.COMPLETED
    shutil.copy(copy, database)
    async with lane.running() as nightmill:
        make_due(nightmill, batch_id)
        assert await repaired(nightmill) == [(Finding.COMPLETED, Action.START)]
        summary = await ended(nightmill, batch_id)
        assert await closed(nightmill, batch_id) is WorkflowExecutionStatus.COMPLETED
    assert (summary.total, summary.completed) == (5, 5)
    lane.assert_once()


@in_a_lane
async def test_a_batch_whose_rows_are_from_a_copy_before_its_handler_answered_is_told_nothing_twice(lane: Lane) -> None:
    lane_that_recovers(lane)
    database, copy = lane.stack.folder / "nightmill.db", lane.stack.folder / "copy.db"

    def take_copy() -> None:
        with closing(sqlite3.connect(database)) as here, closing(sqlite3.connect(copy)) as there:
            here.backup(there)

    lane.webhook.on_request = take_copy
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
        await ended(nightmill, batch_id)
        assert await closed(nightmill, batch_id) is WorkflowExecutionStatus.COMPLETED
    shutil.copy(copy, database)
    async with lane.running() as nightmill:
        assert nightmill.assembly.batches.get(batch_id).handler_dispatched_at is None
        assert await repaired(nightmill) == [(Finding.COMPLETED, Action.APPLY)]
        assert (await ended(nightmill, batch_id)).completed == 5
        assert await tick(nightmill) == []
    lane.assert_once()


# --- bad candidates


@contextmanager
def errors_of(subject_id: str) -> Iterator[list[Any]]:
    """Collect what is logged of a candidate."""
    records: list[Any] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if getattr(record, "id", None) == subject_id:
                records.append(record)

    logger, handler = logging.getLogger("nightmill.recovery.alarms"), Collect()
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


def rename(nightmill: Nightmill, batch_id: str, new_id: str) -> None:
    with nightmill.assembly.database.transaction() as session:
        session.connection().execute(update(BatchRow).where(col(BatchRow.id) == batch_id).values(id=new_id))


@in_a_lane
async def test_a_candidate_that_cannot_be_repaired_blocks_nobody_and_is_told_of_once(lane: Lane) -> None:
    lane_that_recovers(lane, BATCH__POLL_SCHEDULE="[600]")
    lane.sandbox.set_profile(finish_after=0)
    misspelt = "no batch id"  # which nothing can be started for
    with Mailbox() as mailbox, errors_of(misspelt) as errors:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            bad = await submitted(lane, nightmill)
            await lost(nightmill, bad)
            rename(nightmill, bad, misspelt)
            good = await submitted(lane, nightmill, prefix="other")
            await lost(nightmill, good)
            ticks: list[ReconcileSummary] = [await nightmill.recovery.reconcile(timeout=PATIENCE) for _ in range(3)]
            assert [each.failed for each in ticks] == [1, 1, 1]
            # One that was repaired may be asked to poll by the next tick, as its row says that it is late.
            repairs = [each for each_tick in ticks for each in each_tick.repairs]
            [repair] = [each for each in repairs if each.action is not Action.POLL_NOW]
            assert (repair.id, repair.finding) == (good, Finding.TERMINATED)
            await poke(nightmill, good)
            assert (await ended(nightmill, good)).completed == 5
            assert [record.error for record in errors] == ["ValidationError"] * 3
            assert "batch_id" in errors[0].detail
            assert "in start_batch" in errors[0].frames
            assert errors[0].provider_batch_id == lane.sandbox.batches()[0]["id"]
            assert len(mails_of(mailbox, f"{misspelt} could not be repaired")) == 1
            rename(nightmill, misspelt, bad)
            assert await repaired(nightmill) == [(Finding.TERMINATED, Action.RESET)]
            await poke(nightmill, bad)
            assert (await ended(nightmill, bad)).completed == 5
    lane.assert_once(batches=2)


def mails_of(mailbox: Mailbox, words: str) -> list[str]:
    """Return the mails that say so; each tick by hand tells besides that nobody slices."""
    return [mail for mail in mailbox.mails if words in "".join(line.removesuffix("=") for line in mail.splitlines())]


# --- tries and their pauses


@in_a_lane
async def test_a_batch_that_is_out_of_tries_needs_attention_once_and_is_repaired_again_after_an_operator(
    lane: Lane,
) -> None:
    lane_that_recovers(lane)
    lane.set(RECONCILER__SPACING="[0]", BATCH__POLL_SCHEDULE="[600]")
    lane.sandbox.set_profile(finish_after=None)
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            batch_id = await submitted(lane, nightmill)

            async def terminated() -> list[tuple[Finding, Action]]:
                await lost(nightmill, batch_id)
                return await tick(nightmill)

            assert await terminated() == [(Finding.TERMINATED, Action.RESET)]
            assert await terminated() == [(Finding.OUT_OF_TRIES, Action.GIVE_UP)]
            assert [await tick(nightmill) for _ in range(2)] == [[], []]
            attention = nightmill.assembly.batches.get(batch_id).needs_attention or ""
            assert attention.startswith("recovery gave up: ")
            assert len(mails_of(mailbox, f"{batch_id} needs attention")) == 1
            await start_by_hand(nightmill, batch_id, {"batch_id": batch_id})
            assert await terminated() == [(Finding.TERMINATED, Action.RESET)]
            lane.sandbox.advance(lane.sandbox.batches()[0]["id"], "completed")
            await poke(nightmill, batch_id)
            summary = await ended(nightmill, batch_id)
            assert nightmill.assembly.batches.get(batch_id).needs_attention is None
        assert len(mails_of(mailbox, "needs attention")) == 1
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    lane.assert_once()


@in_a_lane
async def test_the_next_repair_of_a_batch_waits_as_long_as_the_spacing_says(lane: Lane) -> None:
    lane_that_recovers(lane, BATCH__POLL_SCHEDULE="[600]")
    lane.set(RECONCILER__SPACING="[0,600]")
    lane.sandbox.set_profile(finish_after=None)
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
        await lost(nightmill, batch_id)
        assert await tick(nightmill) == [(Finding.TERMINATED, Action.RESET)]
        await lost(nightmill, batch_id)
        early = await nightmill.recovery.reconcile(timeout=PATIENCE)
        assert (early.findings, early.repairs) == ({Finding.TOO_EARLY: 1}, ())
        age_repairs(nightmill, timedelta(seconds=601))
        assert await tick(nightmill) == [(Finding.TERMINATED, Action.RESET)]
        lane.sandbox.advance(lane.sandbox.batches()[0]["id"], "completed")
        await poke(nightmill, batch_id)
        assert (await ended(nightmill, batch_id)).completed == 5
    lane.assert_once()


# --- hosts at work


class Host:
    """An activity of the host's that takes until it is let go."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.ended = 0
        self.free = asyncio.Event()

    @activity.defn
    async def take_note(self, payload: HandlerPayload) -> None:
        self.calls.append(payload.batch_id)
        await self.free.wait()
        self.ended += 1


@in_a_lane
async def test_a_host_s_activity_is_not_called_again_while_it_is_at_work(lane: Lane) -> None:
    lane_that_recovers(lane)
    host, queue = Host(), f"{lane.stack.task_queue}-host"
    handler = {"kind": "activity", "type": "take_note", "task_queue": queue}
    async with lane.running() as nightmill, working(nightmill.temporal, queue, activities=[host.take_note]):
        batch_id = await submitted(lane, nightmill, completion_handler=handler)
        await until(lambda: host.calls)
        assert await tick(nightmill) == [], "its run waits for the host"
        await run_of(nightmill, batch_id).terminate("a test")
        for _ in range(2):
            waits = await nightmill.recovery.reconcile(timeout=PATIENCE)
            assert (waits.findings, waits.repairs) == ({Finding.TOO_EARLY: 1}, ())
        host.free.set()
        await until(lambda: host.ended)
        await check_an_hour_later(lane, nightmill, batch_id)
    assert host.calls == [batch_id]
    assert [each["requests"] for each in lane.sandbox.batches()] == [5]


async def check_an_hour_later(lane: Lane, nightmill: Nightmill, batch_id: str) -> None:
    """Its run is reset once the host's activity cannot be at work any more, as nobody knows how it ended."""
    executions = Executions(nightmill.temporal, None, lane.stack.task_queue, "")
    [candidate] = nightmill.assembly.recovery.candidates.page(
        Source.BATCHES, after=None, limit=10, now=datetime.now(UTC)
    )
    seen = await executions.look(ids.batch_workflow_id(batch_id))
    assert seen is not None
    assert seen.closed_at is not None
    here = Here(
        now=seen.closed_at + LONGEST_HOST_CALL - timedelta(seconds=1),
        build="",
        grace=timedelta(0),
        spacing=(timedelta(0),),
        expiry_margin=timedelta(0),
    )
    assert decide(candidate, seen, [], here).finding is Finding.TOO_EARLY
    later = replace(here, now=seen.closed_at + LONGEST_HOST_CALL)
    assert decide(candidate, seen, [], later).action is Action.RESET
