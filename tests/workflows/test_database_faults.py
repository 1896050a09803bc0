"""Databases that are locked, full, failing or restarted while batches run: late at worst, and nothing twice."""

from __future__ import annotations

import asyncio
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import BatchStatus
from nightmill.sandbox import Fault
from tests.lanes import PATIENCE, CuttableProxy, Lane, in_a_lane, until
from tests.stack import Stack, WebhookSink

pytestmark = pytest.mark.server


def path_of(lane: Lane) -> Path:
    return Path(lane.stack.database_url.removeprefix("sqlite:///"))


def assert_whole(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


# --- locked


@pytest.mark.parametrize("seconds", [3.0, pytest.param(32.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("operation", ["files.create", "batches.create", "batches.get", "results.get"])
@in_a_lane
async def test_a_locked_sqlite_file_costs_time_only(lane: Lane, operation: str, seconds: float) -> None:
    """Locked longer than a writer waits, from the moment that the provider has done its part."""
    if seconds < 30:
        lane.set(DATABASE__BUSY_TIMEOUT="0.5")
    released: list[float] = []

    def lock() -> None:
        taken = threading.Event()

        def hold() -> None:
            other = sqlite3.connect(path_of(lane), isolation_level=None, timeout=30)
            other.execute("BEGIN EXCLUSIVE")
            taken.set()
            time.sleep(seconds)
            other.execute("ROLLBACK")
            other.close()
            released.append(time.time())

        threading.Thread(target=hold).start()
        assert taken.wait(30)

    lane.sandbox.add_faults(Fault("call", operation=operation, when="after", call=lock))
    assert (await lane.run()).completed == 5
    assert released
    assert len(lane.asked("batches.create")) == 1
    lane.assert_once()
    assert_whole(path_of(lane))


# --- full


@pytest.mark.parametrize("answer_chars", [20_000, 400_000], ids=["the database", "the files"])
@in_a_lane
async def test_a_full_disk_during_the_harvest_is_said_and_the_harvest_goes_on_once_there_is_room(
    lane: Lane, answer_chars: int
) -> None:
    """A worker whose files must not grow over a limit stands for a full disk."""
    lane.sandbox.set_profile(answer_chars=answer_chars)
    worker = lane.stack.fork_worker()
    no_limit = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
    limit = 600_000 if answer_chars == 20_000 else 1_500_000

    def fill() -> None:
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (limit, no_limit[1]))

    lane.sandbox.add_faults(Fault("call", operation="results.get", call=fill))
    with lane.stack.assembly() as assembly:
        nightmill = await lane.stack.nightmill(assembly)
        batch_id = await lane.submit(nightmill, 25)
        assert re.search("no space|File too large|full|disk I/O error", await failing(nightmill, batch_id))
        assert assembly.batches.get(batch_id).status is not BatchStatus.ENDED
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, no_limit)
        assert (await nightmill.wait(batch_id, timeout=PATIENCE)).completed == 25
        assert [len(result.text or "") async for result in nightmill.results(batch_id)] == [answer_chars] * 25
    assert len(lane.asked("batches.create")) == 1
    lane.assert_once(requests=25)
    assert_whole(path_of(lane))


async def failing(nightmill: Nightmill, batch_id: str) -> str:
    """Return why the batch's present step fails, as the Temporal UI shows it."""
    handle = nightmill.temporal.get_workflow_handle(f"batch/{batch_id}")
    async with asyncio.timeout(60):
        while True:
            for pending in (await handle.describe()).raw_description.pending_activities:
                if pending.last_failure.message:
                    return str(pending.last_failure.message)
            await asyncio.sleep(0.1)


# --- restarted, cut off, exhausted


@pytest.fixture
def on_postgres(stack: Stack, postgres_url: str, webhook: WebhookSink) -> Lane:
    stack.database_url = postgres_url
    stack.extra = {"NIGHTMILL_WORKER__SHUTDOWN_GRACE": "2"}
    return Lane(stack, stack.sandbox, webhook)


@pytest.mark.parametrize(
    ("restarts", "batches"), [(2, 5), pytest.param(8, 40, marks=[pytest.mark.slow, pytest.mark.timeout(240)])]
)
def test_a_postgresql_that_is_restarted_again_and_again_loses_and_doubles_nothing(
    on_postgres: Lane, postgres: Any, restarts: int, batches: int
) -> None:
    lane = on_postgres
    lane.sandbox.set_profile(finish_after=2.0)

    def crash() -> None:
        postgres.crash()
        time.sleep(0.5)
        postgres.start()

    async def go() -> None:
        async with lane.running() as nightmill:
            ids = [await lane.submit(nightmill, prefix=f"b{n}-") for n in range(batches)]
            waits = asyncio.gather(*(nightmill.wait(batch_id, timeout=PATIENCE) for batch_id in ids))
            for _ in range(restarts):
                await asyncio.to_thread(crash)
                await asyncio.sleep(2)
            assert all(summary.completed == 5 for summary in await waits)

    asyncio.run(go())
    assert len(lane.asked("batches.create")) == batches
    assert_delivered(lane, batches)


def assert_delivered(lane: Lane, batches: int) -> None:
    """Assert that each batch was made once, and told of: twice at most, where the gate could not be written."""
    assert len({batch["tag"] for batch in lane.sandbox.batches()}) == len(lane.sandbox.batches()) == batches
    keys = [headers["webhook-id"] for headers, _ in lane.webhook.received]
    assert len(set(keys)) == batches
    assert len(keys) <= batches + 2


def test_connections_that_were_dropped_while_idle_or_in_use_are_made_again(
    on_postgres: Lane, postgres: Any, tmp_path: Path
) -> None:
    lane = on_postgres
    lane.stack.database_url = lane.stack.database_url.replace(f"host={postgres.folder}", f"host={tmp_path}")
    lane.sandbox.set_profile(finish_after=2.0)

    async def go() -> None:
        async with CuttableProxy(f"{postgres.folder}/.s.PGSQL.5432", f"{tmp_path}/.s.PGSQL.5432") as proxy:
            async with lane.running() as nightmill:
                ids = [await lane.submit(nightmill, prefix=f"b{n}-") for n in range(5)]
                waits = asyncio.gather(*(nightmill.wait(batch_id, timeout=PATIENCE) for batch_id in ids))
                broken = 0
                while not waits.done():
                    if broken < 40:  # a busy machine comes to nothing in the time between two cuts
                        broken += proxy.cut()
                    await asyncio.sleep(0.7)
                assert all(summary.completed == 5 for summary in await waits)
            assert broken > 5
            assert proxy.accepted > 5

    asyncio.run(go())
    assert_delivered(lane, 5)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_batches_that_want_more_connections_than_there_are_wait_for_each_other(
    stack: Stack, webhook: WebhookSink, request: pytest.FixtureRequest, kind: str
) -> None:
    lane = Lane(stack, stack.sandbox, webhook)
    if kind == "postgresql":
        lane = request.getfixturevalue("on_postgres")
    with lane.stack.assembly() as ours:  # with a pool that is large enough
        lane.set(DATABASE__POOL_SIZE="1", DATABASE__POOL_TIMEOUT="0.05", WORKER__SHUTDOWN_GRACE="2")

        async def go() -> None:
            client = await lane.stack.nightmill(ours)
            async with lane.running():
                ids = [await lane.submit(client, prefix=f"b{n}-") for n in range(5)]
                waits = (client.wait(batch_id, timeout=PATIENCE) for batch_id in ids)
                assert all(summary.completed == 5 for summary in await asyncio.gather(*waits))

        asyncio.run(go())
    assert_delivered(lane, 5)


# --- failing at the level of system calls

STRACE = shutil.which("strace") or "strace"


@pytest.mark.system
@pytest.mark.timeout(300)
@in_a_lane
async def test_a_disk_that_fails_to_sync_costs_time_only(lane: Lane) -> None:
    """Every second fsync of the worker fails with EIO for a while, in the database and in the files."""
    worker = lane.stack.start_worker()
    await until(lambda: "worker ready" in lane.stack.worker_log())
    trace = lane.stack.folder / "trace.log"
    traced = [STRACE, "-f", "-qq", "-p", str(worker.pid), "-o", str(trace), "-e", "trace=fsync,fdatasync"]
    tracer = subprocess.Popen([*traced, "-e", "inject=fsync,fdatasync:error=EIO:when=1..9+2"])
    try:
        await asyncio.sleep(1)
        with lane.stack.assembly() as assembly:
            nightmill = await lane.stack.nightmill(assembly)
            batch_id = await lane.submit(nightmill)
            assert (await nightmill.wait(batch_id, timeout=PATIENCE)).completed == 5
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
    assert "EIO" in trace.read_text(encoding="utf-8", errors="replace")
    assert len(lane.asked("batches.create")) == 1
    lane.assert_once()
    lane.stack.stop()
    assert_whole(path_of(lane))
