"""Recovery for tests: a tick of the reconciler, and the ways in which runs are lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, Finding, ReconcileSummary, Source
from tests.lanes import PATIENCE, Lane


def recovering_at_once(lane: Lane) -> None:
    """Let a lane's reconciler look at what is late by nothing at all, and repair it again without a pause."""
    lane.set(RECONCILER__GRACE="0", RECONCILER__SPACING="[0,0,0]")


async def tick(nightmill: Nightmill) -> dict[str, tuple[Finding, Action]]:
    """Let the reconciler run once, and return what it found and did, by the ids of what it repaired."""
    summary: ReconcileSummary = await nightmill.recovery.reconcile(timeout=PATIENCE)
    assert summary.failed == 0
    return {each.id: (each.finding, each.action) for each in summary.repairs}


def found(nightmill: Nightmill, source: Source) -> list[str]:
    """Return the candidates that there are."""
    page = nightmill.assembly.recovery.candidates.page(source, after=None, limit=100, now=datetime.now(UTC))
    return [each.id for each in page]


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
