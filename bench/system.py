"""What the benchmarks of whole batches share: a Temporal server, the outside world, and processes that are counted.

CPU is user + system, read from `/proc`, of the Temporal server, the worker and the client. The outside world (sandbox
and receiver of webhooks) is a process of its own and is shown, but not counted: it stands for somebody else's machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from nightmill.assembly import Assembly
from nightmill.client.nightmill import Nightmill
from nightmill.completions.requests import read_request_objects
from nightmill.contracts import BatchInput
from nightmill.storage import schema
from tests.stack import ROOT, Stack, TemporalServer, requests

TICKS = os.sysconf("SC_CLK_TCK")
MODEL = "gpt-5-mini"
AS_DEPLOYED = {"NIGHTMILL_WORKER__WORKFLOW_SANDBOX": "false", "NIGHTMILL_OPENAI__MAX_OPEN_BATCHES": "100000"}
"""Where the benchmarks differ from the tests' stack: no workflow sandbox, and no bound of open batches."""


def cpu(pid: int) -> float:
    """Return the CPU seconds that a process has used, with those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / TICKS


def memory(pid: int) -> float:
    """Return the resident memory of a process in KB, without the pages that it shares with files."""
    status = Path(f"/proc/{pid}/status").read_text()
    return float(status.split("RssAnon:")[1].split()[0])


class Child:
    """A Python process that takes one JSON line after another and answers each with a JSON line."""

    def __init__(self, *command: str, environment: dict[str, str], log: Path) -> None:
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._log = log
        self.hello: Any = self.answer()

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, question: Any) -> Any:
        stdin: IO[str] = self.process.stdin  # type: ignore[assignment]
        stdin.write(json.dumps(question) + "\n")
        stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        stdout: IO[str] = self.process.stdout  # type: ignore[assignment]
        while line := stdout.readline():
            if line.startswith("= "):
                return json.loads(line[2:])
        raise SystemExit(f"{self.process.args} ended with {self.process.wait()}: {self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def answer(value: Any) -> None:
    """Write what `Child.answer` reads."""
    print(f"= {json.dumps(value)}", flush=True)


def questions() -> Iterator[Any]:
    """Yield what `Child.ask` writes, until the parent ends."""
    for line in sys.stdin:
        yield json.loads(line)


@dataclass
class Remote:
    """The sandbox as a `Stack` knows it, in another process."""

    base_urls: dict[str, str]


@dataclass
class System:
    """A Temporal server and the outside world, and the stacks that use them."""

    folder: Path
    server: TemporalServer
    outside: Child
    stacks: list[Stack] = field(default_factory=list)

    def stack(self, name: str, **extra: str) -> Stack:
        """Return a stack with a database and a task queue of its own."""
        folder = self.folder / name
        folder.mkdir()
        stack = Stack(
            folder=folder,
            server=self.server,
            sandbox=Remote(self.outside.hello["base_urls"]),  # type: ignore[arg-type]
            database_url=f"sqlite:///{folder}/nightmill.db",
            task_queue=f"bench-{name}",
            extra={**AS_DEPLOYED, **extra},
        )
        self.stacks.append(stack)
        with stack.assembly() as assembly:
            schema.upgrade(assembly.database)
        return stack

    @property
    def server_pid(self) -> int:
        assert self.server.process
        return self.server.process.pid

    @property
    def webhook(self) -> str:
        return str(self.outside.hello["webhook"])


@contextmanager
def system(profile: dict[str, Any]) -> Iterator[System]:
    """Run a Temporal server (in memory) and the outside world, whose batches have this profile."""
    with tempfile.TemporaryDirectory(prefix="nightmill-bench-") as name:
        folder = Path(name)
        server = TemporalServer(log=folder / "server.log")
        server.start()
        outside = Child("bench.system", json.dumps(profile), environment={}, log=folder / "outside.log")
        around = System(folder, server, outside)
        try:
            yield around
        finally:
            for stack in around.stacks:
                stack.stop()
            outside.stop()
            server.stop()


def start_worker(stack: Stack, **extra: str) -> int:
    """Start `python -m worker`, wait until it is ready, and return its pid."""
    log = stack.folder / "worker.log"
    before = log.read_text(errors="replace").count("worker ready") if log.exists() else 0
    process = stack.start_worker(**extra)
    wait_until(lambda: stack.worker_log().count("worker ready") > before or process.poll() is not None, 60)
    if process.poll() is not None:
        raise SystemExit(stack.worker_log()[-2000:])
    return process.pid


def wait_until(check: Callable[[], Any], seconds: float, every: float = 0.05) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise SystemExit(f"not true within {seconds} s: {check}")
        time.sleep(every)


def store(assembly: Assembly, count: int, **options: Any) -> list[str]:
    """Store batches of two requests each, without starting them, and return their ids."""
    from nightmill import ids

    found = []
    for _ in range(count):
        given = BatchInput(provider="openai", model=MODEL, requests_uri="-", **options)
        reader = read_request_objects(requests(2), provider=assembly.renderer("openai"), model=MODEL)
        found.append(assembly.preparer.store(ids.new_id(), given, reader).id)
    return found


async def events_of(nightmill: Nightmill, batch_id: str) -> tuple[dict[str, int], int]:
    """Return how many events of each type a batch's history has, and its size in bytes as the server counts it."""
    from temporalio.api.enums.v1 import EventType

    from nightmill import ids

    handle = nightmill.temporal.get_workflow_handle(ids.batch_workflow_id(batch_id))
    size = (await handle.describe()).raw_description.workflow_execution_info.history_size_bytes
    counts: dict[str, int] = {}
    async for event in handle.fetch_history_events():
        name = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").lower()
        counts[name] = counts.get(name, 0) + 1
    return counts, int(size)


def _outside() -> None:
    """Run sandbox and receiver until the parent ends."""
    from nightmill.sandbox import Profile, Sandbox
    from tests.stack import WebhookSink

    with Sandbox(profile=Profile(**json.loads(sys.argv[1]))) as sandbox:
        sink = WebhookSink()
        answer({"base_urls": dict(sandbox.base_urls), "webhook": sink.url})
        for question in questions():
            sandbox.set_profile(**question)
            answer(None)


if __name__ == "__main__":
    _outside()
