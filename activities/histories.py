"""Reads histories of runs, and no more of one than is asked for."""

from __future__ import annotations

from datetime import timedelta

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, HistoryEventFilterType
from temporalio.api.history.v1 import HistoryEvent, WorkflowTaskFailedEventAttributes
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryReverseRequest,
)
from temporalio.client import Client

from activities.reset_points import Outline

PATIENCE = timedelta(seconds=10)
"""For one call of the server."""

EVENTS_A_PAGE = 500

EVENTS_BACK = 50
"""Events after the last completed task that are looked at for the task that failed; signals come in between."""


async def outline(client: Client, workflow_id: str, run_id: str) -> Outline:
    """Return the outline of a run's history, read page by page.

    Raises:
        RPCError: The server cannot tell.
    """
    taken, token = Outline(workflow_id), b""
    while True:
        page = await client.workflow_service.get_workflow_execution_history(
            GetWorkflowExecutionHistoryRequest(
                namespace=client.namespace,
                execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
                maximum_page_size=EVENTS_A_PAGE,
                next_page_token=token,
            ),
            retry=True,
            timeout=PATIENCE,
        )
        for event in page.history.events:
            taken.take(event)
        token = page.next_page_token
        if not token:
            return taken


async def close_event(client: Client, workflow_id: str, run_id: str) -> HistoryEvent:
    """Return the last event of a closed run.

    Raises:
        RPCError: The server cannot tell.
    """
    found = await client.workflow_service.get_workflow_execution_history(
        GetWorkflowExecutionHistoryRequest(
            namespace=client.namespace,
            execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
            history_event_filter_type=HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT,
        ),
        retry=True,
        timeout=PATIENCE,
    )
    return found.history.events[-1]


async def failed_task(client: Client, workflow_id: str, run_id: str) -> WorkflowTaskFailedEventAttributes | None:
    """Return the first failure of the workflow task that is pending; None: none is recorded, as where it timed out.

    The server records the first failure of a task, and only counts the others. The cut of a reset is recorded as one,
    too, by the server itself, which names no build.

    Raises:
        RPCError: The server cannot tell.
    """
    found = await client.workflow_service.get_workflow_execution_history_reverse(
        GetWorkflowExecutionHistoryReverseRequest(
            namespace=client.namespace,
            execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
            maximum_page_size=EVENTS_BACK,
        ),
        retry=True,
        timeout=PATIENCE,
    )
    for event in found.history.events:
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
            return event.workflow_task_failed_event_attributes
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
            return None
    return None
