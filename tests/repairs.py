"""What tests of repairs share: a lane that recovers at once, a time without workers, how runs ended, and ageing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import update
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.storage.recovery_models import RepairRow
from tests.lanes import HOST_DEPLOYMENT, Lane
from tests.recovering import lose, recovering_at_once
from tests.stuck import described, make_due, run_of


def lane_that_recovers(lane: Lane, **settings: str) -> None:
    """Let a lane repair at once."""
    recovering_at_once(lane)
    lane.set(**settings)


@asynccontextmanager
async def nobody_works(lane: Lane) -> AsyncIterator[Nightmill]:
    """Give a client of a lane that no worker runs for."""
    with lane.stack.assembly() as assembly:
        yield await lane.stack.nightmill(assembly)


def working(
    client: Client,
    queue: str,
    *,
    workflows: Sequence[type] = (),
    activities: Sequence[Any] = (),
    identity: str | None = None,
) -> Worker:
    """Return somebody else's worker, to be run by `async with`."""
    return Worker(
        client,
        task_queue=queue,
        workflows=workflows,
        activities=activities,
        identity=identity,
        workflow_runner=UnsandboxedWorkflowRunner(),
        deployment_config=HOST_DEPLOYMENT,
    )


async def closed(nightmill: Nightmill, batch_id: str) -> WorkflowExecutionStatus | None:
    """Return how the batch's present run ended, once it has."""
    async with asyncio.timeout(60):
        while (status := (await run_of(nightmill, batch_id).describe()).status) is WorkflowExecutionStatus.RUNNING:
            await asyncio.sleep(0.1)
    return status


async def at_rest(nightmill: Nightmill, batch_id: str) -> tuple[str, int]:
    """Return the batch's present run and the length of its history, once it only waits for its next poll."""
    async with asyncio.timeout(60):
        while True:
            seen = await described(nightmill, batch_id)
            if not seen.HasField("pending_workflow_task") and not seen.pending_activities:
                info = seen.workflow_execution_info
                return info.execution.run_id, info.history_length
            await asyncio.sleep(0.05)


async def lost(nightmill: Nightmill, batch_id: str, way: str = "terminated") -> None:
    """Lose the run of a batch whose poll is due; nothing of the run is at work, so that it writes no more either."""
    await at_rest(nightmill, batch_id)
    await lose(nightmill.temporal, ids.batch_workflow_id(batch_id), way)
    make_due(nightmill, batch_id)


async def poke(nightmill: Nightmill, batch_id: str) -> None:
    """Let a batch that `make_due` was told of poll at once: its row was changed, and its history still says later."""
    with suppress(RPCError):  # it has ended
        await run_of(nightmill, batch_id).signal("poll_now")


async def runs(nightmill: Nightmill, batch_id: str) -> set[str]:
    """Return the ids of all runs that the batch's workflow has had, as far as the server has listed them."""
    query = f"WorkflowId = '{ids.batch_workflow_id(batch_id)}'"
    return {each.run_id async for each in nightmill.temporal.list_workflows(query)}


def age_repairs(nightmill: Nightmill, by: timedelta) -> None:
    """Let every repair have been asked for so long ago, as if time had passed."""
    with nightmill.assembly.database.transaction() as session:
        session.connection().execute(update(RepairRow).values(asked_at=datetime.now(UTC) - by))
