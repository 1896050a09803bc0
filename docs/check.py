"""Runs what the pages show, command by command: `make docs-check`.

README's commands come first, in a new folder, with the stack that its own commands start; those of the other pages
follow in the same folder, a shell for each page, some pages at once. A comment right above a block says what the page
does not:

    <!-- not run: REASON -->                  it cannot be run here; listed at the end
    <!-- given: LINE -->                      what the page takes for granted, run first
    <!-- then: LINE -->                       below a block of Python: what is to hold after it
    <!-- stays until: TEXT -->                the last command stays in the foreground and is up once it prints this
    <!-- exits with 3: COMMAND -->            this one does not end with 0; `nightmill prune *`: what begins so;
                                              `Ctrl-C`: what stays, when it is interrupted
    <!-- with: DOCUMENT_ID=python-faq -->     what a reader fills in
    <!-- shape of: COMMAND -->                above JSON: what this prints has the same fields
"""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docs.blocks import Block, blocks_of, commands_of
from docs.shell import Ended, Shell
from docs.stand_ins import Mailbox, Site

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PATIENCE = 120.0
STAYS = "Ctrl-C"
PORTS = (7233, 8233, 8700, 8701, 8702, 8081, 9464, 8082, 8083, 8900)
PAGES_AT_ONCE = 3

RUN_PYTHON = """
import ast, asyncio, sys
text = open(sys.argv[1]).read()
code = compile(text, sys.argv[1], "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
waits = eval(code, {"__name__": "__main__"})
if waits is not None:
    asyncio.run(waits) if asyncio.iscoroutine(waits) else None
"""


@dataclass(frozen=True)
class Failure:
    """A command that did not do what its page says."""

    block: Block
    command: str
    ended: Ended
    reason: str

    def __str__(self) -> str:
        """Return where it stands, what it was, and the end of what it printed."""
        tail = "\n".join(f"    {line}" for line in self.ended.output.strip().splitlines()[-25:])
        place = f"{self.block.page.relative_to(ROOT)}:{self.block.line}"
        return f"{place}: {self.reason}\n  $ {self.command}\n{tail}"


@dataclass
class Surroundings:
    """What the pages' commands run in: a folder, ports, and what answers in place of the web."""

    folder: Path
    site: str
    mail_port: int
    ports: dict[int, int] = field(default_factory=lambda: dict(zip(PORTS, free_ports(len(PORTS)), strict=True)))

    @property
    def substitutions(self) -> list[tuple[str, str, str]]:
        """What is replaced in each command: a pattern, what stands for it, and the reason."""
        ports = "--port 7233 --ui-port 8233 --sandbox-port 8700"
        found = [
            (r"https://docs\.python\.org", self.site, "a local site answers"),
            (r"https://example\.com", self.site, "the same"),
            (r"\bmake ", f"make -C {shlex.quote(str(ROOT))} ", "the commands run in a folder of their own"),
            (r"\bnightmill dev\b(?! --)", f"nightmill dev {ports}", "ports of its own"),
            (r"\btemporal server start-dev\b", "temporal server start-dev --headless --port 8702", "the same"),
        ]
        return found + [(rf"\b{port}\b", str(free), "a free port") for port, free in self.ports.items()]

    def substituted(self, text: str, block: Block) -> str:
        """Return a text as it is run here."""
        for word, filler in block.fillers.items():
            text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", filler.replace("\\", r"\\"), text)
        for pattern, replacement, _ in self.substitutions:
            text = re.sub(pattern, replacement, text)
        return text

    def environment(self, *, installed: bool) -> dict[str, str]:
        """Return the environment of a shell; `installed`: with the programs of .venv on its path."""
        path = [str(ROOT / ".venv" / "bin")] if installed else []
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
        return kept | {
            "PATH": os.pathsep.join([*path, "/usr/local/bin", "/usr/bin", "/bin"]),
            "COLUMNS": "160",
            "TEMPORAL_ADDRESS": f"127.0.0.1:{self.ports[7233]}",
            "TEMPORAL_CONFIG_FILE": os.devnull,
            "NIGHTMILL_WORKER__HEALTH_PORT": str(self.ports[8081]),
            "NIGHTMILL_WORKER__METRICS_PORT": str(self.ports[9464]),
            "NIGHTMILL_CODEC__PORT": str(self.ports[8082]),
            "NIGHTMILL_EVENTS__PORT": str(self.ports[8083]),
            "NIGHTMILL_DOCUMENTS__ALLOW_PRIVATE_ADDRESSES": "true",  # the site is on loopback
            "NIGHTMILL_DOCUMENTS__HOST_DELAY": "0",
            "NIGHTMILL_WEBHOOK__ALLOW_PRIVATE_ADDRESSES": "true",
            "NIGHTMILL_WEBHOOK__SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "NIGHTMILL_NOTIFY__SMTP_HOST": "127.0.0.1",
            "NIGHTMILL_NOTIFY__SMTP_PORT": str(self.mail_port),
            "NIGHTMILL_RECONCILER__GRACE": "1",  # what is late is looked at now, not after five minutes
        }


def free_ports(count: int) -> list[int]:
    """Return as many ports of loopback that nobody listens on."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def steps_of(block: Block, surroundings: Surroundings) -> Iterator[tuple[str, str]]:
    """Yield what is shown of each command, and what is run; what is given first."""
    if block.language == "python":
        text = surroundings.substituted("\n".join([*block.given, block.text, *block.then]), block)
        file = surroundings.folder / f"{block.page.stem}-{block.line}.py"
        file.write_text(text)
        yield (f"python block at line {block.line}", f"python -W error -c {shlex.quote(RUN_PYTHON)} {file}")
        return
    for command in [*block.given, *commands_of(block.shape_of or block.text)]:
        yield (command, surroundings.substituted(command, block))


def failures_of(block: Block, shell: Shell, surroundings: Surroundings) -> Iterator[Failure]:
    """Run a block, and yield what failed; after a failure the rest of the block is left out."""
    steps = list(steps_of(block, surroundings))
    for number, (shown, command) in enumerate(steps, 1):
        if block.stays_until and number == len(steps):
            ended = shell.start(command, surroundings.substituted(block.stays_until, block), PATIENCE)
            if ended is not None:
                yield Failure(block, shown, ended, f"does not come up: never printed {block.stays_until!r}")
            return
        ended = shell.run(command, PATIENCE)
        expected = block.expected(shown)
        if ended.code != expected:
            reason = f"did not end within {PATIENCE:.0f} s" if ended.code is None else f"exit code {ended.code}"
            yield Failure(block, shown, ended, f"{reason} instead of {expected}")
            return
        if block.shape_of and (difference := difference_of(block.text, ended.output)):
            yield Failure(block, shown, ended, difference)


def difference_of(shown: str, printed: str) -> str:
    """Return in what the first JSON object that a command printed differs in shape; empty: in nothing."""
    start = printed.find("{")
    if start < 0:
        return "prints no JSON object"
    expected, found = shape_of(json.loads(shown)), shape_of(json.JSONDecoder().raw_decode(printed[start:])[0])
    return "" if expected == found else f"has another shape: {sorted(expected ^ found)}"


def shape_of(value: Any, path: str = "") -> set[str]:
    """Return the paths of a JSON value's fields; what is an empty object or a list has none below it."""
    if not isinstance(value, dict):
        return {path}
    return {path} | {inner for name, below in value.items() for inner in shape_of(below, f"{path}.{name}")}


def run_page(page: Path, surroundings: Surroundings, during: Callable[[], None] = lambda: None) -> list[Failure]:
    """Run a page's blocks, then `during`, and interrupt what stays."""
    environment = surroundings.environment(installed=page != README)
    failures: list[Failure] = []
    stayed: dict[str, Block] = {}
    blocks, began = [block for block in blocks_of(page) if block.runs], time.monotonic()
    with Shell(surroundings.folder, environment, name=page.stem) as shell:
        for block in blocks:
            failures += failures_of(block, shell, surroundings)
            stayed |= {command: block for _, command in list(steps_of(block, surroundings))[-1:] if block.stays_until}
        took = f"{time.monotonic() - began:.0f} s"
        print(f"{page.relative_to(ROOT)}: {len(blocks)} blocks, {len(failures)} failed, {took}", flush=True)  # noqa: T201
        for failure in failures:  # now, and again at the end: the other pages take minutes
            print(f"  {failure}", flush=True)  # noqa: T201
        during()
        for staying, ended in shell.interrupt():
            block = stayed[staying.command]
            expected = block.expected(STAYS)
            if ended.code != expected:
                reason = f"exit code {ended.code} after Ctrl-C instead of {expected}"
                failures.append(Failure(block, staying.command, ended, reason))
    return failures


def check(pages: Iterable[Path]) -> list[Failure]:
    """Run README, then these pages, and return what failed."""
    others: list[Failure] = []
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="docs-check-", ignore_cleanup_errors=True))
        )
        (folder / ".venv").symlink_to(ROOT / ".venv")
        site = stack.enter_context(Site())
        mailbox = stack.enter_context(Mailbox(free_ports(1)[0]))
        surroundings = Surroundings(folder, site.url, mailbox.port)
        for pattern, replacement, reason in surroundings.substitutions:
            print(f"in place of {pattern}: {replacement} ({reason})")  # noqa: T201

        def run_others() -> None:
            with ThreadPoolExecutor(PAGES_AT_ONCE) as pool:
                for failures in pool.map(lambda page: run_page(page, surroundings), pages):
                    others.extend(failures)

        return run_page(README, surroundings, run_others) + others


def main() -> int:
    """Check the pages named by the arguments, all by default; return the exit code."""
    began = time.monotonic()
    pages = [Path(name).resolve() for name in sys.argv[1:]] or sorted((ROOT / "docs").glob("*.md"))
    pages = [page for page in pages if page != README]
    failures = check([page for page in pages if any(block.runs for block in blocks_of(page))])
    print("\nNot run:")  # noqa: T201
    for block in (block for page in [README, *pages] for block in blocks_of(page) if block.not_run):
        print(f"  {block.page.relative_to(ROOT)}:{block.line}: {block.not_run}")  # noqa: T201
    for failure in failures:
        print(f"\n{failure}")  # noqa: T201
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = f"{time.monotonic() - began:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of processor time"
    print(f"\n{len(failures)} failed; {seconds}")  # noqa: T201
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
