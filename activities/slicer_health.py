"""The steps of a slicer's health check. Each may run more than once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

from temporalio import activity
from temporalio.service import RPCError, RPCStatusCode

from activities.boundary import handed_back_at_shutdown, temporal_errors
from nightmill import ids
from nightmill.contracts import CanaryInput, CanaryOutcome, CanaryTurn, CanaryVerdict, SlicerBeat
from nightmill.failpoints import fail_point
from nightmill.slicing.breaker import Breaker
from nightmill.slicing.health import Canaries
from nightmill.slicing.operators import OperatorNotices
from nightmill.storage.slicings import SlicingRepository


@dataclass(frozen=True)
class HealthActivities:
    """Try a slicer with a document whose right answer is known, and act upon it.

    Attributes:
        canaries: Slices canaries.
        breaker: Opens and closes.
        operators: Tells operators of transitions.
        slicings: Who is parked.
    """

    canaries: Canaries
    breaker: Breaker
    operators: OperatorNotices
    slicings: SlicingRepository

    @activity.defn
    def begin_canary(self, asked: CanaryInput) -> CanaryTurn:
        """Say whether the canary may be sliced now, or when; asked again by the same token, the answer is the same."""
        with temporal_errors():
            return self.canaries.turn(asked.profile, asked.token, hurry=asked.hurry, now=datetime.now(UTC))

    @activity.defn
    async def slice_canary(self, asked: CanaryInput) -> CanaryOutcome:
        """Slice the canary; a second run does so again."""
        with handed_back_at_shutdown(), temporal_errors():
            return await self.canaries.slice(asked.profile, _silent)

    @activity.defn
    def judge_canary(self, asked: CanaryInput) -> CanaryVerdict:
        """Let the breaker hear what came of the canary; a second run changes nothing."""
        assert asked.outcome is not None  # noqa: S101 - the workflow's own input
        with temporal_errors():
            verdict = self.breaker.judge(asked.profile, asked.token, asked.outcome, datetime.now(UTC))
            fail_point("breaker.judged")
            return verdict

    @activity.defn
    def tell_operators(self, profile: str) -> None:
        """Tell operators of the breaker's transitions that they have not been told of, in order."""
        with temporal_errors():
            self.operators.tell(profile, datetime.now(UTC))

    @activity.defn
    async def release_parked(self, profile: str) -> int:
        """Tell parked slicings, who waits longest first, that they may go on; a second run tells those still parked."""
        with temporal_errors():
            if (await asyncio.to_thread(self.breaker.ask, profile, datetime.now(UTC))).is_open:
                return 0
            parked = await asyncio.to_thread(self.slicings.parked, profile)
        told = 0
        for sha256, run_id in parked:
            handle = activity.client().get_workflow_handle(ids.slicing_workflow_id(sha256, profile), run_id=run_id)
            try:
                await handle.signal("go_on")
            except RPCError as error:
                if error.status != RPCStatusCode.NOT_FOUND:  # it has ended since
                    raise
            told += 1
            if told == 1:
                fail_point("breaker.half_released")
        return told


def _silent(_: SlicerBeat) -> None:
    """Heed no progress: the canary is small."""
