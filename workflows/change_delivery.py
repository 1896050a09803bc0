"""Tell the host application of a document's change: one round of calls; what fails is told by the next sync."""

from __future__ import annotations

import asyncio
from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import ActivityError, ChildWorkflowError

with workflow.unsafe.imports_passed_through():
    from activities.changes import FINGERPRINT_MEMO, ChangeActivities
    from nightmill import ids
    from nightmill.contracts import (
        ActivityHandler,
        ChangePayload,
        ChangeRef,
        ChangeTold,
        DocumentAttention,
        WebhookHandler,
        WorkflowHandler,
    )

from workflows import handler_call, policies


async def deliver_change(change: ChangeRef) -> bool:
    """Call the handler and return whether it knows the present content now.

    Where it fails, or takes too long, the document needs attention and the change stays due: the next sync, also one
    that finds nothing new, comes here again. Never two calls at once for a document: its sync is alone, and a handler
    workflow that goes on without us keeps its number until what it came to is stored.

    Raises:
        CancelledError: Our own workflow is canceled.
    """
    try:
        complaint = await _call(change)
    except (ActivityError, ChildWorkflowError) as error:
        if workflow.cancellation_reason() is not None:
            raise asyncio.CancelledError from error
        complaint = handler_call.failed(error)
    if complaint is not None:
        await workflow.execute_activity_method(
            ChangeActivities.set_document_attention,
            DocumentAttention(document_id=change.document_id, message=complaint[:1000]),
            **policies.titled(policies.DATABASE_WRITE, "the handler needs attention"),
        )
    return complaint is None


async def _call(change: ChangeRef) -> str | None:
    """Return None once the handler has been told, or there is nothing to tell; otherwise what keeps it."""
    handler = change.handler
    if isinstance(handler, WebhookHandler):  # reads and records by itself
        await workflow.execute_activity_method(
            ChangeActivities.deliver_change, change, **policies.titled(policies.WEBHOOK_CALL, "call the webhook")
        )
        return None
    if isinstance(handler, ActivityHandler):
        payload = await _begin(change)
        if payload is not None:
            await handler_call.call_activity(handler, payload, title="change handler")
            await _record(payload, payload.new_fingerprint)
        return None
    return await _run_workflow(change, handler)


async def _run_workflow(change: ChangeRef, handler: WorkflowHandler) -> str | None:
    """Run the host's workflow under an id that only one run can succeed by: the change's number.

    An earlier sync may have left one running, or not have heard that it completed. By its number it is found; what it
    was told of is recorded first, and a content that came after it gets the next number.
    """
    patience_ends = workflow.now() + policies.HANDLER_PATIENCE
    while (payload := await _begin(change)) is not None:
        workflow_id = ids.change_handler_workflow_id(change.document_id, payload.number)
        child = await handler_call.start_workflow(
            handler,
            payload,
            workflow_id=workflow_id,
            title=f"change handler of document {change.document_id}",
            memo={FINGERPRINT_MEMO: payload.new_fingerprint},
        )
        told: str | None = payload.new_fingerprint
        if child is None:
            told = await _told_by_earlier_run(workflow_id, until=patience_ends)
        elif await handler_call.ends_in_time(child):
            await child
        else:
            told = None
        if told is None:
            return handler_call.overdue(handler)
        await _record(payload, told)
        if told == payload.new_fingerprint:
            break
    return None


async def _told_by_earlier_run(workflow_id: str, *, until: datetime) -> str | None:
    """Return the fingerprint that a handler workflow of an earlier sync has completed with; None: it still runs."""
    while True:
        told = await workflow.execute_activity_method(
            ChangeActivities.find_change_told,
            workflow_id,
            **policies.titled(policies.DATABASE_WRITE, "look at the handler"),
        )
        if told is not None or workflow.now() >= until:
            return told
        pause = min(handler_call.EARLIER_RUN_LOOKS, until - workflow.now())
        await workflow.sleep(pause, summary="handler of an earlier sync")


async def _begin(change: ChangeRef) -> ChangePayload | None:
    return await workflow.execute_activity_method(
        ChangeActivities.begin_change, change, **policies.titled(policies.DATABASE_WRITE, "what is to be told")
    )


async def _record(payload: ChangePayload, fingerprint: str) -> None:
    told = ChangeTold(document_id=payload.document_id, number=payload.number, fingerprint=fingerprint)
    await workflow.execute_activity_method(
        ChangeActivities.record_change_delivered,
        told,
        **policies.titled(policies.DATABASE_WRITE, "the change is delivered"),
    )
