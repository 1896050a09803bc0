"""Slicings whose run is lost in any phase: after a tick of the reconciler each is sliced, and its owner told once."""

from __future__ import annotations

from typing import Any

import pytest

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, Finding, PageOutcome, SlicingStatus, Source
from tests.lanes import PATIENCE, Lane, in_a_lane, until
from tests.mailbox import Mailbox
from tests.recovering import lose, recovering_at_once, tick
from tests.slicing import PAGES, mails_to, row_of, small_pdf, stored_files, until_status
from tests.stubborn import Stay, left_of

pytestmark = pytest.mark.server

OWNER = "mailto:owner@example.org"


class BusyMailbox(Mailbox):
    """A mail server that takes nothing while it is busy."""

    is_busy = True

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        return "451 later" if self.is_busy else await super().handle_DATA(server, session, envelope)


def findings(outcome: PageOutcome) -> list[tuple[Finding, Action]]:
    return [(each.finding, each.action) for each in outcome.repairs]


async def check_in_order(nightmill: Nightmill, lane: Lane, stay: Stay, mailbox: Mailbox, sha256: str) -> None:
    """The document has its slices once and the files of one run, its owner was told once, and nothing is left."""
    await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
    row = row_of(nightmill, sha256)
    assert (row.status, row.slice_count, row.result_run) == (SlicingStatus.SLICED, PAGES, row.run_id)
    files = {f"{row.run_id}/{number + 1:04}.pdf" for number in range(PAGES)}
    assert stored_files(lane, sha256) == files | {f"{row.run_id}/result.jsonl"}
    assert [each.position for each in nightmill.slicings.slices(row)] == list(range(PAGES))
    assert len(mails_to(mailbox, "owner")) == 1
    assert (left_of(stay.scratch), stay.kept()) == ([], [])
    assert (await tick(nightmill, Source.SLICINGS)).candidates == 0


@in_a_lane
async def test_a_slicing_that_is_terminated_while_it_slices_goes_on_however_often(lane: Lane) -> None:
    stay = Stay(lane)
    recovering_at_once(lane)
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut", notify=OWNER)
            await stay.stays()
            first = row_of(nightmill, sha256).run_id
            assert findings(await tick(nightmill, Source.SLICINGS)) == [], "it runs"
            for last in (False, True):
                await lose(nightmill.temporal, ids.slicing_workflow_id(sha256, "cut"), "terminated")
                await stay.gone()
                stay.plan("cut" if last else "stay")
                outcome = await tick(nightmill, Source.SLICINGS)
                assert findings(outcome) == [(Finding.TERMINATED, Action.RESET)]
                if not last:
                    await stay.stays()
            await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
            assert row_of(nightmill, sha256).run_id == first, "the row is of the run that all of them go on with"
            await check_in_order(nightmill, lane, stay, mailbox, sha256)


@in_a_lane
async def test_a_slicing_that_temporal_has_forgotten_is_sliced_by_a_new_run(lane: Lane) -> None:
    stay = Stay(lane)
    recovering_at_once(lane)
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            pdf = small_pdf(lane.stack.folder)
            given = {"profile": "cut", "notify": OWNER, "metadata": {"of": "mine"}}
            sha256 = await nightmill.slicings.slice(pdf, **given)  # type: ignore[arg-type]
            await stay.stays()
            before = row_of(nightmill, sha256)
            await lose(nightmill.temporal, ids.slicing_workflow_id(sha256, "cut"), "deleted")
            stay.plan("cut")
            pdf.unlink()
            assert findings(await tick(nightmill, Source.SLICINGS)) == [(Finding.NOT_FOUND, Action.START)]
            await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
            await stay.gone()
            await check_in_order(nightmill, lane, stay, mailbox, sha256)
            row = row_of(nightmill, sha256)
    assert row.run_id != before.run_id
    assert (row.name, row.source, row.user_metadata) == (before.name, before.source, {"of": "mine"})


@in_a_lane
async def test_a_parked_slicing_whose_run_is_gone_is_parked_again_and_goes_on_with_the_others(lane: Lane) -> None:
    stay = Stay(lane)
    stay.plan("cut")
    recovering_at_once(lane)
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            await nightmill.slicings.open_breaker("cut", reason="a test", by="tester")
            sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut", notify=OWNER)
            await until_status(nightmill, sha256, SlicingStatus.WAITING)
            first = row_of(nightmill, sha256).run_id
            await lose(nightmill.temporal, ids.slicing_workflow_id(sha256, "cut"), "deleted")
            assert findings(await tick(nightmill, Source.SLICINGS)) == [(Finding.NOT_FOUND, Action.START)]

            def is_parked_again() -> bool:
                row = row_of(nightmill, sha256)
                return row.status is SlicingStatus.WAITING and row.run_id != first

            await until(is_parked_again)
            assert findings(await tick(nightmill, Source.SLICINGS)) == [], "it waits"
            await nightmill.slicings.close_breaker("cut", reason="a test", by="tester")
            await check_in_order(nightmill, lane, stay, mailbox, sha256)


@pytest.mark.parametrize(
    ("way", "repair"),
    [("terminated", (Finding.TERMINATED, Action.RESET)), ("deleted", (Finding.NOT_FOUND, Action.START))],
    ids=["terminated", "deleted"],
)
@in_a_lane
async def test_an_owner_whom_the_lost_run_could_not_tell_is_told(
    lane: Lane, way: str, repair: tuple[Finding, Action]
) -> None:
    stay = Stay(lane)
    stay.plan("cut")
    recovering_at_once(lane)
    with BusyMailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut", notify=OWNER)
            await until_status(nightmill, sha256, SlicingStatus.SLICED)
            row = row_of(nightmill, sha256)
            await until(lambda: [each for each in nightmill.assembly.slicing.sent.of(row) if each.error])
            await lose(nightmill.temporal, ids.slicing_workflow_id(sha256, "cut"), way)
            mailbox.is_busy = False
            assert findings(await tick(nightmill, Source.SLICINGS)) == [repair]
            await until(lambda: mails_to(mailbox, "owner"))
            if way == "terminated":
                await check_in_order(nightmill, lane, stay, mailbox, sha256)
            assert (await tick(nightmill, Source.SLICINGS)).candidates == 0
            assert row_of(nightmill, sha256).ended_at == row.ended_at, "it was not sliced again"
    assert len(mails_to(mailbox, "owner")) == 1
