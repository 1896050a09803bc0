"""What the end of a program means: nothing, or a fault with a line that says which."""

from __future__ import annotations

import math
import signal
from datetime import timedelta
from typing import TYPE_CHECKING

from nightmill.slicing.faults import (
    CpuClock,
    EmptyOutput,
    OutOfMemory,
    OutputFlood,
    ProgramFailed,
    ProgramKilled,
    SlicingFault,
    StallClock,
    WallClock,
)
from nightmill.slicing.json_output import shown
from nightmill.telemetry.redaction import without_secrets

if TYPE_CHECKING:
    from nightmill.slicing.programs import Bounds, ProgramRun, Stopped

NEAR = 0.8
"""Share of the bound of memory from which on a SIGKILL that is not ours is the system's, for want of memory."""

_MAX_LINE = 500
_LAST_LINES = 5  # a library may complain once more after the line that says why
_NO_MEMORY = ("MemoryError", "bad_alloc", "annot allocate memory", "OutOfMemoryError")

LARGE = 0.4
"""Share of the bound of memory from which on a program that ends itself does so for want of memory: pdfium and others
abort without a word when a larger block is refused, and a block that grows is asked for at twice its size."""

_ABORTED = frozenset({signal.SIGABRT, signal.SIGTRAP, signal.SIGILL})

_FLOODS = {
    "stdout": "it printed more than it may",
    "stderr": "it wrote more to standard error than it may",
    "disk": "it wrote more to its folder than it may",
}


def fault_of(run: ProgramRun, bounds: Bounds, what: str) -> SlicingFault | None:
    """Return what went wrong with a program, if anything did.

    Args:
        run: How it ended.
        bounds: What it was allowed.
        what: Its name at the beginning of a sentence: `the slicer`.
    """
    if run.stopped is not None:
        return _stopped(run.stopped, bounds, what)
    if run.signal is not None:
        return _killed(run, bounds, what)
    if run.exit_code:
        return _failed(run, bounds, what)
    if not run.stdout_bytes:
        return EmptyOutput(f"{what} ended well and printed nothing{_said(run)}")
    return None


def _stopped(by: Stopped, bounds: Bounds, what: str) -> SlicingFault:
    if by == "wall":
        return WallClock(f"{what} was ended: it ran longer than {in_units(bounds.wall)}")
    if by == "cpu":
        return CpuClock(f"{what} was ended: it used more than {in_units(bounds.cpu)} of processor time")
    if by == "stall":
        after = in_units(bounds.stall or bounds.wall)
        return StallClock(f"{what} was ended: it made no progress for {after}")
    if by == "memory":
        return OutOfMemory(f"{what} was ended: its processes used more than {bounds.memory:,} bytes of memory")
    if by == "processes":
        return ProgramKilled(f"{what} was ended: it had more than {bounds.processes} processes at once")
    if by == "supervisor":
        return ProgramKilled(f"{what} was ended: somebody killed the process that watches over it")
    return OutputFlood(f"{what} was ended: {_FLOODS[by]}")


def _killed(run: ProgramRun, bounds: Bounds, what: str) -> SlicingFault:
    if run.signal == signal.SIGXCPU:
        return CpuClock(f"{what} used more than {in_units(bounds.cpu)} of processor time")
    if run.signal == signal.SIGXFSZ:
        return OutputFlood(f"{what} wrote a file of more than {bounds.file_size:,} bytes")
    near = LARGE if run.signal in _ABORTED else NEAR if run.signal == signal.SIGKILL else math.inf
    if _lacks_memory(run) or run.peak_memory >= near * bounds.memory:
        return _out_of_memory(run, bounds, what)
    return ProgramKilled(f"{what} was killed by {_name_of(run.signal)}{_said(run)}")


def _failed(run: ProgramRun, bounds: Bounds, what: str) -> SlicingFault:
    if _lacks_memory(run):
        return _out_of_memory(run, bounds, what)
    return ProgramFailed(f"{what} ended with exit code {run.exit_code}{_said(run)}")


def _out_of_memory(run: ProgramRun, bounds: Bounds, what: str) -> OutOfMemory:
    used = f"{run.peak_memory / 2**20:,.0f} MiB were in use"
    return OutOfMemory(f"{what} ran out of memory: it may have {bounds.memory:,} bytes, {used}")


def _lacks_memory(run: ProgramRun) -> bool:
    last = run.stderr_tail.rstrip().splitlines()[-_LAST_LINES:]
    return any(sign in line for line in last for sign in _NO_MEMORY)


def _said(run: ProgramRun) -> str:
    lines = run.stderr_tail.rstrip().splitlines()
    # Histories, rows and mails will hold it: a program may have an operator's key among its variables.
    return f": {shown(without_secrets(lines[-1][: 4 * _MAX_LINE]), _MAX_LINE)}" if lines else ""


def _name_of(number: int | None) -> str:
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"


def in_units(time: timedelta) -> str:
    """Return a time for people: `0.5 s`, `90 s`, `14 min 40 s`, `2 h`."""
    seconds = time.total_seconds()
    if seconds < 120:
        return f"{seconds:g} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    units = ((hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join(f"{number:g} {unit}" for number, unit in units if number)
