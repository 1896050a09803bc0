"""A slicer that cuts a PDF page by page, or does what its plan says instead: `slicer.py PLAN PDF OUTPUT_DIR JOB_ID`.

The plan names a behaviour for each attempt, such as `exit,cut`; the last one holds for all that follow. `@FILE` takes
it from a file, read at each start. Of the standard library only, so that it starts in no time; every behaviour ends by
itself within a minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

PATIENCE = 40.0
"""Seconds after which whoever waits, spins or sleeps gives up by itself."""

PAGE = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]>>endobj
trailer<</Root 1 0 R>>
%%EOF
"""


def say(page: int, of: int) -> None:
    """Tell of progress."""
    sys.stderr.write(json.dumps({"page": page, "of": of}) + "\n")
    sys.stderr.flush()


def answer(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")


def pages_of(pdf: Path) -> int:
    """Return what the page tree of an uncompressed PDF says."""
    return max(int(count) for count in re.findall(rb"/Count (\d+)", pdf.read_bytes()))


def cut(pdf: Path, folder: Path) -> dict[str, Any]:
    """Write a slice a page, and return the result that says so."""
    count = pages_of(pdf)
    files = []
    for page in range(count):
        (folder / f"{page:04}.pdf").write_bytes(PAGE + b"%% page %d\n" % page)
        say(page + 1, count)
        files.append(
            {
                "name": f"ACUERDO No. {page + 1}-2014",
                "path": f"{page:04}.pdf",
                "start_page": page,
                "end_page": page,
                "position": page,
                "full_text": f"ACUERDO No. {page + 1}-2014\nEL PRESIDENTE ACUERDA por la Empresa de Correos.",
                "short_description": "1.- Óscar",
                "description": "— Ángel",
                "tag": "Acuerdo",
                "issuer": "Poder Ejecutivo",
                "materia": "Correos",
                "institutions": ["HONDUCOR"],
            }
        )
    return {"page_count": count, "gazette": {"number": "33,463", "date": "2014-06-26"}, "files": files, "errors": []}


def print_changed(pdf: Path, folder: Path, **changes: Any) -> None:
    """Print a result of which something is otherwise."""
    answer(json.dumps(cut(pdf, folder) | changes))


def print_first(pdf: Path, folder: Path, **changes: Any) -> None:
    """Print a result of which the first entry is otherwise."""
    result = cut(pdf, folder)
    result["files"][0] |= changes
    answer(json.dumps(result))


def print_some_bad(pdf: Path, folder: Path) -> None:
    """Print a result of which the first five entries are bad, each in another way."""
    result = cut(pdf, folder)
    (folder / "text.pdf").write_text("not a PDF")
    bad: list[dict[str, Any]] = [
        {"path": "nothing.pdf"},
        {"path": "text.pdf"},
        {"end_page": 99},
        {"full_text": None},
        {"institutions": "HONDUCOR"},
    ]
    for entry, changes in zip(result["files"], bad, strict=False):
        entry |= changes
    answer(json.dumps(result))


def spin() -> None:
    """Use processor time."""
    end = time.monotonic() + PATIENCE
    last = 0.0
    while time.monotonic() < end:
        if time.monotonic() > last + 0.2:
            last = time.monotonic()
            say(1, 3)


def walk() -> None:
    """Make progress, and no end."""
    end = time.monotonic() + PATIENCE
    page = 0
    while time.monotonic() < end:
        page += 1
        say(page, 1_000)
        time.sleep(0.1)


def wait_for(gate: Path) -> None:
    """Make progress until a file is there."""
    end = time.monotonic() + PATIENCE
    while not gate.exists() and time.monotonic() < end:
        say(1, 3)
        time.sleep(0.05)


def flood(stream: Any) -> None:
    """Write 32 MiB."""
    for _ in range(32 * 16):
        stream.write(b"x" * 65_536)
    stream.flush()


def fill(folder: Path) -> None:
    """Write 4 MiB into the folder, in small files."""
    for number in range(128):
        (folder / f"{number}.bin").write_bytes(b"x" * 32_768)
    time.sleep(10)


def repeat(pdf: Path, folder: Path) -> None:
    """Print a result of eight slices that all have one file, of 64 KiB that are mostly a hole."""
    result = cut(pdf, folder)
    os.truncate(folder / "0000.pdf", 65_536)
    answer(json.dumps(result | {"files": [result["files"][0] | {"position": position} for position in range(8)]}))


def link(pdf: Path, folder: Path) -> None:
    """Print a result with an entry whose file is a link."""
    (folder / "link.pdf").symlink_to(pdf)
    print_first(pdf, folder, path="link.pdf")


def die(number: int) -> None:
    """End by a signal, without a core file."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(PATIENCE)


def behave(name: str, pdf: Path, folder: Path) -> None:
    """Do what the plan says."""
    name, _, value = name.partition("=")
    match name:
        case "cut":
            print_changed(pdf, folder)
        case "gate":
            wait_for(Path(value))
            print_changed(pdf, folder)
        case "metadata":
            answer(json.dumps({"gazette": {"number": "35,205", "date": "2019-12-31"}}))
        case "exit":
            sys.stderr.write("Traceback\nthe table of contents cannot be read\n")
            sys.exit(int(value or 3))
        case "killed":
            die(signal.SIGSEGV)
        case "memory":
            held = []
            for _ in range(64):
                held.append(bytearray(16 * 1024 * 1024))
                time.sleep(0.01)
        case "silence":
            pass
        case "blank":
            answer(" \n\t")
        case "walk":
            walk()
        case "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            walk()
        case "spin":
            spin()
        case "stall":
            time.sleep(PATIENCE)
        case "not-json":
            answer('{"page_count": 3, "files": [}')
        case "chatter":
            answer("I am done:")
            print_changed(pdf, folder)
        case "list":
            answer("[]")
        case "other-pages":
            print_changed(pdf, folder, page_count=2)
        case "no-files":
            print_changed(pdf, folder, files=[])
        case "some-bad":
            print_some_bad(pdf, folder)
        case "outside":
            print_first(pdf, folder, path="../document.pdf")
        case "absolute":
            print_first(pdf, folder, path="/etc/hostname")
        case "link":
            link(pdf, folder)
        case "flood":
            flood(sys.stdout.buffer)
        case "flood-errors":
            flood(sys.stderr.buffer)
        case "fill":
            fill(folder)
        case "repeat":
            repeat(pdf, folder)
        case _:
            sys.exit(f"no such behaviour: {name}")


def main() -> None:
    """Do what is planned for this attempt."""
    plan, pdf, folder, job = sys.argv[1:5]
    if plan.startswith("@"):
        plan = Path(plan[1:]).read_text().strip()
    behaviours = plan.split(",")
    attempt = job.rpartition("-")[2]
    number = int(attempt) if attempt.isdigit() else 1
    with contextlib.suppress(BrokenPipeError):
        behave(behaviours[min(number, len(behaviours)) - 1], Path(pdf), Path(folder))


if __name__ == "__main__":
    main()
