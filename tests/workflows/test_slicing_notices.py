"""Who asked is told how a slicing ended: by real mail and signed webhooks, once, whatever fails on the way."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import SlicingStatus
from nightmill.storage.slicing_models import SlicingNoticeRow
from nightmill.webhooks import verify_delivery
from tests.lanes import Lane, in_a_lane
from tests.mailbox import Mailbox
from tests.slicing import mails_to, profile, row_of, sliced, slicing_here, small_pdf, text_of
from tests.stack import SECRET

pytestmark = [pytest.mark.slow, pytest.mark.server]


class Moody(Mailbox):
    """Gives these answers first, one a mail; a mail that is not taken is kept apart."""

    def __init__(self, *answers: str) -> None:
        super().__init__()
        self.answers = list(answers)
        self.refused: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        if self.answers:
            self.refused.append(envelope.content.decode())
            return self.answers.pop(0)
        return await super().handle_DATA(server, session, envelope)


def notices_of(nightmill: Nightmill, sha256: str, profile: str = "cut") -> list[SlicingNoticeRow]:
    found = nightmill.assembly.slicing.sent.of(row_of(nightmill, sha256, profile))
    return sorted(found, key=lambda each: each.number)  # they are begun side by side


def told(lane: Lane) -> list[dict[str, Any]]:
    """Return what the webhook was told, once its signatures are verified."""
    for headers, body in lane.webhook.received:
        verify_delivery(headers, body, secret=SECRET)
    return [json.loads(body) for _, body in lane.webhook.received]


async def closed(nightmill: Nightmill, sha256: str) -> WorkflowExecutionStatus | None:
    described = await nightmill.temporal.get_workflow_handle(ids.slicing_workflow_id(sha256, "cut")).describe()
    return described.status


@in_a_lane
async def test_owners_are_told_by_mail_by_webhook_and_by_channel_with_a_link_and_their_own_words(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("cut")}, LINK="https://app.example.org/gazettes/{sha256}?by={profile}")
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        lane.set(NOTIFY__CHANNELS='{"desk": "mailto:desk@example.org"}')
        async with lane.running() as nightmill:
            summary = await sliced(
                nightmill,
                small_pdf(lane.stack.folder, "issue"),
                notify=["mailto:owner@example.org", lane.webhook.url, "channel:desk"],
                metadata={"ticket": "T-17"},
            )
            notices = notices_of(nightmill, summary.sha256)
            row = row_of(nightmill, summary.sha256)
        owner, desk, [webhook] = mails_to(mailbox, "owner"), mails_to(mailbox, "desk"), told(lane)
    link = f"https://app.example.org/gazettes/{summary.sha256}?by=cut"
    assert len(owner) == len(desk) == 1
    assert owner[0]["subject"] == "Nightmill: issue.pdf is sliced"
    assert "issue.pdf was cut into 3 slices." in text_of(owner[0])
    assert link in text_of(owner[0])
    assert "T-17" in text_of(owner[0])
    assert (webhook["data"]["level"], webhook["data"]["link"]) == ("success", link)
    details = webhook["data"]["details"]
    assert (details["status"], details["slices"], details["metadata"]) == ("sliced", 3, {"ticket": "T-17"})
    assert details["run_id"] == row.run_id
    assert [(each.number, each.level, each.tries) for each in notices] == [
        (0, "success", 1), (1, "success", 1), (2, "success", 1),
    ]  # fmt: skip
    assert all(each.sent_at for each in notices)
    assert lane.webhook.received[0][0]["webhook-id"] == f"msg_{notices[1].message_id}"
    assert notices[0].message_id in owner[0]["message-id"]


@pytest.mark.parametrize(
    ("plan", "level", "status"),
    [
        ("some-bad", "warning", SlicingStatus.NEEDS_REVIEW),
        ("no-files", "warning", None),
        ("list", "error", SlicingStatus.FAILED),
    ],
)
@in_a_lane
async def test_how_it_ended_is_the_level_of_the_notice(
    lane: Lane, plan: str, level: str, status: SlicingStatus | None
) -> None:
    slicing_here(lane, {"cut": profile(plan)})
    async with lane.running() as nightmill:
        summary = await sliced(nightmill, small_pdf(lane.stack.folder), notify=lane.webhook.url)
        [notice] = notices_of(nightmill, summary.sha256)
    [webhook] = told(lane)
    assert status in (None, summary.status)
    assert (webhook["data"]["level"], notice.level) == (level, level)
    assert webhook["data"]["slicing"] == f"{summary.sha256}/cut"
    if summary.message:
        assert webhook["data"]["details"]["message"] == summary.message


@in_a_lane
async def test_a_receiver_that_is_away_at_first_is_told_once_under_the_same_id(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("cut")})
    lane.webhook.answers = [503]
    with Moody("451 try again") as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            summary = await sliced(
                nightmill, small_pdf(lane.stack.folder), notify=["mailto:owner@example.org", lane.webhook.url]
            )
            notices = notices_of(nightmill, summary.sha256)
            row = row_of(nightmill, summary.sha256)
        [mail] = mails_to(mailbox, "owner")
    assert len(mailbox.refused) == 1
    assert f"Message-ID: {mail['message-id']}" in mailbox.refused[0]
    assert [headers["webhook-id"] for headers, _ in lane.webhook.received] == [f"msg_{notices[1].message_id}"]
    assert [(each.tries, each.error) for each in notices] == [(2, None), (2, None)]
    assert (summary.status, row.needs_attention) == (SlicingStatus.SLICED, None)


@in_a_lane
async def test_a_notice_that_nobody_takes_waits_for_an_operator_and_harms_neither_job_nor_others(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("cut")})
    lane.webhook.answers = [410]
    with Moody("550 no such user") as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            summary = await sliced(
                nightmill,
                small_pdf(lane.stack.folder),
                notify=["mailto:owner@example.org", f"{lane.webhook.url}?token=s3cr3t", "channel:nobody"],
            )
            row = row_of(nightmill, summary.sha256)
            notices = notices_of(nightmill, summary.sha256)
            status = await closed(nightmill, summary.sha256)
    assert (summary.status, summary.slices, status) == (SlicingStatus.SLICED, 3, WorkflowExecutionStatus.COMPLETED)
    assert row.needs_attention is not None
    assert row.needs_attention.startswith("notice ")
    assert [each.sent_at for each in notices] == [None] * 3
    assert all(each.error for each in notices)
    assert len(mailbox.refused) == 1, "what is refused for good is not tried again"
    assert not any("s3cr3t" in f"{each.target} {each.error} {row.needs_attention}" for each in notices)


@in_a_lane
async def test_whom_a_second_run_tells_is_told_anew(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("cut")})
    async with lane.running() as nightmill:
        pdf = small_pdf(lane.stack.folder)
        await sliced(nightmill, pdf, notify=lane.webhook.url)
        await sliced(nightmill, pdf, notify=lane.webhook.url)
        summary = await sliced(nightmill, pdf)
    assert summary.status is SlicingStatus.SLICED
    assert len({headers["webhook-id"] for headers, _ in lane.webhook.received}) == 2
    assert len(lane.webhook.received) == 2


@in_a_lane
async def test_a_worker_that_is_killed_between_sending_and_recording_tells_again_under_the_same_id(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("cut")}, HEARTBEAT_TIMEOUT="PT5S")
    marker = lane.stack.folder / "killed"
    first = lane.stack.fork_worker(NIGHTMILL_FAIL_POINT="notice.sent", NIGHTMILL_FAIL_MARKER=str(marker))
    with lane.stack.assembly() as assembly:
        nightmill = await lane.stack.nightmill(assembly)
        sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut", notify=lane.webhook.url)
        async with asyncio.timeout(30):
            while first.poll() is None:
                await asyncio.sleep(0.1)
        lane.stack.fork_worker()
        summary = await nightmill.slicings.wait(sha256, "cut", timeout=timedelta(seconds=60))
        [notice] = notices_of(nightmill, sha256)
    assert marker.exists()
    assert summary.status is SlicingStatus.SLICED
    assert [headers["webhook-id"] for headers, _ in lane.webhook.received] == [f"msg_{notice.message_id}"] * 2
    assert (notice.tries, notice.error) == (2, None)
