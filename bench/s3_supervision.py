"""S3: what it costs to have a program supervised, beside starting it and nothing else.

    .venv/bin/python -m bench.s3_supervision [--rounds 10]

Printed are CPU-ms and ms of wall time of a program that does nothing: bare, supervised, and supervised in the sandbox;
the supervisor's CPU for a second of a program that is silent, and the time by which programs that do not want to end
outlive their clocks.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from statistics import median

from bench.p6_slicing import used
from nightmill.slicing.isolation import Level, open_isolation
from nightmill.slicing.programs import Program, ProgramRun, ProgramRunner
from tests.children.running import BOUNDS, left_of, new_name, without_sandbox

DEAF = "import signal, time, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(20)"
FORKING = (
    "import os, time\nfor _ in range(4): os.fork()\nos.setsid() if os.getpid() != os.getpgid(0) else 0\ntime.sleep(20)"
)


async def bare() -> None:
    await (await asyncio.create_subprocess_exec("/bin/true")).wait()


def supervised(runner: ProgramRunner, folder: Path, *command: str, wall: float = 30.0) -> Awaitable[ProgramRun]:
    bounds = replace(BOUNDS, wall=timedelta(seconds=wall), processes=64)
    return runner.run(Program(command=command, folder=folder, bounds=bounds))


async def measured(work: Callable[[], Awaitable[object]], rounds: int) -> tuple[float, float]:
    """Return median CPU-ms and ms."""
    cpu, wall = [], []
    for _ in range(rounds):
        before, began = used(), time.perf_counter()
        await work()
        wall.append(time.perf_counter() - began)
        cpu.append(used() - before)
    return median(cpu) * 1_000, median(wall) * 1_000


async def compare(rounds: int, folder: Path) -> None:
    """Print it."""
    levels: list[Level] = ["process"] if without_sandbox() else ["process", "sandbox"]
    runners = {level: ProgramRunner(open_isolation(level)) for level in levels}
    print(f"{'/bin/true':<12}{'CPU-ms':>8}{'ms':>8}")
    print("{:<12}{:8.0f}{:8.0f}".format("bare", *await measured(bare, rounds)))
    for level, runner in runners.items():
        found = await measured(lambda runner=runner: supervised(runner, folder, "/bin/true"), rounds)  # type: ignore[misc]
        print("{:<12}{:8.0f}{:8.0f}".format(level, *found))
    for level, runner in runners.items():
        idle = []
        for seconds in (1, 4):
            before = used()
            await supervised(runner, folder, "/bin/sleep", str(seconds))
            idle.append(used() - before)
        print(f"a second of a silent program, {level}: {(idle[1] - idle[0]) / 3 * 1_000:.1f} CPU-ms")
    for level, runner in runners.items():
        for name, text in (("deaf", DEAF), ("sixteen processes", FORKING)):
            over = []
            for _ in range(max(rounds // 3, 1)):
                word, began = new_name(), time.perf_counter()
                run = await supervised(runner, folder, sys.executable, "-I", "-c", text, word, wall=1)
                over.append(time.perf_counter() - began - 1)
                assert run.stopped == "wall", run
                assert not left_of(word)
            print(f"{name}, {level}: gone {median(over):.2f} s after its clock, {max(over):.2f} s at most")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "private" / "work"
        folder.mkdir(parents=True)
        asyncio.run(compare(parser.parse_args().rounds, folder))


if __name__ == "__main__":
    main()
