"""A real site of many pages, from Debian's documentation packages: crawled, synced, synced again, changed.

The pages are brought by `.ci/debian-docs`. Several workers share the database, the task queue and the host's budget.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from nightmill.client.connection import register_search_attributes
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import SyncOutcome, SyncResult
from nightmill.sandbox import Sandbox
from nightmill.storage.documents import DocumentFilter
from tests.debian_docs import debian_site
from tests.site import Site
from tests.stack import Stack, TemporalServer, WebhookSink
from workflows.story import SEARCH_ATTRIBUTES

pytestmark = [pytest.mark.slow, pytest.mark.system, pytest.mark.server, pytest.mark.timeout(600)]

PAGES = 150
WORKERS = 2
GOOD = {SyncResult.UPDATED, SyncResult.UNCHANGED, SyncResult.NOT_MODIFIED}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TemporalServer]:
    running = TemporalServer(log=tmp_path / "temporal.log")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def stack(server: TemporalServer, tmp_path: Path, sqlite_url: str) -> Iterator[Stack]:
    with Sandbox() as sandbox:
        extra = {"NIGHTMILL_DOCUMENTS__EXTRACTORS": "1"}
        built = Stack(tmp_path, server, sandbox, sqlite_url, "nightmill-debian", extra)
        yield built
        built.stop()


def test_many_real_pages_are_told_once_and_then_exactly_those_that_changed(stack: Stack) -> None:
    sink = WebhookSink()
    try:
        asyncio.run(_run(stack, sink))
    finally:
        sink.close()


async def _run(stack: Stack, sink: WebhookSink) -> None:
    with debian_site(PAGES) as site, stack.assembly() as assembly:
        nightmill = await stack.nightmill(assembly)
        await register_search_attributes(nightmill.temporal, SEARCH_ATTRIBUTES)
        for _ in range(WORKERS):
            stack.fork_worker()
        documents = await _crawled(nightmill, site, sink)
        assert len(documents) == PAGES
        assert [visit.path for visit in site.log] == ["/robots.txt", "/sitemap.xml"], "a sitemap is enough"

        first = await _all_synced(nightmill, documents)
        good = [outcome.document_id for outcome in first if outcome.result is SyncResult.UPDATED]
        others = [outcome for outcome in first if outcome.result is not SyncResult.UPDATED]
        assert len(good) >= 0.95 * PAGES, others
        assert {outcome.result for outcome in others} <= {SyncResult.PERMANENT_FAILURE}, others
        assert sorted(_told(sink)) == sorted(good), "each page is told once"
        assert site.most_at_once == 1, "two workers ask one host one page at a time"

        since = len(site.log)
        second = await _all_synced(nightmill, good)
        assert Counter(outcome.result for outcome in second) == {SyncResult.NOT_MODIFIED: len(good)}
        assert {visit.status for visit in site.log[since:]} == {304}
        assert len(_told(sink)) == len(good)

        changed = _change_three(site, documents, good)
        third = await _all_synced(nightmill, good)
        updated = [outcome.document_id for outcome in third if outcome.result is SyncResult.UPDATED]
        assert sorted(updated) == sorted(changed)
        assert {outcome.result for outcome in third} <= GOOD
        assert sorted(_told(sink)[len(good) :]) == sorted(changed)
        ids = [json.loads(body)["change_id"] for _, body in sink.received]
        assert len(ids) == len(set(ids))


async def _crawled(nightmill: Nightmill, site: Site, sink: WebhookSink) -> dict[str, str]:
    """Crawl the site and return its documents' ids by path."""
    await nightmill.documents.add_account("debian", "daily", change_handler={"kind": "webhook", "url": sink.url})
    crawl_id = await nightmill.documents.crawl(site.url("/sitemap.xml"), account="debian", collection="docs")
    progress = await nightmill.documents.wait_crawl(crawl_id)
    assert (progress.added, progress.failed, progress.limit_hit) == (PAGES, 0, None)
    found = await nightmill.documents.listed(DocumentFilter(collection="docs"), limit=PAGES + 1)
    return {one.row.link.removeprefix(site.url("").rstrip("/")): one.row.id for one in found}


async def _all_synced(nightmill: Nightmill, documents: dict[str, str] | list[str]) -> list[SyncOutcome]:
    ids = documents.values() if isinstance(documents, dict) else documents
    async with asyncio.timeout(timedelta(minutes=4).total_seconds()):
        return [outcome async for outcome in nightmill.documents.sync_many(list(ids), at_once=16)]


def _told(sink: WebhookSink) -> list[str]:
    return [json.loads(body)["document_id"] for _, body in sink.received]


def _change_three(site: Site, documents: dict[str, str], good: list[str]) -> list[str]:
    """Change the text of three pages, and only a comment and a byte of white space of ten others."""
    paths = [path for path, document_id in documents.items() if document_id in good and path in site.pages]
    for path in paths[:3]:
        body = site.pages[path].read()
        at = max(body.rfind(b"</p>"), body.rfind(b"</dd>"), body.rfind(b"</pre>"))
        assert at > 0, path
        site.pages[path] = replace(
            site.pages[path], body=body[:at] + b" Since the last edition 42 more options are known." + body[at:]
        )
    for path in itertools.islice(paths, 3, 13):
        body = site.pages[path].read()
        site.pages[path] = replace(site.pages[path], body=body.replace(b"</body>", b"<!-- built again --> </body>"))
    return [documents[path] for path in paths[:3]]
