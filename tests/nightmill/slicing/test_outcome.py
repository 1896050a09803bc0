from __future__ import annotations

import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

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
from nightmill.slicing.outcome import fault_of, in_units
from nightmill.slicing.programs import Bounds, ProgramRun, Stopped

MIB = 2**20
BOUNDS = Bounds(
    wall=timedelta(minutes=14, seconds=40),
    cpu=timedelta(minutes=30),
    stall=timedelta(seconds=90),
    memory=100 * MIB,
    file_size=MIB,
    open_files=64,
    processes=8,
    stdout=MIB,
    stderr_tail=4096,
    grace=timedelta(seconds=1),
)
ENDED_WELL = ProgramRun(
    exit_code=0,
    signal=None,
    stopped=None,
    stdout=Path("stdout"),
    stdout_bytes=10,
    stderr_tail="",
    stderr_bytes=0,
    duration=timedelta(seconds=1),
    cpu=timedelta(seconds=1),
    peak_memory=10 * MIB,
    started_at=datetime(2026, 11, 22, tzinfo=UTC),
)
NO_MEMORY = "Traceback (most recent call last):\n  File x\nMemoryError\n"


@pytest.mark.parametrize(
    ("ended", "kind", "said"),
    [
        ({"stdout_bytes": 0}, EmptyOutput, "the slicer ended well and printed nothing"),
        ({"stdout_bytes": 0, "stderr_tail": "done\n"}, EmptyOutput, "printed nothing: done"),
        ({"exit_code": 3}, ProgramFailed, "the slicer ended with exit code 3"),
        ({"exit_code": 3, "stderr_tail": "a\nno\tfont\n\n"}, ProgramFailed, "exit code 3: no font"),
        ({"exit_code": 1, "stderr_tail": NO_MEMORY}, OutOfMemory, "104,857,600 bytes, 10 MiB were in use"),
        ({"exit_code": 1, "stderr_tail": "MemoryError\n" + "x\n" * 9}, ProgramFailed, "exit code 1: x"),
        ({"signal": signal.SIGABRT, "stderr_tail": "terminate: std::bad_alloc\n"}, OutOfMemory, "ran out of memory"),
        ({"signal": signal.SIGKILL, "peak_memory": 85 * MIB}, OutOfMemory, "85 MiB were in use"),
        ({"signal": signal.SIGKILL, "peak_memory": 20 * MIB}, ProgramKilled, "was killed by SIGKILL"),
        ({"signal": signal.SIGSEGV, "stderr_tail": "at 0x0"}, ProgramKilled, "was killed by SIGSEGV: at 0x0"),
        ({"signal": signal.SIGXCPU}, CpuClock, "more than 30 min of processor time"),
        ({"signal": signal.SIGXFSZ}, OutputFlood, "a file of more than 1,048,576 bytes"),
        ({"signal": 63}, ProgramKilled, "signal 63"),
        ({"signal": signal.SIGKILL, "stopped": "wall"}, WallClock, "ran longer than 14 min 40 s"),
        ({"signal": signal.SIGTERM, "stopped": "cpu"}, CpuClock, "more than 30 min"),
        ({"signal": signal.SIGTERM, "stopped": "stall"}, StallClock, "no progress for 90 s"),
        ({"signal": signal.SIGKILL, "stopped": "memory"}, OutOfMemory, "more than 104,857,600 bytes"),
        ({"signal": signal.SIGKILL, "stopped": "processes"}, ProgramKilled, "more than 8 processes"),
        ({"signal": signal.SIGKILL, "stopped": "stdout"}, OutputFlood, "printed more than it may"),
        ({"signal": signal.SIGKILL, "stopped": "supervisor"}, ProgramKilled, "watches over it"),
        ({"exit_code": 0, "stopped": "disk"}, OutputFlood, "wrote more to its folder"),
    ],
)
def test_the_end_of_a_program_is_a_fault_that_says_why(
    ended: dict[str, Any], kind: type[SlicingFault], said: str
) -> None:
    if "signal" in ended:
        ended = {"exit_code": None, **ended}

    fault = fault_of(replace(ENDED_WELL, **ended), BOUNDS, "the slicer")

    assert type(fault) is kind
    assert str(fault).startswith("the slicer ")
    assert said in str(fault)


def test_a_program_that_ends_well_has_no_fault_whatever_it_grumbles() -> None:
    assert fault_of(replace(ENDED_WELL, stderr_tail=NO_MEMORY), BOUNDS, "the slicer") is None


@pytest.mark.parametrize("by", get_args(Stopped))
def test_every_bound_has_its_fault(by: Stopped) -> None:
    fault = fault_of(replace(ENDED_WELL, exit_code=None, signal=9, stopped=by), BOUNDS, "the slicer")

    assert fault is not None
    assert fault.counts


def test_a_long_last_line_is_cut_and_made_harmless() -> None:
    run = replace(ENDED_WELL, exit_code=1, stderr_tail="x\x1b[31m" + "y" * 100_000)

    fault = str(fault_of(run, BOUNDS, "the slicer"))

    assert len(fault) < 600
    assert "\x1b" not in fault


def test_what_a_program_says_at_its_end_is_told_without_the_secrets_in_it() -> None:
    said = "refused: https://me:hunter2@ocr.example/?x=1 with OCR_API_KEY=abc123 and Bearer eyJabc"
    for how in ({"exit_code": 1}, {"exit_code": None, "signal": signal.SIGSEGV}, {"stdout_bytes": 0}):
        fault = str(fault_of(replace(ENDED_WELL, stderr_tail=f"one\n{said}\n", **how), BOUNDS, "the slicer"))
        assert "ocr.example" in fault
        assert not any(secret in fault for secret in ("hunter2", "abc123", "eyJabc"))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.5, "0.5 s"), (90, "90 s"), (120, "2 min"), (880, "14 min 40 s"), (7200, "2 h"), (3601, "1 h 1 s")],
)
def test_times_are_said_in_units(seconds: float, said: str) -> None:
    assert in_units(timedelta(seconds=seconds)) == said
