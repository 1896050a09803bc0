"""The programs of slicings: asynchronous activities, which hear of a cancel at once and end the program's processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from temporalio import activity
from temporalio.service import RPCError

from activities import heartbeats
from activities.boundary import handed_back_at_shutdown, temporal_errors
from nightmill.contracts import Inspection, ProgramInput, ProgramOutcome, SlicerBeat
from nightmill.slicing.steps import SlicingSteps
from nightmill.slicing.workplace import Tell

PROGRESS_EVERY = 10.0
"""Seconds between two signals of a program's progress at first: each is an event of the workflow's history. Heartbeats
tell it every second."""

PROGRESS_SHARE = 30
"""Later they are a thirtieth of its time so far apart: one that a profile lets run for a day sends 200 of them."""

_OutcomeT = TypeVar("_OutcomeT", Inspection, ProgramOutcome)


@dataclass(frozen=True)
class ProgramActivities:
    """Run programs in the worker's slots for them.

    Attributes:
        steps: What is run.
    """

    steps: SlicingSteps

    @activity.defn
    async def inspect_pdf(self, asked: ProgramInput) -> Inspection:
        """Open the PDF; a second run opens it again."""
        return await _run(self.steps.inspect, asked)

    @activity.defn
    async def read_pages(self, asked: ProgramInput) -> ProgramOutcome:
        """Read one range of pages; a second run reads it again and writes the same file."""
        return await _run(self.steps.read_pages, asked)

    @activity.defn
    async def slice_pdf(self, asked: ProgramInput) -> ProgramOutcome:
        """Cut the PDF up; a second run does so again and writes the same files."""
        return await _run(self.steps.slice, asked)

    @activity.defn
    async def find_metadata(self, asked: ProgramInput) -> ProgramOutcome:
        """Find number and date; a second run finds them again."""
        return await _run(self.steps.find_metadata, asked)


async def _run(step: Callable[[ProgramInput, Tell], Awaitable[_OutcomeT]], asked: ProgramInput) -> _OutcomeT:
    """Return what a step came to; its program has ended, whatever this raises."""
    progress = _Progress()
    signals = asyncio.create_task(progress.signal())
    try:
        with handed_back_at_shutdown(), temporal_errors():
            return await step(asked, progress.tell)
    finally:
        signals.cancel()
        await asyncio.gather(signals, return_exceptions=True)


def pause_after(seconds: float) -> float:
    """Return the seconds until the next signal of a program that has run so long: 10 up to 5 min, 120 at an hour."""
    return max(PROGRESS_EVERY, seconds / PROGRESS_SHARE)


class _Progress:
    """Carries a program's progress into heartbeats at once, and into the workflow now and then."""

    def __init__(self) -> None:
        info = activity.info()
        self._workflow = activity.client().get_workflow_handle(info.workflow_id or "", run_id=info.workflow_run_id)
        self._last: SlicerBeat | None = None
        self._changed = asyncio.Event()

    def tell(self, beat: SlicerBeat) -> None:
        """Take progress."""
        heartbeats.tell(beat.model_dump(mode="json"))
        if self._last is None or (self._last.phase, self._last.page) != (beat.phase, beat.page):
            self._last = beat
            self._changed.set()

    async def signal(self) -> None:
        """Signal the workflow: the start at once, for its clock runs from there, then the latest every some seconds."""
        began = time.monotonic()
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._last is None or self._last.phase == "fetching":
                continue
            try:
                await self._workflow.signal("report_progress", self._last)
            except RPCError as error:
                # The heartbeats tell it all the same, and start-to-close bounds the program without the job's clock.
                activity.logger.warning("progress is not shown", extra={"reason": error.message})
            await asyncio.sleep(pause_after(time.monotonic() - began))
