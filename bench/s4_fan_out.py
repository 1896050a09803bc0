"""S4: pages per second of a scanned gazette in one program, and in ranges side by side; and whether both say the same.

    .venv/bin/python -m bench.s4_fan_out [--pages 12] [--at-once 2]

Needs tesseract with its data for Spanish. The ranges are what the workflow plans for two slots; Temporal, which adds an
activity a range, is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.p6_slicing import used
from nightmill.slicer.samples import SampleOptions, make_sample
from nightmill.slicing.forecast import plan_chunks
from nightmill.slicing.isolation import open_isolation
from nightmill.slicing.programs import Program, ProgramRunner
from nightmill.slicing.workplace import LOOK
from tests.supervised_pdfs import SLICER, best_level

BOUNDS = replace(LOOK, wall=timedelta(hours=1), cpu=timedelta(hours=1))


class Bench:
    def __init__(self, home: Path, pdf: Path) -> None:
        self._home = home
        self._pdf = pdf
        self._runner = ProgramRunner(open_isolation(best_level()))

    async def run(self, name: str, *options: str, readable: tuple[Path, ...] = ()) -> tuple[Path, Any]:
        """Run the slicer in a folder of its own; return its output folder and what it prints."""
        folder = self._home / name / "work"
        (folder / "output").mkdir(parents=True)
        command = (sys.executable, *SLICER[1:], *options, str(self._pdf), str(folder / "output"), "job")
        program = Program(command=command, readable=(self._pdf, *readable), folder=folder, bounds=BOUNDS)
        run = await self._runner.run(program)
        assert run.exit_code == 0, run
        return folder / "output", json.loads(run.stdout.read_bytes())

    async def fanned_out(self, pages: int, at_once: int) -> Any:
        """Read ranges side by side, then cut."""
        chunks = plan_chunks(pages, "scanned", None, concurrency=at_once)
        places, whole = asyncio.Semaphore(at_once), self._home / "pages"
        whole.mkdir()

        async def read(first: int, last: int) -> None:
            async with places:
                output, _ = await self.run(f"read-{first}", "--read-pages", f"{first}-{last}")
                (output / "pages.jsonl").rename(whole / f"{first:06}-{last:06}.jsonl")

        await asyncio.gather(*(read(chunk.first, chunk.last) for chunk in chunks))
        print(f"{len(chunks)} ranges: {', '.join(f'{chunk.first}-{chunk.last}' for chunk in chunks)}")
        return (await self.run("cut", "--pages-from", str(whole), readable=(whole,)))[1]


async def compare(pages: int, at_once: int, home: Path) -> None:
    """Print both, side by side."""
    pdf = home / "scan.pdf"
    pdf.write_bytes(make_sample(SampleOptions(pages=pages, acts=max(pages // 4, 2), seed=4, scan=True)).pdf)
    bench = Bench(home, pdf)
    rates, found = [], []
    for name in ("one program", "fanned out"):
        before, began = used(), time.perf_counter()
        if name == "one program":
            result = (await bench.run("whole"))[1]
        else:
            result = await bench.fanned_out(result["page_count"], at_once)
        wall, taken = time.perf_counter() - began, used() - before
        rates.append(result["page_count"] / wall)
        found.append(result)
        count = result["page_count"]
        print(f"{name:<12} {count} pages {wall:6.1f} s {rates[-1]:6.3f} pages/s {taken / count:6.2f} CPU-s a page")
    print(f"{rates[1] / rates[0]:.2f} x as fast with {at_once} at once; the same result: {found[0] == found[1]}")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=12)
    parser.add_argument("--at-once", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(compare(given.pages, given.at_once, Path(name)))


if __name__ == "__main__":
    main()
