"""Health over real sockets: what is told, that looks are shared and bounded, and the probe that containers run."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from nightmill.client.health import checks_of
from nightmill.errors import StorageUnavailable
from nightmill.health import readiness
from nightmill.health.app import health_app
from nightmill.health.readiness import Check, Health, Phase
from nightmill.serving import served
from nightmill.storage.engine import Database
from tests.stack import free_port

PASSWORD = "canary-password"


class Thing:
    """Something that a worker needs; counts how often it is looked at."""

    def __init__(self) -> None:
        self.looks = 0
        self.error: Exception | None = None
        self.hangs = False
        self.go_on = threading.Event()

    async def ask(self) -> None:
        self.looks += 1
        if self.hangs:
            await asyncio.to_thread(self.go_on.wait)
        if self.error:
            raise self.error


@asynccontextmanager
async def serving(*checks: Check, phase: Phase = Phase.RUNNING) -> AsyncIterator[tuple[Health, httpx.AsyncClient]]:
    health = Health(version="1.2", build="abc", phase=phase, checks=list(checks))
    async with (
        served(health_app(health), "127.0.0.1", 0, setting="x") as address,
        httpx.AsyncClient(base_url=address, timeout=10) as client,
    ):
        yield health, client


def run(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scene())  # type: ignore[arg-type]


def test_a_worker_that_starts_or_drains_is_alive_and_not_ready() -> None:
    async def scene() -> None:
        thing = Thing()
        async with serving(Check("thing", thing.ask), phase=Phase.STARTING) as (health, client):
            for phase, status, word in (
                (Phase.STARTING, 503, "starting"),
                (Phase.RUNNING, 200, "ready"),
                (Phase.DRAINING, 503, "draining"),
            ):
                health.phase = phase
                ready = await client.get("/readyz")
                assert (ready.status_code, ready.json()["status"]) == (status, word)
                alive = await client.get("/healthz")
                assert alive.status_code == 200
                assert alive.json() | {"uptime": 0} == {"status": "ok", "version": "1.2", "build": "abc", "uptime": 0}
            assert thing.looks == 1

    run(scene)


def test_each_thing_is_told_by_its_name_and_no_reason_holds_an_address() -> None:
    async def scene() -> None:
        well, away, broken = Thing(), Thing(), Thing()
        away.error = StorageUnavailable(f"postgresql://nightmill:{PASSWORD}@db: connection refused")
        broken.error = ValueError(PASSWORD)
        checks = [Check("temporal", well.ask), Check("database", away.ask), Check("else", broken.ask)]
        async with serving(*checks) as (_, client):
            answer = await client.get("/readyz")
            assert answer.status_code == 503
            assert answer.json() == {
                "status": "not ready",
                "checks": {
                    "temporal": {"ok": True},
                    "database": {"ok": False, "reason": "storage_unavailable"},
                    "else": {"ok": False, "reason": "ValueError"},
                },
            }
            assert answer.headers["cache-control"] == "no-store"

    run(scene)


def test_head_is_answered_without_a_body_and_other_paths_and_methods_are_refused() -> None:
    async def scene() -> None:
        thing = Thing()
        thing.error = StorageUnavailable("away")
        async with serving(Check("thing", thing.ask)) as (_, client):
            found = [(answer.status_code, answer.content) for answer in (
                await client.head("/healthz"), await client.head("/readyz"))]  # fmt: skip
            assert found == [(200, b""), (503, b"")]
            assert (await client.post("/readyz")).status_code == 405
            assert (await client.get("/")).status_code == 404

    run(scene)


def test_a_storm_of_probes_looks_once_in_the_time_that_a_look_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "FRESH", 60.0)

    async def scene() -> None:
        thing = Thing()
        async with serving(Check("thing", thing.ask)) as (_, client):
            answers = await asyncio.gather(*(client.get("/readyz") for _ in range(50)))
            assert {answer.status_code for answer in answers} == {200}
            thing.error = StorageUnavailable("away")
            assert (await client.get("/readyz")).status_code == 200, "it is fresh still"
            assert thing.looks == 1
            monkeypatch.setattr(readiness, "FRESH", 0.0)
            assert (await client.get("/readyz")).status_code == 503
            assert thing.looks == 2

    run(scene)


def test_a_look_that_hangs_is_bounded_and_stays_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "PATIENCE", 0.2)
    monkeypatch.setattr(readiness, "FRESH", 0.0)

    async def scene() -> None:
        thing = Thing()
        thing.hangs = True
        async with serving(Check("thing", thing.ask)) as (_, client):
            began = time.monotonic()
            for _ in range(5):
                answer = await client.get("/readyz")
                assert answer.status_code == 503
                assert answer.json()["checks"]["thing"] == {"ok": False, "reason": "no answer"}
            assert time.monotonic() - began < 1, "who comes after the bound does not wait for it again"
            assert thing.looks == 1
            assert (await client.get("/healthz")).status_code == 200
            thing.hangs = False
            thing.go_on.set()
            async with asyncio.timeout(5):
                while (await client.get("/readyz")).status_code != 200:
                    await asyncio.sleep(0.02)

    run(scene)


def test_what_a_look_that_nobody_waited_for_has_found_counts_from_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "PATIENCE", 0.0)
    monkeypatch.setattr(readiness, "FRESH", 60.0)

    async def scene() -> None:
        thing = Thing()
        thing.hangs = True
        check = Check("thing", thing.ask)

        async def one_that_ends_unseen() -> None:
            assert not (await check.look()).ok
            asking = check._asking
            assert asking is not None
            thing.go_on.set()
            await asyncio.wait({asking})
            thing.go_on.clear()

        await one_that_ends_unseen()
        ended = check._ended_at
        thing.error = StorageUnavailable("away")
        assert (await check.look()).ok, "it is fresh still"
        assert check._seen_at == ended, "and is no fresher for being told"
        assert thing.looks == 1

        thing.error, check._seen = None, None
        await one_that_ends_unseen()
        check._ended_at -= 60.0  # a minute goes by, and the thing with it
        thing.error = StorageUnavailable("away")
        assert not (await check.look()).ok
        assert thing.looks == 3
        thing.go_on.set()

    run(scene)


def test_the_log_says_once_what_is_wrong_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "nightmill.health")

    async def scene() -> None:
        thing = Thing()
        check = Check("database", thing.ask)

        async def look() -> None:
            check._seen = None
            await check.look()

        for error in (None, StorageUnavailable("db: away"), StorageUnavailable("db: away"), None, None):
            thing.error = error
            await look()

    run(scene)
    assert [(record.message, vars(record).get("detail")) for record in caplog.records] == [
        ("not ready", "db: away"),
        ("ready again", None),
    ]


def test_the_database_is_looked_at_for_its_version_and_for_the_file_that_is_gone(database: Database) -> None:
    check = next(one for one in checks_of(None, [], database) if one.name == "database")  # type: ignore[arg-type]

    async def look() -> Any:
        check._seen = None
        return await check.look()

    async def scene() -> None:
        assert (await look()).ok
        with database.transaction() as session:
            version = session.connection().execute(text("SELECT version_num FROM alembic_version")).scalar_one()
            session.connection().execute(text("UPDATE alembic_version SET version_num = 'other'"))
        assert (await look()).reason == "schema_outdated"
        with database.transaction() as session:
            session.connection().execute(text("UPDATE alembic_version SET version_num = :v"), {"v": version})
        assert (await look()).ok
        if database.dialect == "sqlite":
            place = Path(str(database.engine.url.database))
            place.rename(f"{place}.moved")
            assert (await look()).reason == "storage_unavailable"
            Path(f"{place}.moved").rename(place)
            assert (await look()).ok

    run(scene)


def probe(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nightmill.health", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, env=variables)


def test_the_probe_of_containers_exits_with_zero_or_one_and_prints_what_it_was_told() -> None:
    async def scene() -> None:
        thing = Thing()
        async with serving(Check("thing", thing.ask)) as (health, client):
            here = {"NIGHTMILL_WORKER__HEALTH_PORT": str(client.base_url.port), "NIGHTMILL_WORKER__HOST": "0.0.0.0"}
            for ready, (live_code, ready_code) in ((True, (0, 0)), (False, (0, 1))):
                health.phase = Phase.RUNNING if ready else Phase.DRAINING
                live, readied = await asyncio.gather(
                    asyncio.to_thread(probe, **here), asyncio.to_thread(probe, "--ready", **here)
                )
                assert (live.returncode, readied.returncode) == (live_code, ready_code), live.stderr + readied.stderr
                assert json.loads(live.stdout)["status"] == "ok"
                assert json.loads(readied.stdout)["status"] == ("ready" if ready else "draining")

    run(scene)


@pytest.mark.parametrize(
    ("arguments", "port", "code", "says"),
    [
        ((), "closed", 1, "Connection refused"),
        ((), "0", 1, "the worker serves no health"),
        (("--port", "x"), "", 1, "no port"),
        (("--alive",), "", 2, "usage:"),
    ],
)
def test_the_probe_says_in_a_line_why_there_is_no_answer(
    arguments: tuple[str, ...], port: str, code: int, says: str
) -> None:
    port = str(free_port()) if port == "closed" else port
    ended = probe(*arguments, NIGHTMILL_WORKER__HEALTH_PORT=port)
    assert ended.returncode == code
    assert says in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_the_probe_imports_hardly_anything() -> None:
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "nightmill.health", "--help"], capture_output=True, text=True
    ).stderr
    imported = {line.rpartition("|")[2].strip() for line in listed.splitlines()}
    assert {"socket", "nightmill"} <= imported
    assert imported.isdisjoint({"asyncio", "pydantic", "starlette", "http.client", "argparse", "json", "logging"})
