"""Sites, databases, Temporal and our own programs break while documents are synced; the sites and the sink judge."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from nightmill.client.connection import register_search_attributes
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import SyncErrorCode, SyncOutcome, SyncResult, SyncStatus
from nightmill.errors import TemporalUnreachable
from nightmill.sandbox import Sandbox
from nightmill.storage.document_models import DocumentRow
from tests.lanes import PATIENCE, Lane, in_a_lane, until
from tests.mailbox import Mailbox
from tests.pages import article
from tests.site import Site, failure
from tests.stack import Stack, TemporalServer, WebhookSink
from workflows.story import SEARCH_ATTRIBUTES

pytestmark = pytest.mark.server


async def added(nightmill: Nightmill, site: Site, path: str = "/0", *, lane: Lane | None = None) -> str:
    """Make an account and a document that nobody syncs yet."""
    await nightmill.documents.add_account("acme", "daily", change_handler=lane.handler if lane else None)
    return await nightmill.documents.add(site.url(path), account="acme", collection="docs", sync=False)


async def synced(nightmill: Nightmill, document_id: str) -> SyncOutcome:
    """Sync now, and return what came of it, also where Temporal goes away meanwhile."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        await nightmill.documents.sync_now(document_id)
        return await outcome(nightmill, document_id)


async def outcome(nightmill: Nightmill, document_id: str, within: timedelta = PATIENCE) -> SyncOutcome:
    """Return what the sync that is under way comes to."""
    async with asyncio.timeout(within.total_seconds()):
        while True:
            try:
                return await nightmill.documents.wait(document_id)
            except TemporalUnreachable:
                await asyncio.sleep(0.2)


def row_of(nightmill: Nightmill, document_id: str) -> DocumentRow:
    return nightmill.assembly.documents.get(document_id).row


def execute(nightmill: Nightmill, statement: str, **values: Any) -> None:
    with nightmill.assembly.database.transaction() as session:
        session.connection().execute(text(statement), values)


def told(lane: Lane) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in lane.webhook.received]


def records(lane: Lane, level: str) -> list[dict[str, Any]]:
    """Return what workers in processes of their own have logged."""
    lines = [line for line in lane.stack.worker_log().splitlines() if line.startswith("{")]
    return [record for record in map(json.loads, lines) if record["level"] == level]


@asynccontextmanager
async def client_of(lane: Lane) -> Any:
    """Give a client of a lane whose workers are processes of their own."""
    with lane.stack.assembly() as assembly:
        nightmill = await lane.stack.nightmill(assembly)
        await register_search_attributes(nightmill.temporal, SEARCH_ATTRIBUTES)
        yield nightmill


# --- the database


@in_a_lane
async def test_a_database_that_is_locked_while_the_outcome_is_written_costs_time_only(lane: Lane) -> None:
    lane.set(DATABASE__BUSY_TIMEOUT="0.3")
    released: list[float] = []

    def hold(path: str) -> None:
        other = sqlite3.connect(path, isolation_level=None, timeout=30)
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(3)
        other.execute("ROLLBACK")
        other.close()
        released.append(time.time())

    with Site({"/0": article(0, delay=1.0)}) as site:
        async with lane.running() as nightmill:
            document_id = await added(nightmill, site, lane=lane)
            await nightmill.documents.sync_now(document_id)
            await until(lambda: site.visits("/0"))
            path = lane.stack.database_url.removeprefix("sqlite:///")
            threading.Thread(target=hold, args=[path]).start()
            result = await outcome(nightmill, document_id)
            row = row_of(nightmill, document_id)
    assert released
    assert result.result in (SyncResult.UPDATED, SyncResult.NOT_MODIFIED)
    assert (row.sync_status, row.spent_transient) == (SyncStatus.SYNCED, 0)
    assert len(told(lane)) == 1


@pytest.fixture
def on_postgres(stack: Stack, postgres_url: str, webhook: WebhookSink) -> Lane:
    stack.database_url = postgres_url
    stack.extra = {"NIGHTMILL_WORKER__SHUTDOWN_GRACE": "2", "NIGHTMILL_DOCUMENTS__FETCH_TIMEOUT": "2"}
    return Lane(stack, stack.sandbox, webhook)


@pytest.mark.slow
def test_a_postgresql_that_crashes_while_documents_are_synced_loses_and_doubles_nothing(
    on_postgres: Lane, postgres: Any
) -> None:
    lane = on_postgres

    def crash() -> None:
        postgres.crash()
        time.sleep(0.5)
        postgres.start()

    async def go() -> list[DocumentRow]:
        with Site({f"/{n}": article(n, delay=0.4) for n in range(8)}) as site:
            async with lane.running() as nightmill:
                ids = [await added(nightmill, site, f"/{n}", lane=lane) for n in range(8)]
                for document_id in ids:
                    await nightmill.documents.sync_now(document_id)
                await until(lambda: len(site.log) > 2)
                await asyncio.to_thread(crash)
                await until(lambda: len(site.log) > 5)
                await asyncio.to_thread(crash)
                for document_id in ids:
                    await outcome(nightmill, document_id)
                return [row_of(nightmill, document_id) for document_id in ids]

    rows = asyncio.run(go())
    assert {row.sync_status for row in rows} == {SyncStatus.SYNCED}
    assert all(row.handled_fingerprint == row.content_fingerprint is not None for row in rows)
    calls = Counter(headers["webhook-id"] for headers, _ in lane.webhook.received)
    assert len(calls) == 8, "each change has one id"
    assert calls.total() <= 8 + 2, "a call is repeated only where the record of it could not be written"


# --- Temporal


@pytest.fixture
def own(sandbox: Sandbox, webhook: WebhookSink, tmp_path: Path, sqlite_url: str) -> Iterator[Lane]:
    """A Nightmill whose Temporal server remembers across its death."""
    server = TemporalServer(database=tmp_path / "temporal.db", log=tmp_path / "temporal.log")
    server.start()
    stack = Stack(tmp_path, server, sandbox, sqlite_url, "nightmill-own", {"NIGHTMILL_WORKER__SHUTDOWN_GRACE": "1"})
    yield Lane(stack, sandbox, webhook)
    stack.stop()
    server.stop()


def test_a_temporal_server_that_is_killed_during_a_sync_costs_time_only(own: Lane) -> None:
    async def go() -> tuple[SyncOutcome, DocumentRow]:
        with Site({"/0": article(0, delay=1.5)}) as site:
            async with own.running() as nightmill:
                document_id = await added(nightmill, site, lane=own)
                await nightmill.documents.sync_now(document_id)
                await until(lambda: site.visits("/0"))
                await asyncio.to_thread(own.stack.server.stop, signal.SIGKILL)
                await asyncio.sleep(2)  # the page comes and is stored while nobody can be told of it
                await asyncio.to_thread(own.stack.server.start)
                return await outcome(nightmill, document_id), row_of(nightmill, document_id)

    result, row = asyncio.run(go())
    assert result.result in (SyncResult.UPDATED, SyncResult.NOT_MODIFIED)
    assert (row.sync_status, row.spent_transient, row.spent_unexpected) == (SyncStatus.SYNCED, 0, 0)
    assert row.handled_fingerprint == row.content_fingerprint is not None
    assert len({change["change_id"] for change in told(own)}) == len(told(own)) == 1


# --- people


@in_a_lane
async def test_a_document_that_is_disabled_between_attempts_is_left_alone(lane: Lane) -> None:
    with Site({"/0": article(0)}) as site:
        site.answers["/0"] = [failure(503)]
        async with lane.running() as nightmill:
            document_id = await added(nightmill, site, lane=lane)
            await nightmill.documents.sync_now(document_id)
            await until(lambda: row_of(nightmill, document_id).spent_transient)
            execute(nightmill, "UPDATE documents SET enabled = false")
            result = await synced(nightmill, document_id)
            row = row_of(nightmill, document_id)
    assert (result.result, result.reason) == (SyncResult.SKIPPED, "disabled")
    assert (row.sync_status, row.sync_step, row.next_attempt_at) == (SyncStatus.FAILED, None, None)
    assert len(site.visits("/0")) == 1
    assert told(lane) == []


@in_a_lane
async def test_documents_that_wait_for_their_host_are_left_alone_once_their_account_is_switched_off(lane: Lane) -> None:
    with Site({f"/{n}": article(n, delay=1.0) for n in range(4)}) as site:
        async with lane.running() as nightmill:
            ids = [await added(nightmill, site, f"/{n}") for n in range(4)]
            summary = await nightmill.documents.sweep()
            await until(lambda: len(site.log) > 1)
            await nightmill.documents.add_account("acme", "daily", auto_sync=False)
            results = [await outcome(nightmill, document_id) for document_id in ids]
            rows = [row_of(nightmill, document_id) for document_id in ids]
    assert summary.enqueued == 4
    skipped = [result for result in results if result.reason == "auto_sync_off"]
    assert len(skipped) >= 2
    assert len([visit for visit in site.log if visit.path != "/robots.txt"]) == 4 - len(skipped)
    assert all(row.queued_until is None and row.next_attempt_at is None for row in rows)


# --- our own programs


@in_a_lane
async def test_a_reader_that_cannot_start_is_the_operator_s_fault_told_once_and_costs_no_document_anything(
    lane: Lane,
) -> None:
    broken = lane.stack.folder / "libraries"
    broken.mkdir()
    (broken / "libc.so.6").write_text("not a library")  # what starts with this folder in its path ends at once
    with Mailbox() as mailbox, Site({"/0": article(0), "/1": article(1)}) as site:
        mailbox.notified_by(lane)
        lane.stack.fork_worker(LD_LIBRARY_PATH=str(broken))
        async with client_of(lane) as nightmill:
            ids = [await added(nightmill, site, path, lane=lane) for path in ("/0", "/1")]
            for document_id in ids:
                await nightmill.documents.sync_now(document_id)
            await until(lambda: len(site.visits("/0")) + len(site.visits("/1")) == 2)
            await until(lambda: mailbox.mails)
            await asyncio.sleep(1)
            during = [row_of(nightmill, document_id) for document_id in ids]
            (broken / "libc.so.6").unlink()
            results = [await synced(nightmill, document_id) for document_id in ids]
            after = [row_of(nightmill, document_id) for document_id in ids]
    assert {row.sync_status for row in during} == {SyncStatus.SYNCING}
    assert {row.last_sync_error_code for row in during} == {None}
    assert {result.result for result in results} == {SyncResult.UPDATED}
    assert {(row.spent_transient, row.spent_unexpected, row.consecutive_failures) for row in after} == {(0, 0, 0)}
    assert [record["message"] for record in records(lane, "ERROR")] == ["operator fault"]
    assert len(mailbox.mails) == 1
    assert len(told(lane)) == 2


@in_a_lane
async def test_a_bug_is_tried_three_times_and_reported_once(lane: Lane) -> None:
    with Mailbox() as mailbox, Site({"/0": article(0), "/1": article(1)}) as site:
        mailbox.notified_by(lane)
        lane.stack.fork_worker()
        async with client_of(lane) as nightmill:
            document_id, other = [await added(nightmill, site, path, lane=lane) for path in ("/0", "/1")]
            execute(
                nightmill,
                "CREATE TRIGGER broken BEFORE INSERT ON document_versions WHEN NEW.content LIKE '%harbour number 0%' "
                "BEGIN SELECT RAISE(ABORT, 'a bug'); END",
            )
            await nightmill.documents.sync_now(document_id)
            between = await until(lambda: stumbled(nightmill, document_id))
            result = await outcome(nightmill, document_id)
            row = row_of(nightmill, document_id)
            healthy = await synced(nightmill, other)
    assert (between.sync_status, between.last_sync_error_code) == (SyncStatus.SYNCING, SyncErrorCode.SYNC_ERROR)
    assert (result.result, result.attempt) == (SyncResult.UNEXPECTED_RETRY_EXHAUSTED, 3)
    assert (row.sync_status, row.sync_step, row.spent_transient) == (SyncStatus.FAILED, None, 0)
    assert row.last_sync_error_code is SyncErrorCode.SYNC_ERROR
    visits = [visit.at for visit in site.visits("/0")]
    assert len(visits) == 3
    assert all(4.5 < later - earlier < 15 for earlier, later in itertools.pairwise(visits))
    [error] = records(lane, "ERROR")
    assert (error["document"], error["account"]) == (document_id, "acme")
    assert len(mailbox.mails) == 1
    assert document_id in mailbox.mails[0]
    assert healthy.result is SyncResult.UPDATED
    assert [change["document_id"] for change in told(lane)] == [other]


def stumbled(nightmill: Nightmill, document_id: str) -> DocumentRow | None:
    row = row_of(nightmill, document_id)
    return row if row.spent_unexpected else None


@in_a_lane
async def test_a_row_that_cannot_even_be_marked_is_reported_once_and_holds_up_nobody(lane: Lane) -> None:
    with Mailbox() as mailbox, Site({"/0": article(0), "/1": article(1)}) as site:
        mailbox.notified_by(lane)
        lane.stack.fork_worker()
        async with client_of(lane) as nightmill:
            document_id, other = [await added(nightmill, site, path) for path in ("/0", "/1")]
            execute(
                nightmill,
                f"CREATE TRIGGER broken BEFORE UPDATE ON documents WHEN OLD.id = '{document_id}' "
                "BEGIN SELECT RAISE(ABORT, 'a bug'); END",
            )
            await nightmill.documents.sync_now(document_id)
            await until(lambda: mailbox.mails)
            healthy = await synced(nightmill, other)
            await nightmill.documents.sync_now(document_id)  # an attempt at once, and the same fault
            await asyncio.sleep(1)
            execute(nightmill, "DROP TRIGGER broken")
            mended = await synced(nightmill, document_id)
    assert healthy.result is SyncResult.UPDATED
    assert mended.result is SyncResult.UPDATED
    assert len(mailbox.mails) == 1
    assert len(records(lane, "ERROR")) == 1


# --- sites


@in_a_lane
async def test_a_retry_after_holds_for_the_whole_host_and_sync_now_obeys_it_too(lane: Lane) -> None:
    with Site({"/0": article(0), "/1": article(1)}) as site, Site({"/2": article(2)}) as other:
        site.answers["/0"] = [failure(429, retry_after=5)]
        async with lane.running() as nightmill:
            limited, neighbour = await added(nightmill, site, "/0"), await added(nightmill, site, "/1")
            elsewhere = await added(nightmill, other, "/2")
            await nightmill.documents.sync_now(limited)
            await until(lambda: row_of(nightmill, limited).spent_transient)
            results = await asyncio.gather(*(synced(nightmill, one) for one in (elsewhere, neighbour, limited)))
    assert {result.result for result in results} == {SyncResult.UPDATED}
    refused_at = site.visits("/0")[0].at
    assert other.visits("/2")[0].at < refused_at + 4, "another host is not concerned"
    assert site.visits("/1")[0].at >= refused_at + 4.9
    assert site.visits("/0")[1].at >= refused_at + 4.9


@in_a_lane
async def test_a_page_that_is_gone_on_three_days_is_removed_once_and_comes_back_as_a_change(lane: Lane) -> None:
    with Site({"/0": article(0)}) as site:
        async with lane.running() as nightmill:
            document_id = await added(nightmill, site, lane=lane)
            await synced(nightmill, document_id)
            page = site.pages.pop("/0")
            for _ in range(5):
                assert (await synced(nightmill, document_id)).error_code is SyncErrorCode.NOT_FOUND
                assert (await synced(nightmill, document_id)).error_code is SyncErrorCode.NOT_FOUND, "twice a day"
                yesterday = (datetime.now(UTC) - timedelta(days=1)).date()
                execute(nightmill, "UPDATE documents SET gone_on = :day", day=yesterday.isoformat())
            kinds_while_gone = [change["kind"] for change in told(lane)]
            content = nightmill.assembly.documents.content(document_id)
            site.pages["/0"] = page
            await synced(nightmill, document_id)
            row = row_of(nightmill, document_id)
    assert kinds_while_gone == ["changed", "removed"]
    assert content is not None, "the last good content is never lost"
    changes = told(lane)
    assert [change["kind"] for change in changes] == ["changed", "removed", "changed"]
    assert changes[2]["new_fingerprint"] == changes[0]["new_fingerprint"]
    assert len({change["change_id"] for change in changes}) == 3
    assert (row.gone_days, row.handled_fingerprint) == (0, row.content_fingerprint)


@in_a_lane
async def test_a_document_that_fails_again_and_again_needs_attention_once_until_it_works(lane: Lane) -> None:
    lane.set(DOCUMENTS__ATTENTION_AFTER="2")
    with Mailbox() as mailbox, Site() as site:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            document_id = await added(nightmill, site)
            needs = []
            for _ in range(4):
                await synced(nightmill, document_id)
                needs.append(row_of(nightmill, document_id).needs_attention)
            site.pages["/0"] = article(0)
            await synced(nightmill, document_id)
            cleared = row_of(nightmill, document_id)
    assert needs[0] is None
    assert all(needs[1:])
    assert len(mailbox.mails) == 1
    assert (cleared.needs_attention, cleared.consecutive_failures) == (None, 0)


# --- attempts that hang, and deploys


@pytest.mark.slow
@pytest.mark.timeout(300)
@in_a_lane
async def test_an_attempt_that_hung_while_another_one_finished_writes_nothing(lane: Lane) -> None:
    """A worker is stopped in the middle of a fetch for longer than its heartbeat may take, and goes on much later.

    Its connections take further attempts meanwhile, as Temporal cannot know, so that it takes a minute for the other
    worker to get one.
    """
    lane.set(DOCUMENTS__FETCH_TIMEOUT="2")
    with Site({"/0": article(0, edition=2)}) as site:
        site.answers["/0"] = [article(0, edition=1, delay=1.0)]
        stopped = lane.stack.fork_worker()
        async with client_of(lane) as nightmill:
            document_id = await added(nightmill, site, lane=lane)
            await nightmill.documents.sync_now(document_id)
            await until(lambda: site.visits("/0"))
            stopped.send_signal(signal.SIGSTOP)
            lane.stack.fork_worker()
            result = await outcome(nightmill, document_id, within=timedelta(minutes=3))
            before = row_of(nightmill, document_id)
            stopped.send_signal(signal.SIGCONT)
            await until(lambda: "superseded" in lane.stack.worker_log())
            await asyncio.sleep(2)  # it may have been sent further attempts while it was stopped
            after = row_of(nightmill, document_id)
            content = nightmill.assembly.documents.content(document_id)
    assert result.result is SyncResult.UPDATED
    assert before.model_dump() == after.model_dump()
    assert records(lane, "ERROR") == []
    assert content is not None
    assert "in the year 1802" in content.content
    assert (after.spent_transient, after.spent_unexpected) == (0, 0)
    assert len(told(lane)) == 1


@in_a_lane
async def test_a_deploy_in_the_middle_of_a_fetch_burns_no_attempt_and_reports_nothing(lane: Lane) -> None:
    lane.set(WORKER__SHUTDOWN_GRACE="1", DOCUMENTS__FETCH_TIMEOUT="5")
    with Mailbox() as mailbox, Site({"/0": article(0)}) as site:
        mailbox.notified_by(lane)
        site.answers["/0"] = [article(0, drip=4.0)]
        old = lane.stack.fork_worker()
        async with client_of(lane) as nightmill:
            document_id = await added(nightmill, site, lane=lane)
            await nightmill.documents.sync_now(document_id)
            await until(lambda: site.visits("/0"))
            old.terminate()
            assert await asyncio.to_thread(old.wait, 20) == 0
            lane.stack.fork_worker()
            result = await outcome(nightmill, document_id)
            row = row_of(nightmill, document_id)
    assert result.result is SyncResult.UPDATED
    assert (row.spent_transient, row.spent_unexpected, row.sync_attempts) == (0, 0, 0)
    assert records(lane, "ERROR") == []
    assert mailbox.mails == []
    assert len(told(lane)) == 1
