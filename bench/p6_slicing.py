"""P6: what slicing a digital gazette costs, all in, beside reading its text alone and splitting it alone.

    .venv/bin/python -m bench.p6_slicing [--pages 60] [--rounds 5] [--queued 50] [--runs 0] [--cancels 20]

In turns, each a program of its own, start-up included:

    text      pypdfium2, every page's text and nothing else
    split     pikepdf, the same slices by their page ranges and nothing else
    slicing   what a job runs, without Temporal: the look at the PDF, the slicer, the look at the slices, each under its
              supervisor, in the sandbox where there can be one

Printed are CPU-s of all processes and pages per CPU-s, and what each program of `slicing` takes. Then, with a worker of
two places and a Temporal server: one gazette's time from start to its end, many queued at once, memory of the worker
and of its programs over `--runs` further runs, and the time from a cancel to the end of the last process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median

from bench.system import System, cpu, memory, start_worker, system
from nightmill.assembly import assembled
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import SlicingStatus
from nightmill.slicer.samples import Sample, SampleOptions, make_sample
from tests.supervised_pdfs import Ending, best_level, put_through

TARGET_SHARE, TARGET_WALL, TARGET_MEMORY, TARGET_BUSY = 0.5, 5.0, 300, 0.9
MIB = 1024 * 1024
PATIENCE = timedelta(minutes=10)

TEXT = """
import sys, pypdfium2
document = pypdfium2.PdfDocument(sys.argv[1])
for page in document:
    text = page.get_textpage()
    text.get_text_range()
    text.close()
    page.close()
"""
SPLIT = """
import sys, json, pikepdf
with pikepdf.open(sys.argv[1]) as document:
    for number, (first, last) in enumerate(json.loads(sys.argv[3])):
        with pikepdf.new() as part:
            part.pages.extend(document.pages[first : last + 1])
            part.save(f"{sys.argv[2]}/{number}.pdf")
"""
HANGING = """
import sys, time
while True:
    sys.stderr.write('{"page": 1, "of": 2}\\n')
    sys.stderr.flush()
    time.sleep(0.2)
"""


def used() -> float:
    """CPU seconds of this process and of all its children that have ended, supervisors and what they waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def taking(work: Callable[[], object]) -> float:
    before = used()
    work()
    return used() - before


def gazette(pages: int) -> Sample:
    return make_sample(SampleOptions(pages=pages, acts=max(pages // 3, 2), seed=6))


def alone(sample: Sample, rounds: int, folder: Path) -> None:
    """Print the three ways side by side."""
    pdf = folder / "gazette.pdf"
    pdf.write_bytes(sample.pdf)
    ranges = json.dumps([(piece.start_page, piece.end_page) for piece in sample.truth.pieces])
    endings: list[Ending] = []

    def run(text: str) -> object:
        return subprocess.run([sys.executable, "-I", "-c", text, str(pdf), str(folder), ranges], check=True)

    def slice_it() -> None:
        endings.append(asyncio.run(put_through(pdf, folder / "scratch", options=())))
        assert endings[-1].outcome == "sliced", endings[-1]

    ways: dict[str, Callable[[], object]] = {
        "start": lambda: run("import pypdfium2"),
        "text": lambda: run(TEXT),
        "split": lambda: run(SPLIT),
        "slicing": slice_it,
    }
    slice_it()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            taken[name].append(taking(work))
    pages = endings[0].page_count or 0
    print(f"\n{pages} pages, {len(sample.pdf) // 1024} KB, {len(sample.truth.pieces)} slices, {best_level()}")
    for name, seconds in taken.items():
        share = median(text / each for text, each in zip(taken["text"], seconds, strict=True))
        print(
            f"{name:<10} {median(seconds):6.2f} CPU-s {pages / median(seconds):7.0f} pages/CPU-s {share:7.2f} of text's"
        )
    for step in endings[0].runs:
        runs = [ending.runs[step] for ending in endings[1:]]
        peak = max(run.peak_memory for run in runs) / MIB
        print(f"  {step:<8} {median(run.cpu.total_seconds() for run in runs):6.2f} CPU-s {peak:7.0f} MiB at most")
    programs = median(ending.cpu for ending in endings[1:])
    print(f"  supervisors and this process {median(taken['slicing']) - programs:6.2f} CPU-s")
    print(f"target: {TARGET_SHARE} of text's, {TARGET_MEMORY} MiB")


class Busy:
    """How busy the cores were, with everybody's work and with ours alone."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._began = time.monotonic()
        self._idle, self._ours = self._look()

    def _look(self) -> tuple[float, float]:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        idle = (int(fields[3]) + int(fields[4])) / os.sysconf("SC_CLK_TCK")
        return idle, sum(map(cpu, self._pids)) + used()

    def __str__(self) -> str:
        idle, ours = self._look()
        span = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return f"{1 - (idle - self._idle) / span:.0%} of the cores' time in use, {(ours - self._ours) / span:.0%} by us"


async def with_temporal(around: System, sample: Sample, given: argparse.Namespace) -> None:
    stack = around.stack("p6")
    profiles = {"hanging": {"command": [sys.executable, "-I", "-c", HANGING]}}
    stack.extra = {
        **stack.extra,
        "NIGHTMILL_WORKER__QUEUES": f"{stack.task_queue}-slicing",
        "NIGHTMILL_SLICING__ISOLATION": best_level(),
        "NIGHTMILL_SLICING__PROFILES": json.dumps(profiles),
    }
    worker = await asyncio.to_thread(start_worker, stack)
    with assembled(stack.settings()) as assembly:
        nightmill = await stack.nightmill(assembly)
        numbers = iter(range(10**6))

        def new() -> Path:
            path = stack.folder / f"{next(numbers)}.pdf"
            path.write_bytes(sample.pdf + b"%% %d\n" % next(numbers))
            return path

        async def one() -> float:
            began = time.monotonic()
            sha256 = await nightmill.slicings.slice(new())
            summary = await nightmill.slicings.wait(sha256, timeout=PATIENCE)
            assert summary.status in {SlicingStatus.SLICED, SlicingStatus.NEEDS_REVIEW}, summary
            return time.monotonic() - began

        await one()
        single = [await one() for _ in range(given.rounds)]
        print(f"\none gazette, all in: {median(single):.1f} s, {max(single):.1f} s at most (target {TARGET_WALL})")
        if given.queued:
            busy, began = Busy([worker, around.server_pid]), time.monotonic()
            await asyncio.gather(*(one() for _ in range(given.queued)))
            rate = given.queued / (time.monotonic() - began)
            print(f"{given.queued} queued at once: {busy} (target {TARGET_BUSY:.0%}), {rate:.2f} gazettes/s")
        if given.runs:
            await _memory(one, worker, given.runs, nightmill)
        if given.cancels:
            gone = [await _cancel(nightmill, new()) for _ in range(given.cancels)]
            print(f"from cancel to the last process gone: {median(gone):.2f} s, {max(gone):.2f} s at most (target 3)")


async def _memory(one: Callable[[], object], worker: int, runs: int, nightmill: Nightmill) -> None:
    from sqlmodel import select

    from nightmill.storage.slicing_models import SlicingAttemptRow

    for done in range(0, runs, max(runs // 5, 1)):
        with nightmill.assembly.database.transaction() as session:
            newest = select(SlicingAttemptRow.peak_memory).order_by(SlicingAttemptRow.key.desc()).limit(30)  # type: ignore[union-attr]
            peak = max(session.exec(newest))
        files = len(list(Path(f"/proc/{worker}/fd").iterdir()))
        held = memory(worker) / 1024
        print(f"  after {done:4} runs: worker {held:.0f} MiB, {files} files; programs {peak / MIB:.0f} MiB")
        for _ in range(max(runs // 5, 1) // 2 or 1):
            await asyncio.gather(one(), one())  # type: ignore[call-overload]
    print(f"  after {runs:4} runs: worker {memory(worker) / 1024:.0f} MiB")


async def _cancel(nightmill: Nightmill, pdf: Path) -> float:
    sha256 = await nightmill.slicings.slice(pdf, profile="hanging")
    deadline = time.monotonic() + 60
    while not _running():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    began = time.monotonic()
    await nightmill.slicings.cancel(sha256, "hanging")
    while _running():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    took = time.monotonic() - began
    await nightmill.slicings.wait(sha256, "hanging", timeout=PATIENCE)
    return took


def _running() -> bool:
    """Whether a hanging slicer is there, or its supervisor, whose order names it."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if HANGING.encode() in (path / "cmdline").read_bytes():
                    return True
            except OSError:
                continue
    return False


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queued", type=int, default=50, help="0: leave it out, and so for the next two")
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--cancels", type=int, default=20)
    parser.add_argument("--alone", action="store_true", help="without Temporal")
    given = parser.parse_args()
    sample = gazette(given.pages)
    with tempfile.TemporaryDirectory() as name:
        alone(sample, given.rounds, Path(name))
    if not given.alone:
        with system({}) as around:
            asyncio.run(with_temporal(around, sample, given))


if __name__ == "__main__":
    main()
