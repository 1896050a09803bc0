"""Every secret has a canary, everything runs once and much of it fails: where canaries are found afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from sqlalchemy import make_url
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from nightmill.client.connection import connect
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import BatchSummary, SlicingStatus
from nightmill.errors import InvalidInput
from nightmill.sandbox import Fault, Profile, Sandbox
from tests.canaries import ACCOUNT, Canaries, Echo, payloads
from tests.collector import Collector
from tests.lanes import HOST_DEPLOYMENT, until
from tests.slicing import small_pdf, until_status
from tests.stack import ROOT, Stack, TemporalServer, environment, eventually, free_port, requests

pytestmark = [pytest.mark.server, pytest.mark.timeout(240)]

PATIENCE = timedelta(seconds=60)

MEANT = {
    "histories: batch": {"password of requests_uri", "query of requests_uri"},
    "histories: document": {"query of a document"},
    "histories: slice": {"query of a slicing source"},
    "table accounts": {"path of a webhook", "query of a webhook"},
    "table batches": {"path of a webhook", "query of a webhook"},
    "table documents": {"query of a document"},
    "table slicings": {"path of a notice"},
    "the slicer and its supervisor": {"a slicer's argument"},
}
"""Addresses that users give, where they are needed; histories as whoever has the key reads them. docs/security.md."""

LOOKS_AROUND = """
import os, pathlib, sys
seen = dict(os.environ)
print("it sees", seen, file=sys.stderr)
for pid in ("self", os.getppid()):
    for name in ("environ", "cmdline"):
        text = pathlib.Path(f"/proc/{pid}/{name}").read_bytes().replace(b"\\0", b" ").decode()
        pathlib.Path(sys.argv[1]).open("a").write(text)
print("Error: refused with", " ".join(sys.argv[2:4]), seen, file=sys.stderr)
sys.exit(3)
"""


@dataclass
class Scene:
    """What is asked of the workers, and what came of it."""

    canaries: Canaries
    stack: Stack
    echo: Echo
    collector: Collector
    environ: dict[str, str]
    passwords: list[str]
    answers: dict[str, str] = field(default_factory=dict)
    histories: dict[str, bytes] = field(default_factory=dict)


@pytest.fixture
def echo() -> Iterator[Echo]:
    door = Echo()
    yield door
    door.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    door = Collector()
    yield door
    door.close()


@pytest.fixture
def passwords() -> list[str]:
    """What the mail server was told."""
    return []


@pytest.fixture
def mail(passwords: list[str]) -> Iterator[Controller]:
    """A mail server that says in its refusal what it was told."""

    def check(_server: Any, _session: Any, _envelope: Any, _mechanism: str, auth: Any) -> AuthResult:
        assert isinstance(auth, LoginPassword)
        passwords.append(auth.password.decode())
        return AuthResult(success=False, handled=False, message=f"535 5.7.8 not {auth.password.decode()}")

    server = Controller(object(), hostname="127.0.0.1", port=free_port(), authenticator=check, auth_require_tls=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def temporal(tmp_path: Path) -> Iterator[TemporalServer]:
    """A server of its own, which keeps everything in a file."""
    (tmp_path / "temporal").mkdir()
    server = TemporalServer(database=tmp_path / "temporal" / "temporal.db")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def scene(
    temporal: TemporalServer,
    tmp_path: Path,
    postgres_url: str,
    echo: Echo,
    collector: Collector,
    mail: Controller,
    passwords: list[str],
) -> Iterator[Scene]:
    canaries = Canaries()
    folder = tmp_path / "work"
    folder.mkdir()
    with Sandbox(profile=Profile(finish_after=0.3)) as sandbox:
        stack = Stack(folder, temporal, sandbox, "", "nightmill-secrets")
        variables = canaries.variables(
            {
                "NIGHTMILL_NOTIFY__URLS": "https://127.0.0.1:9/{}",
                "NIGHTMILL_NOTIFY__CHANNELS": "https://ops:{}@127.0.0.1:9/notify",
            }
        )
        database = make_url(postgres_url).set(password=canaries.new("password of the database"))
        program = ["{python}", "-I", "-S", "-c", LOOKS_AROUND, str(tmp_path / "seen-by-the-slicer"), "--api-token"]
        slicer = {"command": [*program, canaries.new("a slicer's argument")]}
        stack.extra = {
            **variables,
            "TEMPORAL_API_KEY": canaries.new("TEMPORAL_API_KEY"),
            "AWS_SECRET_ACCESS_KEY": canaries.new("AWS_SECRET_ACCESS_KEY"),
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{canaries.new('OTEL_EXPORTER_OTLP_HEADERS')}",
            "TEMPORAL_TLS": "false",  # without it the key would ask for TLS, which the dev server does not speak
            "NIGHTMILL_DATABASE_URL": database.render_as_string(hide_password=False),
            "NIGHTMILL_ANTHROPIC__BASE_URL": echo.url,
            "NIGHTMILL_XAI__BASE_URL": f"http://user:{canaries.new('password in a base URL')}@127.0.0.1:9/v1",
            "NIGHTMILL_NOTIFY__SMTP_USER": "nightmill",
            "NIGHTMILL_NOTIFY__SMTP_HOST": "127.0.0.1",
            "NIGHTMILL_NOTIFY__SMTP_PORT": str(mail.port),
            "NIGHTMILL_SLICING__PROFILES": json.dumps({"looks": slicer}),
            "NIGHTMILL_WORKER__QUEUES": f"{stack.task_queue},{stack.task_queue}-slicing",
            "NIGHTMILL_BATCH__PENDING_TTL": "4",
            "NIGHTMILL_LOG_LEVEL": "DEBUG",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_BLRP_SCHEDULE_DELAY": "200",
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        }
        yield Scene(canaries, stack, echo, collector, stack._whole_environment({}), passwords)
        stack.stop()


@activity.defn
async def stumble() -> None:
    """Fails as a bug does that knows too much."""
    key = os.environ["NIGHTMILL_OPENAI__API_KEY"]
    try:
        raise KeyError(key)
    except KeyError as cause:
        raise RuntimeError(f"cannot use {key} at {os.environ['NIGHTMILL_DATABASE_URL']}") from cause


@workflow.defn
class Stumbling:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(
            stumble, start_to_close_timeout=timedelta(seconds=5), retry_policy=RetryPolicy(maximum_attempts=1)
        )


async def everything_once(scene: Scene) -> None:
    """Run every job, most of them into failures that tempt somebody to tell."""
    stack, new = scene.stack, scene.canaries.new
    settings = stack.settings()
    sandbox = stack.sandbox
    with stack.assembly() as assembly, environment(stack.environment):
        client = await connect(settings)
        nightmill = Nightmill(client, assembly)
        hook = {"kind": "webhook", "url": f"{scene.echo.url}/{new('path of a webhook')}?t={new('query of a webhook')}"}
        openai = scene.canaries.planted["NIGHTMILL_OPENAI__API_KEY"]
        sandbox.add_faults(
            Fault(
                "status", provider="openai", operation="batches.get", status=500, body=f"Bearer {openai} is too busy"
            ),
            Fault(
                "fail",
                provider="google",
                code="x",
                message=f"{scene.canaries.planted['NIGHTMILL_GOOGLE__API_KEY']} is used up",
            ),
        )
        made = {
            "echoed": await nightmill.submit(requests(2), provider="anthropic", model="claude-haiku-4-5"),
            "away": await nightmill.submit(requests(2), provider="xai", model="grok-4-fast"),
            "failed": await nightmill.submit(requests(2), provider="google", model="gemini-2.5-flash"),
            "told": await nightmill.submit(requests(2), provider="openai", model="gpt-5-mini", completion_handler=hook),
            "account": await nightmill.submit(requests(2), provider="openai", model="gpt-5-mini", account=ACCOUNT),
        }
        uris = (
            f"https://user:{new('password of requests_uri')}@127.0.0.1:9/r.jsonl",
            f"https://127.0.0.1:9/r.jsonl?sig={new('query of requests_uri')}",
        )
        for n, uri in enumerate(uris):
            asked = {"provider": "openai", "model": "gpt-5-mini", "requests_uri": uri}
            await client.start_workflow("ModelCompletionBatch", asked, id=f"batch/uri-{n}", task_queue=stack.task_queue)
        await documents(scene, nightmill, hook)
        await slicings(scene, nightmill)
        await a_bug(client, f"{stack.task_queue}-bug")
        for name, batch_id in made.items():
            if name != "told":  # its receiver refuses
                summary: BatchSummary = await nightmill.wait(batch_id, timeout=PATIENCE)
                scene.answers[name] = summary.model_dump_json()
        scene.answers["told"] = (await nightmill.summary(made["told"])).model_dump_json()
        await nightmill.recovery.reconcile(timeout=PATIENCE)
        await keep_histories(scene, client)
    scene.answers["batch"] = made["echoed"]


async def documents(scene: Scene, nightmill: Nightmill, hook: dict[str, str]) -> None:
    new = scene.canaries.new
    await nightmill.documents.add_account("account", "daily", change_handler=hook)
    with pytest.raises(InvalidInput) as refused:
        await nightmill.documents.add(
            f"https://user:{new('password of a document')}@127.0.0.1/", account="account", collection="c"
        )
    scene.answers["refused"] = str(refused.value)
    link = f"{scene.echo.url}/page?token={new('query of a document')}"
    document_id = await nightmill.documents.add(link, account="account", collection="c", sync=False)
    scene.answers["document"] = (await nightmill.documents.sync(document_id)).model_dump_json(exclude={"link"})


async def slicings(scene: Scene, nightmill: Nightmill) -> None:
    new = scene.canaries.new
    told = ("channel:ops", "mailto:owner@example.org", f"https://127.0.0.1:9/{new('path of a notice')}")
    sha256 = await nightmill.slicings.slice(small_pdf(scene.stack.folder), profile="looks", notify=told)
    scene.answers["slicing"] = str((await until_status(nightmill, sha256, SlicingStatus.FAILED, "looks")).error)
    await until(lambda: scene.passwords)  # the owner's mail server has refused
    source = f"http://127.0.0.1:9/a.pdf?X-Amz-Signature={new('query of a slicing source')}"
    other = hashlib.sha256(b"other").hexdigest()
    await nightmill.slicings.slice_from(source, other, profile="looks")


async def a_bug(client: Client, queue: str) -> None:
    worker = Worker(
        client,
        task_queue=queue,
        workflows=[Stumbling],
        activities=[stumble],
        workflow_runner=UnsandboxedWorkflowRunner(),
        deployment_config=HOST_DEPLOYMENT,
    )
    async with worker:
        with pytest.raises(WorkflowFailureError):
            await client.execute_workflow(Stumbling.run, id="bug", task_queue=queue)


async def keep_histories(scene: Scene, client: Client) -> None:
    codec = client.data_converter.payload_codec
    assert codec is not None, "what is encrypted is looked at in the clear"
    async for found in client.list_workflows():
        handle = client.get_workflow_handle(found.id, run_id=found.run_id)
        told = b""
        async for event in handle.fetch_history_events():
            told += event.SerializeToString()
            for payload in await codec.decode(list(payloads(event))):
                told += payload.SerializeToString()
        scene.histories[found.id] = told


RUN_ALL = """
import json, os, sys
from nightmill.cli.app import run
for given in json.load(sys.stdin):
    os.environ.update(given["variables"])
    print("exit code", run(["--verbose", *given["arguments"]]), flush=True)
"""


def commands(scene: Scene, *asked: Mapping[str, Any]) -> str:
    """Return all that commands write, of one process, which is quicker."""
    ended = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(asked),
        cwd=ROOT,
        env=scene.environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return ended.stdout + ended.stderr


def dump(url: str) -> dict[str, bytes]:
    """Return every table's rows as text."""
    with psycopg.connect(make_url(url).render_as_string(hide_password=False)) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {
            name: "\n".join(
                row[0] for row in connection.execute(f'SELECT t::text FROM "{name}" t'.encode()).fetchall()
            ).encode()
            for (name,) in names
        }


def test_no_secret_is_found_where_it_does_not_belong(scene: Scene, tmp_path: Path) -> None:
    stack = scene.stack
    ports = [free_port(), free_port()]
    worker = stack.fork_worker(
        NIGHTMILL_WORKER__HEALTH_PORT=str(ports[0]), NIGHTMILL_WORKER__METRICS_PORT=str(ports[1])
    )
    (stack.folder / "worker.log").touch()
    eventually(lambda: "worker ready" in stack.worker_log())
    asyncio.run(everything_once(scene))
    batch_id = scene.answers.pop("batch")
    for name, port in (("healthz", ports[0]), ("readyz", ports[0]), ("metrics", ports[1])):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=5) as answer:
            scene.answers[name] = str(answer.headers) + answer.read().decode()
    away = scene.environ["NIGHTMILL_DATABASE_URL"].split("?")[0].replace("@/", "@127.0.0.1:9/")
    scene.answers["commands"] = commands(
        scene,
        {"arguments": ["batch", "show", batch_id], "variables": {}},
        {"arguments": ["doctor"], "variables": {}},
        {"arguments": ["db", "current"], "variables": {"NIGHTMILL_DATABASE_URL": away}},
    )
    worker.terminate()
    worker.wait(15)
    stack.server.stop()

    look = scene.canaries.found_in
    hits = {f"answer: {name}": look(told.encode()) for name, told in scene.answers.items()}
    for workflow_id, history in scene.histories.items():
        hits.setdefault(f"histories: {workflow_id.split('/')[0]}", set()).update(look(history))
    for name, rows in dump(scene.environ["NIGHTMILL_DATABASE_URL"]).items():
        hits[f"table {name}"] = look(rows)
    hits["what Temporal stores"] = scene.canaries.found_under(tmp_path / "temporal")
    hits["files"] = scene.canaries.found_under(stack.folder / "files")
    hits["log"] = look(stack.worker_log().encode())
    hits["exported"] = look(b"".join(body for _, body in scene.collector.bodies))
    hits["the slicer and its supervisor"] = look((tmp_path / "seen-by-the-slicer").read_bytes())
    assert {place: found for place, found in hits.items() if found} == MEANT

    that_it_was_tempted(scene)


def that_it_was_tempted(scene: Scene) -> None:
    """Assert that secrets were used and told back, and that what was looked at is what it seems."""
    planted, told = scene.canaries.planted, "".join(scene.echo.asked)
    assert planted["NIGHTMILL_ANTHROPIC__API_KEY"] in told
    assert planted["query of a webhook"] in told
    assert scene.passwords[0] == planted["NIGHTMILL_NOTIFY__SMTP_PASSWORD"]
    assert {"batch", "document", "slice", "bug"} <= {workflow_id.split("/")[0] for workflow_id in scene.histories}
    assert b"cannot use ***" in scene.histories["bug"]
    log = scene.stack.worker_log()
    assert '"level": "DEBUG"' in log
    assert "*** is used up" in log
    assert "notification failed" in log
    assert {path for path, _ in scene.collector.bodies} == {"/v1/traces", "/v1/metrics", "/v1/logs"}
    commands = scene.answers["commands"]
    assert "Traceback" in commands
    assert commands.count("exit code") == 3
