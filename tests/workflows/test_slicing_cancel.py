"""Slicings that are ended from outside in every phase: canceled, timed out, terminated, reset. Nothing is left then."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowExecutionStatus

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import SlicingErrorCode, SlicingStatus, SlicingSummary
from nightmill.slicing.isolation import Level
from tests.lanes import PATIENCE, Lane, in_a_lane, until
from tests.mailbox import Mailbox
from tests.slicing import (
    PAGES,
    history,
    mails_to,
    row_of,
    scheduled,
    sliced,
    small_pdf,
    stored_files,
    until_status,
)
from tests.small_pdfs import scanned_pdf
from tests.stubborn import SANDBOX_FIRST, SOON_ENOUGH, Stay, left_of

pytestmark = [pytest.mark.slow, pytest.mark.server]

OWNER = "mailto:owner@example.org"
PHASES = ("waiting", "inspecting", "reading", "slicing", "storing")


class Slow:
    """A file storage that takes its time for some files."""

    def __init__(self, files: Any, part: str) -> None:
        self.files = files
        self.part = part
        self.at_work = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.files, name)

    def write(self, key: str, chunks: Any) -> int:
        self._wait(key)
        written: int = self.files.write(key, chunks)
        return written

    def read(self, key: str) -> Iterator[bytes]:
        self._wait(key)
        found: Iterator[bytes] = self.files.read(key)
        return found

    def _wait(self, key: str) -> None:
        if self.part in key:
            self.at_work = True
            time.sleep(1.5)


async def started(nightmill: Nightmill, lane: Lane, phase: str) -> str:
    """Start a document and return it when it is in this phase."""
    slicings = nightmill.slicings
    pdf = small_pdf(lane.stack.folder)
    if phase == "reading":
        pdf = scanned_pdf(lane.stack.folder / "scan.pdf", 12, stamp=str(lane.stack.folder))
    if phase == "waiting":
        await slicings.open_breaker("cut", reason="a test", by="tester")
    slow = Slow(nightmill.assembly.files, "/000")
    if phase == "storing":
        object.__setattr__(nightmill.assembly.slicing.steps, "files", slow)
    sha256 = await slicings.slice(pdf, profile="cut", notify=OWNER)
    if phase == "waiting":
        await until_status(nightmill, sha256, SlicingStatus.WAITING)
    elif phase == "inspecting":
        [looking] = await until(lambda: looks_in(lane.stack.folder / "scratch"))
        os.kill(looking, signal.SIGSTOP)
    elif phase == "storing":
        await until(lambda: slow.at_work)
    return sha256


def looks_in(scratch: Path) -> list[int]:
    """Return the programs that look at PDFs."""
    found = []
    for pid in left_of(scratch):
        try:
            if b"nightmill.slicer.inspector" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:  # it has just ended
            continue
    return found


async def closed_as(nightmill: Nightmill, sha256: str) -> WorkflowExecutionStatus | None:
    return (await nightmill.temporal.get_workflow_handle(ids.slicing_workflow_id(sha256, "cut")).describe()).status


async def check_canceled(nightmill: Nightmill, lane: Lane, stay: Stay, sha256: str) -> None:
    """The document is canceled, and nothing of the run is there."""
    summary = await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
    row = row_of(nightmill, sha256)
    assert (summary.status, row.status, row.slice_count) == (SlicingStatus.CANCELED, SlicingStatus.CANCELED, 0)
    assert (row.error_code, row.needs_attention) == (None, None)
    assert await closed_as(nightmill, sha256) is WorkflowExecutionStatus.CANCELED
    assert stored_files(lane, sha256) == set()
    assert left_of(stay.scratch) == []
    assert stay.kept() == []


@pytest.mark.parametrize("phase", PHASES)
@in_a_lane
async def test_a_cancel_in_any_phase_leaves_nothing_and_tells_nobody(lane: Lane, phase: str) -> None:
    stay = Stay(lane, settings={"fan_out": phase == "reading"})
    stay.plan("stay" if phase in ("reading", "slicing") else "cut")
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            sha256 = await started(nightmill, lane, phase)
            if phase in ("reading", "slicing"):
                await stay.stays()
            await nightmill.slicings.cancel(sha256, "cut")
            took = await stay.gone()
            await check_canceled(nightmill, lane, stay, sha256)
            ranges = scheduled(await history(nightmill, sha256), "read_pages")
    assert took < SOON_ENOUGH
    assert mails_to(mailbox, "owner") == []
    assert (len(ranges) > 1) is (phase == "reading")


@in_a_lane
async def test_a_cancel_before_any_worker_is_there_is_kept_for_the_first_one(lane: Lane) -> None:
    stay = Stay(lane)
    with Mailbox() as mailbox, lane.stack.assembly() as assembly:
        mailbox.notified_by(lane)
        idle = await lane.stack.nightmill(assembly)
        sha256 = await idle.slicings.slice(small_pdf(lane.stack.folder), profile="cut", notify=OWNER)
        await idle.slicings.cancel(sha256, "cut")
        async with lane.running() as nightmill:
            await check_canceled(nightmill, lane, stay, sha256)
            assert scheduled(await history(nightmill, sha256), "inspect_pdf") == []
    assert mails_to(mailbox, "owner") == []


@in_a_lane
async def test_a_cancel_while_all_slots_are_taken_ends_the_document_at_once(lane: Lane) -> None:
    stay = Stay(lane)
    lane.set(SLICING__CONCURRENCY="1")
    async with lane.running() as nightmill:
        holding = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut")
        await stay.stays()
        sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut")
        await until(lambda: row_of(nightmill, sha256).run_id)
        await nightmill.slicings.cancel(sha256, "cut")
        summary = await nightmill.slicings.wait(sha256, "cut", timeout=timedelta(seconds=SOON_ENOUGH))
        assert summary.status is SlicingStatus.CANCELED
        assert len(left_of(stay.scratch)) >= 3, "the other document goes on"
        await nightmill.slicings.cancel(holding, "cut")
        await stay.gone()
        await check_canceled(nightmill, lane, stay, holding)


class SlowMailbox(Mailbox):
    """A mail server that thinks about each mail."""

    at_work = False

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.at_work = True
        await asyncio.sleep(2)
        return await super().handle_DATA(server, session, envelope)


@pytest.mark.parametrize("phase", ["finishing", "notifying"])
@in_a_lane
async def test_a_cancel_that_comes_too_late_changes_nothing(lane: Lane, phase: str) -> None:
    stay = Stay(lane)
    stay.plan("cut")
    with SlowMailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            slow = Slow(nightmill.assembly.files, "result.jsonl")
            object.__setattr__(nightmill.assembly.slicing.jobs, "files", slow)
            sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut", notify=OWNER)
            await until(lambda: slow.at_work if phase == "finishing" else mailbox.at_work)
            # Not by `Slicings.cancel`, which looks at the row first.
            await nightmill.temporal.get_workflow_handle(ids.slicing_workflow_id(sha256, "cut")).cancel()
            summary = await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
            check_one_result(nightmill, lane, sha256)
            assert await closed_as(nightmill, sha256) is WorkflowExecutionStatus.COMPLETED
    assert summary.status is SlicingStatus.SLICED
    assert len(mails_to(mailbox, "owner")) == 1
    assert stay.kept() == []


def check_one_result(nightmill: Nightmill, lane: Lane, sha256: str) -> None:
    """The document has its slices once, and the files of one run."""
    row = row_of(nightmill, sha256)
    assert (row.status, row.slice_count, row.result_run) == (SlicingStatus.SLICED, PAGES, row.run_id)
    files = {f"{row.run_id}/{number + 1:04}.pdf" for number in range(PAGES)}
    assert stored_files(lane, sha256) == files | {f"{row.run_id}/result.jsonl"}
    assert [each.position for each in nightmill.assembly.slicing.slices.stream(row)] == list(range(PAGES))


@pytest.mark.parametrize("level", SANDBOX_FIRST)
@in_a_lane
async def test_a_canceled_slicer_is_gone_in_seconds_however_stubborn(lane: Lane, level: Level) -> None:
    stay = Stay(lane, level)
    async with lane.running() as nightmill:
        pdf = small_pdf(lane.stack.folder)
        stay.plan("cut")
        await sliced(nightmill, pdf)
        earlier = stored_files(lane, row_of_only(nightmill).sha256)
        stay.plan("stay")
        sha256 = await nightmill.slicings.slice(pdf, profile="cut", notify=())
        await stay.stays()
        await nightmill.slicings.cancel(sha256, "cut")
        took = await stay.gone()
        summary = await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
        assert (summary.status, summary.slices) == (SlicingStatus.CANCELED, PAGES), "what it had, it has still"
        assert stored_files(lane, sha256) == earlier
    assert took < SOON_ENOUGH
    assert stay.kept() == []


def row_of_only(nightmill: Nightmill) -> Any:
    [row] = nightmill.assembly.slicing.slicings.page()
    return row


@pytest.mark.parametrize("level", SANDBOX_FIRST)
@in_a_lane
async def test_when_a_job_has_failed_by_its_time_its_processes_are_gone(lane: Lane, level: Level) -> None:
    stay = Stay(lane, level, {"job_timeout": "PT2S"})
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut", notify=OWNER)
            await stay.stays()
            row = await until_status(nightmill, sha256, SlicingStatus.FAILED)
            assert (left_of(stay.scratch), stay.kept()) == ([], [])
            summary = await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
    assert (summary.error_code, row.attempts) == (SlicingErrorCode.TIMED_OUT, 1)
    assert "2 s, the time for the whole job" in (summary.message or "")
    assert len(mails_to(mailbox, "owner")) == 1


@pytest.mark.parametrize("level", SANDBOX_FIRST)
@in_a_lane
async def test_an_attempt_that_takes_too_long_leaves_the_machine_to_the_next_one(lane: Lane, level: Level) -> None:
    stay = Stay(lane, level, {"slicing_timeout": "PT5S", "wall": "PT1M"})
    async with lane.running() as nightmill:
        sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut")
        await stay.stays()
        stay.plan("cut")
        await until(lambda: not left_of(stay.scratch), within=timedelta(seconds=5 + SOON_ENOUGH))
        summary = await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
        row = row_of(nightmill, sha256)
    assert (summary.status, row.attempts) == (SlicingStatus.SLICED, 2)
    assert stay.kept() == []


@in_a_lane
async def test_a_slicing_that_is_terminated_ends_its_program_and_can_be_started_again(lane: Lane) -> None:
    stay = Stay(lane)
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            pdf = small_pdf(lane.stack.folder)
            sha256 = await nightmill.slicings.slice(pdf, profile="cut", notify=OWNER)
            await stay.stays()
            await nightmill.temporal.get_workflow_handle(ids.slicing_workflow_id(sha256, "cut")).terminate()
            took = await stay.gone()
            first = row_of(nightmill, sha256).run_id
            stay.plan("cut")
            summary = await sliced(nightmill, pdf, notify=OWNER)
            assert row_of(nightmill, sha256).run_id != first
            check_one_result(nightmill, lane, sha256)
    assert took < SOON_ENOUGH
    assert summary.status is SlicingStatus.SLICED
    assert len(mails_to(mailbox, "owner")) == 1
    assert stay.kept() == []


async def reset(nightmill: Nightmill, sha256: str) -> None:
    """Let the workflow begin again after its first step, as `temporal workflow reset` does."""
    workflow_id = ids.slicing_workflow_id(sha256, "cut")
    completed = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    first = next(event.event_id for event in await history(nightmill, sha256) if event.event_type == completed)
    await nightmill.temporal.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=nightmill.temporal.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id),
            reason="a test",
            workflow_task_finish_event_id=first,
            request_id=str(uuid.uuid4()),
        )
    )


async def reset_and_wait(nightmill: Nightmill, sha256: str) -> SlicingSummary:
    await reset(nightmill, sha256)
    return await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)


@in_a_lane
async def test_a_reset_while_the_slicer_runs_gives_one_result_and_one_notice(lane: Lane) -> None:
    stay = Stay(lane)
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut", notify=OWNER)
            await stay.stays()
            run_id = row_of(nightmill, sha256).run_id
            stay.plan("cut")
            summary = await reset_and_wait(nightmill, sha256)
            await stay.gone()
            assert row_of(nightmill, sha256).run_id == run_id, "the same run goes on"
            check_one_result(nightmill, lane, sha256)
    assert summary.status is SlicingStatus.SLICED
    assert len(mails_to(mailbox, "owner")) == 1


@in_a_lane
async def test_a_reset_after_the_end_slices_again_and_tells_nobody_again(lane: Lane) -> None:
    stay = Stay(lane)
    stay.plan("cut")
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            pdf = small_pdf(lane.stack.folder)
            sha256 = (await sliced(nightmill, pdf, notify=OWNER)).sha256
            ended_at = row_of(nightmill, sha256).ended_at
            summary = await reset_and_wait(nightmill, sha256)
            assert row_of(nightmill, sha256).ended_at != ended_at
            check_one_result(nightmill, lane, sha256)
    assert summary.status is SlicingStatus.SLICED
    assert len(mails_to(mailbox, "owner")) == 1
    assert stay.kept() == []
