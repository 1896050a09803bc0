"""One document: fetch, compare, update, and tell the host of a change."""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.common import Priority
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, RetryState

with workflow.unsafe.imports_passed_through():
    from activities.documents import DocumentActivities
    from nightmill import ids
    from nightmill.contracts import DocumentSyncInput, SyncInput, SyncOutcome, SyncResult, Trigger
    from nightmill.errors import InvalidInput

from workflows import policies, story
from workflows.change_delivery import deliver_change

_ROUTINE = frozenset({SyncResult.UNCHANGED, SyncResult.NOT_MODIFIED})


@workflow.defn(name="DocumentSync", failure_exception_types=[TypeError])
class DocumentSync:
    """Sync one document, at most one at a time: the workflow id is the mutex.

    1. `sync_document` fetches, compares and updates. It is tried again as its failures ask: 30 s, 2 and 5 min apart for
       the site's, 5 s apart for ours, each kind with a budget of its own that the row counts.
    2. Where the host is to be told of a change, its handler is called; if that fails, the change stays due and the next
       sync tells it.

    `sync_now` brings an attempt forward that waits for its time, its host or a worker; one that runs goes on.
    """

    # Without @workflow.init, so that a start without input is refused by `workflows.admission`, in a line.
    def __init__(self) -> None:
        self._trigger = Trigger.MANUAL
        self._hurry = False

    @workflow.run
    async def run(self, asked: DocumentSyncInput) -> SyncOutcome:
        """Return what came of it; a page that cannot be had is an outcome, not a failure of the workflow."""
        if not self._hurry:  # a signal may come with the start
            self._trigger = asked.trigger
        self._check(asked)
        try:
            outcome = await self._sync(asked.document_id)
            if outcome.change is not None:
                await deliver_change(outcome.change)
                await workflow.execute_activity_method(
                    DocumentActivities.finish_sync,
                    outcome.change,
                    **policies.titled(policies.DATABASE_WRITE, "the document rests"),
                )
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.create_task(self._abandon(asked.document_id)))
            raise
        story.show_sync(outcome)
        if outcome.result not in _ROUTINE:  # what people look for; an event for each of the others would be wasted
            story.upsert(story.STATUS.value_set(outcome.result.value))
        return outcome

    @workflow.signal(description="Do not wait for the next attempt: make it now")
    def sync_now(self) -> None:
        """Bring the attempt that waits forward."""
        self._hurry = True
        self._trigger = Trigger.MANUAL

    async def _sync(self, document_id: str) -> SyncOutcome:
        while True:
            self._hurry = False
            if story.has(story.TRIGGER):  # a purge drops what sweeps started, and nothing that a person asked for
                story.upsert(story.TRIGGER.value_set(self._trigger.value))
            config = policies.titled(policies.PAGE_SYNC, "fetch, compare, update")
            config["cancellation_type"] = workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
            config["priority"] = self._priority()
            attempt = workflow.start_activity_method(
                DocumentActivities.sync_document, self._input(document_id), **config
            )
            await self._ended_or_hurried(attempt)
            if not attempt.done():
                # The server ends an attempt that waits at once; one that runs does not hear of it and ends by itself.
                attempt.cancel()
            try:
                return await attempt
            except ActivityError as error:
                if not self._hurry or not _was_waiting(error):
                    raise

    async def _ended_or_hurried(self, attempt: workflow.ActivityHandle[SyncOutcome]) -> None:
        await workflow.wait_condition(lambda: attempt.done() or self._hurry)

    async def _abandon(self, document_id: str) -> None:
        await workflow.execute_activity_method(
            DocumentActivities.abandon_sync,
            self._input(document_id),
            **policies.titled(policies.DATABASE_WRITE, "canceled: the document rests"),
        )

    def _priority(self) -> Priority:
        """Return the priority of the trigger; whoever shares the workers fairly is as the start said."""
        started = workflow.info().priority
        return Priority(
            priority_key=self._trigger.priority,
            fairness_key=started.fairness_key,
            fairness_weight=started.fairness_weight,
        )

    def _input(self, document_id: str) -> SyncInput:
        return SyncInput(document_id=document_id, trigger=self._trigger, run_id=workflow.info().run_id)

    @staticmethod
    def _check(asked: DocumentSyncInput) -> None:
        try:
            of_workflow = ids.document_id_of(workflow.info().workflow_id)
        except InvalidInput as error:
            raise ApplicationError(
                f"invalid DocumentSyncInput: {error}", type="InvalidInput", non_retryable=True
            ) from None
        if asked.document_id != of_workflow:
            raise ApplicationError(
                f"invalid DocumentSyncInput: document_id: {asked.document_id!r} does not fit workflow id "
                f"document/{of_workflow}",
                type="InvalidInput",
                non_retryable=True,
            )


def _was_waiting(error: ActivityError) -> bool:
    """Whether an attempt ended for our cancel: it waited, or it ran, failed, and was not tried again."""
    return isinstance(error.cause, CancelledError) or error.retry_state is RetryState.CANCEL_REQUESTED
