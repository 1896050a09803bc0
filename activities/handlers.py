"""Looks at a handler workflow that an earlier run of the batch started."""

from __future__ import annotations

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError


@activity.defn
async def handler_workflow_finished(workflow_id: str) -> bool:
    """Return whether the workflow completed, False while it runs; only reads.

    Raises:
        ApplicationError: It failed; final.
    """
    description = await activity.client().get_workflow_handle(workflow_id).describe()
    if description.status is WorkflowExecutionStatus.COMPLETED:
        return True
    if description.status is WorkflowExecutionStatus.RUNNING:
        return False
    status = description.status.name.lower() if description.status else "gone"
    raise ApplicationError(f"workflow {workflow_id} is {status}", type="HandlerFailed", non_retryable=True)
