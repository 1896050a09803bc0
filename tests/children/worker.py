"""A worker that runs one hostile program: `worker.py LEVEL BEHAVIOUR ID SCRATCH`. It says when that runs."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path

from nightmill.slicing.isolation import open_isolation
from nightmill.slicing.programs import Bounds, Program, ProgramRunner
from nightmill.slicing.scratch import Scratch

HOSTILE = Path(__file__).with_name("hostile.py")
BOUNDS = Bounds(
    wall=timedelta(seconds=60),
    cpu=timedelta(seconds=60),
    stall=None,
    memory=256 * 1024 * 1024,
    file_size=1024 * 1024,
    open_files=64,
    processes=30,
    stdout=1024 * 1024,
    stderr_tail=1024,
    grace=timedelta(seconds=30),
)


async def main(level: str, behaviour: str, name: str, scratch: str) -> None:
    runner = ProgramRunner(open_isolation("sandbox" if level == "sandbox" else "process"))
    with Scratch(Path(scratch)).folder() as folder:
        command = (sys.executable, "-I", "-S", str(HOSTILE), behaviour, name)
        program = Program(command=command, readable=(HOSTILE.parent,), folder=folder, bounds=BOUNDS)
        await runner.run(program, lambda *_: os.write(1, b"running\n"))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
