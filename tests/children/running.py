"""What the tests of supervised programs share: levels, bounds, and a look at who is left."""

from __future__ import annotations

import secrets
import sys
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nightmill.slicing import process_tree
from nightmill.slicing.isolation import Isolation, Level, open_isolation, probe_sandbox
from nightmill.slicing.programs import Bounds, Program

MIB = 1024 * 1024
CHILDREN = Path(__file__).parent
HOSTILE = CHILDREN / "hostile.py"
LEVELS: tuple[Level, ...] = ("process", "sandbox")
BOUNDS = Bounds(
    wall=timedelta(seconds=30),
    cpu=timedelta(seconds=30),
    stall=None,
    memory=160 * MIB,
    file_size=4 * MIB,
    open_files=32,
    processes=12,
    stdout=4 * MIB,
    stderr_tail=16 * 1024,
    grace=timedelta(seconds=0.2),
)

without_sandbox = cache(probe_sandbox)
"""Why there is no sandbox here, or None."""


@cache
def isolation(level: Level) -> Isolation:
    """The level; the test is skipped where this machine has no sandbox."""
    if level == "sandbox" and (reason := without_sandbox()):
        pytest.skip(f"no sandbox here: {reason}")
    return open_isolation(level)


def new_name() -> str:
    """A word for a command line that nobody else's has."""
    return f"job-{secrets.token_hex(8)}"


def hostile(behaviour: str, folder: Path, name: str, **bounds: Any) -> Program:
    """One of the programs of `hostile.py`."""
    return Program(
        command=(sys.executable, "-I", "-S", str(HOSTILE), behaviour, name),
        readable=(CHILDREN,),
        folder=folder,
        bounds=replace(BOUNDS, **bounds),
    )


def left_of(name: str) -> list[int]:
    """The processes, also ended ones that nobody waited for, with this word in their command line."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                words = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if name.encode() in words and b"worker.py" not in words:
                found.append(int(path.name))
    return found


def children() -> set[int]:
    """All descendants of this process."""
    return {one.pid for one in process_tree.descendants(process_tree.os.getpid())}
