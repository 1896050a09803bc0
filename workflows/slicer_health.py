"""A slicer's health: slice a document whose right answer is known, and let the breaker act upon what comes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.slicer_health import HealthActivities
    from nightmill.contracts import (
        CanaryInput,
        CanaryOutcome,
        CanaryTurn,
        CanaryVerdict,
        HealthInput,
    )

from workflows import failures, policies

CANARY_TRIES = 3
"""Workers that may be lost with one canary, before that is taken for the slicer's doing."""


@workflow.defn(name="SlicerHealth", failure_exception_types=[TypeError])
class SlicerHealth:
    """Try a profile's slicer until its breaker is closed, once where it is closed already.

    1. `tell_operators` tells of what the breaker has done, each transition once.
    2. `begin_canary` says when the canary may be sliced: at once, or after the cool-down of an open breaker.
    3. `slice_canary` slices it; `judge_canary` closes the breaker, or leaves it open for a longer cool-down.
    4. `release_parked` lets what was parked go on, in order.
    """

    def __init__(self) -> None:
        self._try_now = False
        self._turns = 0

    @workflow.run
    async def run(self, asked: HealthInput) -> CanaryOutcome | None:
        """Return what came of the last canary; None where none was sliced."""
        while True:
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(asked)
            await self._settle(asked.profile)
            if not asked.canary:
                return None
            self._try_now |= asked.once
            turn = await self._turn(asked.profile)
            if turn.token is None:
                if turn.at is None or asked.once:
                    return None
                await self._until(turn.at)
                continue
            outcome = await self._slice(asked.profile, turn)
            verdict = await self._judge(asked.profile, turn.token, outcome)
            await self._settle(asked.profile)
            if verdict.try_again_at is None or asked.once:
                return outcome
            await self._until(verdict.try_again_at)

    @workflow.signal(description="Try the slicer now, whatever is left of the cool-down")
    def try_now(self) -> None:
        """Do not wait for the end of the cool-down."""
        self._try_now = True

    async def _settle(self, profile: str) -> None:
        """Tell operators, which must not hold parked work up, and let that go on if it may."""
        with suppress(ActivityError):  # told by the next check: the transition stays untold
            await workflow.execute_activity_method(
                HealthActivities.tell_operators, profile, **policies.titled(policies.OPERATOR_NOTICE, "tell operators")
            )
        await workflow.execute_activity_method(
            HealthActivities.release_parked,
            profile,
            **policies.titled(policies.DATABASE_WRITE, "let parked work go on if it may"),
        )

    async def _turn(self, profile: str) -> CanaryTurn:
        self._turns += 1
        token = f"{workflow.info().run_id}/{self._turns}"
        return await workflow.execute_activity_method(
            HealthActivities.begin_canary,
            CanaryInput(profile=profile, token=token, hurry=self._try_now),
            **policies.titled(policies.DATABASE_WRITE, "is it the canary's turn?"),
        )

    async def _slice(self, profile: str, turn: CanaryTurn) -> CanaryOutcome:
        """Return what the canary came to; that its worker was lost, or shut down, says nothing of the slicer."""
        self._try_now = False
        assert turn.token is not None  # noqa: S101 - the caller has looked
        for _ in range(CANARY_TRIES):
            try:
                return await workflow.execute_activity_method(
                    HealthActivities.slice_canary,
                    CanaryInput(profile=profile, token=turn.token),
                    **policies.program(turn, turn.timeout, "slice the canary"),
                )
            except ActivityError as error:
                if workflow.cancellation_reason() is not None:
                    raise asyncio.CancelledError from error
                outcome = CanaryOutcome(profile=profile, passed=False, message=failures.reason_of(error))
                if not (failures.is_lost_worker(error) or failures.is_worker_shutdown(error)):
                    break
            await workflow.sleep(policies.AFTER_SHUTDOWN, summary="before the canary is sliced again")
        return outcome

    async def _judge(self, profile: str, token: str, outcome: CanaryOutcome) -> CanaryVerdict:
        return await workflow.execute_activity_method(
            HealthActivities.judge_canary,
            CanaryInput(profile=profile, token=token, outcome=outcome),
            **policies.titled(policies.DATABASE_WRITE, "passed" if outcome.passed else "failed"),
        )

    async def _until(self, when: datetime) -> None:
        timeout = max(when - workflow.now(), policies.CANARY_PATIENCE)
        with suppress(asyncio.TimeoutError):
            await workflow.wait_condition(lambda: self._try_now, timeout=timeout, timeout_summary="cool-down")
