"""Whatever a program does: it ends in time, it is told why, and nothing of it is left. At both levels of isolation."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nightmill.slicing import process_tree
from nightmill.slicing.isolation import Level
from nightmill.slicing.programs import ProgramRun, ProgramRunner
from nightmill.slicing.scratch import Scratch
from tests.children.running import BOUNDS, LEVELS, MIB, hostile, isolation, left_of, new_name, without_sandbox

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="programs are supervised on Linux only")

SECOND = timedelta(seconds=1)
AT_ONCE = 6
KILLED = {"signal": signal.SIGKILL, "exit_code": None}


@dataclass(frozen=True)
class Case:
    """A behaviour, and what its run must come to.

    Attributes:
        expected: Attributes of the run.
        bounds: Other bounds than the usual ones.
        deadline: When it must have ended; one second more is allowed, and two on top of it where our own process was
            not given the processor in time.
        sandbox: What is different in the sandbox.
    """

    behaviour: str
    expected: dict[str, Any]
    bounds: dict[str, Any] = field(default_factory=dict)
    deadline: timedelta = SECOND
    sandbox: dict[str, Any] = field(default_factory=dict)


def ends_by_wall(behaviour: str, **expected: Any) -> Case:
    return Case(behaviour, {"stopped": "wall"} | (expected or KILLED), {"wall": SECOND}, SECOND + BOUNDS.grace)


def ends_by_itself(behaviour: str, **expected: Any) -> Case:
    return Case(behaviour, {"stopped": None, "signal": None, "exit_code": 0} | expected)


def ends_by(bound: str, behaviour: str, **bounds: Any) -> Case:
    # Of processor time, a busy machine gives less than a second a second.
    return Case(behaviour, {"stopped": bound} | KILLED, bounds, 10 * SECOND if bound == "cpu" else 3 * SECOND)


CASES = (
    ends_by_itself("is_done", stdout_bytes=5),
    ends_by_itself("writes_a_lot", stdout_bytes=3 * MIB, stderr_bytes=MIB // 2 + 3),
    ends_by_itself("gives_up", exit_code=3, stderr_tail="starting\ncannot go on\n"),
    ends_by_itself("crashes", exit_code=None, signal=signal.SIGSEGV),
    ends_by_itself("is_killed", exit_code=None, signal=signal.SIGKILL),
    ends_by_itself("escapes", stdout_bytes=5),
    ends_by_itself("escapes_again_and_again"),
    ends_by_itself("holds_the_pipes", stdout_bytes=5),
    ends_by_itself("hogs", exit_code=1),
    ends_by_itself("writes_too_long_a_file", exit_code=1),
    ends_by_itself("opens_too_many_files", exit_code=1),
    ends_by_wall("ignores_signals"),
    ends_by_wall("obeys", exit_code=7, signal=None),
    ends_by_wall("closes_its_pipes"),
    ends_by_wall("stops_itself", signal=signal.SIGTERM, exit_code=None),
    ends_by_wall("leaves_zombies"),
    ends_by_wall("floods_when_asked_to_end"),
    ends_by("stall", "stalls", stall=timedelta(seconds=0.7)),
    ends_by("cpu", "spins", cpu=timedelta(seconds=0.4)),
    ends_by("cpu", "spins_in_children", cpu=timedelta(seconds=0.5)),
    ends_by("cpu", "spins_in_orphans", cpu=timedelta(seconds=0.4)),
    ends_by("memory", "hogs_in_children"),
    ends_by("stdout", "floods_output"),
    ends_by("stderr", "floods_log"),
    ends_by("stderr", "writes_a_line_without_end"),
    ends_by("processes", "bombs", wall=5 * SECOND),
    ends_by("processes", "bombs_out_of_its_group", wall=5 * SECOND),
    ends_by("disk", "writes_too_many_files", disk=16 * MIB),
    ends_by("disk", "hides_files_on_disk", disk=16 * MIB),
    ends_by("disk", "closes_its_folders", disk=16 * MIB),
    ends_by("memory", "hides_files_in_memory", memory=48 * MIB),
    # In the sandbox its parent is out of its reach, and the wall clock ends it.
    Case(
        "kills_its_parent",
        {"stopped": "supervisor"},
        {"wall": SECOND},
        SECOND + BOUNDS.grace,
        sandbox={"stopped": "wall"} | KILLED,
    ),
)


@dataclass(frozen=True)
class Ended:
    run: ProgramRun
    took: timedelta
    left: list[int]
    output: bytes


class Household:
    """Runs the cases, some at once, and keeps what they came to."""

    def __init__(self, root: Path) -> None:
        self.scratch = Scratch(root)
        self.ended: dict[tuple[str, Level], Ended] = {}

    async def run_all(self, wanted: list[tuple[Case, Level]]) -> None:
        turns = asyncio.Semaphore(AT_ONCE)

        async def in_turn(case: Case, level: Level) -> None:
            async with turns:
                self.ended[case.behaviour, level] = await self.run(case, level)

        await asyncio.gather(*(in_turn(case, level) for case, level in wanted))

    async def run(self, case: Case, level: Level) -> Ended:
        name = new_name()
        with self.scratch.folder() as folder:
            started = time.monotonic()
            run = await ProgramRunner(isolation(level)).run(hostile(case.behaviour, folder, name, **case.bounds))
            took = timedelta(seconds=time.monotonic() - started)
            output = run.stdout.read_bytes() if run.stdout.exists() else b""
        return Ended(run, took, left_of(name), output)


@pytest.fixture(scope="module")
def household(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Household:
    """All cases that were asked for, run at once; those are told apart by what is asked of them below."""
    asked = {
        (item.callspec.params["case"].behaviour, item.callspec.params["level"]): item.callspec.params
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
    }
    wanted = [(params["case"], params["level"]) for params in asked.values()]
    found = Household(tmp_path_factory.mktemp("scratch"))
    isolation("process")
    wanted = [(case, level) for case, level in wanted if level == "process" or without_sandbox() is None]
    asyncio.run(found.run_all(wanted[:1]))  # what is imported and opened once is not a leak
    ours = process_tree.descendants(os.getpid())
    descriptors, memory = _descriptors(), _memory()
    asyncio.run(found.run_all(wanted))
    assert _descriptors() == descriptors
    assert _memory() - memory <= 32 * MIB
    assert {one.pid for one in process_tree.descendants(os.getpid())} <= {one.pid for one in ours}  # no zombie, too
    assert list(found.scratch.root.iterdir()) == []
    return found


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _memory() -> int:
    found = process_tree.process(os.getpid())
    assert found is not None
    return found.resident


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.behaviour)
def test_a_hostile_program_ends_in_time_with_its_reason_and_without_a_trace(
    household: Household, case: Case, level: Level
) -> None:
    isolation(level)
    ended = household.ended[case.behaviour, level]

    expected = case.expected | (case.sandbox if level == "sandbox" else {})
    assert {name: getattr(ended.run, name) for name in expected} == expected
    assert ended.run.duration <= case.deadline + SECOND
    assert ended.took <= case.deadline + 3 * SECOND
    assert ended.run.cpu <= case.bounds.get("cpu", 10 * SECOND) + SECOND
    assert ended.left == []
    assert len(ended.output) == min(ended.run.stdout_bytes, BOUNDS.stdout)
    assert len(ended.run.stderr_tail.encode()) <= 4 * BOUNDS.stderr_tail
