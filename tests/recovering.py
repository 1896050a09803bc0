"""Recovery for tests: a tick of the reconciler, and the ways in which runs are lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment

from activities.executions import Executions
from activities.other_repairs import OtherRepairs
from activities.reconciliation import ReconcileActivities
from activities.repairing import Repairer
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import PageOutcome, ReconcilePage, Source
from tests.lanes import Lane


def recovering_at_once(lane: Lane) -> None:
    """Let a lane's reconciler look at what is late by nothing at all, and repair it again without a pause."""
    lane.set(RECONCILER__GRACE="0", RECONCILER__SPACING="[0,0,0]")


async def tick(nightmill: Nightmill, source: Source) -> PageOutcome:
    """Look at all candidates of a source once, and repair them."""
    client, assembly = nightmill.temporal, nightmill.assembly
    queue, slicing_queue = assembly.settings.worker.task_queue, assembly.settings.slicing.task_queue
    executions = Executions(client, None, queue, slicing_queue)
    repairer = Repairer(assembly.recovery, assembly.batches, executions, OtherRepairs.of(client, assembly))
    activities = ReconcileActivities(
        repairer, assembly.recovery, executions, assembly.settings.reconciler, build="host:1", queues=()
    )
    outcome: PageOutcome = await ActivityEnvironment().run(
        activities.reconcile_page, ReconcilePage(tick="a test", source=source)
    )
    assert outcome.failed == 0
    return outcome


async def lose(client: Client, workflow_id: str, way: str) -> None:
    """Let a run be `terminated` by somebody, or be `deleted`, as if its retention had passed."""
    handle = client.get_workflow_handle(workflow_id)
    if way == "terminated":
        await handle.terminate("a test")
        return
    await client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(
            namespace=client.namespace, workflow_execution=WorkflowExecution(workflow_id=workflow_id)
        )
    )
    with suppress(RPCError):  # it is gone
        while True:
            await handle.describe()
            await asyncio.sleep(0.05)
