"""One run of the reconciler, or of the expiry sweep: its sources one after the other, each a page at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.reconciliation import ReconcileActivities
    from nightmill.contracts import (
        MOST_REPAIRS_SHOWN,
        Finding,
        PageOutcome,
        QueueLook,
        ReconcilePage,
        ReconcileSummary,
        Source,
        TickRecord,
    )

from workflows import policies, story
from workflows.failures import reason_of

PAGE = 100
"""Candidates that one activity looks at: some seconds of work, so that a tick is seen to go on."""


TICK = timedelta(minutes=20)
"""How long a tick may take, of the half hour that its schedule gives it; every source has an equal share of what is
left when its turn comes, so that a slow one does not keep the others from being read."""


class Tick:
    """Pages through sources and adds up what was found and done.

    Attributes:
        summary: So far.
    """

    def __init__(self) -> None:
        self.summary = ReconcileSummary()

    async def run(self, sources: Sequence[Source], *, dry_run: bool) -> ReconcileSummary:
        """Return what was found and done; a source that cannot be read does not keep the others from being read.

        A tick that reaches a bound, of candidates or of time, leaves word where the next one of the schedule goes on.
        """
        before = ReconcileSummary()
        if workflow.has_last_completion_result():
            before = workflow.get_last_completion_result(ReconcileSummary) or before
        began = workflow.now()
        self.summary = ReconcileSummary(dry_run=dry_run, started_at=began)
        look = await workflow.execute_activity_method(
            ReconcileActivities.look_at_queues,
            **policies.titled(policies.RECONCILING, "who listens"),
        )
        if not dry_run:
            await self._settle_repairs()
        for number, source in enumerate(sources):
            share = (began + TICK - workflow.now()) / (len(sources) - number)
            until = workflow.now() + max(share, timedelta(0))
            try:
                await self._page_through(source, before.go_on.get(source), look, until, dry_run=dry_run)
            except ActivityError as error:
                workflow.logger.error("source not read", extra={"source": source.value, "error": reason_of(error)})
                self._update(failed=self.summary.failed + 1)
        self._update(queues_without_worker=look.without_worker, duration=workflow.now() - began)
        await workflow.execute_activity_method(
            ReconcileActivities.record_tick,
            TickRecord(
                workflow=workflow.info().workflow_type,
                summary=self.summary,
                told_without_worker=before.queues_without_worker if Finding.NO_WORKER in before.findings else (),
            ),
            **policies.titled(policies.DATABASE_WRITE, "record the tick"),
        )
        return self.summary

    async def _settle_repairs(self) -> None:
        try:
            await workflow.execute_activity_method(
                ReconcileActivities.settle_repairs,
                **policies.titled(policies.RECONCILING, "what came of repairs that nobody ended"),
            )
        except ActivityError as error:
            workflow.logger.error("repairs not settled", extra={"error": reason_of(error)})
            self._update(failed=self.summary.failed + 1)

    async def _page_through(
        self, source: Source, after: str | None, look: QueueLook, until: datetime, *, dry_run: bool
    ) -> None:
        seen = 0
        while True:
            outcome = await workflow.execute_activity_method(
                ReconcileActivities.reconcile_page,
                ReconcilePage(
                    tick=workflow.info().run_id,
                    source=source,
                    after=after,
                    limit=min(PAGE, look.per_tick),
                    dry_run=dry_run,
                ),
                **policies.titled(policies.RECONCILING, f"{source}, from {seen + 1}"),
            )
            self._add(outcome)
            seen += outcome.candidates
            after = outcome.after
            if after is None:
                return
            if seen >= look.per_tick or workflow.now() >= until:
                self._update(go_on={**self.summary.go_on, source: after})
                return

    def _add(self, page: PageOutcome) -> None:
        so_far = self.summary
        self._update(
            candidates=so_far.candidates + page.candidates,
            findings=dict(Counter(so_far.findings) + Counter(page.findings)),
            repaired=so_far.repaired + page.repaired,
            failed=so_far.failed + page.failed,
            skipped=so_far.skipped + page.skipped,
            repairs=(so_far.repairs + page.repairs)[:MOST_REPAIRS_SHOWN],
        )

    def _update(self, **changes: object) -> None:
        self.summary = self.summary.model_copy(update=changes)
        story.show_tick(self.summary)
