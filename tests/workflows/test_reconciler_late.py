"""Batches that are late though nothing ended their runs, that never had one, or of which nobody was told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from nightmill.client.nightmill import Nightmill, read_input
from nightmill.completions.requests import read_request_objects
from nightmill.contracts import Action, BatchStatus, Finding
from nightmill.ids import new_id
from tests.lanes import MODELS, Lane, in_a_lane, until
from tests.recovering import recovering_at_once
from tests.stack import requests
from tests.stuck import described, ended, make_due, repaired, run_of, submitted, tick

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


async def run_id(nightmill: Nightmill, batch_id: str) -> str:
    return (await described(nightmill, batch_id)).workflow_execution_info.execution.run_id


@in_a_lane
async def test_a_run_that_is_late_is_asked_to_go_on_and_reset_only_if_it_does_not(lane: Lane) -> None:
    recovering_at_once(lane)
    lane.set(BATCH__POLL_SCHEDULE="[3600]")
    lane.sandbox.set_profile(finish_after=600.0)
    async with lane.running() as nightmill:
        batch_id = await submitted(lane, nightmill)
        first = await run_id(nightmill, batch_id)
        due = datetime.now(UTC) - timedelta(minutes=1)
        make_due(nightmill, batch_id, due)
        assert await tick(nightmill) == [(Finding.OVERDUE, Action.POLL_NOW)]
        await until(lambda: len(lane.asked("batches.get")) == 1)
        await until(lambda: (nightmill.assembly.batches.get(batch_id).next_poll_at or due) > due)
        assert await tick(nightmill) == [], "it went on"
        make_due(nightmill, batch_id, due)  # as if the poll had never reached the rows
        assert await tick(nightmill) == [(Finding.STILL_OVERDUE, Action.RESET)]
        assert await run_id(nightmill, batch_id) != first
        await nightmill.cancel(batch_id)
        summary = await ended(nightmill, batch_id)
    assert summary.status is BatchStatus.CANCELED
    lane.assert_once()


def stored(lane: Lane, nightmill: Nightmill) -> str:
    """Store a batch as `submit` does, and die before it is started."""
    batch_id = new_id()
    given = read_input(provider="openai", model=MODELS["openai"], completion_handler=lane.handler)
    render = nightmill.assembly.renderer("openai")
    reader = read_request_objects(requests(5), provider=render, model=MODELS["openai"], endpoint=given.endpoint)
    nightmill.assembly.preparer.store(batch_id, given, reader)
    return batch_id


@in_a_lane
async def test_a_batch_whose_client_died_before_it_could_start_it_is_started(lane: Lane) -> None:
    recovering_at_once(lane)
    async with lane.running() as nightmill:
        batch_id = stored(lane, nightmill)
        assert await repaired(nightmill) == [(Finding.NOT_FOUND, Action.START)]
        summary = await ended(nightmill, batch_id)
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    lane.assert_once()


@in_a_lane
async def test_a_batch_that_waited_too_long_to_be_submitted_is_canceled_without_a_call(lane: Lane) -> None:
    recovering_at_once(lane)
    lane.set(BATCH__PENDING_TTL="0.1")
    async with lane.running() as nightmill:
        batch_id = stored(lane, nightmill)
        assert await repaired(nightmill) == [(Finding.TOO_OLD, Action.CANCEL)]
        summary = await ended(nightmill, batch_id)
    assert (summary.status, summary.failed) == (BatchStatus.CANCELED, 5)
    assert lane.sandbox.batches() == []
    assert lane.sandbox.log() == []
    assert len(lane.webhook.received) == 1


@in_a_lane
async def test_a_handler_that_was_not_told_when_its_run_was_terminated_is_told_once(lane: Lane) -> None:
    recovering_at_once(lane)
    lane.sandbox.set_profile(finish_after=0.1)
    lane.webhook.answers = [500] * 3
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill)
        await until(lambda: len(lane.webhook.answers) < 3)
        await run_of(nightmill, batch_id).terminate("by mistake")
        lane.webhook.answers.clear()
        assert await repaired(nightmill) == [(Finding.TERMINATED, Action.RESET)]
        summary = await ended(nightmill, batch_id)
        assert await tick(nightmill) == []
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    lane.assert_once()
