"""Documents from a program: synced, swept, purged, on a real Temporal server with a worker in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from nightmill import ids
from nightmill.client.connection import register_search_attributes
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import CrawlLimits, SweepSummary, SyncResult, SyncStatus
from nightmill.errors import AccountNotFound, CrawlNotFound, DocumentNotFound, InvalidInput, NotConfigured
from nightmill.sandbox import Sandbox
from nightmill.storage.document_models import DocumentRow
from tests.lanes import running
from tests.site import Page, Site, robots, sitemap
from tests.stack import Stack, TemporalServer
from workflows.story import SEARCH_ATTRIBUTES

pytestmark = [pytest.mark.server, pytest.mark.timeout(90)]

Story = Callable[[Nightmill, Site], Coroutine[Any, Any, None]]
Play = Callable[..., None]


@pytest.fixture(scope="module")
def temporal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporalServer]:
    """A real Temporal server."""
    server = TemporalServer(log=tmp_path_factory.mktemp("temporal") / "server.log")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def play(temporal_server: TemporalServer, tmp_path: Path, sqlite_url: str, request: pytest.FixtureRequest) -> Play:
    """Runs a story with a connected client, a worker and a site of six pages, of account `acme` on an hourly plan."""

    def run(story: Story, *, worker: bool = True) -> None:
        async def begin() -> None:
            async with running(stack) if worker else alone(stack) as nightmill:
                await nightmill.documents.add_account("acme", "hourly")
                await story(nightmill, site)

        with Sandbox() as sandbox, Site({f"/{n}": page(n) for n in range(6)}) as site:
            queue = f"client-{request.node.name}"
            stack = Stack(tmp_path, temporal_server, sandbox, database_url=sqlite_url, task_queue=queue)
            asyncio.run(begin())

    return run


@asynccontextmanager
async def alone(stack: Stack) -> AsyncIterator[Nightmill]:
    """Give a client where no worker runs."""
    with stack.assembly() as assembly:
        nightmill = await stack.nightmill(assembly)
        await register_search_attributes(nightmill.temporal, SEARCH_ATTRIBUTES)
        yield nightmill


def page(number: int) -> Page:
    text = "".join(
        f"<p>Part {part} of article {number} tells of the harbour and of its boats.</p>" for part in range(9)
    )
    return Page(f"<!doctype html><title>Article {number}</title><main><h1>Article {number}</h1>{text}</main>")


async def added(nightmill: Nightmill, site: Site, account: str = "acme") -> list[str]:
    """Add the site's six pages, which nobody syncs yet."""
    return [
        await nightmill.documents.add(site.url(f"/{n}"), account=account, collection="help", sync=False)
        for n in range(6)
    ]


def set_rows(nightmill: Nightmill, document_ids: list[str], **values: Any) -> None:
    with nightmill.assembly.database.transaction() as session:
        session.connection().execute(update(DocumentRow).where(col(DocumentRow.id).in_(document_ids)).values(**values))


async def is_running(nightmill: Nightmill, document_id: str) -> bool:
    handle = nightmill.temporal.get_workflow_handle(ids.document_workflow_id(document_id))
    return (await handle.describe()).close_time is None


def test_before_the_first_worker_it_is_said_that_one_registers_the_search_attributes(
    temporal_server: TemporalServer, tmp_path: Path, sqlite_url: str
) -> None:
    # First in this file, whose server no worker has seen yet.
    async def ask(stack: Stack) -> None:
        with stack.assembly() as assembly:
            documents = (await stack.nightmill(assembly)).documents
            await documents.add_account("acme", "hourly")
            new = {"account": "acme", "collection": "help"}
            document_id = await documents.add("https://example.com/", **new, sync=False)
            for asked in (documents.sync_now(document_id), documents.crawl("https://example.com/", **new)):
                with pytest.raises(NotConfigured, match="start a worker once"):
                    await asked
            with pytest.raises(NotConfigured, match="start a worker once"):
                await documents.purge()

    with Sandbox() as sandbox:
        asyncio.run(ask(Stack(tmp_path, temporal_server, sandbox, database_url=sqlite_url, task_queue="nobody")))


def test_many_syncs_yield_what_each_came_to_and_a_missing_one_stops_nothing(play: Play) -> None:
    async def story(nightmill: Nightmill, site: Site) -> None:
        wanted = [*await added(nightmill, site), "no-such-document"]
        found = {each.document_id: each async for each in nightmill.documents.sync_many(iter(wanted), at_once=3)}
        assert found.keys() == set(wanted)
        assert [found[each].result for each in wanted] == [SyncResult.UPDATED] * 6 + [SyncResult.SKIPPED]
        assert found["no-such-document"].reason == "gone"
        with pytest.raises(DocumentNotFound):
            await nightmill.documents.sync_now("no-such-document")
        with pytest.raises(DocumentNotFound):
            await nightmill.documents.wait("no-such-document")
        document_id = wanted[0]
        site.pages["/0"] = Page("<main><p>" + "Now it tells of the ferries, and of nothing else. " * 9 + "</p></main>")
        assert (await nightmill.documents.sync(document_id)).result is SyncResult.UPDATED
        assert any(line.startswith("+ ") for line in await nightmill.documents.diff(document_id))
        with pytest.raises(InvalidInput, match="no text 'other' is kept"):
            await nightmill.documents.diff(document_id, since="other")

    play(story)


def test_a_second_sync_of_a_document_is_answered_at_once_and_runs_once(play: Play) -> None:
    async def story(nightmill: Nightmill, site: Site) -> None:
        site.pages["/0"] = Page(
            "<main><p>" + "It is slow, and it tells of the ferries. " * 9 + "</p></main>", delay=1.5
        )
        document_id, *_ = await added(nightmill, site)
        answers = [await nightmill.documents.sync_now(document_id) for _ in range(3)]
        assert answers == ["started", "already_syncing", "already_syncing"]
        with pytest.raises(TimeoutError, match=f"document {document_id} has not ended within 0:00:00.1"):
            await nightmill.documents.wait(document_id, timeout=timedelta(seconds=0.1))
        assert (await nightmill.documents.wait(document_id)).result is SyncResult.UPDATED
        assert len(site.visits("/0")) == 1

    play(story)


def test_a_purge_drops_what_a_sweep_has_started_and_leaves_what_somebody_asked_for(play: Play) -> None:
    async def story(nightmill: Nightmill, site: Site) -> None:
        documents = nightmill.documents
        await documents.add_account("other's", "hourly")
        mine, others = await added(nightmill, site), await added(nightmill, site, "other's")
        # Due in a quarter of an hour or later, but before the next sweep: this one starts them, delayed.
        past = datetime.now(UTC) - timedelta(minutes=25)
        set_rows(nightmill, mine + others, sync_status=SyncStatus.SYNCED, last_synced_at=past)
        set_rows(nightmill, mine + others, last_sync_attempted_at=past, next_sync_at=past + timedelta(minutes=55))
        summary = await documents.sweep()
        assert summary == SweepSummary(
            accounts_scanned=2, accounts_enabled=2, accounts_scheduled=2, enqueued=12, capacity_left=988
        )
        assert await documents.sync_now(mine[0]) == "already_syncing"
        assert (await documents.wait(mine[0])).result is SyncResult.UPDATED
        run = await nightmill.temporal.get_workflow_handle(ids.document_workflow_id(mine[1])).describe()
        set_rows(nightmill, mine[1:2], sync_status=SyncStatus.SYNCING, sync_run=run.run_id)  # as if it had begun

        assert await documents.purge("other's") == 6
        assert [await is_running(nightmill, each) for each in others] == [False] * 6
        assert [await is_running(nightmill, each) for each in mine] == [False] + [True] * 5
        assert (await documents.wait(others[0])).reason == "terminated"
        with pytest.raises(AccountNotFound):
            await documents.purge("nobody")
        assert await documents.purge() == 4
        assert [await is_running(nightmill, each) for each in mine] == [False, True, False, False, False, False]
        assert await documents.purge() == 0
        assert (await documents.sweep(account="other's", limit=4)).enqueued == 4, "what was dropped is due again"

    play(story)


def test_a_purge_ends_the_sweep_that_runs_and_gives_back_what_it_had_taken(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightmill.client.document_purge.PATIENCE", timedelta(seconds=1))

    async def story(nightmill: Nightmill, site: Site) -> None:
        documents = nightmill.documents
        await documents.add_account("other", "hourly")
        mine, others = await added(nightmill, site), await added(nightmill, site, "other")
        later = datetime.now(UTC) + timedelta(hours=1)

        def queued() -> list[bool]:
            rows = [nightmill.assembly.documents.get(each).row for each in (mine[0], others[0])]
            return [row.queued_until is not None for row in rows]

        set_rows(nightmill, mine + others, queued_until=later)
        assert await documents.purge("acme") == 0
        assert queued() == [False, True], "no sweep ran, so the other account's documents are none of our business"
        set_rows(nightmill, mine + others, queued_until=later)
        sweep = nightmill.temporal.get_workflow_handle(await documents.start_sweep(account="other"))
        crawl_id = await documents.crawl(site.url("/"), account="acme", collection="help")
        for wait, waited_for in ((documents.wait_sweep, sweep.id), (documents.wait_crawl, crawl_id)):
            with pytest.raises(TimeoutError, match="has not ended"):
                await wait(waited_for, timeout=timedelta(seconds=0.1))
        await nightmill.temporal.get_workflow_handle(ids.crawl_workflow_id(crawl_id)).terminate()
        assert await documents.purge("acme") == 0
        assert (await sweep.describe()).close_time is not None
        assert queued() == [False, False]

    play(story, worker=False)


def test_a_sync_that_a_sweep_started_and_somebody_hurries_is_not_purged(play: Play) -> None:
    async def story(nightmill: Nightmill, site: Site) -> None:
        document_id, *_ = await added(nightmill, site)
        set_rows(nightmill, [document_id], sync_status=SyncStatus.SYNCED, next_sync_at=datetime.now(UTC))
        site.pages["/0"] = Page("<main><p>" + "It is slow, and it tells of the ferries. " * 9 + "</p></main>", delay=4)
        await nightmill.documents.sweep(limit=1)
        await nightmill.documents.sync_now(document_id)
        set_rows(nightmill, [document_id], sync_status=SyncStatus.SYNCED)  # as if no worker had begun it
        assert await nightmill.documents.purge() == 0
        assert await is_running(nightmill, document_id)
        await nightmill.temporal.get_workflow_handle(ids.document_workflow_id(document_id)).terminate()

    play(story)


def test_a_site_becomes_documents_once_by_its_sitemap_or_by_its_links(play: Play) -> None:
    async def story(nightmill: Nightmill, site: Site) -> None:
        documents = nightmill.documents
        links = "".join(f'<a href="/{n}">{n}</a> ' for n in range(6))
        site.pages["/start"] = Page(f"<main><p>All of the harbour's articles.</p>{links}<a href='/no'>no</a></main>")
        site.pages["/robots.txt"] = robots("User-agent: *\nDisallow: /no\n")
        site.pages["/sitemap.xml"] = sitemap([site.url(f"/{n}") for n in range(6)])
        with pytest.raises(CrawlNotFound):
            await documents.wait_crawl("none")
        with pytest.raises(AccountNotFound):
            await documents.crawl(site.url("/"), account="nobody", collection="help")
        with pytest.raises(InvalidInput):
            await documents.crawl("no address", account="acme", collection="help")
        first = await documents.wait_crawl(
            await documents.crawl(site.url("/sitemap.xml"), account="acme", collection="help")
        )
        assert (first.added, first.known) == (6, 0)
        crawl_id = await documents.crawl(
            site.url("/start"), account="acme", collection="help", limits=CrawlLimits(depth=1), crawl_id="by-links"
        )
        second = await documents.wait_crawl(crawl_id)
        assert (crawl_id, second.added, second.known, second.refused) == ("by-links", 1, 6, 1)
        assert (await documents.crawl_progress("by-links")).ended_at is not None
        assert site.visits("/no") == []
        new, known = await documents.add_many(
            {"account": "acme", "collection": "help", "url": site.url(f"/{n}")} for n in range(8)
        )
        assert (new, known) == (2, 6)
        found = {stored.row.external_link: version async for stored, version in documents.export()}
        assert set(found) == {site.url("/start"), *(site.url(f"/{n}") for n in range(8))}
        assert set(found.values()) == {None}, "nothing was synced"
        with pytest.raises(InvalidInput, match=r"0 added, 1 known, 1 refused: row:2: url: missing"):
            await documents.add_many([{"account": "acme", "collection": "help", "url": site.url("/0")},
                                      {"account": "acme", "collection": "help"}])  # fmt: skip

    play(story)
