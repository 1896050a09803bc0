"""Batches over hours and days, on a server that skips time: the schedule, max age, and what is kept at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus
from temporalio.testing import WorkflowEnvironment

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import BatchStatus, BatchSummary
from nightmill.sandbox import Fault, Sandbox
from tests.skipping import running
from tests.stack import Stack, TemporalServer, WebhookSink, requests

MODELS = {"openai": "gpt-5-mini", "google": "gemini-2.5-flash", "anthropic": "claude-haiku-4-5", "xai": "grok-4-fast"}
DEFAULT_SCHEDULE = '["PT1M","PT2M","PT5M","PT10M","PT30M"]'


@dataclass
class Run:
    """A batch that has ended on the skipping server."""

    summary: BatchSummary
    polls: list[timedelta]
    took: timedelta
    events: int
    history_bytes: int


@pytest.fixture
def skipping(sandbox: Sandbox, tmp_path: Path, sqlite_url: str) -> Stack:
    """A stack whose Temporal server is started a test, for a shared one would leak its clock."""
    sandbox.set_profile(finish_after=None)
    return Stack(
        folder=tmp_path,
        server=TemporalServer(),
        sandbox=sandbox,
        database_url=sqlite_url,
        task_queue="nightmill-time",
        extra={"NIGHTMILL_BATCH__POLL_SCHEDULE": DEFAULT_SCHEDULE},
    )


async def skip_to_the_end(environment: WorkflowEnvironment, nightmill: Nightmill, batch_id: str) -> BatchSummary:
    """Let time pass until the workflow has ended; the server skips only while somebody sleeps on it."""
    handle = environment.client.get_workflow_handle(f"batch/{batch_id}")
    while (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
        await environment.sleep(timedelta(minutes=20))
    return await nightmill.wait(batch_id)


def run(
    stack: Stack,
    *,
    provider: str = "openai",
    meanwhile: Callable[[Nightmill, str, WorkflowEnvironment], Awaitable[Any]] | None = None,
    **options: Any,
) -> Run:
    """Run a batch of four requests to its end."""

    async def go() -> Run:
        async with running(stack) as (environment, nightmill):
            batch_id = await nightmill.submit(requests(4), provider=provider, model=MODELS[provider], **options)
            if meanwhile is not None:
                await meanwhile(nightmill, batch_id, environment)
            summary = await skip_to_the_end(environment, nightmill, batch_id)
            history = await environment.client.get_workflow_handle(f"batch/{batch_id}").fetch_history()
            began = history.events[0].event_time.ToDatetime()
            polls = [
                event.event_time.ToDatetime() - began
                for event in history.events
                if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
                and event.activity_task_scheduled_event_attributes.activity_type.name == "poll_part"
            ]
            return Run(
                summary=summary,
                polls=polls,
                took=history.events[-1].event_time.ToDatetime() - began,
                events=len(history.events),
                history_bytes=sum(event.ByteSize() for event in history.events),
            )

    return asyncio.run(go())


def test_polls_follow_the_schedule_and_its_last_delay_repeats(skipping: Stack) -> None:
    skipping.sandbox.set_profile(polls_to_finish=7)
    done = run(skipping)
    assert done.summary.status is BatchStatus.ENDED
    gaps = [later - earlier for earlier, later in zip([timedelta(0), *done.polls], done.polls, strict=False)]
    minutes = [round(gap.total_seconds() / 60) for gap in gaps]
    assert minutes == [1, 2, 5, 10, 30, 30, 30]


def test_an_empty_schedule_means_every_minute(skipping: Stack) -> None:
    skipping.sandbox.set_profile(polls_to_finish=3)
    done = run(skipping, poll_schedule=[])
    assert [round(at.total_seconds() / 60) for at in done.polls] == [1, 2, 3]


def test_ten_polls_cost_at_most_150_events_and_40_kb(skipping: Stack, webhook: WebhookSink) -> None:
    skipping.sandbox.set_profile(polls_to_finish=10)
    done = run(skipping, completion_handler={"kind": "webhook", "url": webhook.url})
    assert len(done.polls) == 10
    assert done.events <= 150
    assert done.history_bytes <= 40_000


def test_a_batch_past_its_max_age_is_canceled_and_keeps_what_was_finished(
    skipping: Stack, webhook: WebhookSink
) -> None:
    skipping.sandbox.set_profile(partial_share=0.5)
    done = run(skipping, completion_handler={"kind": "webhook", "url": webhook.url})
    summary = done.summary
    assert summary.status is BatchStatus.EXPIRED
    assert "max age" in (summary.reason or "")
    assert "submitted at" in (summary.reason or "")
    assert summary.partial
    assert summary.failed_by_code == {"expired": summary.failed}
    assert summary.completed + summary.failed == 4
    assert timedelta(hours=26) <= done.took < timedelta(hours=27)
    assert len(skipping.sandbox.log(operation="batches.cancel")) == 1
    assert len(webhook.received) == 1


def test_max_age_ends_a_batch_whose_provider_never_answers_again(skipping: Stack) -> None:
    skipping.sandbox.add_faults(Fault("status", operation="batches.get", status=503, times=None))
    skipping.sandbox.add_faults(Fault("status", operation="batches.cancel", status=503, times=None))
    done = run(skipping, max_age=timedelta(hours=2))
    assert done.summary.status is BatchStatus.EXPIRED
    assert done.summary.failed_by_code == {"expired": 4}
    assert done.took < timedelta(hours=3)


def test_a_batch_that_finished_unseen_is_harvested_at_max_age(skipping: Stack) -> None:
    async def finish_late(nightmill: Nightmill, batch_id: str, environment: WorkflowEnvironment) -> None:
        while not skipping.sandbox.batches():
            await asyncio.sleep(0.05)
        skipping.sandbox.advance(skipping.sandbox.batches()[0]["id"], "completed")

    done = run(skipping, poll_schedule=[timedelta(hours=40)], max_age=timedelta(hours=3), meanwhile=finish_late)
    assert done.summary.status is BatchStatus.ENDED
    assert done.summary.completed == 4


def test_gemini_s_default_max_age_is_later_than_its_own_expiry(skipping: Stack) -> None:
    done = run(skipping, provider="google")
    assert done.summary.status is BatchStatus.EXPIRED
    assert timedelta(hours=50) <= done.took < timedelta(hours=51)


def test_a_max_age_that_was_given_is_obeyed_for_gemini_too(skipping: Stack) -> None:
    done = run(skipping, provider="google", max_age=timedelta(hours=5))
    assert timedelta(hours=5) <= done.took < timedelta(hours=6)


def test_an_outage_of_hours_costs_polls_and_nothing_else(skipping: Stack) -> None:
    skipping.sandbox.set_profile(polls_to_finish=3)
    # Each poll asks up to eight times in its two minutes.
    skipping.sandbox.add_faults(Fault("status", operation="batches.get", status=502, times=40, body="html"))
    done = run(skipping)
    assert done.summary.status is BatchStatus.ENDED
    assert done.summary.completed == 4


def test_every_failed_poll_moves_the_next_one(skipping: Stack) -> None:
    skipping.sandbox.add_faults(Fault("status", operation="batches.get", status=502, times=None))

    async def look(nightmill: Nightmill, batch_id: str, environment: WorkflowEnvironment) -> None:
        seen: set[datetime] = set()
        while len(seen) < 3:
            await environment.sleep(timedelta(minutes=2))
            row = nightmill.assembly.batches.get(batch_id)
            if row.next_poll_at is not None:
                seen.add(row.next_poll_at)
                now = await environment.get_current_time()
                assert row.next_poll_at > now - timedelta(minutes=5)
        skipping.sandbox.clear_faults()
        skipping.sandbox.set_profile(polls_to_finish=1)
        skipping.sandbox.advance(skipping.sandbox.batches()[0]["id"], "completed")

    assert run(skipping, meanwhile=look).summary.status is BatchStatus.ENDED


def test_a_batch_in_need_of_attention_ends_at_its_deadline_at_the_latest(skipping: Stack) -> None:
    skipping.sandbox.add_faults(Fault("status", operation="batches.get", status=403, times=None))
    skipping.sandbox.add_faults(Fault("status", operation="batches.cancel", status=403, times=None))
    skipping.sandbox.set_profile(partial_share=0.0)
    done = run(skipping, max_age=timedelta(hours=4))
    assert done.summary.status is BatchStatus.EXPIRED
    # One poll, one at the deadline, and those after the cancel: no hot loop.
    assert len(done.polls) < 40


def test_a_batch_out_of_quota_is_queued_again_with_a_tag_of_its_own(skipping: Stack) -> None:
    skipping.sandbox.set_profile(polls_to_finish=2)
    skipping.sandbox.add_faults(
        Fault("fail", operation="batches.create", code="token_limit_exceeded", message="Enqueued token limit reached")
    )
    done = run(skipping)
    assert done.summary.status is BatchStatus.ENDED
    assert done.summary.completed == 4
    tags = [batch["tag"] for batch in skipping.sandbox.batches()]
    assert len(tags) == len(set(tags)) == 2


def test_more_batches_than_may_be_open_wait_for_their_turn(skipping: Stack) -> None:
    skipping.extra = {**skipping.extra, "NIGHTMILL_OPENAI__MAX_OPEN_BATCHES": "1"}
    skipping.sandbox.set_profile(polls_to_finish=2)

    async def go() -> list[BatchSummary]:
        async with running(skipping) as (environment, nightmill):
            made = [await nightmill.submit(requests(2), provider="openai", model="gpt-5-mini") for _ in range(3)]
            return [await skip_to_the_end(environment, nightmill, batch_id) for batch_id in made]

    assert [summary.status for summary in asyncio.run(go())] == [BatchStatus.ENDED] * 3
    log = skipping.sandbox.log(provider="openai")
    open_ones = most = 0
    ended: set[str] = set()
    for entry in log:
        if entry["operation"] == "batches.create":
            open_ones += 1
        if entry["operation"] == "results.get" and entry["file_id"] not in ended:
            ended.add(entry["file_id"])
            open_ones -= 1
        most = max(most, open_ones)
    assert most == 1
