"""The last fallback: batches past their max age that no workflow drives."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from nightmill.contracts import ReconcileInput, ReconcileSummary, Source

from workflows.ticking import Tick

SOURCES = (Source.PAST_DEADLINE,)


@workflow.defn(name="ExpirySweep", failure_exception_types=[TypeError])
class ExpirySweep:
    """End batches past their max age whose workflows the reconciler could not bring back; hourly by its schedule.

    Each is started afresh under its own id. Its rows know the deadline, so its first step is the end at max age: the
    provider is asked a last time, what it finished is kept, the rest fails as expired, and the handler is told.
    """

    def __init__(self) -> None:
        self._tick = Tick()

    @workflow.run
    async def run(self, asked: ReconcileInput) -> ReconcileSummary:
        """Return what was found and what was done about it; with `dry_run`, what would be done."""
        return await self._tick.run(SOURCES, dry_run=asked.dry_run)

    @workflow.query(description="What was found and ended so far")
    def progress(self) -> ReconcileSummary:
        """Return what was found so far."""
        return self._tick.summary
