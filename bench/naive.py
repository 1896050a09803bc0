"""The naive Temporal loop that `p1_orchestration` compares with: sleep, activity, sleep, activity. Nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.batches import BatchActivities
    from nightmill.contracts import (
        BatchInput,
        BatchStatus,
        DeliverInput,
        PartRef,
        PollInput,
        PrepareInput,
        RoundInput,
        SettleInput,
        SubmitInput,
    )

TIMEOUT = timedelta(minutes=5)
EVERY = timedelta(seconds=1)
POLLS = 10


@workflow.defn
class NaiveBatch:
    """Calls the same activities, with the same inputs, as `ModelCompletionBatch` does when nothing goes wrong."""

    @workflow.run
    async def run(self, batch_id: str, webhook: str) -> None:
        part = PartRef(batch_id=batch_id)
        await _call(
            BatchActivities.prepare_batch,
            PrepareInput(batch_id=batch_id, asked=BatchInput(batch_id=batch_id), now=workflow.now()),
        )
        await _call(BatchActivities.submit_part, SubmitInput(part=part, now=workflow.now()))
        for attempt in range(1, POLLS + 1):
            await workflow.sleep(EVERY)
            asked = PollInput(part=part, next_poll_at=workflow.now() + EVERY, attempt=attempt)
            await _call(BatchActivities.poll_part, asked)
        await _call(BatchActivities.harvest_part, SettleInput(part=part, status=BatchStatus.ENDED))
        await _call(BatchActivities.settle_round, RoundInput(batch_id=batch_id, round=0, now=workflow.now()))
        await _call(BatchActivities.deliver_webhook, DeliverInput(batch_id=batch_id, url=webhook))


async def _call(activity: Any, asked: Any) -> Any:
    return await workflow.execute_activity_method(activity, asked, start_to_close_timeout=TIMEOUT)
