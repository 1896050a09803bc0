"""A slicing's programs: started when the breaker lets them, once more where a fault asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from activities.slicing import SlicingActivities
    from nightmill import ids
    from nightmill.contracts import AttemptFault, Fault, HealthInput, Inspection, ProgramOutcome, SlicingRef

from workflows import failures, policies
from workflows.job_clock import JobClock

ATTEMPTS = 2
"""How often a program is started at most: the "once" of the table of errors is one more start."""

_OutcomeT = TypeVar("_OutcomeT", Inspection, ProgramOutcome)

_Program = tuple[str, int, int]
"""A program's step, its first page, and which attempt it is."""


@dataclass
class ProgramAttempts:
    """Runs the programs of one slicing; several at once where pages are read by ranges.

    Attributes:
        ref: The run.
        on_wait: Told why the slicing waits for the breaker, and None when it goes on.
        clock: The job's time; it stands while no program runs.
    """

    ref: SlicingRef
    on_wait: Callable[[str | None], None]
    clock: JobClock = field(default_factory=JobClock)
    _scheduled: set[_Program] = field(default_factory=set)
    _started: set[_Program] = field(default_factory=set)
    _at_the_breaker: asyncio.Lock = field(default_factory=asyncio.Lock)
    _asked_to_go_on: int = 0

    def started(self, step: str, first_page: int, attempt: int) -> None:
        """Let the job's time run: a program says that it has started; one that has ended says so too late."""
        program = (step, first_page, attempt)
        if program in self._scheduled:
            self._started.add(program)
            self.clock.start(workflow.now())

    def go_on(self) -> None:
        """Look at the breaker again now."""
        self._asked_to_go_on += 1

    async def run(
        self, step: str, limit: timedelta, start: Callable[[int], Awaitable[_OutcomeT]], *, first_page: int = 0
    ) -> _OutcomeT | Fault:
        """Return what a program came to, at the second attempt where the first one's fault may pass.

        Args:
            step: `inspect`, `pages`, `slice` or `metadata`.
            limit: How long an attempt may take, to tell of one that took longer.
            start: Runs the attempt of this number.
            first_page: For `pages`: the first page of its range.

        Raises:
            CancelledError: The workflow is canceled, or the job's time is over; the program has ended.
        """
        for attempt in range(1, ATTEMPTS + 1):
            await self._pass_breaker()
            outcome = await self._run(start, (step, first_page, attempt), limit)
            fault = outcome if isinstance(outcome, Fault) else outcome.fault
            if fault is None:
                return outcome
            await self._count(AttemptFault(ref=self.ref, attempt=attempt, step=step, fault=fault))
            if not fault.retried or attempt == ATTEMPTS:
                return fault
            await workflow.sleep(policies.AFTER_PROGRAM_FAULT, summary=f"before the second attempt of {step}")
        raise AssertionError("the last attempt returns")

    async def _run(
        self, start: Callable[[int], Awaitable[_OutcomeT]], program: _Program, limit: timedelta
    ) -> _OutcomeT | Fault:
        """Return what one attempt came to, outages of storage and database waited for.

        A worker that shuts down hands the attempt back, and that costs nothing; one that is lost costs the attempt.
        """
        tries = 0
        while True:
            self._scheduled.add(program)
            try:
                outcome = await start(program[2])
            except asyncio.CancelledError:
                self._over(program)
                raise
            except ActivityError as error:
                self._over(program)
                if _is_over() or workflow.cancellation_reason() is not None or failures.is_canceled(error):
                    raise asyncio.CancelledError from error
                if failures.is_timeout(error):
                    return failures.timeout_fault(error, limit)
                tries += not failures.is_worker_shutdown(error)
                if failures.is_permanent(error) or tries > len(policies.AFTER_OUTAGE):
                    return failures.last_fault(error)
            else:
                self._over(program)
                if _is_over():
                    raise asyncio.CancelledError
                return outcome
            pause = policies.AFTER_OUTAGE[tries - 1] if tries else policies.AFTER_SHUTDOWN
            await workflow.sleep(pause, summary="before the attempt is made again")

    def _over(self, program: _Program) -> None:
        # Not in a `finally`: that also runs when a worker drops the run from its cache, where no workflow's time is.
        self._scheduled.discard(program)
        self._started.discard(program)
        if not self._started:  # others may be in the queue, and that costs nothing
            self.clock.pause(workflow.now())

    async def _pass_breaker(self) -> None:
        """Return when the profile's breaker is closed; until then the slicing is parked.

        It is told when that is so. Should that be lost, it looks by itself now and then, and makes sure that somebody
        watches the breaker. Of page ranges one looks for all: each look is some twenty events of a history that ends at
        fifty thousand, and people hold breakers open for days.
        """
        async with self._at_the_breaker:
            await self._until_closed()

    async def _until_closed(self) -> None:
        looks = 0
        while True:
            heard = self._asked_to_go_on
            breaker = await workflow.execute_activity_method(
                SlicingActivities.ask_breaker,
                self.ref,
                **policies.titled(policies.DATABASE_WRITE, "ask the breaker"),
            )
            if not breaker.is_open:
                self.on_wait(None)
                return
            self.on_wait(breaker.reason or "the breaker is open")
            if looks:
                await self._watch()
            await self._told(heard, policies.until_breaker_look(looks))
            looks += 1

    async def _told(self, heard: int, timeout: timedelta) -> None:
        with suppress(asyncio.TimeoutError):
            await workflow.wait_condition(
                lambda: self._asked_to_go_on != heard, timeout=timeout, timeout_summary="the breaker is open"
            )

    async def _count(self, failed: AttemptFault) -> None:
        """Let the breaker count a fault; whoever opens it starts its watch."""
        breaker = await workflow.execute_activity_method(
            SlicingActivities.record_fault,
            failed,
            **policies.titled(policies.DATABASE_WRITE, f"{failed.step} failed: {failed.fault.code}"),
        )
        if breaker.tripped:
            await self._watch()

    async def _watch(self) -> None:
        """Start the breaker's watch, if none runs."""
        with suppress(WorkflowAlreadyStartedError):  # one does
            await workflow.start_child_workflow(
                "SlicerHealth",
                HealthInput(profile=self.ref.profile),
                id=ids.health_workflow_id(self.ref.profile),
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
                static_summary=f"the breaker of {self.ref.profile} has opened",
            )


def _is_over() -> bool:
    """Whether this task was canceled, though the activity that it waited for has ended in another way.

    An activity whose cancel is waited for swallows it: it may succeed at that moment, or be lost with its worker. What
    would follow must not be begun, for the job's time is over.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
