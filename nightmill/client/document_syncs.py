"""Sync documents from a program: one now, or many with their outcomes as they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import (
    Priority,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import CancelledError, TerminatedError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from nightmill import ids
from nightmill.client.failures import Timeout, checked, failure_of, refusal, unreachable, within
from nightmill.contracts import DocumentSyncInput, SyncErrorCode, SyncOutcome, SyncResult, Trigger
from nightmill.documents import plans
from nightmill.errors import DocumentNotFound, InvalidInput, WorkflowFailed
from nightmill.telemetry.syncs import record_sync

if TYPE_CHECKING:
    from nightmill.assembly import Assembly
    from nightmill.storage.document_models import AccountRow
    from nightmill.storage.documents import StoredDocument

T = TypeVar("T")

SYNC = "DocumentSync"

AT_ONCE = 50
"""Syncs of one `sync_many` that are under way at the same time, more than a worker's slots."""

_ACCOUNT = SearchAttributeKey.for_keyword(ids.ACCOUNT_ATTRIBUTE)
_TRIGGER = SearchAttributeKey.for_keyword(ids.TRIGGER_ATTRIBUTE)

Started = Literal["started", "already_syncing"]


@dataclass(frozen=True)
class DocumentSyncs:
    """The part of `nightmill.client.documents.Documents` that syncs.

    Attributes:
        temporal: The Temporal client, with Nightmill's data converter.
        assembly: The database and what reads it.
    """

    temporal: Client
    assembly: Assembly

    async def sync_now(self, document_id: str) -> Started:
        """Start a document's sync; where it is being synced, let an attempt that waits go ahead.

        Raises:
            DocumentNotFound: There is no such document.
            TemporalUnreachable: The sync could not be started.
            NotConfigured: No worker has registered the search attributes yet.
        """
        stored = await asyncio.to_thread(self.assembly.documents.get, document_id)
        try:
            try:
                await self._start_sync(stored, id_conflict_policy=WorkflowIDConflictPolicy.FAIL)
            except WorkflowAlreadyStartedError:
                # A plain signal does not wake a sync that a sweep has started for later; one with a start does.
                # One that has ended meanwhile is followed by another one.
                await self._start_sync(
                    stored, id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING, start_signal="sync_now"
                )
                record_sync(_already_syncing(stored))
                return "already_syncing"
        except RPCError as error:
            raise refusal(f"document {document_id}", error) from error
        return "started"

    async def _start_sync(
        self, stored: StoredDocument, *, id_conflict_policy: WorkflowIDConflictPolicy, start_signal: str | None = None
    ) -> None:
        row, account = stored.row, stored.account
        await self.temporal.start_workflow(
            SYNC,
            DocumentSyncInput(document_id=row.id),
            id=ids.document_workflow_id(row.id),
            task_queue=self.assembly.settings.worker.task_queue,
            id_conflict_policy=id_conflict_policy,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            priority=self.priority_of(Trigger.MANUAL.priority, account),
            search_attributes=attributes(account.name, Trigger.MANUAL),
            start_signal=start_signal,
            static_summary=row.external_link[:200],
        )

    def priority_of(self, key: int, account: AccountRow) -> Priority:
        """Return the priority of an account's work, with its plan's weight."""
        plan = plans.plan_of(account.plan, self.assembly.settings.documents.plans)
        return Priority(
            priority_key=key,
            fairness_key=ids.fairness_key(account.name),
            fairness_weight=plan.weight if plan is not None else 1.0,
        )

    async def wait(self, document_id: str, *, timeout: Timeout = None) -> SyncOutcome:
        """Return what the sync that is under way came to, or the last one.

        Args:
            document_id: The document.
            timeout: Give up waiting after this long; the sync goes on.

        Raises:
            TimeoutError: It has not ended in time.
            DocumentNotFound: Temporal knows of no sync of this document.
            WorkflowFailed: The sync failed by a bug; pages that cannot be had are outcomes.
            TemporalUnreachable: Temporal went away; waiting again goes on.
        """
        handle: WorkflowHandle[Any, SyncOutcome] = self.temporal.get_workflow_handle(
            ids.document_workflow_id(document_id), result_type=SyncOutcome
        )
        try:
            async with within(timeout, f"the sync of document {document_id}"):
                return await handle.result()
        except WorkflowFailureError as error:
            if isinstance(error.cause, CancelledError | TerminatedError):
                reason = "terminated" if isinstance(error.cause, TerminatedError) else "canceled"
                return SyncOutcome(document_id=document_id, result=SyncResult.SKIPPED, reason=reason)
            raise failure_of(f"document {document_id}", error) from error
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise DocumentNotFound(f"no sync of document {document_id[:80]!r} is known to Temporal") from None
            raise unreachable(f"document {document_id}", error) from error

    async def sync(self, document_id: str, *, timeout: Timeout = None) -> SyncOutcome:
        """Sync a document now and return what it came to. See `sync_now` and `wait` for the errors."""
        patience = checked(timeout)
        await self.sync_now(document_id)
        return await self.wait(document_id, timeout=patience)

    async def start_many(
        self, document_ids: Iterable[str], *, at_once: int = AT_ONCE
    ) -> AsyncIterator[tuple[str, Started | Literal["gone"]]]:
        """Start the syncs of documents and yield each id with what `sync_now` answers; see `sync_many`.

        A document that was deleted since its id was read is `gone`.

        Raises:
            TemporalUnreachable: Temporal went away; those that were started go on.
        """

        async def start(document_id: str) -> tuple[str, Started | Literal["gone"]]:
            try:
                return document_id, await self.sync_now(document_id)
            except DocumentNotFound:
                return document_id, "gone"

        async with aclosing(_in_parallel(document_ids, start, at_once)) as found:
            async for each in found:
                yield each

    async def sync_many(self, document_ids: Iterable[str], *, at_once: int = AT_ONCE) -> AsyncIterator[SyncOutcome]:
        """Sync documents and yield what each came to, in the order in which they end; a few are in memory at a time.

        A document that does not exist is `skipped`, one whose workflow fails by a bug `unexpected_retry_exhausted`.

        Args:
            document_ids: Read on a thread as there is room, so it may be a query of any length.
            at_once: How many syncs are under way at the same time.

        Raises:
            TemporalUnreachable: Temporal went away; what was started goes on.
        """
        async with aclosing(_in_parallel(document_ids, self._sync_one, at_once)) as found:
            async for each in found:
                yield each

    async def _sync_one(self, document_id: str) -> SyncOutcome:
        try:
            return await self.sync(document_id)
        except DocumentNotFound:
            return SyncOutcome(document_id=document_id, result=SyncResult.SKIPPED, reason="gone")
        except (WorkflowFailed, InvalidInput) as error:
            return SyncOutcome(
                document_id=document_id,
                result=SyncResult.UNEXPECTED_RETRY_EXHAUSTED,
                reason=str(error)[:500],
                error_code=SyncErrorCode.SYNC_ERROR,
                exception_class=type(error).__name__,
            )


async def _in_parallel(
    document_ids: Iterable[str], work: Callable[[str], Coroutine[Any, Any, T]], at_once: int
) -> AsyncGenerator[T, None]:
    """Yield what `work` returns for each id, as it comes, a bounded number at a time."""
    waiting, running, done = iter(document_ids), set[asyncio.Task[T]](), set[asyncio.Task[T]]()
    is_drained = False
    try:
        while running or not is_drained:
            while not is_drained and len(running) < at_once:
                document_id = await asyncio.to_thread(next, waiting, None)
                if document_id is None:
                    is_drained = True
                else:
                    running.add(asyncio.create_task(work(document_id)))
            if running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
    finally:
        for task in running:
            task.cancel()
        # None outlives the connection, and asyncio does not complain of failures beside the one that is raised.
        await asyncio.gather(*running, *done, return_exceptions=True)


def attributes(account: str, trigger: Trigger) -> TypedSearchAttributes:
    """Return the search attributes of what a person has started."""
    return TypedSearchAttributes([SearchAttributePair(_ACCOUNT, account), SearchAttributePair(_TRIGGER, trigger.value)])


def _already_syncing(stored: StoredDocument) -> SyncOutcome:
    return SyncOutcome(
        document_id=stored.row.id,
        account=stored.account.name,
        collection=stored.row.collection,
        link=stored.row.external_link,
        result=SyncResult.ALREADY_SYNCING,
    )
