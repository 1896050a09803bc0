"""Everything that takes part: servers, database, providers, sites, mailbox, host, and workers that come back."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from temporalio.worker import Worker

from nightmill.client.connection import register_search_attributes
from nightmill.client.nightmill import Nightmill
from nightmill.sandbox import Profile, Sandbox
from nightmill.settings import DatabaseSettings
from nightmill.storage import schema
from nightmill.storage.engine import open_database
from tests.chaos.host import Host, HostActivities, HostDone
from tests.chaos.plan import PART, Plan
from tests.conftest import PostgresServer
from tests.forks import ForkedWorker
from tests.lanes import HOST_DEPLOYMENT
from tests.mailbox import Mailbox
from tests.site import Site
from tests.slicing import profile
from tests.stack import Stack, TemporalServer
from workflows.story import SEARCH_ATTRIBUTES

QUEUE = "nightmill-chaos"
HOST_QUEUE = "chaos-host"
PER_SITE = 10
"""Pages of a site: a host is asked one page at a time, and its turn is a killed worker's for some seconds."""

FAIL_SHARE = 0.05
FINISH_AFTER = 2.0

TEMPORAL = (
    "--dynamic-config-value", 'history.workflowTaskRetryMaxInterval="5s"',
    "--dynamic-config-value", "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute=1",
)  # fmt: skip


def settings(folder: Path, mail_port: int) -> dict[str, str]:
    """Return the settings of a run: hours are seconds here."""
    found = {
        "TMPDIR": str(folder / "tmp"),
        "NIGHTMILL_WORKER__QUEUES": f"{QUEUE},{QUEUE}-slicing",
        "NIGHTMILL_WORKER__SHUTDOWN_GRACE": "3",
        "NIGHTMILL_WORKER__WORKFLOW_SANDBOX": "false",
        "NIGHTMILL_DATABASE__BUSY_TIMEOUT": "5",
        "NIGHTMILL_BATCH__POLL_SCHEDULE": "[1.5,2,3]",
        "NIGHTMILL_DOCUMENTS__FETCH_TIMEOUT": "3",
        "NIGHTMILL_DOCUMENTS__EXTRACTORS": "1",
        "NIGHTMILL_SLICING__SCRATCH": str(folder / "tmp"),
        "NIGHTMILL_SLICING__HEARTBEAT_TIMEOUT": "4",
        "NIGHTMILL_SLICING__PROFILES": json.dumps({"cut": profile("cut")}),
        "NIGHTMILL_NOTIFY__URLS": '["mailto:ops@example.org"]',
        "NIGHTMILL_NOTIFY__SMTP_HOST": "127.0.0.1",
        "NIGHTMILL_NOTIFY__SMTP_PORT": str(mail_port),
        "NIGHTMILL_RECONCILER__SCHEDULES": "true",
        "NIGHTMILL_RECONCILER__INTERVAL": "4",
        "NIGHTMILL_RECONCILER__GRACE": "3",
        "NIGHTMILL_RECONCILER__SPACING": json.dumps([0, 5, 5, 10, 10, 10, 10, 10]),
        "NIGHTMILL_RECONCILER__EXPIRY_INTERVAL": "30",
    }
    for name in ("OPENAI", "ANTHROPIC", "GOOGLE", "XAI"):
        found[f"NIGHTMILL_{name}__MAX_REQUESTS"] = str(PART)
        found[f"NIGHTMILL_{name}__MAX_OPEN_BATCHES"] = "1000"
    return found


@dataclass
class Slot:
    """A place for a worker: when one has ended, another one takes it, as supervisors of services see to.

    Attributes:
        process: The present one; None while there is none.
        pids: All that there were.
        away: Seconds until the next one comes, after a kill.
    """

    stack: Stack
    process: ForkedWorker | None = None
    pids: list[int] = field(default_factory=list)
    away: float = 0.0
    is_closing: bool = False

    def run(self, ends: Counter[int]) -> None:
        """Keep a worker running until the slot is closed, and count how they ended."""
        while not self.is_closing:
            self.process = self.stack.fork_worker()
            self.pids.append(self.process.pid)
            code = self.process.wait()
            if not self.is_closing:
                ends[code] += 1
                time.sleep(self.away if code == -signal.SIGKILL else 0.5)

    def kill(self, seconds: float) -> bool:
        """Kill the worker; return whether there was one."""
        process, self.away = self.process, seconds
        if process is None or process.poll() is not None:
            return False
        process.kill()
        return True

    def close(self) -> None:
        """End the worker as a deployment does."""
        self.is_closing = True
        if self.process is not None:
            self.process.terminate()


@dataclass
class Scene:
    """A run's surroundings.

    Attributes:
        folder: All files of the run, temporary ones in `tmp`.
        ends: Exit codes of workers, or minus the signal that ended them.
    """

    plan: Plan
    folder: Path
    server: TemporalServer
    sandbox: Sandbox
    sites: list[Site]
    mailbox: Mailbox
    host: Host
    stack: Stack
    nightmill: Nightmill
    postgres: PostgresServer | None
    slots: list[Slot] = field(default_factory=list)
    ends: Counter[int] = field(default_factory=Counter)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(thread_name_prefix="slot"))

    def site_of(self, document: int) -> tuple[Site, str]:
        """Return a page's site and path."""
        return self.sites[document // PER_SITE], f"/{document}"

    async def start_workers(self) -> None:
        """Fill the slots, and return when a worker is in each."""
        self.slots = [Slot(self.stack) for _ in range(self.plan.scale.workers)]
        for slot in self.slots:
            self._pool.submit(slot.run, self.ends)
        log = self.folder / "worker.log"
        while not log.exists() or log.read_text().count("worker ready") < len(self.slots):
            await asyncio.sleep(0.05)

    async def stop_workers(self) -> None:
        """End all workers by SIGTERM, and wait for them."""
        for slot in self.slots:
            slot.close()
        await asyncio.to_thread(self._pool.shutdown)

    async def take_server_away(self, seconds: float) -> None:
        """Kill the Temporal server, and start it again on its file later."""
        await asyncio.to_thread(self.server.stop, signal.SIGKILL)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self.server.start)

    async def take_database_away(self, seconds: float) -> None:
        """Let nobody write to SQLite's file, or crash PostgreSQL, for some seconds."""
        if self.postgres is None:
            await asyncio.to_thread(self._lock_file, seconds)
            return
        await asyncio.to_thread(self.postgres.crash)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self.postgres.start)

    def _lock_file(self, seconds: float) -> None:
        other = sqlite3.connect(self.folder / "nightmill.db", isolation_level=None, timeout=30)
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(seconds)
        other.execute("ROLLBACK")
        other.close()


@asynccontextmanager
async def scene(plan: Plan, folder: Path) -> AsyncIterator[Scene]:
    """Build everything but the workers; at the end nothing of it is left but the folder."""
    (folder / "tmp").mkdir(parents=True)
    with ExitStack() as things:
        postgres, url = things.enter_context(_database(plan.scale.database, folder))
        mailbox = things.enter_context(Mailbox())
        profile_ = Profile(finish_after=FINISH_AFTER, fail_share=FAIL_SHARE, partial_share=0.5)
        sandbox = things.enter_context(Sandbox(faults=plan.faults, profile=profile_, seed=plan.seed))
        sites = [things.enter_context(Site()) for _ in range(-(-len(plan.documents) // PER_SITE))]
        memory = things.enter_context(_memory(folder))
        server = TemporalServer(database=memory / "temporal.db", log=folder / "temporal.log", extra=TEMPORAL)
        await asyncio.to_thread(server.start)
        things.callback(server.stop)
        stack = Stack(folder, server, sandbox, url, QUEUE, settings(folder, mailbox._smtp.port))
        assembly = things.enter_context(stack.assembly())
        things.callback(stack.stop)
        host = things.enter_context(Host(folder, assembly.outcomes.results, plan.seed, plan.scale.errors / 2))
        nightmill = await stack.nightmill(assembly)
        await register_search_attributes(nightmill.temporal, SEARCH_ATTRIBUTES)
        built = Scene(plan, folder, server, sandbox, sites, mailbox, host, stack, nightmill, postgres)
        async with AsyncExitStack() as later:
            await later.enter_async_context(_host_worker(nightmill, host))
            yield built


@asynccontextmanager
async def _host_worker(nightmill: Nightmill, host: Host) -> AsyncIterator[None]:
    activities = HostActivities(host)
    with ThreadPoolExecutor(4, thread_name_prefix="host") as pool:
        async with Worker(
            nightmill.temporal,
            task_queue=HOST_QUEUE,
            workflows=[HostDone],
            activities=[activities.host_done, activities.host_takes],
            activity_executor=pool,
            deployment_config=HOST_DEPLOYMENT,
        ):
            yield


@contextmanager
def _memory(folder: Path) -> Iterator[Path]:
    """Give a folder for Temporal's database: in memory where that can be, for the server waits for each write.

    It outlives the server all the same.
    """
    if not os.access("/dev/shm", os.W_OK):
        yield folder
        return
    memory = Path(tempfile.mkdtemp(prefix="nightmill-chaos-", dir="/dev/shm"))
    try:
        yield memory
    finally:
        shutil.copytree(memory, folder, dirs_exist_ok=True)
        shutil.rmtree(memory)


@contextmanager
def _database(kind: str, folder: Path) -> Iterator[tuple[PostgresServer | None, str]]:
    """Give an empty, migrated database."""
    postgres = None
    url = f"sqlite:///{folder / 'nightmill.db'}"
    if kind == "postgresql":
        # Not in the run's folder, which another user must not enter.
        postgres = PostgresServer(Path(tempfile.mkdtemp(prefix="nightmill-chaos-pg-")))
        postgres.initialize()
        postgres.start()
        url = postgres.url(postgres.new_database())
    try:
        database = open_database(url, DatabaseSettings())
        schema.upgrade(database)
        database.close()
        yield postgres, url
    finally:
        if postgres is not None:
            postgres.stop()
            shutil.rmtree(postgres.folder)
