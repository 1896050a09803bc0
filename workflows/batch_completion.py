"""The user's batch: prepare -> (submit -> (sleep -> poll)* -> harvest)+ -> rounds of retry -> tell the host."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from temporalio import workflow
from temporalio.common import SearchAttributeUpdate, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, ChildWorkflowError
from temporalio.exceptions import CancelledError as TemporalCancelledError

with workflow.unsafe.imports_passed_through():
    from activities.batches import BatchActivities
    from nightmill import ids
    from nightmill.contracts import (
        BatchInput,
        BatchStatus,
        BatchSummary,
        FollowInput,
        PartRef,
        PreparedBatch,
        PrepareInput,
        Progress,
        RoundInput,
    )
    from nightmill.errors import InvalidInput

from workflows import policies, story
from workflows.delivery import HandlerDelivery
from workflows.following import ProviderBatchFollower
from workflows.provider_batch import ProviderBatch

CHILD_RESTARTS = 5
"""How often a provider batch's workflow that somebody terminated is started again before the batch fails."""


@workflow.defn(name="ModelCompletionBatch", failure_exception_types=[TypeError])
class ModelCompletionBatch:
    """Run one model completion batch to its end, and tell the host application.

    1. `prepare_batch` stores the requests, frozen, and plans the provider batches.
    2. Each provider batch is submitted once, polled along the schedule, and harvested: inline if there is one, as
       `ProviderBatch` children if there are several.
    3. `settle_round` plans another round for what failed retriably, or writes the terminal status.
    4. The completion handler is called until it succeeded.

    Whatever happens on the way is in the batch's rows, so a run that starts with the id of a stored batch goes on where
    the last one stopped. Cancellation of the workflow cancels at the provider, harvests, and calls the handler first.
    """

    # Without @workflow.init, so that a start without input is refused by `workflows.admission`, in a line.
    def __init__(self) -> None:
        self._batch_id = ""
        self._prepared: PreparedBatch | None = None
        self._cancels = 0
        self._round = 0
        self._parts = 1
        self._follower: ProviderBatchFollower | None = None
        self._children: dict[str, workflow.ChildWorkflowHandle[ProviderBatch, object]] = {}
        self._delivery: HandlerDelivery | None = None
        self._summary: BatchSummary | None = None
        self._attention_shown: str | None = None

    @workflow.run
    async def run(self, asked: BatchInput) -> BatchSummary:
        """Return the summary, whatever the terminal status; fail only for input that cannot be used."""
        work = asyncio.create_task(self._work(asked))
        try:
            summary = await asyncio.shield(work)
        except asyncio.CancelledError:
            # From the UI, the CLI or a parent: the same as the update, and the run ends Canceled (B34).
            if self._prepared is not None or asked.batch_id:
                await asyncio.create_task(self._store_cancel())
            else:
                self._cancels += 1
            await work
            raise
        await workflow.wait_condition(workflow.all_handlers_finished)
        return summary

    async def _work(self, asked: BatchInput) -> BatchSummary:
        prepared = await self._prepare(asked)
        summary = prepared.summary
        if summary is None:
            summary = await self._complete(prepared)
        self._summary = summary
        self._delivery = HandlerDelivery(prepared, summary, on_change=self._tell, start_afresh=self._start_afresh)
        self._tell()
        if not prepared.handled:
            await self._delivery.run()
        return summary

    async def _prepare(self, asked: BatchInput) -> PreparedBatch:
        try:
            self._batch_id = ids.batch_id_of(workflow.info().workflow_id)
        except InvalidInput as error:
            raise ApplicationError(f"invalid BatchInput: {error}", type="InvalidInput", non_retryable=True) from None
        if asked.batch_id not in (None, self._batch_id):
            raise ApplicationError(
                f"invalid BatchInput: batch_id: {asked.batch_id!r} does not fit workflow id batch/{self._batch_id}",
                type="InvalidInput",
                non_retryable=True,
            )
        prepared = await workflow.execute_activity_method(
            BatchActivities.prepare_batch,
            PrepareInput(batch_id=self._batch_id, asked=asked, now=workflow.now()),
            **policies.titled(policies.PREPARATION, "store the requests, plan the provider batches"),
        )
        self._prepared = prepared
        self._round, self._parts = prepared.round, prepared.parts
        if prepared.cancel_requested:
            self._cancels += 1
        elif self._cancels:  # canceled while the requests were being stored
            await self._store_cancel()
        story.upsert(
            story.PROVIDER.value_set(prepared.provider),
            story.MODEL.value_set(prepared.model),
            story.STATUS.value_set(prepared.status),
            *([story.ACCOUNT.value_set(prepared.account)] if prepared.account else []),
        )
        return prepared

    async def _complete(self, prepared: PreparedBatch) -> BatchSummary:
        """Bring every provider batch of every round to its end, and close the batch."""
        while True:
            if self._parts == 1:
                await self._follow(prepared)
            elif self._parts > 1:
                await asyncio.gather(*(self._run_child(prepared, part) for part in range(self._parts)))
            outcome = await workflow.execute_activity_method(
                BatchActivities.settle_round,
                RoundInput(batch_id=self._batch_id, round=self._round, now=workflow.now()),
                **policies.titled(policies.DATABASE_WRITE, "close the round"),
            )
            if outcome.lost:
                workflow.logger.warning("batch not found", extra={"batch": self._batch_id})
                return BatchSummary(batch_id=self._batch_id, status=BatchStatus.FAILED, reason="batch not found")
            if outcome.summary is not None:
                return outcome.summary
            self._round, self._parts = outcome.next_round or 0, outcome.parts

    async def _follow(self, prepared: PreparedBatch) -> None:
        self._follower = ProviderBatchFollower(
            self._follow_input(prepared, 0), on_change=self._tell, start_afresh=self._start_afresh
        )
        await self._follower.run()

    async def _run_child(self, prepared: PreparedBatch, part: int) -> None:
        """Run one provider batch as a child; started again if somebody terminates it: its row knows where it was."""
        id_ = ids.part_workflow_id(self._batch_id, self._round, part)
        for restart in range(CHILD_RESTARTS + 1):
            try:
                child = await workflow.start_child_workflow(
                    ProviderBatch.run,
                    self._follow_input(prepared, part),
                    id=id_,
                    id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                    cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
                    static_summary=f"{prepared.provider} {prepared.model}, part {part + 1} of {self._parts}",
                )
                self._children[id_] = child
                await child
            except ChildWorkflowError as error:
                if isinstance(error.cause, TemporalCancelledError):
                    return  # somebody canceled this part alone; it has harvested and settled before it ended
                if restart == CHILD_RESTARTS:
                    raise
                await workflow.sleep(policies.BACK_OFF[0], summary="start the provider batch's workflow again")
            else:
                return
            finally:
                self._children.pop(id_, None)

    def _follow_input(self, prepared: PreparedBatch, part: int) -> FollowInput:
        return FollowInput(
            part=PartRef(batch_id=self._batch_id, round=self._round, part=part),
            provider=prepared.provider,
            model=prepared.model,
            account=prepared.account,
            poll_schedule=prepared.poll_schedule,
            max_age=prepared.max_age,
            pending_ttl=prepared.pending_ttl,
            find_delays=prepared.find_delays,
            cancel_requested=self._cancels > 0,
        )

    @workflow.signal(description="Ask the provider for the status now, whatever the schedule says")
    async def poll_now(self) -> None:
        """Ask at once; also ends the wait for an operator. Twice does no harm."""
        if self._follower is not None:
            self._follower.poke()
        for child in list(self._children.values()):
            await child.signal(ProviderBatch.poll_now)

    @workflow.update(description="Cancel at the provider, keep what is finished, call the handler")
    async def cancel(self) -> BatchStatus:
        """Store the intent, answer with the status from now on, and go on to cancel at the provider."""
        return await self._store_cancel()

    @cancel.validator
    def _cancel_is_possible(self) -> None:
        if self._summary is not None:
            raise ApplicationError(
                f"batch {self._batch_id} is {self._summary.status} already: there is nothing to cancel",
                type="BatchConflict",
            )

    async def _store_cancel(self) -> BatchStatus:
        await workflow.wait_condition(lambda: self._prepared is not None)
        status = await workflow.execute_activity_method(
            BatchActivities.request_cancel,
            self._batch_id,
            **policies.titled(policies.DATABASE_WRITE, "store the cancel"),
        )
        self._cancels += 1
        if self._follower is not None:
            self._follower.cancel()
        for child in list(self._children.values()):
            await child.signal(ProviderBatch.cancel)
        return status

    @workflow.update(description="Call the completion handler again, after it has been mended")
    def redispatch(self) -> str:
        """Call a handler that has not succeeded again, now."""
        return self._delivery.redispatch() if self._delivery else ""  # the validator has seen to it

    @redispatch.validator
    def _redispatch_is_possible(self) -> None:
        if self._delivery is None:
            raise ApplicationError(f"batch {self._batch_id} has not ended yet", type="BatchConflict")
        if not self._delivery.is_waiting:
            raise ApplicationError(
                f"batch {self._batch_id}: the handler is {self._delivery.state}", type="BatchConflict"
            )

    @workflow.query(description="Status, counts, next poll, deadline, what needs attention")
    def progress(self) -> Progress:
        """Return how the batch stands."""
        if self._summary is not None:
            return Progress(
                batch_id=self._batch_id,
                status=self._summary.status,
                round=self._round,
                parts=self._parts,
                needs_attention=self._delivery.attention if self._delivery else None,
            )
        if self._follower is not None and self._parts == 1:
            return story.progress_of(self._batch_id, self._round, 1, self._follower)
        canceling = BatchStatus.CANCELING if self._cancels else BatchStatus.IN_PROGRESS
        status = BatchStatus.PENDING if self._prepared is None else canceling
        return Progress(batch_id=self._batch_id, status=status, round=self._round, parts=self._parts)

    def _tell(self) -> None:
        """Bring what the UI shows up to date."""
        progress = self.progress()
        if self._summary is not None and self._delivery is not None:
            story.show_summary(self._summary, self._delivery.state)
        else:
            story.show(progress)
        updates: list[SearchAttributeUpdate[Any]] = [story.STATUS.value_set(progress.status)]
        if progress.needs_attention or story.has(story.NEEDS_ATTENTION):
            updates.append(story.NEEDS_ATTENTION.value_set(progress.needs_attention is not None))
        story.upsert(*updates)

    def _start_afresh(self) -> NoReturn:
        workflow.continue_as_new(BatchInput(batch_id=self._batch_id))
