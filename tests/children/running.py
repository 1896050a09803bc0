"""What the tests of supervised programs share: levels, bounds, and a look at who is left."""

from __future__ import annotations

import secrets
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nightmill.slicing.isolation import Isolation, Level, _bwrap, open_isolation
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


@cache
def without_sandbox() -> str | None:
    """Why there can be no sandbox here, whatever we do; None if there can."""
    bwrap = _bwrap()
    if bwrap is None:
        return "bubblewrap is not installed"
    command = [bwrap, "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip() or f"it ended with {done.returncode}" if done.returncode else None


@cache
def isolation(level: Level) -> Isolation:
    """The level; the test is skipped where this machine forbids any sandbox."""
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
