"""One provider batch of a batch that has several."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from nightmill.contracts import FollowInput, PartOutcome, Progress

from workflows import story
from workflows.following import ProviderBatchFollower


@workflow.defn(name="ProviderBatch", failure_exception_types=[TypeError])
class ProviderBatch:
    """Submit one provider batch, follow it, and store its results; a child of `ModelCompletionBatch`."""

    @workflow.init
    def __init__(self, asked: FollowInput) -> None:
        self._asked = asked
        self._told: tuple[object, ...] = ()
        self._follower = ProviderBatchFollower(asked, on_change=self._tell, start_afresh=self._start_afresh)

    @workflow.run
    async def run(self, asked: FollowInput) -> PartOutcome:
        """Return when the results are stored; a cancel request is carried out at the provider first."""
        following = asyncio.create_task(self._follower.run())
        asyncio.create_task(self._report())  # noqa: RUF006 - ends with the workflow
        try:
            outcome = await asyncio.shield(following)
        except asyncio.CancelledError:
            self._follower.cancel()
            await following
            raise
        await workflow.wait_condition(workflow.all_handlers_finished)
        return outcome

    @workflow.signal(description="Ask the provider for the status of this part now")
    def poll_now(self) -> None:
        """Ask the provider at once."""
        self._follower.poke()

    @workflow.signal(description="Sent by the batch; to cancel, use the batch's update")
    def cancel(self) -> None:
        """Cancel at the provider; sent by the batch, which has stored the intent."""
        self._follower.cancel()

    @workflow.query(description="Status, counts, next poll of this part")
    def progress(self) -> Progress:
        """Return how the provider batch stands."""
        return story.progress_of(self._asked.part.batch_id, self._asked.part.round, 1, self._follower)

    async def _report(self) -> None:
        """Tell the batch, which shows it in the UI, of each new status and each need for attention."""
        parent = workflow.info().parent
        if parent is None:
            return
        batch = workflow.get_external_workflow_handle(parent.workflow_id)
        while True:
            await workflow.wait_condition(lambda: self._news() != self._told)
            self._told = self._news()
            with suppress(FailureError):  # the batch is not running: there is nobody to tell
                await batch.signal("part_changed", args=[self._asked.part.part, self.progress()])

    def _news(self) -> tuple[object, ...]:
        return (self._follower.status, self._follower.attention)

    def _tell(self) -> None:
        story.show(self.progress())

    def _start_afresh(self) -> None:
        workflow.continue_as_new(self._asked)
