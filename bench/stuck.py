"""Many stuck batches for the benchmarks of recovery: rows, runs that stand in for theirs, and what the server counts.

The rows are those of batches that a provider has had for an hour and whose next poll was due ten minutes ago. A run
that stands in for a batch's waits for `poll_now` and counts how often it came; it is cheap, and its worker listens to a
task queue of its own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert
from sqlmodel import col, select
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from bench.system import AS_DEPLOYED, Child, Remote, answer, memory, questions
from nightmill.client.converter import data_converter
from nightmill.contracts import BatchStatus
from nightmill.ids import batch_workflow_id
from nightmill.settings import DatabaseSettings
from nightmill.storage import schema
from nightmill.storage.engine import open_database
from nightmill.storage.models import BatchRow, ProviderBatchRow
from tests.stack import ROOT, Stack, TemporalServer, free_port

STAND_INS = "stand-ins"
_REQUESTS = re.compile(r"^service_requests\{(?P<labels>[^}]*)\} (?P<count>\S+)$", re.MULTILINE)


def batch_ids(count: int, first: int = 0, prefix: str = "stuck") -> list[str]:
    """Return the ids of `count` batches."""
    return [f"{prefix}-{number:06}" for number in range(first, first + count)]


def seed(url: str, batches: Sequence[str], *, due: datetime) -> None:
    """Store batches whose next poll is due then, with one provider batch each."""
    asked = datetime.now(UTC) - timedelta(hours=1)
    of_all = {"provider": "openai", "model": "gpt-5-mini"}
    database = open_database(url, DatabaseSettings())
    with database.transaction() as session:
        session.connection().execute(
            insert(BatchRow),
            [
                of_all
                | {
                    "id": batch_id, "status": BatchStatus.IN_PROGRESS, "user_metadata": {}, "poll_schedule": [600.0],
                    "max_age": 30 * 86_400.0, "requests": 1, "created_at": asked, "submitted_at": asked,
                    "next_poll_at": due, "endpoint": "", "retry_rounds": 0, "round": 0, "dispatches": 0,
                }
                for batch_id in batches
            ],
        )  # fmt: skip
        keys = dict(session.exec(select(BatchRow.id, BatchRow.key).where(col(BatchRow.id) >= min(batches))).all())
        session.connection().execute(
            insert(ProviderBatchRow),
            [
                of_all
                | {
                    "batch_key": keys[batch_id], "round": 0, "part": 0, "first": 0, "last": 0, "requests": 1,
                    "bytes": 100, "epoch": 1, "status": BatchStatus.IN_PROGRESS, "counts": {}, "refs": {},
                    "provider_batch_id": f"at-provider-{batch_id}", "create_sent_at": asked, "created_at": asked,
                    "submitted_at": asked, "next_poll_at": due, "polls": 1, "fetched": {}, "fetches": 0,
                }
                for batch_id in batches
            ],
        )  # fmt: skip
    database.close()


@workflow.defn
class StandIn:
    """Waits to be asked to poll, and counts."""

    def __init__(self) -> None:
        self.polls = 0

    @workflow.run
    async def run(self) -> int:
        """Return only if asked more often than anybody should."""
        await workflow.wait_condition(lambda: self.polls >= 100)
        return self.polls

    @workflow.signal
    def poll_now(self) -> None:
        """Count."""
        self.polls += 1


@dataclass
class Scene:
    """A Temporal server that counts its requests, a PostgreSQL server, and the stacks that use them."""

    folder: Path
    server: TemporalServer
    metrics: int
    postgres: Any
    postgres_folder: Path
    stacks: list[Stack] = field(default_factory=list)

    def stack(self, name: str, database_url: str, **extra: str) -> Stack:
        """Return a stack with a task queue of its own on this database."""
        folder = self.folder / name
        folder.mkdir()
        stack = Stack(
            folder=folder,
            server=self.server,
            sandbox=Remote(dict.fromkeys(("openai", "anthropic", "google", "xai"), "http://127.0.0.1:9")),  # type: ignore[arg-type]
            database_url=database_url,
            task_queue=f"bench-{name}",
            extra={**AS_DEPLOYED, **extra},
        )
        self.stacks.append(stack)
        return stack

    def migrated(self, kind: str, name: str) -> str:
        """Return the URL of a new database with its tables, `SQLite` or `PostgreSQL`."""
        if kind == "SQLite":
            url = f"sqlite:///{self.folder}/{name}.db"
        else:
            url = str(self.postgres.url(self.postgres.new_database()))
        database = open_database(url, DatabaseSettings())
        schema.upgrade(database)
        database.close()
        return url

    @property
    def server_pid(self) -> int:
        assert self.server.process
        return self.server.process.pid

    @property
    def postgres_pid(self) -> int:
        return int((self.postgres_folder / "data" / "postmaster.pid").read_text().split()[0])

    def requests(self) -> Counter[str]:
        """Return how many calls of each kind the server's frontend has had; it reports them once a second."""
        time.sleep(1.5)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics") as page:
            text = page.read().decode()
        found: Counter[str] = Counter()
        for line in _REQUESTS.finditer(text):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line["labels"]))
            if labels.get("service_name") == "frontend":
                found[labels["operation"]] += int(float(line["count"]))
        return found

    async def client(self) -> Client:
        return await Client.connect(self.server.address, data_converter=data_converter(None))


@contextmanager
def scene(*, temporal: bool = True) -> Iterator[Scene]:
    """Run the servers, Temporal's in memory, or not at all."""
    # The tests' own PostgreSQL server.
    found = importlib.util.spec_from_file_location("conftest", ROOT / "tests" / "conftest.py")
    assert found is not None
    assert found.loader is not None
    conftest = importlib.util.module_from_spec(found)
    sys.modules["conftest"] = conftest
    found.loader.exec_module(conftest)
    folder = Path(tempfile.mkdtemp(prefix="nightmill-bench-"))
    metrics = free_port()
    server = TemporalServer(log=folder / "server.log", extra=("--metrics-port", str(metrics)))
    # Beside the folder, not in it: PostgreSQL may run as another user, who must get there.
    postgres_folder = Path(tempfile.mkdtemp(prefix="nightmill-bench-pg-"))
    postgres = conftest.PostgresServer(postgres_folder)
    around = Scene(folder, server, metrics, postgres, postgres_folder)
    try:
        postgres.initialize()
        postgres.start()
        if temporal:
            server.start()
        yield around
    finally:
        for stack in around.stacks:
            stack.stop()
        server.stop()
        postgres.stop()
        shutil.rmtree(folder)
        shutil.rmtree(postgres_folder)


class Peak:
    """The highest resident memory of a process within a block, in KB, looked at twenty times a second."""

    def __init__(self, pid: int) -> None:
        self.pid, self.highest = pid, 0.0
        self._stop = threading.Event()

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.highest = max(self.highest, memory(self.pid))


async def start_stand_ins(
    client: Client, batches: Sequence[str], *, type_: str = "StandIn", queue: str = STAND_INS
) -> None:
    """Start runs under the ids of batches' workflows."""
    for first in range(0, len(batches), 20):
        await asyncio.gather(
            *(
                client.start_workflow(type_, id=batch_workflow_id(batch_id), task_queue=queue)
                for batch_id in batches[first : first + 20]
            )
        )


def stand_ins(around: Scene) -> Child:
    """Start a worker of runs that stand in for batches'."""
    return Child("bench.stuck", around.server.address, environment={}, log=around.folder / "stand-ins.log")


async def _serve(address: str) -> None:
    client = await Client.connect(address, data_converter=data_converter(None))
    worker = Worker(
        client, task_queue=STAND_INS, workflows=[StandIn], workflow_runner=UnsandboxedWorkflowRunner(),
        max_cached_workflows=20_000, workflow_task_executor=ThreadPoolExecutor(4),
    )  # fmt: skip
    async with worker:
        answer(None)
        await asyncio.to_thread(list, questions())


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
