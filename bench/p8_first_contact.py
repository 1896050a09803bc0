"""P8: the first minute with Nightmill.

    .venv/bin/python -m bench.p8_first_contact [--rounds 3] [--without-demo]

    help      CPU seconds of `nightmill --help`, beside `python -c pass`
    worker    seconds from the start of `python -m worker` to its line "worker ready", and its CPU
    demo      seconds of `nightmill demo`, which is what `make demo` runs once all is installed

Wall time depends on what else the machine does: its load is printed.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.system import cpu, start_worker, system
from tests.stack import ROOT

TARGET_HELP, TARGET_READY, TARGET_DEMO = 1.0, 5.0, 60.0
NIGHTMILL = Path(sys.executable).with_name("nightmill")


def run(*command: str, folder: Path | None = None) -> tuple[float, float]:
    """Return wall and CPU seconds of a command and its children."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder or ROOT, stdin=subprocess.DEVNULL)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stdout[-800:]}{done.stderr[-800:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def show(name: str, values: list[float], most: float | None = None) -> None:
    middle = statistics.median(values)
    verdict = "" if most is None else f"   at most {most:g}: {'met' if middle < most else 'missed'}"
    print(f"{name:28} {middle:6.2f}   ({', '.join(f'{value:.2f}' for value in values)}){verdict}", flush=True)


def main() -> None:
    """Measure each a number of times."""
    parser = argparse.ArgumentParser(description="P8: first contact.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-demo", action="store_true")
    asked = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    pairs = [(run(sys.executable, "-c", "pass"), run(str(NIGHTMILL), "--help")) for _ in range(asked.rounds)]
    show("python -c pass, CPU-s", [bare[1] for bare, _ in pairs])
    show("nightmill --help, CPU-s", [ours[1] for _, ours in pairs], TARGET_HELP)
    show("nightmill --help, s", [ours[0] for _, ours in pairs])
    with system({}) as around:
        walls, used = [], []
        stack = around.stack("ready")
        for _ in range(asked.rounds):
            start = time.monotonic()
            pid = start_worker(stack)
            walls.append(time.monotonic() - start)
            used.append(cpu(pid))
            stack.stop()
    show("worker ready, s", walls, TARGET_READY)
    show("worker ready, CPU-s", used)
    if not asked.without_demo:
        with tempfile.TemporaryDirectory(prefix="nightmill-bench-") as folder:
            demos = [run(str(NIGHTMILL), "demo", folder=Path(folder)) for _ in range(asked.rounds)]
        show("nightmill demo, s", [wall for wall, _ in demos], TARGET_DEMO)
        show("nightmill demo, CPU-s", [spent for _, spent in demos])


if __name__ == "__main__":
    main()
