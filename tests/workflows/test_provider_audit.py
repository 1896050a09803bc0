"""The audit from end to end: what it finds, who is told of it and how often, and what a failing key hides."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage

import pytest
from temporalio.client import (
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleHandle,
    ScheduleSpec,
    WorkflowExecutionStatus,
)

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import AuditInput, AuditKind, AuditSummary, PartRef
from nightmill.ids import part_tag
from nightmill.storage.models import ProviderBatchRow
from nightmill.storage.provider_batches import ProviderBatchRepository
from nightmill.storage.requests import RequestRepository
from tests.lanes import MODELS, PATIENCE, Lane, in_a_lane, until
from tests.mailbox import Mailbox
from tests.slicing import mails_to, text_of

pytestmark = pytest.mark.server

_runs = itertools.count()


async def audited(nightmill: Nightmill, lane: Lane, **asked: object) -> AuditSummary:
    """Run an audit by hand."""
    summary: AuditSummary = await nightmill.temporal.execute_workflow(
        "ProviderAudit",
        AuditInput(**asked),  # type: ignore[arg-type]
        id=f"{lane.stack.task_queue}-audit-{next(_runs)}",
        task_queue=lane.stack.task_queue,
        result_type=AuditSummary,
        execution_timeout=PATIENCE,
    )
    return summary


async def scheduled(nightmill: Nightmill, lane: Lane) -> ScheduleHandle:
    """Make a schedule of audits that runs only when it is told to."""
    action = ScheduleActionStartWorkflow(
        "ProviderAudit",
        AuditInput().model_dump(),
        id=f"{lane.stack.task_queue}-audit",
        task_queue=lane.stack.task_queue,
        execution_timeout=PATIENCE,
    )
    return await nightmill.temporal.create_schedule(
        f"{lane.stack.task_queue}-audit", Schedule(action=action, spec=ScheduleSpec())
    )


async def triggered(nightmill: Nightmill, schedule: ScheduleHandle) -> AuditSummary:
    """Let a schedule run its audit now; return what that finds."""
    known = len((await schedule.describe()).info.recent_actions)
    await schedule.trigger()
    while len(actions := (await schedule.describe()).info.recent_actions) == known:
        await asyncio.sleep(0.05)
    started = actions[-1].action
    handle = nightmill.temporal.get_workflow_handle(
        started.workflow_id,  # type: ignore[union-attr]
        run_id=started.first_execution_run_id,  # type: ignore[union-attr]
        result_type=AuditSummary,
    )
    summary: AuditSummary = await handle.result()
    return summary


async def ran(nightmill: Nightmill, lane: Lane, provider: str = "openai", **options: object) -> str:
    """Run a batch to its end, some time ago; return the provider's id."""
    batch_id = await lane.submit(nightmill, 3, provider=provider, completion_handler=None, **options)
    await nightmill.wait(batch_id, timeout=PATIENCE)
    part = part_of(nightmill, batch_id)
    part.created_at = datetime.now(UTC) - timedelta(hours=1)
    with nightmill.assembly.database.transaction() as session:
        session.add(part)
    return batch_id


def part_of(nightmill: Nightmill, batch_id: str) -> ProviderBatchRow:
    return ProviderBatchRepository(nightmill.assembly.database).get(PartRef(batch_id=batch_id))[1]


def behind_our_back(nightmill: Nightmill, batch_id: str, tag: str) -> str:
    """Create a provider batch of a batch's requests, of which no row hears."""
    part = part_of(nightmill, batch_id)
    provider = nightmill.assembly.provider(part.provider)
    lines = RequestRepository(nightmill.assembly.database).lines(part.key or 0)
    file_id = provider.upload(lines, tag=tag)
    made = provider.create(lines, tag=tag, file_id=file_id, model=MODELS[part.provider], endpoint=provider.endpoints[0])
    return made.provider_batch_id


def told(mailbox: Mailbox) -> list[EmailMessage]:
    return mails_to(mailbox, "ops")


@in_a_lane
async def test_operators_are_told_once_of_what_is_found_and_then_of_what_is_new(lane: Lane) -> None:
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            batch_id = await ran(nightmill, lane)
            schedule = await scheduled(nightmill, lane)
            clean = await triggered(nightmill, schedule)
            orphan = behind_our_back(nightmill, batch_id, part_tag("gone", 0, 0, 0))
            first = await triggered(nightmill, schedule)
            again = await triggered(nightmill, schedule)
            double = behind_our_back(nightmill, batch_id, part_tag(batch_id, 0, 0, 0))
            last = await triggered(nightmill, schedule)
            mails = await until(lambda: len(found := told(mailbox)) >= 2 and found)
    assert (clean.counts, clean.news, clean.told, clean.keys, clean.listed, clean.owned) == ({}, 0, (), 4, 1, 1)
    assert [one.provider_batch_id for one in first.findings] == [orphan]
    assert (first.news, again.news, last.news) == (1, 0, 1)
    assert [one.key for one in again.findings] == [one.key for one in first.findings] == list(again.told)
    assert last.counts == {AuditKind.ORPHAN: 1, AuditKind.DUPLICATE: 1}
    assert len(mails) == 2
    assert orphan in text_of(mails[0])
    assert "cost not known" in text_of(mails[0])
    assert orphan not in text_of(mails[1])
    assert double in text_of(mails[1])
    assert batch_id in text_of(mails[1])
    assert "about $" in text_of(mails[1])
    assert lane.asked("batches.cancel") == lane.asked("batches.delete") == []
    assert {part.status for part in nightmill.assembly.batches.parts(batch_id)} == {"ended"}


@in_a_lane
async def test_a_key_that_fails_is_named_and_the_others_are_looked_at(lane: Lane) -> None:
    lane.in_the_workflow_sandbox()
    lane.set(GOOGLE__API_KEY="invalid", ACCOUNTS__ACME__OPENAI__API_KEY="sandbox-key")
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            batch_id = await ran(nightmill, lane)
            lost = await ran(nightmill, lane, "xai")
            made = str(part_of(nightmill, lost).provider_batch_id)
            lane.sandbox._engine.batches[made].deleted = True
            orphan = behind_our_back(nightmill, batch_id, part_tag("gone", 0, 0, 0))
            summary = await audited(nightmill, lane)
            mails = await until(lambda: told(mailbox))
    assert [(one.provider, one.account) for one in summary.failures] == [("google", None)]
    assert "401" in summary.failures[0].message
    assert summary.keys == 5
    assert summary.counts == {AuditKind.ORPHAN: 1, AuditKind.MISSING: 1}, "two keys show the same orphan"
    found = {one.provider_batch_id: one for one in summary.findings}
    assert found.keys() == {orphan, made}
    assert (found[made].batch_id, found[made].cost_is_exact, found[made].ended) == (lost, True, True)
    assert found[made].cost
    assert summary.news == 3
    assert len(mails) == 1
    assert "Keys that could not be looked at" in text_of(mails[0])
    assert "2 provider batches and 1 key" in str(mails[0]["subject"])


@in_a_lane
async def test_what_could_not_be_told_is_told_by_the_next_audit(lane: Lane) -> None:
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        port = lane.stack.extra["NIGHTMILL_NOTIFY__SMTP_PORT"]
        lane.set(NOTIFY__SMTP_PORT="9")  # discard: nobody listens
        async with lane.running() as nightmill:
            batch_id = await ran(nightmill, lane)
            behind_our_back(nightmill, batch_id, part_tag("gone", 0, 0, 0))
            schedule = await scheduled(nightmill, lane)
            before = await triggered(nightmill, schedule)
        lane.set(NOTIFY__SMTP_PORT=port)
        async with lane.running() as nightmill:
            after = await triggered(nightmill, schedule)
            mails = await until(lambda: told(mailbox))
    assert (before.news, before.told) == (1, ())
    assert (after.news, len(after.told), len(mails)) == (1, 1, 1)


@in_a_lane
async def test_an_audit_by_hand_shows_its_story_and_tells_nobody_if_asked_so(lane: Lane) -> None:
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            batch_id = await ran(nightmill, lane)
            orphan = behind_our_back(nightmill, batch_id, part_tag("gone", 0, 0, 0))
            name = f"{lane.stack.task_queue}-by-hand"
            handle = await nightmill.temporal.start_workflow(
                "ProviderAudit",
                AuditInput(notify=False, days=3),
                id=name,
                task_queue=lane.stack.task_queue,
                result_type=AuditSummary,
            )
            summary = await handle.result()
            shown = await handle.query("__temporal_workflow_metadata")
            known = await handle.query("progress", result_type=AuditSummary)
            status = (await handle.describe()).status
    assert status is WorkflowExecutionStatus.COMPLETED
    assert known == summary
    assert (summary.news, summary.told) == (1, ())
    assert orphan in str(shown)
    assert "**orphan**: 1" in str(shown)
    assert told(mailbox) == []
