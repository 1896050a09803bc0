"""A slicer that fails again and again is left alone: what comes is parked, in order, until a canary says it is well."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pikepdf
import pytest
from temporalio.api.enums.v1 import EventType

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import BreakerState, SlicingErrorCode, SlicingStatus
from nightmill.slicer.samples import SampleOptions, make_sample
from nightmill.storage.slicing_models import SlicerBreakerRow
from tests.lanes import Lane, in_a_lane, until
from tests.mailbox import Mailbox
from tests.slicing import (
    all_of,
    breaker_of,
    history,
    mails_to,
    parked,
    profile,
    programs_run,
    row_of,
    sliced,
    slicing_here,
    small_pdf,
    text_of,
    until_status,
)

pytestmark = pytest.mark.server

FAULTS = 5
"""That open a breaker, by default."""


def named(lane: Lane) -> str:
    """Return the name of the lane's own profile: all lanes share one Temporal, where a breaker's watch runs by it."""
    return lane.stack.task_queue


def switched(lane: Lane, plan: str, **settings: str) -> Path:
    """Let the lane's slicer do what a file says; return the file."""
    switch = lane.stack.folder / "plan"
    switch.write_text(plan)
    canary = small_pdf(lane.stack.folder, "canary")
    slicing_here(lane, {named(lane): profile(f"@{switch}", canary=str(canary))}, **settings)
    return switch


async def fail(nightmill: Nightmill, lane: Lane, times: int = FAULTS) -> list[str]:
    """Slice documents by a slicer that fails, one after the other; return their error codes."""
    summaries = [await sliced(nightmill, small_pdf(lane.stack.folder), named(lane)) for _ in range(times)]
    assert {each.status for each in summaries} == {SlicingStatus.FAILED}
    return [str(each.error_code) for each in summaries]


async def until_state(nightmill: Nightmill, state: BreakerState, profile: str) -> SlicerBreakerRow:
    row = await until(lambda: (row := breaker_of(nightmill, profile)).state is state and row)
    assert isinstance(row, SlicerBreakerRow)
    return row


async def until_probed(nightmill: Nightmill, probes: int, profile: str) -> SlicerBreakerRow:
    """Return the row once so many canaries have failed."""
    row = await until(lambda: (row := breaker_of(nightmill, profile)).probes == probes and row)
    assert isinstance(row, SlicerBreakerRow)
    return row


async def released_at(nightmill: Nightmill, sha256: str, profile: str) -> datetime:
    """Return when a parked document was told to go on, by Temporal's clock."""
    kind = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    told: list[datetime] = [
        event.event_time.ToDatetime()
        for event in await history(nightmill, sha256, profile)
        if event.event_type == kind and event.workflow_execution_signaled_event_attributes.signal_name == "go_on"
    ]
    assert told
    return told[0]


def operators(mailbox: Mailbox) -> list[EmailMessage]:
    return mails_to(mailbox, "ops")


@in_a_lane
async def test_five_faults_in_a_row_park_what_comes_and_a_canary_lets_it_go_on_in_order(lane: Lane) -> None:
    switch = switched(lane, "list", COOL_DOWN="PT3S")
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            codes = await fail(nightmill, lane)
            opened = await until_state(nightmill, BreakerState.OPEN, named(lane))
            pdfs = [small_pdf(lane.stack.folder) for _ in range(3)]
            waiting = await parked(nightmill, pdfs, named(lane))
            summary = await nightmill.slicings.summary(waiting[0], named(lane))
            progress = await nightmill.slicings.progress(waiting[0], named(lane))
            switch.write_text("cut")
            done = await all_of(nightmill, waiting, named(lane))
            row = breaker_of(nightmill, named(lane))
            rows = [row_of(nightmill, sha256, named(lane)) for sha256 in waiting]
            times = [await released_at(nightmill, sha256, named(lane)) for sha256 in waiting]
            mails = await until(lambda: len(found := operators(mailbox)) == 2 and found)
    assert codes == [SlicingErrorCode.INVALID_RESULT] * FAULTS
    assert "5 faults in a row within 10 min" in (opened.reason or "")
    assert summary.status is SlicingStatus.WAITING
    assert progress.status is SlicingStatus.WAITING
    assert opened.reason == progress.message
    assert {each.status for each in done} == {SlicingStatus.SLICED}
    assert times == sorted(times), "who waited longest goes on first"
    assert [each.parked_at for each in rows] == [None] * 3, "they have ended"
    assert {each.attempts for each in rows} == {1}
    assert (row.state, row.changed_by, row.canary_passed, row.transitions) == (BreakerState.CLOSED, "canary", True, 2)
    assert "5 faults in a row" in text_of(mails[0])
    assert "goes on" in mails[1]["subject"]


@in_a_lane
async def test_a_canary_that_fails_leaves_the_breaker_open_for_twice_as_long(lane: Lane) -> None:
    switched(lane, "exit", COOL_DOWN="PT1S", BREAKER_FAULTS="1")
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            breaker = nightmill.assembly.slicing.breaker
            sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile=named(lane))
            await until_status(nightmill, sha256, SlicingStatus.WAITING, named(lane))
            pauses = []
            for probes in (1, 2):
                row = await until_probed(nightmill, probes, named(lane))
                assert row.probe_at is not None
                assert row.canary_at is not None
                pauses.append(row.probe_at - row.canary_at)
            await nightmill.slicings.cancel(sha256, named(lane))
            summary = await nightmill.slicings.wait(sha256, named(lane))
            breaker.close(named(lane), "the test is over", "test", datetime.now().astimezone())
            told = len(operators(mailbox))
    assert [round(pause.total_seconds()) for pause in pauses] == [2, 4]
    assert (row.state, row.canary_passed, row.transitions) == (BreakerState.OPEN, False, 1)
    assert "exit code 3" in (row.canary_message or "")
    assert summary.status is SlicingStatus.CANCELED, "what is parked can be canceled"
    assert told == 1, "a canary that fails is no transition"


@in_a_lane
async def test_a_breaker_is_opened_and_closed_by_hand(lane: Lane) -> None:
    switched(lane, "cut", COOL_DOWN="PT0.2S")
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            await nightmill.slicings.open_breaker(named(lane), reason="the disk is changed", by="ana")
            [sha256] = await parked(nightmill, [small_pdf(lane.stack.folder)], named(lane))
            canary = await nightmill.slicings.check_health(named(lane), timeout=timedelta(seconds=30))
            held = breaker_of(nightmill, named(lane))
            progress = await nightmill.slicings.progress(sha256, named(lane))
            still = row_of(nightmill, sha256, named(lane)).status
            await nightmill.slicings.close_breaker(named(lane), reason="it is changed", by="ana")
            [summary] = await all_of(nightmill, [sha256], named(lane))
            await nightmill.slicings.close_breaker(named(lane), reason="again", by="ana")
            mails = await until(lambda: len(found := operators(mailbox)) == 2 and found)
            row = breaker_of(nightmill, named(lane))
    assert canary is not None
    assert canary.passed
    assert (held.state, still) == (BreakerState.HELD_OPEN, SlicingStatus.WAITING), (
        "no canary closes what a person holds"
    )
    assert progress.message == "held open by ana: the disk is changed"
    assert summary.status is SlicingStatus.SLICED
    assert (row.state, row.changed_by, row.transitions) == (BreakerState.CLOSED, "ana", 2)
    assert ["the disk is changed" in text_of(mails[0]), "it is changed" in text_of(mails[1])] == [True, True]


@in_a_lane
async def test_the_built_in_slicer_passes_its_own_canary_and_lets_gazettes_go_on(lane: Lane) -> None:
    lane.in_the_workflow_sandbox()
    slicing_here(lane)
    pdf = lane.stack.folder / "gazette.pdf"
    pdf.write_bytes(make_sample(SampleOptions(seed=4711, acts=2, pages=6)).pdf)
    async with lane.running() as nightmill:
        breaker = nightmill.assembly.slicing.breaker
        for number in range(FAULTS):
            view = breaker.count_fault("gazette", "it crashed", datetime.now().astimezone(), key=f"run/slice/{number}")
        [sha256] = await parked(nightmill, [pdf], "gazette")
        outcome = await nightmill.slicings.check_health("gazette", timeout=timedelta(seconds=60))
        [summary] = await all_of(nightmill, [sha256], "gazette")
        state = breaker_of(nightmill, "gazette").state
    assert view.is_open
    assert outcome is not None
    assert outcome.passed, outcome.message
    assert (summary.status, state) == (SlicingStatus.SLICED, BreakerState.CLOSED)


@in_a_lane
async def test_a_health_check_of_a_slicer_that_lies_says_what_is_wrong_and_counts(lane: Lane) -> None:
    switched(lane, "other-pages")
    async with lane.running() as nightmill:
        outcome = await nightmill.slicings.check_health(named(lane), timeout=timedelta(seconds=30))
        row = breaker_of(nightmill, named(lane))
    assert outcome is not None
    assert not outcome.passed
    assert "`page_count` is 2" in (outcome.message or "")
    assert (row.state, row.canary_passed, len(row.faults)) == (BreakerState.CLOSED, False, 1)


def unreadable(folder: Path, kind: str) -> Path:
    """Return a document that no slicer can read."""
    pdf = small_pdf(folder)
    if kind == "damaged":
        pdf.write_bytes(b"%PDF-1.7\n" + pdf.name.encode() * 9)
    else:
        with pikepdf.open(pdf, allow_overwriting_input=True) as opened:
            opened.save(pdf, encryption=pikepdf.Encryption(user="x", owner="x"))
    return pdf


@in_a_lane
async def test_documents_that_nobody_can_slice_blame_no_slicer(lane: Lane) -> None:
    switched(lane, "cut", BREAKER_FAULTS="2")
    async with lane.running() as nightmill:
        kinds = ["damaged", "encrypted", "damaged", "encrypted"]
        done = [await sliced(nightmill, unreadable(lane.stack.folder, kind), named(lane)) for kind in kinds]
        row = breaker_of(nightmill, named(lane))
        healthy = await sliced(nightmill, small_pdf(lane.stack.folder), named(lane))
    assert {str(each.error_code) for each in done} == {"damaged_pdf", "encrypted_pdf"}
    assert (row.state, row.faults) == (BreakerState.CLOSED, [])
    assert healthy.status is SlicingStatus.SLICED


@in_a_lane
async def test_a_worker_that_is_lost_costs_the_attempt_and_blames_no_slicer(lane: Lane) -> None:
    gate = lane.stack.folder / "gate"
    switched(lane, f"gate={gate}", HEARTBEAT_TIMEOUT="PT4S", BREAKER_FAULTS="1")
    first = lane.stack.fork_worker()
    with lane.stack.assembly() as assembly:
        nightmill = await lane.stack.nightmill(assembly)
        sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile=named(lane))
        await until_status(nightmill, sha256, SlicingStatus.SLICING, named(lane))
        await asyncio.sleep(1)
        first.kill()
        first.wait(10)
        gate.touch()
        lane.stack.fork_worker()
        [summary] = await all_of(nightmill, [sha256], named(lane))
        row = row_of(nightmill, sha256, named(lane))
        runs = programs_run(nightmill, row)
        breaker = breaker_of(nightmill, named(lane))
    assert summary.status is SlicingStatus.SLICED
    assert (row.attempts, runs) == (2, [None]), "the first attempt's program ended with its worker, unrecorded"
    assert (breaker.state, breaker.faults) == (BreakerState.CLOSED, [])


@in_a_lane
async def test_a_success_between_them_makes_faults_no_row(lane: Lane) -> None:
    switch = switched(lane, "list", BREAKER_FAULTS="3")
    async with lane.running() as nightmill:
        await fail(nightmill, lane, 2)
        switch.write_text("cut")
        good = await sliced(nightmill, small_pdf(lane.stack.folder), named(lane))
        switch.write_text("list")
        await fail(nightmill, lane, 2)
        row: Any = breaker_of(nightmill, named(lane))
    assert good.status is SlicingStatus.SLICED
    assert row.state is BreakerState.CLOSED
    assert [fault["spent"] for fault in row.faults] == [True, True, False, False]
