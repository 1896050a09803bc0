"""Lets the planned troubles happen, each at its time, and keeps what became of them."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest, ResetWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError

from nightmill.errors import TemporalUnreachable, WorkflowFailed
from tests.chaos.plan import Kind, Trouble
from tests.chaos.scene import Scene

TYPES: dict[Kind, str] = {
    "batch": "ModelCompletionBatch",
    "part": "ProviderBatch",
    "document": "DocumentSync",
    "slicing": "DocumentSlicing",
    "reconciler": "Reconciler",
}


FIRST_TASK = 3
"""The event by which the first workflow task was started: to reset there is to begin anew."""


@dataclass
class Storm:
    """The troubles of a run.

    Attributes:
        open_jobs: How much is under way, to tell a kill of a busy worker from one of an idle worker.
        done: Troubles that happened, by what they are.
        missed: Those that met nothing: no worker up, no such workflow running.
        in_vain: Why ticks by hand had no answer.
        busy_kills: Kills while something was under way.
        ended: Workflow ids of runs that were terminated, deleted or reset.
    """

    scene: Scene
    open_jobs: Callable[[], int]
    done: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    in_vain: Counter[str] = field(default_factory=Counter)
    busy_kills: int = 0
    ended: list[str] = field(default_factory=list)

    async def rage(self, began: float) -> None:
        """Let everything happen that is planned, at its seconds after `began` of the event loop's clock."""
        clock = asyncio.get_running_loop().time
        async with asyncio.TaskGroup() as group:
            for trouble in self.scene.plan.troubles:
                await asyncio.sleep(began + trouble.at - clock())
                group.create_task(self._strike(trouble))

    async def _strike(self, trouble: Trouble) -> None:
        happened = True
        if trouble.what == "kill":
            happened = await self._kill(trouble)
        elif trouble.what == "restart":
            await self.scene.take_server_away(trouble.seconds)
        elif trouble.what == "outage":
            await self.scene.take_database_away(trouble.seconds)
        elif trouble.what == "tick":
            happened = await self._tick()
        else:
            happened = await self._end_a_run(trouble)
        (self.done if happened else self.missed)[trouble.what] += 1

    async def _kill(self, trouble: Trouble) -> bool:
        """Kill the worker of a slot, or of the next one that has one; one that is starting is waited for."""
        slots = self.scene.slots
        first = int(trouble.pick * len(slots))
        for _ in range(150):
            for slot in slots[first:] + slots[:first]:
                if slot.kill(trouble.seconds):
                    self.busy_kills += self.open_jobs() > 0
                    return True
            await asyncio.sleep(0.2)
        return False

    async def _tick(self) -> bool:
        try:
            await self.scene.nightmill.recovery.reconcile()
        except (TemporalUnreachable, WorkflowFailed) as error:  # the server is away, or somebody has terminated it
            self.in_vain[str(error)[:90]] += 1
            return False
        return True

    async def _end_a_run(self, trouble: Trouble) -> bool:
        """Terminate, delete or reset a run of this kind, or, where there is none, of another one."""
        temporal = self.scene.nightmill.temporal
        for kind in dict.fromkeys((trouble.kind, *TYPES)):
            query = f"ExecutionStatus = 'Running' AND WorkflowType = '{TYPES[kind]}'"
            try:
                running = sorted([(one.id, one.run_id) async for one in temporal.list_workflows(query)])
                if not running:
                    continue
                workflow_id, run_id = running[int(trouble.pick * len(running))]
                await self._end(trouble.what, WorkflowExecution(workflow_id=workflow_id, run_id=run_id))
            except RPCError:  # the server is away, or the run has just ended
                continue
            self.ended.append(workflow_id)
            return True
        return False

    async def _end(self, what: str, run: WorkflowExecution) -> None:
        temporal = self.scene.nightmill.temporal
        if what == "terminate":
            await temporal.get_workflow_handle(run.workflow_id, run_id=run.run_id).terminate("chaos")
        elif what == "delete":
            await temporal.workflow_service.delete_workflow_execution(
                DeleteWorkflowExecutionRequest(namespace=temporal.namespace, workflow_execution=run)
            )
        else:
            await reset_to_beginning(temporal, run.workflow_id, run.run_id)


async def reset_to_beginning(temporal: Client, workflow_id: str, run_id: str = "") -> None:
    """Reset a run, or the present one, to its first workflow task."""
    await temporal.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=temporal.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
            reason="chaos",
            workflow_task_finish_event_id=FIRST_TASK,
            request_id=str(uuid.uuid4()),
        )
    )
