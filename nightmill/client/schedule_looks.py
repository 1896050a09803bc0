"""How the schedules stand: what Temporal says of each, and of its last run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest
from temporalio.client import Client, ScheduleActionExecutionStartWorkflow, ScheduleActionStartWorkflow
from temporalio.service import RPCError, RPCStatusCode

from nightmill.client.schedules import PLANNED, Planned
from nightmill.errors import TemporalUnreachable

if TYPE_CHECKING:
    from nightmill.settings import Settings


class ScheduleState(StrEnum):
    """How a schedule stands."""

    ON = "on"
    PAUSED = "paused"
    MISSING = "missing"
    """The settings ask for it, and Temporal has none."""
    OFF = "off"
    """There is none, as the settings say."""


@dataclass(frozen=True)
class ScheduleLook:
    """How a schedule stands, as Temporal said just now.

    Attributes:
        id: Its id.
        what: What it does.
        state: How it stands.
        every: Between two runs.
        next_at: When it runs next; None where it is paused.
        last_at: When it ran last.
        last_run: The workflow id of that run.
        last_result: What became of it, in Temporal's words: `running`, `completed`, `failed`, `timed_out` and so on;
            None where it has not run, or Temporal has forgotten it.
        skipped: Runs that were left out as another one was under way.
        note: Why it is paused, as whoever paused it wrote.
        task_queue: Where its runs go: to another Nightmill of the same namespace, if it is not ours.
    """

    id: str
    what: str
    state: ScheduleState
    every: timedelta | None = None
    next_at: datetime | None = None
    last_at: datetime | None = None
    last_run: str | None = None
    last_result: str | None = None
    skipped: int = 0
    note: str = ""
    task_queue: str | None = None


async def look_at_schedules(client: Client, settings: Settings) -> list[ScheduleLook]:
    """Return how each of Nightmill's schedules stands.

    Raises:
        TemporalUnreachable: Temporal does not say.
    """
    try:
        return [await look_at_schedule(client, settings, planned) for planned in PLANNED]
    except RPCError as error:
        raise TemporalUnreachable(f"schedules: Temporal answered {error.message!r}") from error


async def look_at_schedule(client: Client, settings: Settings, planned: Planned) -> ScheduleLook:
    """Return how one of Nightmill's schedules stands.

    Raises:
        RPCError: Temporal does not say.
    """
    try:
        found = await client.get_schedule_handle(planned.id).describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND or _has_no_namespace(error):
            raise
        absent = ScheduleState.MISSING if planned.is_asked_for(settings) else ScheduleState.OFF
        return ScheduleLook(planned.id, planned.what, absent)
    state, info, spec, action = found.schedule.state, found.info, found.schedule.spec, found.schedule.action
    last = max(info.recent_actions, key=lambda action: action.started_at, default=None)
    last_run = (
        last.action.workflow_id if last and isinstance(last.action, ScheduleActionExecutionStartWorkflow) else None
    )
    return ScheduleLook(
        id=planned.id,
        what=planned.what,
        state=ScheduleState.PAUSED if state.paused else ScheduleState.ON,
        every=min((interval.every for interval in spec.intervals), default=None),
        next_at=None if state.paused else min(info.next_action_times, default=None),
        last_at=last.started_at if last else None,
        last_run=last_run,
        last_result=await _result_of(client, last_run) if last_run else None,
        skipped=info.num_actions_skipped_overlap,
        note=(state.note or "") if state.paused else "",
        task_queue=action.task_queue if isinstance(action, ScheduleActionStartWorkflow) else None,
    )


def _has_no_namespace(error: RPCError) -> bool:
    """Return whether it is not the schedule that was not found, but everything."""
    return any(detail.Is(NamespaceNotFoundFailure.DESCRIPTOR) for detail in error.grpc_status.details)


async def _result_of(client: Client, workflow_id: str) -> str | None:
    # By the RPC: the SDK's own answer knows no paused workflow. By the id alone: a run that went on as a new one is
    # followed, and each run of a schedule has an id of its own.
    request = DescribeWorkflowExecutionRequest(
        namespace=client.namespace, execution=WorkflowExecution(workflow_id=workflow_id)
    )
    try:
        described = await client.workflow_service.describe_workflow_execution(request)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return None
    status = WorkflowExecutionStatus.Name(described.workflow_execution_info.status)
    return status.removeprefix("WORKFLOW_EXECUTION_STATUS_").lower()
