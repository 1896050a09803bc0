"""Find what is stuck and put it right, before the expiry sweep declares a batch lost."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from nightmill.contracts import ReconcileInput, ReconcileSummary, Source

from workflows.ticking import Tick

SOURCES = (Source.BATCHES, Source.PARTS, Source.PROBLEMS, Source.DOCUMENTS, Source.SLICINGS)


@workflow.defn(name="Reconciler", failure_exception_types=[TypeError])
class Reconciler:
    """Look at everything that is late or whose tasks fail, and repair it; the schedule starts it every 5 min.

    Each candidate is judged by a fresh look at its one workflow, and each repair is recorded before and after. Two
    reconcilers at once, or one that is killed at any step, repair nothing twice.
    """

    def __init__(self) -> None:
        self._tick = Tick()

    @workflow.run
    async def run(self, asked: ReconcileInput) -> ReconcileSummary:
        """Return what was found and what was done about it; with `dry_run`, what would be done."""
        return await self._tick.run(SOURCES, dry_run=asked.dry_run)

    @workflow.query(description="What was found and repaired so far")
    def progress(self) -> ReconcileSummary:
        """Return what was found so far."""
        return self._tick.summary
