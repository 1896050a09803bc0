"""The user's batch: prepare -> (submit -> (sleep -> poll)* -> harvest)+ -> rounds of retry -> tell the host."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeUpdate, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, ChildWorkflowError, FailureError, WorkflowAlreadyStartedError
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
        self._open_parts: dict[int, Progress | None] = {}
        self._delivery: HandlerDelivery | None = None
        self._summary: BatchSummary | None = None
        self._is_over = False
        self._is_lost = False
        self._must_end_canceled = False

    @workflow.run
    async def run(self, asked: BatchInput) -> BatchSummary:
        """Return the summary, whatever the terminal status; fail only for input that cannot be used."""
        work = asyncio.create_task(self._work(asked))
        work.add_done_callback(lambda _: setattr(self, "_is_over", True))
        try:
            summary = await asyncio.shield(work)
        except asyncio.CancelledError:
            # From the UI, the CLI or a parent: the same as the update, and the run ends Canceled.
            self._must_end_canceled = True
            if not work.done():
                with suppress(ApplicationError):  # not prepared: `work` knows why
                    await asyncio.create_task(self._store_cancel())
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
        if self._is_lost:
            return summary  # with the row, whom to tell is gone too
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
                self._open_parts = dict.fromkeys(range(self._parts))
                self._tell()
                await asyncio.gather(*(self._run_child(prepared, part) for part in range(self._parts)))
            outcome = await workflow.execute_activity_method(
                BatchActivities.settle_round,
                RoundInput(batch_id=self._batch_id, round=self._round, now=workflow.now()),
                **policies.titled(policies.DATABASE_WRITE, "close the round"),
            )
            if outcome.lost:
                self._is_lost = True
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
        restarts = looks = 0
        while True:
            asked = self._follow_input(prepared, part)
            try:
                child = await workflow.start_child_workflow(
                    ProviderBatch.run,
                    asked,
                    id=ids.part_workflow_id(self._batch_id, self._round, part),
                    id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                    cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
                    static_summary=f"{prepared.provider} {prepared.model}, part {part + 1} of {self._parts}",
                )
                if self._cancels and not asked.cancel_requested:  # canceled while it was starting
                    await self._signal(part, "cancel")
                await child
            except WorkflowAlreadyStartedError:
                # The child of an earlier run, before a reset, goes on by itself; it settles its row in the end. It may
                # take a day, and a look a minute at each of twenty would fill the history within hours.
                pause = policies.BACK_OFF[min(looks, len(policies.BACK_OFF) - 1)]
                looks += 1
                await workflow.sleep(pause, summary=f"part {part} of an earlier run goes on")
            except ChildWorkflowError as error:
                if isinstance(error.cause, TemporalCancelledError):
                    break  # somebody canceled this part alone; it has harvested and settled before it ended
                restarts += 1
                if restarts > CHILD_RESTARTS:
                    raise
                await workflow.sleep(policies.BACK_OFF[0], summary="start the provider batch's workflow again")
            else:
                break
        self._open_parts.pop(part, None)
        self._tell()

    async def _signal(self, part: int, name: str) -> None:
        """Signal a provider batch's workflow by its id: it may be an earlier run's child, or have ended just now."""
        id_ = ids.part_workflow_id(self._batch_id, self._round, part)
        try:
            await workflow.get_external_workflow_handle(id_).signal(name)
        except FailureError:
            workflow.logger.info("part has ended already", extra={"part": part, "signal": name})

    async def _signal_parts(self, name: str) -> None:
        await asyncio.gather(*(self._signal(part, name) for part in list(self._open_parts)))

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
        await self._signal_parts("poll_now")

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
        await workflow.wait_condition(lambda: self._prepared is not None or self._is_over)
        if self._prepared is None:
            raise ApplicationError(f"batch {self._batch_id} could not be prepared", type="BatchConflict")
        status = await workflow.execute_activity_method(
            BatchActivities.request_cancel,
            self._batch_id,
            **policies.titled(policies.DATABASE_WRITE, "store the cancel"),
        )
        self._cancels += 1
        if self._follower is not None:
            self._follower.cancel()
        await self._signal_parts("cancel")
        return status

    @workflow.signal(description="Sent by the batch's parts")
    def part_changed(self, part: int, progress: Progress) -> None:
        """Take note of how a part stands."""
        if part in self._open_parts and progress.round == self._round:
            self._open_parts[part] = progress
            self._tell()

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
        known = [part for part in self._open_parts.values() if part is not None]
        canceling = BatchStatus.CANCELING if self._cancels else BatchStatus.IN_PROGRESS
        status = canceling if known or len(self._open_parts) < self._parts else BatchStatus.PENDING
        return story.progress_of_parts(self._batch_id, self._round, self._parts, known, status)

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

    def _start_afresh(self) -> None:
        """Go on in a new run, unless this one must end Canceled, which only it can."""
        if not self._must_end_canceled:
            workflow.continue_as_new(BatchInput(batch_id=self._batch_id))
