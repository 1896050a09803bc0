"""PDFs others test their libraries with: each ends by a name for what it is, in time, and without a page lost."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from nightmill.slicing.faults import SlicingFault
from nightmill.slicing.inspection import check_source
from tests.supervised_pdfs import BOUNDS, MIB, Ending, put_through

pytestmark = [pytest.mark.slow, pytest.mark.system, pytest.mark.timeout(600)]

CORPUS = Path(__file__).parents[2] / ".venv" / "pdf-corpus"
AT_ONCE = 3
QUICK = 16
"""One in so many is sliced in the quick test, each package's in turn."""

OUR_BOUNDS = replace(BOUNDS, wall=timedelta(seconds=20), cpu=timedelta(seconds=10))
EVERY = ("--mode", "every", "--pages", "10", "--ocr", "never")
OUTLINE = ("--mode", "outline", "--ocr", "never")
GAZETTE = ("--ocr", "never")
WAYS = (EVERY, GAZETTE, OUTLINE)
_EXPECTED = frozenset({"sliced", "encrypted_pdf", "damaged_pdf", "not_a_pdf", "empty_file"})


def corpus() -> list[Path]:
    assert CORPUS.is_dir(), "the files are not here: .ci/pdf-corpus brings them"
    return sorted(CORPUS.glob("*.pdf"))


def test_one_in_sixteen_of_a_thousand_pdfs_of_others_ends_by_its_name_and_loses_no_page(tmp_path: Path) -> None:
    found = corpus()
    assert len(found) > 1_000
    examine(found[::QUICK], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_every_one_of_a_thousand_pdfs_of_others_ends_by_its_name_and_loses_no_page(tmp_path: Path) -> None:
    examine(corpus(), tmp_path)


def examine(paths: Sequence[Path], folder: Path) -> None:
    """Slice them, three at once, each in one of three ways; print what came of them."""
    endings = asyncio.run(put_all_through(paths, folder))
    table = Counter(ending.outcome for ending in endings.values())
    lines = [
        f"{len(paths)} PDFs: {', '.join(f'{count} {name}' for name, count in table.most_common())}",
        f"{sum(bool(ending.flags) for ending in endings.values())} are read with a word on their damage",
        f"the slowest took {max(ending.took for ending in endings.values()):.1f} s",
        f"the largest held {max(ending.peak for ending in endings.values()) / MIB:.0f} MiB",
        f"all programs took {sum(ending.cpu for ending in endings.values()):.0f} CPU-s",
        *(f"{path.name}: {ending.said}" for path, ending in endings.items() if ending.outcome not in _EXPECTED),
    ]
    sys.stdout.write("\n".join(["", *lines, ""]))
    problems = [f"{path.name}: {line}" for path, ending in endings.items() for line in wrong_with(path, ending)]
    assert problems == []
    assert table["sliced"] > 0.8 * len(paths), "a slicer that refuses all is none"


async def put_all_through(paths: Sequence[Path], folder: Path) -> dict[Path, Ending]:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, path: Path) -> Ending:
        async with places:
            try:
                check_source(path, 32 * MIB)
            except SlicingFault as fault:
                return Ending(outcome=fault.error_code.value, said=str(fault))
            scratch = folder / str(number)
            ending = await put_through(path, scratch, options=WAYS[number % len(WAYS)], bounds=OUR_BOUNDS)
            if any(scratch.iterdir()):
                ending.left = [*ending.left, -1]
            return ending

    return dict(zip(paths, await asyncio.gather(*map(one, range(len(paths)), paths)), strict=True))


def wrong_with(path: Path, ending: Ending) -> list[str]:
    """What must not be, of one PDF."""
    found = ending.broken_promises(OUR_BOUNDS)
    if any(run.exit_code for run in ending.runs.values()):
        found.append(f"{ending.outcome}: {ending.said}")  # what is wrong with a PDF is found by the look at it
    result = ending.result
    if result is not None:
        found += [f"{entry.path}: {entry.problem}" for entry in result.entries if entry.problem is not None]
        sliced = {page for each in result.entries for page in range(each.start_page, each.end_page + 1)}
        missing = sorted(set(range(result.page_count)) - sliced)
        if missing and not result.reasons():
            found.append(f"pages {missing[:10]} are in no slice, and nobody is told")
        counted = pages_by_poppler(path)
        if counted is not None and counted != result.page_count and not ending.flags:
            found.append(f"{result.page_count} pages were sliced without a word, poppler counts {counted}")
    return found


def pages_by_poppler(path: Path) -> int | None:
    """How many pages a third library finds; None where it cannot open the file."""
    try:
        done = subprocess.run(["pdfinfo", path], capture_output=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return None
    match = re.search(rb"^Pages:\s+(\d+)", done.stdout, re.MULTILINE)
    return int(match[1]) if match and done.returncode == 0 else None
