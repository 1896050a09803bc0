"""What comes after a storm: all settles by itself, but for what only users and operators can do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.service import RPCError

from nightmill import ids
from nightmill.contracts import SlicingStatus, SyncResult, SyncStatus
from tests.chaos.scene import Scene
from tests.chaos.storm import TYPES, reset_to_beginning
from tests.chaos.work import Work

DRIVEN = ", ".join(f"'{name}'" for kind, name in TYPES.items() if kind != "reconciler")

PATIENCE_OF_OPERATORS = timedelta(seconds=20)


async def is_calm(work: Work) -> bool:
    """Return whether all that was asked for has come to its end, as far as anybody can see."""
    scene = work.scene
    told = scene.host.read("SELECT count(DISTINCT batch) FROM effects")[0][0]
    if told < len(work.accepted):
        return False
    for document_id in work.documents.values():
        if (await scene.nightmill.documents.get(document_id)).row.sync_status is SyncStatus.SYNCING:
            return False
    for sha256, profile in work.slicings.values():
        if not (await scene.nightmill.slicings.summary(sha256, profile)).status.is_terminal:
            return False
    query = f"ExecutionStatus = 'Running' AND WorkflowType IN ({DRIVEN}, 'HostDone')"
    return (await scene.nightmill.temporal.count_workflows(query)).count == 0


async def ask_again(work: Work) -> None:
    """Sync all pages once more, and slice what could not be sliced: what a user does after a storm."""
    nightmill = work.scene.nightmill
    async for outcome in nightmill.documents.sync_many(work.documents.values(), at_once=20):
        if outcome.result not in (SyncResult.UPDATED, SyncResult.UNCHANGED, SyncResult.NOT_MODIFIED):
            work.surprises.append(f"{outcome.document_id}: after the storm {outcome.result} {outcome.reason}")
    for number, (sha256, profile) in work.slicings.items():
        summary = await nightmill.slicings.summary(sha256, profile)
        if summary.status is SlicingStatus.FAILED and summary.error_code is not None:
            work.retries[f"sliced again: {summary.error_code}"] += 1
            await work.slice(number, work.path_of(number), profile == "gazette")
            await nightmill.slicings.wait(sha256, profile)


@asynccontextmanager
async def helped(work: Work) -> AsyncIterator[None]:
    """Let an operator look after calls of host activities within the block.

    Where Temporal has handed such a call to the host's worker and the server or the connection died on the way, nobody
    works on it and nobody notices before its hour is over, for a host need not send heartbeats. An operator who does
    not wait that long resets the batch's run.
    """
    helping = asyncio.create_task(_reset_lost_calls(work))
    try:
        yield
    finally:
        helping.cancel()


async def _reset_lost_calls(work: Work) -> None:
    scene = work.scene
    candidates = [job.id for job in scene.plan.batches if job.handler == "activity"]
    while True:
        await asyncio.sleep(10)
        told = {key for (key,) in scene.host.read("SELECT key FROM keys")}
        for batch_id in candidates:
            if batch_id in work.accepted and batch_id not in told and await _is_lost(scene, batch_id):
                work.retries["a run reset, as its call of a host activity was lost on the way"] += 1
                await reset_to_beginning(scene.nightmill.temporal, ids.batch_workflow_id(batch_id))


async def _is_lost(scene: Scene, batch_id: str) -> bool:
    handle = scene.nightmill.temporal.get_workflow_handle(ids.batch_workflow_id(batch_id))
    try:
        pending = (await handle.describe()).raw_description.pending_activities
    except RPCError:
        return False
    latest = datetime.now(UTC) - PATIENCE_OF_OPERATORS
    return any(
        one.activity_type.name == "host_done"
        and one.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
        and one.last_started_time.ToDatetime(UTC) < latest
        for one in pending
    )
