"""The face to programs.

From a script:

    from nightmill import client

    batch_id = client.submit(
        [{"custom_id": "a", "prompt": "Say hello"}], provider="openai", model="gpt-5-mini"
    )
    summary = client.wait(batch_id)
    for result in client.results(batch_id):
        print(result.custom_id, result.text)

Pages that are kept fresh: `client.add_document`, `client.sync_document`, `client.document_content`.

From a service with an event loop: `async with Nightmill.connect() as nightmill:`, and the methods of the same names.
Requests are stored through the database and storage settings (`NIGHTMILL_DATABASE_URL`, `NIGHTMILL_STORAGE_URL`), which
are the worker's; Temporal is found as `TEMPORAL_ADDRESS` and the SDK's other variables say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nightmill.client.nightmill import Nightmill

if TYPE_CHECKING:
    from datetime import timedelta

    from nightmill.contracts import BatchSummary, SyncOutcome
    from nightmill.storage.results import Result

__all__ = [
    "Nightmill",
    "add_document",
    "cancel",
    "document_content",
    "results",
    "submit",
    "sync_document",
    "wait",
]


def submit(requests: Iterable[Mapping[str, Any]], *, provider: str, model: str, **options: Any) -> str:
    """Store requests, start their batch, and return its id. See `Nightmill.submit` for the options and errors."""

    async def run() -> str:
        async with Nightmill.connect() as nightmill:
            return await nightmill.submit(requests, provider=provider, model=model, **options)

    return asyncio.run(run())


def wait(batch_id: str, *, timeout: timedelta | None = None) -> BatchSummary:
    """Return the summary once the batch has ended and its handler was called. See `Nightmill.wait`."""

    async def run() -> BatchSummary:
        async with Nightmill.connect() as nightmill:
            return await nightmill.wait(batch_id, timeout=timeout)

    return asyncio.run(run())


def cancel(batch_id: str) -> str:
    """Ask for a cancel and return the status from now on. See `Nightmill.cancel`."""

    async def run() -> str:
        async with Nightmill.connect() as nightmill:
            return await nightmill.cancel(batch_id)

    return asyncio.run(run())


def results(batch_id: str) -> Iterator[Result]:
    """Yield each completion in the order of the requests, also while the batch is running.

    Raises:
        BatchNotFound: There is no such batch.
    """
    from nightmill.assembly import assembled
    from nightmill.settings import load_settings

    with assembled(load_settings()) as assembly:
        yield from assembly.outcomes.results(batch_id)


def add_document(link: str, *, account: str, collection: str, **options: Any) -> str:
    """Add a page and return its document's id; by default its sync is started. See `Documents.add` for the options."""

    async def run() -> str:
        async with Nightmill.connect() as nightmill:
            return await nightmill.documents.add(link, account=account, collection=collection, **options)

    return asyncio.run(run())


def sync_document(document_id: str) -> SyncOutcome:
    """Sync a document now and return what it came to. See `Documents.sync`."""

    async def run() -> SyncOutcome:
        async with Nightmill.connect() as nightmill:
            return await nightmill.documents.sync(document_id)

    return asyncio.run(run())


def document_content(document_id: str) -> str | None:
    """Return a document's text as Markdown; None where it has none yet.

    Raises:
        DocumentNotFound: There is no such document.
    """
    from nightmill.assembly import assembled
    from nightmill.settings import load_settings

    with assembled(load_settings()) as assembly:
        found = assembly.documents.content(document_id)
        return None if found is None else found.content
