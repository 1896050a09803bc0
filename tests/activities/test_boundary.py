"""The fence holds where activities run: in a worker's threads, for the run that scheduled them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.common import WorkerDeploymentVersion
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig

from activities.boundary import temporal_errors
from nightmill.contracts import Action, Finding, Subject
from nightmill.storage.batches import BatchRepository
from nightmill.storage.engine import Database
from nightmill.storage.models import BatchRow
from nightmill.storage.repairs import Intent, RepairRepository

if TYPE_CHECKING:
    from tests.stack import TemporalServer

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
VERSION = WorkerDeploymentConfig(WorkerDeploymentVersion("boundary", "1"), use_worker_versioning=False)


@workflow.defn
class Writing:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity("write", start_to_close_timeout=timedelta(minutes=5))


class Activities:
    """The first attempt, which sends no heartbeat, is held up until it is let go."""

    def __init__(self, batches: BatchRepository) -> None:
        self.batches = batches
        self.begun, self.go_on, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.seen: list[tuple[str, str]] = []

    @activity.defn
    def write(self) -> None:
        run_id = activity.info().workflow_run_id or ""
        is_first = not self.begun.is_set()
        self.begun.set()
        try:
            with temporal_errors():
                if is_first:
                    assert self.go_on.wait(100)
                self.batches.set_attention("b1", run_id)
        except ApplicationError as error:
            self.seen.append((run_id, f"{error.type}, {'for good' if error.non_retryable else 'for now'}"))
            raise
        else:
            self.seen.append((run_id, "written"))
        finally:
            if is_first:
                self.ended.set()


@pytest.mark.server
@pytest.mark.timeout(300)
def test_an_activity_that_outlives_its_run_writes_nothing(temporal_server: TemporalServer, database: Database) -> None:
    with database.transaction() as session:
        batch = BatchRow(id="b1", provider="openai", model="m", poll_schedule=[60.0], max_age=1.0, created_at=NOON)
        session.add(batch)
    activities = Activities(BatchRepository(database))
    old_run, new_run = asyncio.run(outlive(temporal_server.address, activities, RepairRepository(database)))
    assert activities.seen == [(new_run, "written"), (old_run, "RunSuperseded, for good")]
    assert BatchRepository(database).get("b1").needs_attention == new_run


async def outlive(address: str, activities: Activities, repairs: RepairRepository) -> tuple[str, str]:
    """Reset a run while its activity is at work, and return it and the run that goes on, when both have ended."""
    client = await Client.connect(address)
    queue = f"boundary-{repairs.database.dialect}"
    with ThreadPoolExecutor(4) as threads:
        async with Worker(
            client,
            task_queue=queue,
            workflows=[Writing],
            activities=[activities.write],
            activity_executor=threads,
            workflow_runner=UnsandboxedWorkflowRunner(),
            deployment_config=VERSION,
        ):
            old = await client.start_workflow(Writing.run, id=queue, task_queue=queue)
            await in_thread(lambda: activities.begun.wait(100))
            old_run = old.result_run_id or ""
            intent = Intent(
                Subject.BATCH, "b1", queue, f"reset/{old_run}", Finding.OVERDUE, Action.RESET, run_id=old_run
            )
            key = repairs.intend(intent, now=NOON) or 0
            new_run = await reset(client, queue, old_run)
            repairs.done(key, new_run_id=new_run, now=NOON)
            await client.get_workflow_handle(queue, run_id=new_run).result()
            activities.go_on.set()
            await in_thread(lambda: activities.ended.wait(100))
    return old_run, new_run


async def reset(client: Client, workflow_id: str, run_id: str) -> str:
    """Reset a run to its first task."""
    request = ResetWorkflowExecutionRequest(
        namespace=client.namespace,
        workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
        workflow_task_finish_event_id=4,
        reason="to see what its activity does",
        request_id=run_id,
    )
    return (await client.workflow_service.reset_workflow_execution(request)).run_id


async def in_thread(wait: Callable[[], bool]) -> None:
    assert await asyncio.to_thread(wait)
