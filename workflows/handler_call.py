"""One call of the host's own code: an activity or a workflow on a task queue of the host.

Shared by the handlers of batches and of documents' changes. What is called is the host's, so the call may fail, never
be picked up, or go on after whoever started it is gone. Webhooks are posted by activities of ours.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from nightmill.contracts import ActivityHandler, Outcome, WorkflowHandler

from workflows import policies

if TYPE_CHECKING:
    from collections.abc import Mapping

EARLIER_RUN_LOOKS = timedelta(minutes=1)
"""Pauses between looks at a handler workflow that an earlier run started."""


async def call_activity(handler: ActivityHandler, payload: Outcome, *, title: str) -> None:
    """Return when the host's activity has; at least once.

    Raises:
        ActivityError: All attempts failed, or nobody took it.
    """
    config = policies.titled(policies.HOST_ACTIVITY, title)
    config["task_queue"] = handler.task_queue
    await workflow.execute_activity(handler.type, payload, **config)


async def start_workflow(
    handler: WorkflowHandler, payload: Outcome, *, workflow_id: str, title: str, memo: Mapping[str, Any] | None = None
) -> workflow.ChildWorkflowHandle[Any, Any] | None:
    """Start the host's workflow, which outlives ours; None: one by this id runs, or has succeeded."""
    try:
        return await workflow.start_child_workflow(
            handler.type,
            payload,
            id=workflow_id,
            task_queue=handler.task_queue,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
            cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
            memo=memo,
            static_summary=title,
        )
    except WorkflowAlreadyStartedError:
        return None


async def ends_in_time(child: workflow.ChildWorkflowHandle[Any, Any]) -> bool:
    """Return whether the host's workflow ends before our patience is over, in whatever way; it goes on all the same."""
    with suppress(TimeoutError):
        await workflow.wait_condition(
            child.done, timeout=policies.HANDLER_PATIENCE, timeout_summary="handler's patience"
        )
    return child.done()


def overdue(handler: WorkflowHandler) -> str:
    """Say for people that the host's workflow has not ended in time."""
    return (
        f"handler: workflow {handler.type!r} on {handler.task_queue!r} has not finished in "
        f"{policies.HANDLER_PATIENCE}; does a worker run it?"
    )


def failed(error: FailureError) -> str:
    """Say for people why a call failed, in the host's own words: those of the innermost failure."""
    cause: BaseException = error
    while isinstance(cause, FailureError) and cause.cause is not None:
        cause = cause.cause
    return f"handler: {cause}"
