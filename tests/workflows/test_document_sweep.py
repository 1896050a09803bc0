"""Sweeps from end to end, on a server that is fair: who is served when, by the sites' own logs."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from temporalio.client import ScheduleOverlapPolicy, WorkflowExecutionStatus

from nightmill import ids
from nightmill.client.connection import register_search_attributes
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import SweepSummary, SyncResult, SyncStatus
from nightmill.storage.document_models import DocumentRow
from tests.lanes import PATIENCE, Lane, in_a_lane, until
from tests.pages import article
from tests.site import Site, failure
from workflows.story import SEARCH_ATTRIBUTES

pytestmark = pytest.mark.server


async def account_of(nightmill: Nightmill, name: str, links: list[str]) -> list[str]:
    """Make an account with documents that are due."""
    await nightmill.documents.add_account(name, "daily")
    return [await nightmill.documents.add(link, account=name, collection="docs", sync=False) for link in links]


async def all_synced(nightmill: Nightmill, document_ids: list[str]) -> None:
    async with asyncio.timeout(PATIENCE.total_seconds()):
        for document_id in document_ids:
            outcome = await nightmill.documents.wait(document_id)
            assert outcome.result is SyncResult.UPDATED, outcome


def change(nightmill: Nightmill, document_id: str, **columns: object) -> None:
    statement = update(DocumentRow).where(DocumentRow.id == document_id).values(**columns)  # type: ignore[arg-type]
    with nightmill.assembly.database.transaction() as session:
        session.connection().execute(statement)


def pages(site: Site) -> list[str]:
    return [visit.path for visit in site.log if visit.path != "/robots.txt"]


async def status_of(nightmill: Nightmill, document_id: str) -> WorkflowExecutionStatus | None:
    handle = nightmill.temporal.get_workflow_handle(ids.document_workflow_id(document_id))
    return (await handle.describe()).status


# --- fairness


@in_a_lane
async def test_small_accounts_and_sync_now_overtake_the_backlog_of_a_large_one(lane: Lane) -> None:
    """The large account's documents are all with Temporal when the others come; its hosts are not what is short."""
    lane.set(WORKER__MAX_ACTIVITIES="2")
    with ExitStack() as stack:
        large = [stack.enter_context(Site({f"/{n}": article(n, delay=0.1) for n in range(5)})) for _ in range(6)]
        small = [stack.enter_context(Site({f"/{n}": article(n) for n in range(2)})) for _ in range(6)]
        now = stack.enter_context(Site({"/0": article(0)}))
        async with lane.running() as nightmill:
            backlog = await account_of(nightmill, "large", [site.url(f"/{n}") for n in range(5) for site in large])
            assert (await nightmill.documents.sweep(account="large")).enqueued == 30
            others = []
            for number, site in enumerate(small):
                others += await account_of(nightmill, f"small-{number}", [site.url("/0"), site.url("/1")])
            [urgent] = await account_of(nightmill, "large", [now.url("/0")])
            assert (await nightmill.documents.sweep()).enqueued >= 12
            began = len([path for site in large for path in pages(site)])
            await nightmill.documents.sync_now(urgent)
            await all_synced(nightmill, [urgent, *others, *backlog])
    asked_at = sorted(visit.at for site in large for visit in site.log if visit.path != "/robots.txt")
    served = [sum(at < visit.at for at in asked_at) for site in small for visit in site.log]
    assert began < 20, "the backlog was nearly gone before the others came"
    assert max(served) <= began + 18, "everybody else is served while about as many of the large account's are"
    assert sum(at < now.visits("/0")[0].at for at in asked_at) <= began + 5, "sync now goes before all of them"


@in_a_lane
async def test_caps_hold_for_accounts_and_sweeps_and_what_is_left_comes_next(lane: Lane) -> None:
    lane.set(DOCUMENTS__ACCOUNT_LIMIT="3", DOCUMENTS__SWEEP_LIMIT="5")
    with Site({f"/{n}": article(n) for n in range(5)}) as one, Site({f"/{n}": article(n) for n in range(3)}) as two:
        async with lane.running() as nightmill:
            documents = await account_of(nightmill, "one", [one.url(f"/{n}") for n in range(5)])
            documents += await account_of(nightmill, "two", [two.url(f"/{n}") for n in range(3)])
            await account_of(nightmill, "off", [])
            await nightmill.documents.add_account("off", "daily", auto_sync=False)
            first = await nightmill.documents.sweep()
            second = await nightmill.documents.sweep()
            await all_synced(nightmill, documents)
            third = await nightmill.documents.sweep()
    assert first == SweepSummary(
        accounts_scanned=3, accounts_enabled=2, accounts_scheduled=2, enqueued=5, capacity_left=0, cap_hit=True
    )
    assert (second.enqueued, second.cap_hit) == (3, False)
    assert (third.enqueued, third.skipped) == (0, 0)
    assert Counter(pages(one)) == {f"/{n}": 1 for n in range(5)}
    assert Counter(pages(two)) == {f"/{n}": 1 for n in range(3)}


@in_a_lane
async def test_sweeps_at_the_same_time_start_each_document_once(lane: Lane) -> None:
    lane.in_the_workflow_sandbox()
    with Site({f"/{n}": article(n) for n in range(8)}) as site:
        async with lane.running() as nightmill:
            documents = await account_of(nightmill, "acme", [site.url(f"/{n}") for n in range(8)])
            summaries = await asyncio.gather(*(nightmill.documents.sweep() for _ in range(3)))
            await all_synced(nightmill, documents)
    assert sum(summary.enqueued for summary in summaries) == 8
    assert Counter(pages(site)) == {f"/{n}": 1 for n in range(8)}


# --- what is delayed, dropped, or lost


@in_a_lane
async def test_sync_now_wakes_a_sync_that_waits_until_it_is_due(lane: Lane) -> None:
    with Site({"/0": article(0), "/1": article(1)}) as site:
        async with lane.running() as nightmill:
            woken, other = await account_of(nightmill, "acme", [site.url("/0"), site.url("/1")])
            soon = datetime.now(UTC) + timedelta(minutes=30)
            for document_id in (woken, other):
                change(nightmill, document_id, next_sync_at=soon, sync_status=SyncStatus.SYNCED)
            assert (await nightmill.documents.sweep()).enqueued == 2
            assert await nightmill.documents.sync_now(woken) == "already_syncing"
            await all_synced(nightmill, [woken])
            assert await status_of(nightmill, other) is WorkflowExecutionStatus.RUNNING
    assert pages(site) == ["/0"]


@in_a_lane
async def test_a_purge_drops_what_has_not_begun_also_what_is_delayed_and_nothing_else(lane: Lane) -> None:
    with Site({f"/{n}": article(n) for n in range(4)}) as site:
        site.answers["/3"] = [failure(503)]
        async with lane.running() as nightmill:
            documents = await account_of(nightmill, "acme", [site.url(f"/{n}") for n in range(4)])
            soon = datetime.now(UTC) + timedelta(minutes=30)
            for document_id in documents[:3]:
                change(nightmill, document_id, next_sync_at=soon, sync_status=SyncStatus.SYNCED)
            assert (await nightmill.documents.sweep()).enqueued == 4
            await nightmill.documents.sync_now(documents[0])  # asked for by a person
            await all_synced(nightmill, documents[:1])
            await until(lambda: site.visits("/3"))  # this one has begun, and waits for its next attempt
            dropped = await nightmill.documents.purge()
            statuses = [await status_of(nightmill, document_id) for document_id in documents]
            rows = [nightmill.assembly.documents.get(document_id).row for document_id in documents]
            again = await nightmill.documents.sweep()
    assert dropped == 2
    assert statuses == [
        WorkflowExecutionStatus.COMPLETED,
        WorkflowExecutionStatus.TERMINATED,
        WorkflowExecutionStatus.TERMINATED,
        WorkflowExecutionStatus.RUNNING,
    ]
    assert [row.queued_until for row in rows[1:3]] == [None, None]
    assert again.enqueued == 2, "what was dropped is due again"
    assert pages(site) == ["/0", "/3"] or pages(site) == ["/3", "/0"]


@in_a_lane
async def test_a_document_that_lost_its_sync_is_taken_after_ten_minutes_and_one_that_has_it_is_not(lane: Lane) -> None:
    with Site({f"/{n}": article(n) for n in range(3)}) as site:
        site.answers["/1"] = [failure(503)]
        async with lane.running() as nightmill:
            lost, syncing, recent = await account_of(nightmill, "acme", [site.url(f"/{n}") for n in range(3)])
            await nightmill.documents.sync_now(syncing)
            await until(lambda: nightmill.assembly.documents.get(syncing).row.spent_transient)
            old = datetime.now(UTC) - timedelta(minutes=11)
            for document_id in (lost, syncing):
                change(
                    nightmill, document_id, sync_status=SyncStatus.SYNCING, last_sync_attempted_at=old,
                    next_attempt_at=None,
                )  # fmt: skip
            change(nightmill, recent, sync_status=SyncStatus.SYNCING, last_sync_attempted_at=datetime.now(UTC))
            summary = await nightmill.documents.sweep()
            await all_synced(nightmill, [lost])
            still = await status_of(nightmill, syncing)
    assert (summary.enqueued, summary.skipped) == (1, 1)
    assert still is WorkflowExecutionStatus.RUNNING
    assert Counter(pages(site)) == {"/0": 1, "/1": 1}


# --- the schedule


@in_a_lane
async def test_workers_make_one_schedule_and_keep_an_operators_pause(lane: Lane) -> None:
    lane.set(DOCUMENTS__SWEEP_INTERVAL="PT2H")
    with Site({"/0": article(0)}) as site, lane.stack.assembly() as assembly:
        nightmill = await lane.stack.nightmill(assembly)
        await register_search_attributes(nightmill.temporal, SEARCH_ATTRIBUTES)
        schedule = nightmill.temporal.get_schedule_handle(ids.SYNC_SWEEP_SCHEDULE)
        try:
            [document_id] = await account_of(nightmill, "acme", [site.url("/0")])
            for _ in range(2):
                lane.stack.fork_worker(NIGHTMILL_DOCUMENTS__SWEEP="true")
            await until(lambda: lane.stack.worker_log().count("worker ready") == 2)
            made = (await schedule.describe()).schedule
            await schedule.trigger()
            await until(lambda: site.visits("/0"))
            await schedule.pause(note="maintenance")
            lane.stack.fork_worker(NIGHTMILL_DOCUMENTS__SWEEP="true", NIGHTMILL_DOCUMENTS__SWEEP_INTERVAL="PT3H")
            await until(lambda: lane.stack.worker_log().count("worker ready") == 3)
            kept = (await schedule.describe()).schedule
            await all_synced(nightmill, [document_id])
        finally:
            await schedule.delete()
    assert made.policy.overlap is ScheduleOverlapPolicy.SKIP
    assert made.policy.catchup_window == timedelta(hours=2)
    assert [one.every for one in made.spec.intervals] == [timedelta(hours=2)]
    assert not made.state.paused
    assert (kept.state.paused, kept.state.note) == (True, "maintenance")
    assert [one.every for one in kept.spec.intervals] == [timedelta(hours=3)], "settings are brought up to date"
    assert pages(site) == ["/0"]
