"""The steps of the reconciler and of the expiry sweep: look at a page of candidates, and repair what needs it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from temporalio import activity

from activities.boundary import temporal_errors
from activities.executions import Executions
from activities.heartbeats import tell
from activities.repairing import Handled, Repairer
from nightmill.contracts import (
    MOST_REPAIRS_SHOWN,
    Finding,
    PageOutcome,
    QueueLook,
    ReconcilePage,
    Source,
    TickRecord,
)
from nightmill.recovery.model import Candidate, Here
from nightmill.recovery.parts import RecoveryParts
from nightmill.settings.recovery import ReconcilerSettings
from nightmill.telemetry.recovery import record_tick
from nightmill.threads import in_thread

AT_ONCE = 8
"""Candidates looked at at the same time: Temporal's answers take longer than our questions."""

PAGE_PATIENCE = timedelta(minutes=3)
"""Candidates of a page that are not begun by then are left to the next page, or tick: one that has to be replayed again
and again may take a minute."""


@dataclass(frozen=True)
class ReconcileActivities:
    """Find and repair what is stuck.

    Attributes:
        repairer: Repairs one candidate.
        parts: Candidates and records.
        executions: Temporal.
        settings: How late is late.
        build: This worker's build id.
        page_patience: How long a page may take.
    """

    repairer: Repairer
    parts: RecoveryParts
    executions: Executions
    settings: ReconcilerSettings
    build: str
    page_patience: timedelta = PAGE_PATIENCE

    @activity.defn
    async def look_at_queues(self) -> QueueLook:
        """Find the task queues that nobody listens to; only reads."""
        idle = await self._idle_queues()
        return QueueLook(without_worker=tuple(sorted(idle)), per_tick=self.settings.per_tick)

    @activity.defn
    async def settle_repairs(self) -> int:
        """Find out what came of repairs whose reconciler died; return how many there were, some hundred at most."""
        with temporal_errors():
            return await self.repairer.settle_left_over(datetime.now(UTC))

    @activity.defn
    async def reconcile_page(self, page: ReconcilePage) -> PageOutcome:
        """Look at a page of candidates and repair them; a second run finds what the first one recorded."""
        with temporal_errors():
            # What is due was written by Temporal's clock; a worker's that is ahead would find everything late.
            now = activity.info().started_time
            found, after = await self._candidates(page, now)
            past = await in_thread(self.parts.repairs.past, [each.workflow_id for each in found])
            here = Here(
                now=now,
                build=self.build,
                grace=self.settings.grace,
                spacing=self.settings.spacing,
                expiry_margin=self.settings.expiry_margin,
                idle_queues=await self._idle_queues() if found else frozenset(),
                expires=page.source is Source.PAST_DEADLINE,
            )
            gate, done = asyncio.Semaphore(AT_ONCE), 0
            give_up_at = asyncio.get_running_loop().time() + self.page_patience.total_seconds()

            async def handle(candidate: Candidate) -> Handled | None:
                nonlocal done
                async with gate:
                    if asyncio.get_running_loop().time() > give_up_at:
                        return None
                    handled = await self.repairer.handle(
                        candidate, past.get(candidate.workflow_id, []), here, tick=page.tick, dry_run=page.dry_run
                    )
                done += 1
                tell({"source": page.source.value, "done": done, "of": len(found)})
                return handled

            handled = await asyncio.gather(*(handle(each) for each in found))
            begun = [each for each in handled if each is not None]  # the first of them: they begin in their order
            if 0 < len(begun) < len(found) and page.source is not Source.PROBLEMS:
                after = found[len(begun) - 1].after
            return _outcome(begun, after)

    async def _idle_queues(self) -> frozenset[str]:
        # By Temporal's clock: to a worker whose own is two minutes ahead, everybody would seem gone, itself included.
        queues = (self.executions.task_queue, self.executions.slicing_queue)
        return await self.executions.idle_queues(queues, now=activity.info().started_time)

    async def _candidates(self, page: ReconcilePage, now: datetime) -> tuple[list[Candidate], str | None]:
        """Return a page, and where the next one begins, if there may be one."""
        if page.source is Source.PROBLEMS:
            return await self.executions.problems(page.after, page.limit)
        found = await in_thread(self.parts.candidates.page, page.source, after=page.after, limit=page.limit, now=now)
        return found, found[-1].after if len(found) == page.limit else None

    @activity.defn
    def record_tick(self, record: TickRecord) -> None:
        """Write the tick's one log record, and tell operators of queues that nobody listens to though work waits there.

        A tick that only reports tells nobody, and one sweep tells for both.
        """
        summary = record.summary
        record_tick(record.workflow, summary.duration)
        shown = summary.model_dump(mode="json", exclude={"repairs", "go_on"})
        activity.logger.info("tick", extra={"workflow": record.workflow, **shown})
        if summary.dry_run or record.workflow == "ExpirySweep" or Finding.NO_WORKER not in summary.findings:
            return
        for queue in set(summary.queues_without_worker) - set(record.told_without_worker):
            self.parts.alarms.without_worker(queue)


def _outcome(handled: Sequence[Handled], after: str | None) -> PageOutcome:
    views = [each.view for each in handled if each.view is not None]
    failed = sum(each.failed for each in handled)
    return PageOutcome(
        after=after,
        candidates=len(handled),
        findings=dict(Counter(each.finding for each in handled)),
        repaired=len(views),
        failed=failed,
        skipped=len(handled) - len(views) - failed,
        repairs=tuple(views[:MOST_REPAIRS_SHOWN]),
    )
