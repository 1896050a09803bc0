"""A job's own clock, and slicings over minutes and hours on a server that skips time. Breakers know the wall clock."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from temporalio.testing import WorkflowEnvironment

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import BreakerState, SlicingErrorCode, SlicingStatus, SlicingSummary
from nightmill.sandbox import Sandbox
from nightmill.settings.slicing import SlicingSettings
from nightmill.slicing.profiles import BUILT_IN, SlicerProfile, find_profile
from nightmill.storage.slicing_models import SlicingRow
from tests.lanes import PATIENCE, Lane, in_a_lane
from tests.mailbox import Mailbox
from tests.skipping import running
from tests.slicing import (
    breaker_of,
    history,
    mails_to,
    profile,
    row_of,
    scheduled,
    sliced,
    slicing_here,
    small_pdf,
    text_of,
    until_status,
)
from tests.stack import Stack, TemporalServer, WebhookSink
from workflows.job_clock import JobClock

pytestmark = pytest.mark.server

MINUTE = timedelta(minutes=1)


# --- the clock itself


def test_a_job_s_clock_runs_while_programs_do_and_stands_in_between() -> None:
    clock, start = JobClock(), datetime(2026, 1, 1, tzinfo=UTC)
    clock.limit = 30 * MINUTE
    assert (clock.runs, clock.left(start)) == (False, 30 * MINUTE)
    clock.start(start)
    clock.start(start + 3 * MINUTE)
    assert clock.left(start + 10 * MINUTE) == 20 * MINUTE
    clock.pause(start + 12 * MINUTE)
    clock.pause(start + 13 * MINUTE)
    assert (clock.runs, clock.left(start + 600 * MINUTE)) == (False, 18 * MINUTE)
    clock.start(start + 600 * MINUTE)
    assert clock.left(start + 617 * MINUTE) == MINUTE
    assert clock.left(start + 700 * MINUTE) == timedelta(0)
    assert clock.started_at == start


def test_a_job_has_30_minutes_an_attempt_15_and_the_metadata_program_13() -> None:
    settings = SlicingSettings()
    for name in BUILT_IN:
        terms = find_profile(settings, name).terms(settings)
        assert (terms.job_timeout, terms.slicing_timeout) == (30 * MINUTE, 15 * MINUTE)
        assert terms.heartbeat_timeout == timedelta(seconds=30)
    named = BUILT_IN["gazette"].model_copy(update={"metadata_command": ("/usr/bin/true",)})
    assert SlicerProfile("named", named).terms(settings).metadata_timeout == 13 * MINUTE


# --- by the wall clock


@in_a_lane
async def test_a_job_whose_time_is_over_is_ended_written_and_told(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("walk", job_timeout="PT3S")})
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            summary = await sliced(nightmill, small_pdf(lane.stack.folder), notify="mailto:owner@example.org")
            row = row_of(nightmill, summary.sha256)
            [mail] = mails_to(mailbox, "owner")
    assert (summary.status, summary.error_code) == (SlicingStatus.FAILED, SlicingErrorCode.TIMED_OUT)
    assert summary.message == "timed out after 3 s, the time for the whole job (job_timeout of the profile)"
    assert summary.duration is not None
    assert timedelta(seconds=3) <= summary.duration < timedelta(seconds=15)
    assert row.attempts == 1
    assert "timed out after 3 s" in text_of(mail)


@in_a_lane
async def test_a_second_attempt_runs_only_within_what_is_left(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("walk", job_timeout="PT5S", wall="PT3S")})
    async with lane.running() as nightmill:
        summary = await sliced(nightmill, small_pdf(lane.stack.folder))
        row = row_of(nightmill, summary.sha256)
        found = await history(nightmill, summary.sha256)
    assert (summary.status, summary.error_code) == (SlicingStatus.FAILED, SlicingErrorCode.TIMED_OUT)
    assert "timed out after 5 s" in (summary.message or "")
    assert row.attempts == 2
    assert len(scheduled(found, "slice_pdf")) == 2
    assert row.started_at is not None
    assert row.ended_at is not None
    assert row.ended_at - row.started_at > timedelta(seconds=8), "the pause of 5 s between them does not count"


@in_a_lane
async def test_neither_a_queue_nor_a_breaker_uses_a_job_s_time(lane: Lane) -> None:
    gate, name = lane.stack.folder / "gate", lane.stack.task_queue
    profiles = {"holding": profile(f"gate={gate}"), name: profile("cut", job_timeout="PT4S")}
    slicing_here(lane, profiles, CONCURRENCY="1")
    async with lane.running() as nightmill:
        await nightmill.slicings.open_breaker(name, reason="for a while", by="test")
        waiting = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile=name)
        await until_status(nightmill, waiting, SlicingStatus.WAITING, name)
        holding = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="holding")
        await until_status(nightmill, holding, SlicingStatus.SLICING, "holding")
        await asyncio.sleep(4.5)
        await nightmill.slicings.close_breaker(name, reason="over", by="test")
        await asyncio.sleep(4.5)
        queued = row_of(nightmill, waiting, name).started_at
        gate.touch()
        summary = await nightmill.slicings.wait(waiting, name, timeout=PATIENCE)
    assert queued is None, "the only slot was taken"
    assert summary.status is SlicingStatus.SLICED


# --- by a clock that skips


@pytest.fixture
def lane(sandbox: Sandbox, webhook: WebhookSink, tmp_path: Path, sqlite_url: str) -> Lane:
    """A lane whose Temporal server is started a test."""
    return Lane(Stack(tmp_path, TemporalServer(), sandbox, sqlite_url, "nightmill-slicing-time"), sandbox, webhook)


async def skip_until(
    environment: WorkflowEnvironment, done: Callable[[], Any], *, at_most: timedelta, step: timedelta = 5 * MINUTE
) -> timedelta:
    """Let time pass until something is so; return how much did, by Temporal's clock."""
    began = await environment.get_current_time()
    while not done():
        passed = await environment.get_current_time() - began
        assert passed < at_most, f"not so after {passed}"
        await environment.sleep(step)
        await asyncio.sleep(0.05)
    return await environment.get_current_time() - began


async def ended(nightmill: Nightmill, sha256: str, profile: str = "cut") -> SlicingSummary:
    return await nightmill.slicings.wait(sha256, profile, timeout=PATIENCE)


@pytest.mark.slow
def test_what_was_not_told_to_go_on_looks_by_itself_every_five_minutes(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("cut")})

    async def go() -> tuple[list[timedelta], SlicingSummary, int]:
        async with running(lane.stack) as (environment, nightmill):
            breaker = nightmill.assembly.slicing.breaker
            breaker.hold_open("cut", "for an hour", "test", datetime.now(UTC))
            sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut")
            await until_status(nightmill, sha256, SlicingStatus.WAITING)
            for _ in range(12):
                await environment.sleep(5 * MINUTE)
            looks = len(scheduled(await history(nightmill, sha256), "ask_breaker"))
            assert row_of(nightmill, sha256).status is SlicingStatus.WAITING
            breaker.close("cut", "over", "test", datetime.now(UTC))  # and nobody is told
            passed = await skip_until(
                environment, lambda: row_of(nightmill, sha256).status.is_terminal, at_most=timedelta(hours=1)
            )
            return [passed], await ended(nightmill, sha256), looks

    [passed], summary, looks = asyncio.run(go())
    assert summary.status is SlicingStatus.SLICED, "the hour for which it waited is not counted"
    assert 10 <= looks <= 14
    assert passed <= 11 * MINUTE


def test_who_waits_makes_sure_that_somebody_watches_the_breaker(lane: Lane) -> None:
    canary = small_pdf(lane.stack.folder, "canary")
    slicing_here(lane, {"cut": profile("cut", canary=str(canary))}, COOL_DOWN="PT0.1S")

    async def go() -> tuple[SlicingSummary, BreakerState, str | None]:
        async with running(lane.stack) as (environment, nightmill):
            breaker = nightmill.assembly.slicing.breaker
            for number in range(5):  # and whoever counted the last one dies before it starts the watch
                breaker.count_fault("cut", "it crashed", datetime.now(UTC), key=f"run/slice/{number}")
            sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut")
            await until_status(nightmill, sha256, SlicingStatus.WAITING)
            await skip_until(
                environment, lambda: row_of(nightmill, sha256).status.is_terminal, at_most=timedelta(hours=1)
            )
            summary = await ended(nightmill, sha256)
            row = breaker_of(nightmill)
            return summary, row.state, row.changed_by

    summary, state, by = asyncio.run(go())
    assert (summary.status, state, by) == (SlicingStatus.SLICED, BreakerState.CLOSED, "canary")


def test_a_file_storage_that_stays_away_is_told_when_the_retries_are_used_up(lane: Lane) -> None:
    gate = lane.stack.folder / "gate"
    slicing_here(lane, {"cut": profile(f"gate={gate}")})

    async def go() -> tuple[SlicingSummary, timedelta, SlicingRow, int]:
        with Mailbox() as mailbox:
            mailbox.notified_by(lane)
            async with running(lane.stack) as (environment, nightmill):
                sha256 = await nightmill.slicings.slice(
                    small_pdf(lane.stack.folder), profile="cut", notify="mailto:owner@example.org"
                )
                await until_status(nightmill, sha256, SlicingStatus.SLICING)
                files = lane.stack.folder / "files"
                shutil.rmtree(files)
                files.write_text("no folder")
                gate.touch()
                passed = await skip_until(
                    environment, lambda: row_of(nightmill, sha256).status.is_terminal, at_most=timedelta(hours=1),
                    step=MINUTE,
                )  # fmt: skip
                closed = environment.client.get_workflow_handle(ids.slicing_workflow_id(sha256, "cut"))
                await skip_until(environment, lambda: mails_to(mailbox, "owner"), at_most=timedelta(hours=1))
                files.unlink()
                while (await closed.describe()).close_time is None:
                    await environment.sleep(MINUTE)
                return (
                    await ended(nightmill, sha256),
                    passed,
                    row_of(nightmill, sha256),
                    len(breaker_of(nightmill).faults),
                )

    summary, passed, row, faults = asyncio.run(go())
    assert (summary.status, summary.error_code) == (SlicingStatus.FAILED, SlicingErrorCode.STORAGE_FAILED)
    assert passed < 30 * MINUTE
    assert (row.attempts, faults) == (1, 0)


def test_a_result_that_the_database_never_takes_is_a_failure_that_is_told(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("cut")})

    async def go() -> tuple[SlicingRow, int]:
        with Mailbox() as mailbox:
            mailbox.notified_by(lane)
            async with running(lane.stack) as (environment, nightmill):
                trigger = "CREATE TRIGGER broken BEFORE INSERT ON slices BEGIN SELECT RAISE(ABORT, 'a bug'); END"
                with nightmill.assembly.database.transaction() as session:
                    session.connection().execute(text(trigger))
                sha256 = await nightmill.slicings.slice(
                    small_pdf(lane.stack.folder), profile="cut", notify="mailto:owner@example.org"
                )
                handle = environment.client.get_workflow_handle(ids.slicing_workflow_id(sha256, "cut"))
                async with asyncio.timeout(60):
                    while (await handle.describe()).close_time is None:
                        await environment.sleep(MINUTE)
                        await asyncio.sleep(0.05)
                return row_of(nightmill, sha256), len(mails_to(mailbox, "owner"))

    row, mails = asyncio.run(go())
    assert (row.status, row.error_code, row.slice_count) == (SlicingStatus.FAILED, SlicingErrorCode.INTERNAL, 0)
    assert mails == 1
