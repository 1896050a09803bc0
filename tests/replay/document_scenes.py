"""Scenes of documents, sweeps and crawls whose histories `record.py` records."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy import text

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import SyncStatus
from tests.pages import article
from tests.site import Page, Site, failure
from tests.stack import WebhookSink


@dataclass
class Stage:
    """What a scene has: a Nightmill with a worker, a site of three pages, and the host that is told of changes."""

    nightmill: Nightmill
    site: Site
    sink: WebhookSink

    async def document(self, path: str = "/0") -> str:
        """Add a document that nobody syncs yet; return its id."""
        documents = self.nightmill.documents
        await documents.add_account("acme", "daily", change_handler={"kind": "webhook", "url": self.sink.url})
        return await documents.add(self.site.url(path), account="acme", collection="docs", sync=False)

    async def waiting(self, document_id: str) -> None:
        """Wait until an attempt has failed."""
        while not self.nightmill.assembly.documents.get(document_id).row.spent_transient:
            await asyncio.sleep(0.1)


async def changed(stage: Stage) -> str:
    """A new page, and a webhook."""
    document_id = await stage.document()
    await stage.nightmill.documents.sync(document_id)
    return ids.document_workflow_id(document_id)


async def unchanged(stage: Stage) -> str:
    """A page that has not changed."""
    workflow_id = await changed(stage)
    await stage.nightmill.documents.sync(ids.document_id_of(workflow_id))
    return workflow_id


async def tried_again(stage: Stage) -> str:
    """A site that fails once, and is tried again half a minute later."""
    stage.site.answers["/0"] = [failure(503)]
    return await changed(stage)


async def hurried(stage: Stage) -> str:
    """A site that fails once, and "sync now" that brings the next attempt forward."""
    stage.site.answers["/0"] = [failure(503)]
    document_id = await stage.document()
    await stage.nightmill.documents.sync_now(document_id)
    await stage.waiting(document_id)
    await stage.nightmill.documents.sync(document_id)
    return ids.document_workflow_id(document_id)


async def untold(stage: Stage) -> str:
    """A handler that refuses the change."""
    stage.sink.answers[:] = [400]
    return await changed(stage)


async def gone(stage: Stage) -> str:
    """A page that there is not."""
    document_id = await stage.document("/none")
    await stage.nightmill.documents.sync(document_id)
    return ids.document_workflow_id(document_id)


async def skipped(stage: Stage) -> str:
    """A document that is disabled."""
    document_id = await stage.document()
    with stage.nightmill.assembly.database.transaction() as session:
        session.connection().execute(text("UPDATE documents SET enabled = false"))
    await stage.nightmill.documents.sync(document_id)
    return ids.document_workflow_id(document_id)


async def abandoned(stage: Stage) -> str:
    """A sync that is canceled between attempts."""
    stage.site.answers["/0"] = [failure(503)]
    document_id = await stage.document()
    await stage.nightmill.documents.sync_now(document_id)
    await stage.waiting(document_id)
    workflow_id = ids.document_workflow_id(document_id)
    await stage.nightmill.temporal.get_workflow_handle(workflow_id).cancel()
    while stage.nightmill.assembly.documents.get(document_id).row.sync_status is not SyncStatus.FAILED:
        await asyncio.sleep(0.1)
    await stage.nightmill.documents.wait(document_id)
    return workflow_id


async def swept(stage: Stage) -> str:
    """A sweep that starts three syncs."""
    documents = [await stage.document(f"/{number}") for number in range(3)]
    sweep_id = await stage.nightmill.documents.start_sweep()
    await stage.nightmill.documents.wait_sweep(sweep_id)
    for document_id in documents:
        await stage.nightmill.documents.wait(document_id)
    return sweep_id


async def crawled(stage: Stage) -> str:
    """A crawl of a start page with two links, and a pause between them."""
    await stage.document("/0")
    links = "<a href='/1'>one</a><a href='/2'>two</a>"
    stage.site.pages["/start"] = Page(article(3).read().decode().replace("<footer>", f"{links}<footer>"))
    crawl_id = await stage.nightmill.documents.crawl(stage.site.url("/start"), account="acme", collection="docs")
    await stage.nightmill.documents.wait_crawl(crawl_id)
    return ids.crawl_workflow_id(crawl_id)


SCENES: tuple[Callable[[Stage], Awaitable[str]], ...] = (
    changed, unchanged, tried_again, hurried, untold, gone, skipped, abandoned, swept, crawled,
)  # fmt: skip
