"""Add, sync, read and purge documents from a program; reached as `nightmill.documents`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import CancelledError, TerminatedError
from temporalio.service import RPCError, RPCStatusCode

from nightmill import ids
from nightmill.client.document_purge import Purge
from nightmill.client.document_syncs import DocumentSyncs, attributes
from nightmill.client.failures import Timeout, checked, failure_of, refusal, unreachable, within
from nightmill.client.streams import streamed
from nightmill.contracts import CrawlInput, CrawlLimits, CrawlProgress, SweepInput, SweepSummary, Trigger
from nightmill.documents.differences import shown
from nightmill.documents.imports import DocumentReader, numbered, read_handler, read_interval
from nightmill.documents.links import read_link
from nightmill.errors import CrawlNotFound, InvalidInput
from nightmill.storage.accounts import check_name
from nightmill.storage.documents import DocumentFilter, NewDocument, StoredDocument

if TYPE_CHECKING:
    from nightmill.assembly import Assembly
    from nightmill.storage.document_models import AccountRow, DocumentEventRow, VersionRow

SWEEP, CRAWL = "DocumentSyncSweep", "SiteCrawl"


@dataclass(frozen=True)
class Documents(DocumentSyncs):
    """Documents, by a connection to Temporal and to the database."""

    async def add_account(
        self, name: str, plan: str | None, *, auto_sync: bool = True, change_handler: Mapping[str, Any] | None = None
    ) -> AccountRow:
        """Make an account, or give the one of that name this plan, switch and handler; return it.

        Raises:
            InvalidInput: The name, the plan or the handler cannot be used.
        """
        handler = read_handler(change_handler)
        return await asyncio.to_thread(
            self.assembly.accounts.add, name, plan, auto_sync=auto_sync, change_handler=handler, now=_now()
        )

    async def add(
        self,
        url: str,
        *,
        account: str,
        collection: str,
        document_id: str | None = None,
        name: str | None = None,
        interval: timedelta | float | str | None = None,
        change_handler: Mapping[str, Any] | None = None,
        sync: bool = True,
    ) -> str:
        """Add a page and return its document's id: the known one's, where the collection has this address already.

        Args:
            url: An http(s) address. Spellings of one address are one document.
            account: Whose it is; the account must exist.
            collection: A name of your own; an address is once in a collection.
            document_id: An id of your own for a page that is new: 1 to 64 letters, digits, `_` or `-`; default a new
                UUIDv7. One that another document has is refused.
            name: Shown until the page says a title.
            interval: Time between syncs, in place of the plan's.
            change_handler: Whom to tell of changes, in place of the account's.
            sync: Sync it now.

        Raises:
            InvalidInput: An argument cannot be used; the message names it.
            AccountNotFound: There is no such account.
            TemporalUnreachable: It is added, but its sync could not be started.
        """
        new = NewDocument(
            account=check_name("account", account),
            collection=check_name("collection", collection),
            link=read_link(url),
            id=document_id,
            name=name,
            interval=read_interval(interval),
            change_handler=read_handler(change_handler),
        )
        row, _ = await asyncio.to_thread(self.assembly.documents.add, new, _now())
        if sync:
            await self.sync_now(row.id)
        return row.id

    async def add_many(self, rows: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
        """Add documents and return how many are new and how many were known; the sweep syncs them.

        Args:
            rows: Objects with `account`, `collection`, `url`, and perhaps `name`, `interval` and `change_handler`.

        Raises:
            InvalidInput: Rows cannot be used; the message names up to twenty. The others are added.
        """
        reader = DocumentReader(numbered(rows), self.assembly.accounts.get, "row")
        new, known = await asyncio.to_thread(self.assembly.documents.add_many, reader, _now())
        if reader.bad_lines:
            raise InvalidInput(f"{new:,} added, {known:,} known, {reader.bad_lines:,} refused: {reader.message()}")
        return new, known

    async def crawl(
        self,
        url: str,
        *,
        account: str,
        collection: str,
        limits: CrawlLimits | None = None,
        crawl_id: str | None = None,
    ) -> str:
        """Start to make documents of a site's pages, and return the crawl's id.

        Args:
            url: A page or a sitemap, where it begins.
            account: Whose documents they become; the account must exist.
            collection: And in which collection.
            limits: Pages, depth and time at most.
            crawl_id: 1 to 64 letters, digits, `_` or `-`; one that is known goes on where it stopped.

        Raises:
            InvalidInput: An argument cannot be used.
            AccountNotFound: There is no such account.
            TemporalUnreachable: The crawl could not be started.
            NotConfigured: No worker has registered the search attributes yet.
        """
        read_link(url)
        check_name("collection", collection)
        found = await asyncio.to_thread(self.assembly.accounts.get, account)
        crawl_id = ids.check_crawl_id(crawl_id) if crawl_id is not None else ids.new_id()
        try:
            await self.temporal.start_workflow(
                CRAWL,
                CrawlInput(
                    account=account, collection=collection, start_url=url.strip(), limits=limits or CrawlLimits()
                ),
                id=ids.crawl_workflow_id(crawl_id),
                task_queue=self.assembly.settings.worker.task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                priority=self.priority_of(Trigger.MANUAL.priority, found),
                search_attributes=attributes(account, Trigger.MANUAL),
                static_summary=url[:200],
            )
        except RPCError as error:
            raise refusal(f"crawl {crawl_id}", error) from error
        return crawl_id

    async def crawl_progress(self, crawl_id: str) -> CrawlProgress:
        """Return how a crawl stands, or what it came to.

        Raises:
            CrawlNotFound: There is no such crawl, or no worker has begun it.
        """
        return await asyncio.to_thread(self.assembly.crawls.progress, crawl_id)

    async def wait_crawl(self, crawl_id: str, *, timeout: Timeout = None) -> CrawlProgress:
        """Return what a crawl came to, once it has ended.

        Args:
            crawl_id: The crawl.
            timeout: Give up waiting after this long; the crawl goes on.

        Raises:
            TimeoutError: It has not ended in time.
            CrawlNotFound: There is no such crawl.
            InvalidInput: The crawl failed for its input.
            TemporalUnreachable: Temporal went away; waiting again goes on.
        """
        handle: WorkflowHandle[Any, CrawlProgress] = self.temporal.get_workflow_handle(
            ids.crawl_workflow_id(crawl_id), result_type=CrawlProgress
        )
        try:
            async with within(timeout, f"crawl {crawl_id}"):
                return await handle.result()
        except WorkflowFailureError as error:
            if isinstance(error.cause, CancelledError | TerminatedError):
                return await self.crawl_progress(crawl_id)
            raise failure_of(f"crawl {crawl_id}", error) from error
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise CrawlNotFound(f"no crawl {crawl_id[:80]!r} is known to Temporal") from None
            raise unreachable(f"crawl {crawl_id}", error) from error

    async def sweep(
        self, *, limit: int | None = None, account: str | None = None, timeout: Timeout = None
    ) -> SweepSummary:
        """Start the syncs that are due, as the schedule does, and return what was started and what was left.

        Args:
            limit: Start at most this many.
            account: Only this account's documents.
            timeout: Give up waiting after this long; the sweep goes on.

        Raises:
            TimeoutError: It has not ended in time.
            AccountNotFound: There is no such account.
            WorkflowFailed: The sweep failed by a bug.
            TemporalUnreachable: Temporal does not answer.
        """
        patience = checked(timeout)
        return await self.wait_sweep(await self.start_sweep(limit=limit, account=account), timeout=patience)

    async def start_sweep(self, *, limit: int | None = None, account: str | None = None) -> str:
        """Start a sweep and return its workflow's id. See `sweep` for the errors."""
        if account is not None:
            await asyncio.to_thread(self.assembly.accounts.get, account)
        sweep_id = f"{ids.SYNC_SWEEP_SCHEDULE}/{ids.new_id()}"
        try:
            await self.temporal.start_workflow(
                SWEEP,
                SweepInput(limit=limit, account=account),
                id=sweep_id,
                task_queue=self.assembly.settings.worker.task_queue,
                static_summary=f"by hand{f': {account}' if account else ''}",
            )
        except RPCError as error:
            raise unreachable("sweep", error) from error
        return sweep_id

    async def wait_sweep(self, sweep_id: str, *, timeout: Timeout = None) -> SweepSummary:
        """Return what a sweep started, once it has ended. See `sweep` for the errors."""
        try:
            async with within(timeout, "the sweep"):
                return await self._sweep(sweep_id).result()
        except WorkflowFailureError as error:
            raise failure_of("sweep", error) from error
        except RPCError as error:
            raise unreachable("sweep", error) from error

    async def sweep_progress(self, sweep_id: str) -> SweepSummary:
        """Ask a running sweep how far it has come; nothing where no worker answers yet."""
        try:
            answer: SweepSummary = await self._sweep(sweep_id).query(
                "progress", result_type=SweepSummary, rpc_timeout=timedelta(seconds=5)
            )
        except RPCError:
            return SweepSummary()
        else:
            return answer

    def _sweep(self, sweep_id: str) -> WorkflowHandle[Any, SweepSummary]:
        return self.temporal.get_workflow_handle(sweep_id, result_type=SweepSummary)

    async def purge(self, account: str | None = None) -> int:
        """Drop the syncs that sweeps have started and that have not begun, delayed ones too; return how many.

        "Sync now" is left alone, and so is what has begun. What is dropped is due again.

        Raises:
            AccountNotFound: There is no such account.
            TemporalUnreachable: Temporal does not answer; a second call goes on.
        """
        if account is not None:
            await asyncio.to_thread(self.assembly.accounts.get, account)
        return await Purge(
            self.temporal, self.assembly.database, self.assembly.settings.worker.task_queue, account
        ).run()

    async def get(self, document_id: str) -> StoredDocument:
        """Return a document and its account.

        Raises:
            DocumentNotFound: There is no such document.
        """
        return await asyncio.to_thread(self.assembly.documents.get, document_id)

    async def content(self, document_id: str, fingerprint: str | None = None) -> VersionRow | None:
        """Return a document's present text, or an earlier one that is kept; None where there is none.

        Raises:
            DocumentNotFound: There is no such document.
        """
        return await asyncio.to_thread(self.assembly.documents.content, document_id, fingerprint)

    async def diff(self, document_id: str, *, since: str | None = None) -> list[str]:
        """Return what changed between two texts, as lines.

        Args:
            document_id: The document.
            since: Fingerprint of the older text; default the one before the present one.

        Raises:
            DocumentNotFound: There is no such document.
            InvalidInput: The older text is not kept.
        """
        return await asyncio.to_thread(lambda: list(differences(self.assembly, document_id, since)))

    async def history(self, document_id: str, limit: int = 50) -> list[DocumentEventRow]:
        """Return what happened to a document, newest first.

        Raises:
            DocumentNotFound: There is no such document.
        """
        return await asyncio.to_thread(self.assembly.documents.history, document_id, limit)

    async def listed(
        self, filters: DocumentFilter | None = None, *, limit: int = 50, after: str | None = None
    ) -> list[StoredDocument]:
        """Return documents, newest first; `after` goes on after the document of that id."""
        return await asyncio.to_thread(self.assembly.documents.listed, filters, limit=limit, after=after)

    def export(
        self, filters: DocumentFilter | None = None
    ) -> AsyncGenerator[tuple[StoredDocument, VersionRow | None], None]:
        """Yield documents with their present texts, oldest first, a few megabytes in memory at a time."""
        return streamed(partial(self.assembly.documents.export, filters))


def differences(assembly: Assembly, document_id: str, since: str | None) -> Iterator[str]:
    """Yield what changed between two texts of a document, line by line. See `Documents.diff`."""
    old, present = compared(assembly, document_id, since)
    if present is not None:
        yield from shown(old.content if old else None, present.content)


def compared(assembly: Assembly, document_id: str, since: str | None) -> tuple[VersionRow | None, VersionRow | None]:
    """Return the older text and the present one, None where there is none. See `Documents.diff`."""
    versions = assembly.documents.versions(document_id)
    present = assembly.documents.content(document_id)
    if present is None:
        return None, None
    earlier = [version for version in versions if version.fingerprint != present.fingerprint]
    if since is not None:
        earlier = [version for version in versions if version.fingerprint == since]
        if not earlier:
            kept = ", ".join(version.fingerprint for version in versions)
            raise InvalidInput(f"no text {since[:80]!r} is kept of document {document_id}; there are {kept}")
    return (earlier[0] if earlier else None), present


def _now() -> datetime:
    return datetime.now(UTC)
