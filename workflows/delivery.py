"""Tell the host application that its batch is finished, until it has heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ChildWorkflowError

with workflow.unsafe.imports_passed_through():
    from activities.batches import BatchActivities
    from activities.handlers import handler_workflow_finished
    from nightmill import ids
    from nightmill.contracts import (
        ActivityHandler,
        Attention,
        BatchSummary,
        CompletionHandler,
        DeliverInput,
        HandlerPayload,
        PreparedBatch,
        WebhookHandler,
        WorkflowHandler,
    )

from workflows import handler_call, policies


class HandlerDelivery:
    """Calls the completion handler: never two calls at once, and none after one has succeeded.

    Attributes:
        state: `none`, `calling`, `failing`, or `delivered`; shown to people.
        attention: Why it does not succeed.
    """

    def __init__(
        self,
        prepared: PreparedBatch,
        summary: BatchSummary,
        *,
        on_change: Callable[[], None],
        start_afresh: Callable[[], None],
    ) -> None:
        handler = prepared.handler
        wanted = handler is not None and (not handler.on or summary.status.value in handler.on)
        self._handler: CompletionHandler | None = handler if wanted and not prepared.handled else None
        self._summary = summary
        self._on_change = on_change
        self._start_afresh = start_afresh
        self._dispatch = prepared.dispatches
        self._asked_again = False
        self.state = "delivered" if prepared.handled and handler else "none"
        self.attention: str | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the handler has failed and waits to be called again."""
        return self.state == "failing"

    def redispatch(self) -> str:
        """Call again now; returns what happens."""
        self._asked_again = True
        return f"the {self._handler.kind if self._handler else ''} handler is called again"

    async def run(self) -> None:
        """Return when the handler has succeeded, or nobody wants to be told."""
        failures = 0
        while self._handler is not None:
            self._dispatch += 1
            self._show("calling")
            try:
                await self._call(self._handler)
            except (ActivityError, ChildWorkflowError) as error:
                await self._fail(handler_call.failed(error))
            else:
                self.attention = None
                self._show("delivered")
                return
            pause = policies.AFTER_HANDLER_FAILURE[min(failures, len(policies.AFTER_HANDLER_FAILURE) - 1)]
            failures += 1
            # A failed handler workflow had an effect that only an operator can judge; the others are called again.
            await self._wait(None if isinstance(self._handler, WorkflowHandler) else pause)
            if not isinstance(self._handler, WorkflowHandler):
                self._keep_history_short()

    async def _call(self, handler: CompletionHandler) -> None:
        batch_id = self._summary.batch_id
        payload = HandlerPayload(
            batch_id=batch_id, status=self._summary.status, summary=self._summary, dispatch=self._dispatch
        )
        asked = DeliverInput(batch_id=batch_id, dispatch=self._dispatch)
        if isinstance(handler, WebhookHandler):  # keeps the gate itself
            await workflow.execute_activity_method(
                BatchActivities.deliver_webhook, asked, **policies.titled(policies.WEBHOOK_CALL, "call the webhook")
            )
            return
        if not await workflow.execute_activity_method(
            BatchActivities.begin_delivery,
            asked,
            **policies.titled(policies.DATABASE_WRITE, "handler gate"),
        ):
            return
        if isinstance(handler, ActivityHandler):
            await handler_call.call_activity(handler, payload, title="completion handler")
        else:
            await self._run_workflow(handler, payload)
        await workflow.execute_activity_method(
            BatchActivities.record_delivered,
            batch_id,
            **policies.titled(policies.DATABASE_WRITE, "set the handler gate"),
        )

    async def _run_workflow(self, handler: WorkflowHandler, payload: HandlerPayload) -> None:
        """Run the host's workflow under an id that only one run can succeed by."""
        child = await handler_call.start_workflow(
            handler,
            payload,
            workflow_id=ids.handler_workflow_id(payload.batch_id),
            title=f"completion handler of batch {payload.batch_id}",
        )
        if child is None:
            await self._await_earlier_run(ids.handler_workflow_id(payload.batch_id))
            return
        if not await handler_call.ends_in_time(child):
            await self._fail(handler_call.overdue(handler))
            self._show("calling")
        await child

    async def _await_earlier_run(self, workflow_id: str) -> None:
        """Wait for the handler that an earlier run of this batch's workflow started and no longer has as a child."""
        while not await workflow.execute_activity(
            handler_workflow_finished, workflow_id, **policies.titled(policies.DATABASE_WRITE, "look at the handler")
        ):
            self._keep_history_short()
            await workflow.sleep(handler_call.EARLIER_RUN_LOOKS, summary="handler of an earlier run")

    def _keep_history_short(self) -> None:
        """Go on in a new run before a handler that takes weeks has filled this one's history; called between calls."""
        if workflow.info().is_continue_as_new_suggested():
            self._start_afresh()

    async def _fail(self, message: str) -> None:
        self.attention = message[:1000]
        await workflow.execute_activity_method(
            BatchActivities.set_attention,
            Attention(batch_id=self._summary.batch_id, message=self.attention),
            **policies.DATABASE_WRITE,
        )
        self._show("failing")

    async def _wait(self, pause: timedelta | None) -> None:
        with suppress(asyncio.TimeoutError):
            await workflow.wait_condition(
                lambda: self._asked_again, timeout=pause, timeout_summary="before the handler is called again"
            )
        self._asked_again = False

    def _show(self, state: str) -> None:
        self.state = state
        self._on_change()
