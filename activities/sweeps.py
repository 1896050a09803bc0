"""The steps of a sweep: take what is due, start it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.common import (
    Priority,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.boundary import temporal_errors
from activities.heartbeats import tell
from nightmill import ids
from nightmill.contracts import (
    DocumentSyncInput,
    StartInput,
    StartOutcome,
    SweepPick,
    SweepSummary,
    SweepTaken,
    SyncOutcome,
    SyncResult,
    TakeInput,
    Trigger,
)
from nightmill.documents.sweeping import Sweeper
from nightmill.failpoints import fail_point
from nightmill.telemetry.syncs import record_sync

AT_ONCE = 8
"""Starts on their way at the same time: Temporal's answers take longer than our questions."""

SWEEP_MEMO = "nightmill_sweep"
"""The memo of a sync that says which sweep has started it."""

_ACCOUNT = SearchAttributeKey.for_keyword(ids.ACCOUNT_ATTRIBUTE)
_TRIGGER = SearchAttributeKey.for_keyword(ids.TRIGGER_ATTRIBUTE)


@dataclass(frozen=True)
class SweepActivities:
    """Start the syncs that are due.

    Attributes:
        sweeper: Chooses and marks.
    """

    sweeper: Sweeper

    @activity.defn
    def take_due_documents(self, asked: TakeInput) -> SweepTaken:
        """Mark what is due, in fair order; a second run finds what the first one took."""
        with temporal_errors():
            taken = self.sweeper.take(asked, now=datetime.now(UTC))
            fail_point("sweep.taken")
            return taken

    @activity.defn
    async def start_document_syncs(self, asked: StartInput) -> StartOutcome:
        """Start a page of what the sweep took; a second run starts what the first one did not."""
        with temporal_errors():
            picks = await asyncio.to_thread(self.sweeper.picks, asked.sweep_id, first=asked.first, count=asked.count)
            client, gate = activity.client(), asyncio.Semaphore(AT_ONCE)
            done = 0

            async def start(pick: SweepPick) -> bool:
                nonlocal done
                async with gate:
                    is_new = await _start_if_possible(client, pick, asked)
                done += 1
                tell({"started": asked.first + done})
                if done == asked.count // 2:
                    fail_point("sweep.half_started")
                return is_new

            started = await asyncio.gather(*(start(pick) for pick in picks))
            fail_point("sweep.started")
            await asyncio.to_thread(
                self.sweeper.settle, [p.document_id for p, new in zip(picks, started, strict=True) if not new]
            )
            return StartOutcome(enqueued=sum(started), skipped=asked.count - sum(started))

    @activity.defn
    def record_sweep(self, summary: SweepSummary) -> None:
        """Write the sweep's one log record."""
        activity.logger.info("document sweep", extra=summary.model_dump())


async def _start_if_possible(client: Client, pick: SweepPick, asked: StartInput) -> bool:
    """Start one sync; a document whose sync nobody can start is passed by, so that it holds up no other."""
    try:
        return await _start(client, pick, asked)
    except (ValueError, RPCError) as error:  # pydantic's errors are ValueErrors
        if isinstance(error, RPCError) and error.status is not RPCStatusCode.INVALID_ARGUMENT:
            raise
        activity.logger.exception("sync cannot be started", extra={"document": pick.document_id})
        return False


async def _start(client: Client, pick: SweepPick, asked: StartInput) -> bool:
    """Start one sync of this sweep, once; False: it is being synced already, for somebody else."""
    if pick.has_begun:  # by an attempt of ours that died before it could say so, or by a person since
        return True
    try:
        await start_sync(
            client,
            pick.document_id,
            account=pick.account,
            weight=pick.weight,
            trigger=Trigger.SWEEP,
            task_queue=asked.task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            start_delay=pick.delay or None,
            memo={SWEEP_MEMO: asked.sweep_id},
            static_summary=f"sweep: {pick.account}",
        )
    except WorkflowAlreadyStartedError as error:
        running = client.get_workflow_handle(error.workflow_id, run_id=error.run_id)
        if await (await running.describe()).memo_value(SWEEP_MEMO, "", type_hint=str) == asked.sweep_id:
            return True
        record_sync(SyncOutcome(document_id=pick.document_id, account=pick.account, result=SyncResult.ALREADY_SYNCING))
        return False
    return True


async def start_sync(
    client: Client,
    document_id: str,
    *,
    account: str,
    weight: float,
    trigger: Trigger,
    task_queue: str,
    id_conflict_policy: WorkflowIDConflictPolicy,
    static_summary: str,
    start_delay: timedelta | None = None,
    memo: Mapping[str, str] | None = None,
) -> WorkflowHandle[Any, Any]:
    """Start a document's sync, which shares the workers as its account's weight says.

    Raises:
        WorkflowAlreadyStartedError: It is being synced, and the policy is to fail then.
        RPCError: Temporal did not take it.
    """
    return await client.start_workflow(
        "DocumentSync",
        DocumentSyncInput(document_id=document_id, trigger=trigger),
        id=ids.document_workflow_id(document_id),
        task_queue=task_queue,
        id_conflict_policy=id_conflict_policy,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        start_delay=start_delay,
        priority=Priority(
            priority_key=trigger.priority, fairness_key=ids.fairness_key(account), fairness_weight=weight
        ),
        search_attributes=TypedSearchAttributes(
            [SearchAttributePair(_ACCOUNT, account), SearchAttributePair(_TRIGGER, trigger.value)]
        ),
        memo=memo,
        static_summary=static_summary,
    )
