"""A worker says itself how it is: alive from its start to its end, and ready only while it can work."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from nightmill.sandbox import Fault, Sandbox
from tests.conftest import PostgresServer
from tests.gate import PERMISSION_DENIED, UNAUTHENTICATED, Gate
from tests.stack import Stack, TemporalServer, eventually, free_port, requests

pytestmark = [pytest.mark.server, pytest.mark.kill]


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[TemporalServer]:
    """A server that remembers across its death."""
    server = TemporalServer(database=tmp_path / "temporal.db", log=tmp_path / "temporal.log")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own(own_server: TemporalServer, sandbox: Sandbox, tmp_path: Path, postgres_url: str) -> Iterator[Stack]:
    """A Nightmill with a server of its own, on PostgreSQL."""
    built = Stack(folder=tmp_path, server=own_server, sandbox=sandbox, database_url=postgres_url, task_queue="health")
    built.extra = {"NIGHTMILL_DATABASE__CONNECT_TIMEOUT": "2"}
    yield built
    built.stop()


def get(port: int, path: str) -> tuple[int, Any]:
    """Return status and body; 0 where nobody listens."""
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return 0, {}


def wait_until(port: int, status: str, **checks: bool) -> dict[str, Any]:
    """Wait for a status in which these checks are as given; all the while the worker is alive."""

    def found() -> dict[str, Any] | None:
        assert get(port, "/healthz")[0] == 200
        code, said = get(port, "/readyz")
        assert (code == 200) == (said["status"] == "ready")
        as_given = all(said["checks"].get(name, {}).get("ok") is ok for name, ok in checks.items())
        return dict(said) if said["status"] == status and as_given else None

    return dict(eventually(found, every=0.2))


def test_a_worker_is_ready_while_it_can_work_and_alive_whatever_it_lacks(
    own: Stack, postgres: PostgresServer, sandbox: Sandbox
) -> None:
    port = free_port()
    worker = own.fork_worker(NIGHTMILL_WORKER__HEALTH_PORT=str(port))
    first = eventually(lambda: get(port, "/readyz")[1] or None, every=0.01)
    assert first["status"] == "starting", "it answers before it has connected to anything"
    assert wait_until(port, "ready")["checks"] == {name: {"ok": True} for name in ("temporal", "workers", "database")}

    postgres.crash()
    try:
        away = wait_until(port, "not ready", database=False)
        assert away["checks"]["database"]["reason"] == "storage_unavailable"
    finally:
        postgres.start()
    wait_until(port, "ready")

    own.server.stop(signal.SIGKILL)
    assert wait_until(port, "not ready", temporal=False)["checks"]["database"] == {"ok": True}
    own.server.start()
    wait_until(port, "ready")

    asked = threading.Event()
    sandbox.add_faults(
        Fault("call", operation="batches.create", call=asked.set), Fault("delay", operation="batches.create", seconds=2)
    )
    with own.assembly() as assembly:

        async def submit() -> None:
            nightmill = await own.nightmill(assembly)
            await nightmill.submit(requests(1), provider="openai", model="gpt-5-mini")

        asyncio.run(submit())
    assert asked.wait(30), "no activity was under way"
    worker.terminate()
    assert wait_until(port, "draining")["checks"] == {}
    assert worker.wait(30) == 0
    assert get(port, "/healthz")[0] == 0
    assert len(sandbox.batches()) == 1
    log = own.worker_log()
    for check in ("temporal", "database"):
        assert [line for line in log.splitlines() if '"not ready"' in line and f'"{check}"' in line], check


def test_a_worker_becomes_ready_by_what_a_key_of_one_namespace_may_ask_and_is_not_once_that_is_refused(
    stack: Stack,
) -> None:
    """Temporal Cloud refuses such a key what names no namespace, and what is an operator's."""
    port = free_port()
    gate = Gate(stack.server.address, {"Health/Check": PERMISSION_DENIED, "ListSearchAttributes": PERMISSION_DENIED})

    async def scene() -> None:
        async with gate.open() as address:
            worker = await asyncio.to_thread(
                stack.fork_worker, NIGHTMILL_WORKER__HEALTH_PORT=str(port), TEMPORAL_ADDRESS=address
            )
            await asyncio.to_thread(eventually, lambda: get(port, "/readyz")[0] == 200)
            gate.refused = {"DescribeNamespace": UNAUTHENTICATED}
            said = await asyncio.to_thread(wait_until, port, "not ready", temporal=False)
            assert said["checks"]["temporal"]["reason"] == "access_denied"
            worker.terminate()
            assert await asyncio.to_thread(worker.wait, 30) == 0

    asyncio.run(scene())
    assert gate.heard.count("ListSearchAttributes") == 1
    [line] = [line for line in stack.worker_log().splitlines() if "search attributes cannot be listed" in line]
    assert "NightmillProvider=INDEXED_VALUE_TYPE_KEYWORD" in line


def test_a_port_that_was_chosen_and_is_taken_ends_the_worker_and_the_default_one_only_warns(stack: Stack) -> None:
    with socket.socket() as taken, socket.socket() as default:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = stack.fork_worker(NIGHTMILL_WORKER__HEALTH_PORT=str(port))
        assert refused.wait(30) == 2
        assert f"NIGHTMILL_WORKER__HEALTH_PORT: cannot listen on 127.0.0.1:{port}" in stack.worker_log()

        with suppress(OSError):  # somebody else has it: as good
            default.bind(("127.0.0.1", 8081))
            default.listen()
        worker = stack.fork_worker(NIGHTMILL_WORKER__HEALTH_PORT="")
        eventually(lambda: '"worker ready"' in stack.worker_log())
        warning = next(line for line in stack.worker_log().splitlines() if '"not served"' in line)
        assert json.loads(warning)["level"] == "WARNING"
        assert "8081" in warning
        worker.terminate()
        assert worker.wait(30) == 0
