"""Drops automatic syncs that have not begun; what somebody asked for, and what has begun, is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from temporalio.client import Client, WorkflowExecution, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from nightmill import ids
from nightmill.client.failures import refusal
from nightmill.contracts import Trigger
from nightmill.errors import InvalidInput
from nightmill.storage.purging import PurgeRepository

if TYPE_CHECKING:
    from typing import Any

    from nightmill.storage.engine import Database

REASON = "purged: automatic work that has not begun"

SETTLED = timedelta(seconds=2)
"""How long nothing must be found: what was started or ended is listed up to a second later, with SQLite as well."""

PATIENCE = timedelta(seconds=10)
"""How long sweeps may take to end once they are canceled."""

_PAGE = 200
_AT_ONCE = 16


@dataclass(frozen=True)
class Purge:
    """One purge.

    Attributes:
        temporal: The Temporal client.
        database: Where the rows are.
        task_queue: Where this Nightmill's work is; the namespace may have others.
        account: Only this account's documents.
    """

    temporal: Client
    database: Database
    task_queue: str
    account: str | None

    async def run(self) -> int:
        """Drop what has not begun and return how many syncs these were.

        A sync that begins just now is fenced in its row, so ending it is harmless.

        Raises:
            TemporalUnreachable: Temporal does not answer; a second call goes on.
            NotConfigured: No worker has registered the search attributes yet.
        """
        rows = PurgeRepository(self.database)
        dropped: set[str] = set()
        sweeps: set[str] = set()
        try:
            quiet_since: float | None = None
            while quiet_since is None or _clock() - quiet_since < SETTLED.total_seconds():
                ended = await self._end_sweeps(sweeps)  # in each pass, for one may just have started
                found = await self._pass(rows, dropped)
                sweeps, dropped = sweeps | ended, dropped | found
                if found or ended:
                    quiet_since = None
                else:
                    quiet_since = quiet_since or _clock()
                    await asyncio.sleep(0.3)
        except RPCError as error:
            raise refusal("purge", error) from error
        # A sweep that was ended had taken documents of all accounts, and has not started all of them.
        await asyncio.to_thread(rows.release, None if sweeps else self.account)
        return len(dropped)

    @property
    def _ours(self) -> str:
        return f"ExecutionStatus = 'Running' AND TaskQueue = '{_quoted(self.task_queue)}'"

    async def _end_sweeps(self, known: set[str]) -> set[str]:
        """Cancel the sweeps that are listed now, wait until they have ended, and return their runs but for `known`."""
        query = f"WorkflowType = 'DocumentSyncSweep' AND {self._ours}"
        listed = [each async for each in self.temporal.list_workflows(query) if each.run_id not in known]
        handles = [self._handle(each) for each in listed]
        for handle in handles:
            await _unless_gone(handle.cancel())
        give_up_at = _clock() + PATIENCE.total_seconds()
        for handle in handles:
            while (await handle.describe()).close_time is None:
                if _clock() > give_up_at:
                    # No worker takes the cancel. Terminated, it starts nothing more either.
                    await _unless_gone(handle.terminate(reason=REASON))
                    break
                await asyncio.sleep(0.2)
        return {each.run_id for each in listed}

    async def _pass(self, rows: PurgeRepository, known: set[str]) -> set[str]:
        """Drop what is listed now and return the runs that were dropped; those that are `known` are gone already."""
        query = f"WorkflowType = 'DocumentSync' AND {self._ours} AND {ids.TRIGGER_ATTRIBUTE} = '{Trigger.SWEEP}'"
        if self.account is not None:
            query += f" AND {ids.ACCOUNT_ATTRIBUTE} = '{_quoted(self.account)}'"
        found: set[str] = set()
        async for page in self._pages(query):
            new = {_document_id(each): each for each in page if each.run_id not in known}
            runs = {document_id: each.run_id for document_id, each in new.items()}
            not_begun = await asyncio.to_thread(rows.not_begun, runs)
            gate = asyncio.Semaphore(_AT_ONCE)

            async def drop(execution: WorkflowExecution, gate: asyncio.Semaphore = gate) -> str | None:
                async with gate:
                    return execution.run_id if await self._drop(execution) else None

            ended = await asyncio.gather(*(drop(new[document_id]) for document_id in sorted(not_begun)))
            found.update(run_id for run_id in ended if run_id is not None)
        return found

    async def _pages(self, query: str) -> AsyncIterator[Sequence[WorkflowExecution]]:
        iterator = self.temporal.list_workflows(query, page_size=_PAGE)
        while True:
            await iterator.fetch_next_page()
            if iterator.current_page:
                yield list(iterator.current_page)
            if not iterator.next_page_token:
                return

    async def _drop(self, execution: WorkflowExecution) -> bool:
        """Terminate one run, unless somebody has asked for it with "sync now" or it has ended."""
        handle = self._handle(execution)
        if await self._was_asked_for(handle):
            return False
        return await _unless_gone(handle.terminate(reason=REASON))

    @staticmethod
    async def _was_asked_for(handle: WorkflowHandle[Any, Any]) -> bool:
        # A sync that a sweep has started and "sync now" brings forward keeps the sweep's mark until a worker takes it.
        try:
            async for event in handle.fetch_history_events(page_size=50):
                if event.workflow_execution_signaled_event_attributes.signal_name == "sync_now":
                    return True
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
        return False

    def _handle(self, execution: WorkflowExecution) -> WorkflowHandle[Any, Any]:
        return self.temporal.get_workflow_handle(execution.id, run_id=execution.run_id)


def _document_id(execution: WorkflowExecution) -> str:
    try:
        return ids.document_id_of(execution.id)
    except InvalidInput:
        return execution.id  # started by hand under another id; it fails for that by itself


async def _unless_gone(call: Awaitable[object]) -> bool:
    """Await a call; False where its workflow has ended already."""
    try:
        await call
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _clock() -> float:
    return asyncio.get_running_loop().time()
