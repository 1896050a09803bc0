"""Puts one PDF through all that a slicing starts: the look at it, the slicer, and the look at the slices."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache, partial
from pathlib import Path

from nightmill.settings.slicing import SlicerSettings, SlicingSettings
from nightmill.slicing.faults import SlicingFault
from nightmill.slicing.inspection import check_command, inspection_command, names_to_check, read_checks, read_inspection
from nightmill.slicing.isolation import Level, open_isolation
from nightmill.slicing.profiles import SlicerProfile
from nightmill.slicing.programs import Bounds, ProgramRun, ProgramRunner
from nightmill.slicing.results import read_result, with_checks
from nightmill.slicing.scratch import Scratch
from nightmill.slicing.slicer_result import SlicerResult
from nightmill.slicing.workplace import LOOK, Workplace, Workshop
from tests.children.running import left_of, without_sandbox

MIB = 1024 * 1024
BOUNDS = replace(
    LOOK,
    wall=timedelta(seconds=20),
    cpu=timedelta(seconds=20),
    stall=timedelta(seconds=20),
    memory=1024 * MIB,
    grace=timedelta(seconds=0.5),
)
SLICER = (sys.executable, "-m", "nightmill.slicer")


@dataclass
class Ending:
    """How it went.

    Attributes:
        outcome: `looked at`, `sliced`, or a fault's code.
        said: The fault's message.
        page_count: Pages that the look at the PDF found.
        flags: What it found wrong.
        result: The slicer's, checked.
        runs: The programs that ran, by step.
        took: Seconds in all.
        left: Processes that are still there.
    """

    outcome: str = ""
    said: str = ""
    page_count: int | None = None
    flags: Sequence[str] = ()
    result: SlicerResult | None = None
    runs: dict[str, ProgramRun] = field(default_factory=dict)
    took: float = 0.0
    left: Sequence[int] = ()

    @property
    def cpu(self) -> float:
        """Processor seconds of all programs."""
        return sum(run.cpu.total_seconds() for run in self.runs.values())

    @property
    def peak(self) -> int:
        """Bytes of memory that the largest of them held."""
        return max((run.peak_memory for run in self.runs.values()), default=0)

    def broken_promises(self, bounds: Bounds = BOUNDS) -> list[str]:
        """What supervision has not kept: no program over its bounds, nothing left of it, no page lost."""
        found = []
        for step, run in self.runs.items():
            if run.duration > bounds.wall + timedelta(seconds=1):
                found.append(f"{step} took {run.duration}")
            if run.peak_memory > bounds.memory * 1.1:  # as seen ten times a second
                found.append(f"{step} held {run.peak_memory / MIB:.0f} MiB")
        if self.left:
            found.append(f"left over: {self.left}")
        if self.outcome == "internal":
            found.append(self.said)
        if self.result is not None and self.result.page_count != self.page_count:
            found.append(f"{self.page_count} pages were seen, {self.result.page_count} sliced")
        return found


@cache
def _runner(level: Level) -> ProgramRunner:
    return ProgramRunner(open_isolation(level))


def best_level() -> Level:
    """The sandbox, where there can be one."""
    return "process" if without_sandbox() else "sandbox"


async def put_through(
    pdf: Path,
    scratch: Path,
    *,
    options: Sequence[str] | None = ("--mode", "every", "--pages", "10"),
    bounds: Bounds = BOUNDS,
    level: Level | None = None,
) -> Ending:
    """Do it, in a folder under `scratch` that is gone afterwards; without options the PDF is only looked at."""
    settings = SlicingSettings(scratch=scratch)
    workshop = Workshop(settings, _runner(level or best_level()), Scratch(scratch))
    profile = SlicerProfile("any", SlicerSettings(command=(*SLICER, *(options or ()))))
    ending = Ending()

    def ended(step: str, _: object, run: ProgramRun, *__: object) -> None:
        ending.runs[step] = run

    began = time.monotonic()
    home = ""
    try:
        async with workshop.open(
            "slice", profile, partial(shutil.copyfile, pdf), size=pdf.stat().st_size, attempt=1,
            tell=lambda _: None, ended=ended,
        ) as place:  # fmt: skip
            home = str(place.home)
            await _work(place, ending, bounds, slicing=options is not None)
    except SlicingFault as fault:
        ending.outcome, ending.said = fault.error_code.value, str(fault)
    ending.took = time.monotonic() - began
    ending.left = left_of(home) if home else ()
    return ending


async def _work(place: Workplace, ending: Ending, bounds: Bounds, *, slicing: bool) -> None:
    look = await place.run("inspect", inspection_command(place.pdf, place.folder, max_pages=20_000), bounds)
    found = read_inspection(look.stdout, max_pages=20_000)
    ending.page_count, ending.flags, ending.outcome = found.page_count, found.flags, "looked at"
    if not slicing:
        return
    run = await place.run("slice", (*place.profile.command, str(place.pdf), str(place.output), "job"), bounds)
    result = read_result(run.stdout, folder=place.output, page_count=found.page_count)
    names = place.home / "names.json"
    names.write_bytes(names_to_check(result))
    check = await place.run("check", check_command(place.output, names), bounds, readable=(names,))
    ending.result = with_checks(result, read_checks(check.stdout))
    ending.outcome = "sliced"
