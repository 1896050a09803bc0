"""Slicings whose run is lost in any phase: after a tick of the reconciler each is sliced, and its owner told once."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, Finding, SlicingStatus, Source
from nightmill.storage.slicing_models import SlicingRow
from tests.lanes import PATIENCE, Lane, in_a_lane, until
from tests.mailbox import Mailbox
from tests.recovering import found, lose, recovering_at_once, tick
from tests.slicing import PAGES, mails_to, row_of, small_pdf, stored_files, until_status
from tests.stubborn import FAMILY, Stay, left_of

pytestmark = [pytest.mark.slow, pytest.mark.server]


class BusyMailbox(Mailbox):
    """A mail server that takes nothing while it is busy."""

    is_busy = True

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        return "451 later" if self.is_busy else await super().handle_DATA(server, session, envelope)


def recovering_slicings(lane: Lane) -> Stay:
    """Let a lane slice, and reconcile, and return its slicer."""
    stay = Stay(lane)
    recovering_at_once(lane)
    lane.set(WORKER__QUEUES=f"{lane.stack.task_queue},{lane.stack.task_queue}-slicing", SLICING__CONCURRENCY="2")
    return stay


async def asked(nightmill: Nightmill, lane: Lane, owner: str) -> tuple[str, Path]:
    """Ask for a document of which `owner` is to be told; return it and its file."""
    pdf = small_pdf(lane.stack.folder)
    sha256 = hashlib.sha256(pdf.read_bytes()).hexdigest()
    owners, metadata = f"mailto:{owner}@example.org", {"of": owner}
    await nightmill.slicings.slice_from(str(pdf), sha256, profile="cut", notify=owners, metadata=metadata)
    return sha256, pdf


async def lost(nightmill: Nightmill, sha256: str, way: str) -> None:
    await lose(nightmill.temporal, ids.slicing_workflow_id(sha256, "cut"), way)


def check_in_order(nightmill: Nightmill, lane: Lane, mailbox: Mailbox, sha256: str, owner: str) -> SlicingRow:
    """The document has its slices once and the files of one run, and its owner was told once."""
    row = row_of(nightmill, sha256)
    assert (row.status, row.slice_count, row.result_run) == (SlicingStatus.SLICED, PAGES, row.run_id)
    files = {f"{row.run_id}/{number + 1:04}.pdf" for number in range(PAGES)}
    assert stored_files(lane, sha256) == files | {f"{row.run_id}/result.jsonl"}
    assert [each.position for each in nightmill.assembly.slicing.slices.stream(row)] == list(range(PAGES))
    assert len(mails_to(mailbox, owner)) == 1
    return row


@in_a_lane
async def test_slicings_that_are_lost_while_they_slice_go_on_however_often(lane: Lane) -> None:
    stay = recovering_slicings(lane)
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            (terminated, _), (deleted, pdf) = [await asked(nightmill, lane, way) for way in ("terminated", "deleted")]
            for last in (False, True):
                await until(lambda: len(left_of(stay.scratch)) >= 2 * FAMILY["process"])
                rows = {each: row_of(nightmill, each) for each in (terminated, deleted)}
                assert await tick(nightmill) == {}, "they run"
                await lost(nightmill, terminated, "terminated")
                await lost(nightmill, deleted, "deleted")
                await stay.gone()
                stay.plan("cut" if last else "stay")
                pdf.unlink(missing_ok=True)  # it is kept
                assert await tick(nightmill) == {
                    f"{terminated}/cut": (Finding.TERMINATED, Action.RESET),
                    f"{deleted}/cut": (Finding.NOT_FOUND, Action.START),
                }
            for sha256 in (terminated, deleted):
                await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
            after = check_in_order(nightmill, lane, mailbox, terminated, "terminated")
            assert after.run_id == rows[terminated].run_id, "all resets of a run write as that run"
            after = check_in_order(nightmill, lane, mailbox, deleted, "deleted")
            assert after.run_id != rows[deleted].run_id, "a new run has taken the row over"
            assert (after.name, after.source, after.user_metadata) == (pdf.name, str(pdf), {"of": "deleted"})
            assert (left_of(stay.scratch), stay.kept()) == ([], [])
            assert found(nightmill, Source.SLICINGS) == []


@in_a_lane
async def test_who_waits_for_the_breaker_or_for_a_notice_is_not_forgotten_with_the_run(lane: Lane) -> None:
    stay = recovering_slicings(lane)
    stay.plan("cut")
    with BusyMailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            (terminated, _), (deleted, _) = [await asked(nightmill, lane, way) for way in ("terminated", "deleted")]
            before = {each: await until_status(nightmill, each, SlicingStatus.SLICED) for each in (terminated, deleted)}
            await until(lambda: all(refused(nightmill, row) for row in before.values()))
            nightmill.assembly.slicing.breaker.hold_open("cut", "a test", "tester", datetime.now(UTC))
            parked, _ = await asked(nightmill, lane, "parked")
            await until_status(nightmill, parked, SlicingStatus.WAITING)
            await lost(nightmill, terminated, "terminated")
            for sha256 in (deleted, parked):
                await lost(nightmill, sha256, "deleted")
            mailbox.is_busy = False
            assert await tick(nightmill) == {
                f"{terminated}/cut": (Finding.TERMINATED, Action.START),
                f"{deleted}/cut": (Finding.NOT_FOUND, Action.START),
                f"{parked}/cut": (Finding.NOT_FOUND, Action.START),
            }
            for owner, sha256 in (("terminated", terminated), ("deleted", deleted)):
                after = check_in_order(nightmill, lane, mailbox, sha256, owner)
                assert (after.run_id, after.ended_at) == (before[sha256].run_id, before[sha256].ended_at), "sliced once"
            await until_status(nightmill, parked, SlicingStatus.WAITING)
            await nightmill.slicings.close_breaker("cut", reason="a test", by="tester")
            await nightmill.slicings.wait(parked, "cut", timeout=PATIENCE)
            check_in_order(nightmill, lane, mailbox, parked, "parked")
            assert found(nightmill, Source.SLICINGS) == []


def refused(nightmill: Nightmill, row: SlicingRow) -> bool:
    """Whether a notice could not be sent."""
    return any(each.error for each in nightmill.assembly.slicing.sent.of(row))
