"""Lanes with a slicer that will not end by itself, and a look at which of its processes are left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nightmill.slicing import process_tree
from nightmill.slicing.isolation import Level
from tests.children.running import without_sandbox
from tests.lanes import Lane, until
from tests.slicing import slicing_here

SLICERS = Path(__file__).parent / "slicers"
LEVELS: tuple[Level, ...] = ("process", "sandbox")

SANDBOX_FIRST = ("sandbox", pytest.param("process", marks=pytest.mark.slow))
"""The level that users have, and, at length, the other one."""

SOON_ENOUGH = 6.0
"""Seconds in which a program is gone whose job was canceled: three by the specification, and as many again for a
machine that does a dozen other things."""

FAMILY = {"process": 3, "sandbox": 5}
"""Processes of the slicer that stays: itself, its child, its grandchild; and two of bubblewrap's."""


@dataclass
class Stay:
    """A lane whose slicer stays, or cuts, as its plan says at each start.

    Attributes:
        lane: The lane.
        level: How far the slicer is kept from the machine; skips the test where there is no sandbox.
        settings: More of its profile.
    """

    lane: Lane
    level: Level = "process"
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.level == "sandbox" and (reason := without_sandbox()):
            pytest.skip(f"no sandbox here: {reason}")
        self.plan("stay")
        command = [sys.executable, "-I", "-S", str(SLICERS / "stubborn.py"), f"@{self._plan}"]
        read = [str(SLICERS), str(self._plan)]
        slicing_here(
            self.lane,
            {"cut": {"command": command, "read_paths": read, **self.settings}},
            ISOLATION=self.level,
            HEARTBEAT_TIMEOUT="3",
            SCRATCH=str(self.scratch),
        )

    @property
    def scratch(self) -> Path:
        """The folder of private folders, which names this lane's programs in their command lines."""
        return self.lane.stack.folder / "scratch"

    @property
    def _plan(self) -> Path:
        return self.lane.stack.folder / "plan"

    def plan(self, behaviour: str) -> None:
        """Say what the slicer does from its next start on."""
        self._plan.write_text(behaviour)

    async def stays(self) -> None:
        """Wait until all of its family is there."""
        await until(lambda: len(left_of(self.scratch)) >= FAMILY[self.level])

    async def gone(self, others: Iterable[tuple[int, int]] = ()) -> float:
        """Return after how many seconds nothing of it was left, nor of the `others`; fail if it is not soon."""
        began = time.monotonic()
        await until(
            lambda: not left_of(self.scratch) and not still_there(others), within=timedelta(seconds=SOON_ENOUGH)
        )
        return time.monotonic() - began

    def kept(self) -> list[str]:
        """The private folders that are there."""
        return sorted(path.name for path in self.scratch.iterdir()) if self.scratch.exists() else []


def left_of(scratch: Path) -> list[int]:
    """Return the processes whose command line names a folder in this one: programs, not their supervisors."""
    tag = f"{scratch}/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:  # it has just ended
                continue
            if tag in words:
                found.append(int(entry.name))
    return found


def offspring(pid: int) -> list[tuple[int, int]]:
    """Return all processes that descend from this one, supervisors included, by what names them for good."""
    return [(one.pid, one.started) for one in process_tree.descendants(pid)]


def still_there(known: Iterable[tuple[int, int]]) -> list[int]:
    """Return which of these run still."""
    found = []
    for pid, started in known:
        one = process_tree.process(pid)
        if one is not None and one.started == started and one.state != "Z":
            found.append(pid)
    return found
