"""Who is due, in fair order; each starts as a `DocumentSync` of its own."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.sweeps import SweepActivities
    from nightmill.contracts import StartInput, SweepInput, SweepSummary, SweepTaken, TakeInput

from workflows import policies, story

PAGE = 100
"""Documents that one activity starts: some seconds of work, so that a sweep is seen to go on."""

MOST_TURNS = 5
"""How often a sweep takes others in place of documents that were being synced already."""


@workflow.defn(name="DocumentSyncSweep", failure_exception_types=[TypeError])
class DocumentSyncSweep:
    """Take the documents that are due, interleaved over accounts, and start their syncs.

    1. `take_due_documents` marks them, all in one transaction, so that no other sweep takes them.
    2. `start_document_syncs` starts them, a hundred at a time. A document that is being synced already is skipped.

    Killed anywhere, the next attempt of the activity goes on with the same documents. The syncs go on by themselves.
    """

    def __init__(self) -> None:
        self._summary = SweepSummary()

    @workflow.run
    async def run(self, asked: SweepInput) -> SweepSummary:
        """Return what was started and what was left for the next sweep."""
        limit = asked.limit
        for turn in range(MOST_TURNS):
            sweep_id = f"{workflow.info().run_id}/{turn}"
            taken = await workflow.execute_activity_method(
                SweepActivities.take_due_documents,
                TakeInput(sweep_id=sweep_id, limit=limit, account=asked.account),
                **policies.titled(policies.SWEEPING, "take what is due"),
            )
            skipped = await self._start(sweep_id, taken)
            if not skipped or not taken.cap_hit:
                break
            limit = skipped  # their places go to others that are due
        await workflow.execute_activity_method(
            SweepActivities.record_sweep,
            self._summary,
            **policies.titled(policies.DATABASE_WRITE, "record the sweep"),
        )
        return self._summary

    async def _start(self, sweep_id: str, taken: SweepTaken) -> int:
        """Start what was taken; return how many of them were being synced already."""
        before = self._summary
        self._summary = before.model_copy(
            update={
                "accounts_scanned": taken.accounts_scanned,
                "accounts_enabled": taken.accounts_enabled,
                "accounts_scheduled": max(before.accounts_scheduled, taken.accounts_scheduled),
                "capacity_left": taken.capacity_left,
                "cap_hit": taken.cap_hit,
            }
        )
        for first in range(0, taken.taken, PAGE):
            count = min(PAGE, taken.taken - first)
            started = await workflow.execute_activity_method(
                SweepActivities.start_document_syncs,
                StartInput(sweep_id=sweep_id, first=first, count=count, task_queue=workflow.info().task_queue),
                **policies.titled(policies.SWEEPING, f"start {first + 1} to {first + count}"),
            )
            self._summary = self._summary.model_copy(
                update={
                    "enqueued": self._summary.enqueued + started.enqueued,
                    "skipped": self._summary.skipped + started.skipped,
                }
            )
            story.show_sweep(self._summary, of=before.enqueued + before.skipped + taken.taken)
        return self._summary.skipped - before.skipped

    @workflow.query(description="Syncs started and skipped, accounts")
    def progress(self) -> SweepSummary:
        """Return how far the sweep has come."""
        return self._summary
