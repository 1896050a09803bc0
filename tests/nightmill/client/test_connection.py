"""The connection to Temporal over TLS, with certificates and API keys, as the SDK's variables and profiles say."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from temporalio import activity
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.worker import Worker

from nightmill.cli.app import run
from nightmill.cli.checks import Finding, State, examine
from nightmill.cli.ending import ExitCode
from nightmill.client.connection import connect, register_search_attributes
from nightmill.client.health import checks_of
from nightmill.errors import AccessDenied, NightmillError, NotConfigured, TemporalUnreachable
from nightmill.settings import Settings
from tests.gate import PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAUTHENTICATED, UNIMPLEMENTED, Gate
from tests.lanes import HOST_DEPLOYMENT
from tests.nightmill.web.certificates import Authority
from tests.stack import TemporalServer
from worker import running

pytestmark = pytest.mark.server

KEY = "a" * 40
KEY_ON_THE_WIRE = "00011" * len(KEY)
"""HPACK writes an `a` as these five bits: RFC 7541, appendix B."""


@activity.defn
async def nothing() -> None:
    """What a worker is there for."""


class Door:
    """Speaks TLS to clients and plain HTTP/2 to the server behind it, and remembers what clients said."""

    def __init__(self, target: str, context: ssl.SSLContext) -> None:
        self.said = bytearray()
        self._target, self._context = target, context
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Give the address."""
        self._context.set_alpn_protocols(["h2"])
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def heard(self, bits: str) -> bool:
        return bits in "".join(f"{byte:08b}" for byte in self.said)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        host, port = self._target.split(":")
        there, back = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(self._pipe(reader, back, self.said), self._pipe(there, writer, bytearray()))
        finally:
            writer.transport.abort()
            back.transport.abort()
            self._tasks.discard(task)

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, kept: bytearray) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                kept += data
                sink.write(data)
                await sink.drain()
        sink.transport.abort()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(autouse=True)
def nothing_else_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the SDK from the profiles of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def ca_of(authority: Authority, folder: Path) -> str:
    path = folder / f"ca-{id(authority)}.pem"
    path.write_bytes(authority.pem())
    return str(path)


async def version_by(door: Door, monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> str:
    """Connect as these variables say, `{}` in them being the door's address, and ask the server something."""
    async with door.open() as address:
        for name, value in variables.items():
            monkeypatch.setenv(name, value.replace("{}", address))
        client = await connect(Settings(_env_file=None))
        return (await client.workflow_service.get_system_info(GetSystemInfoRequest())).server_version


def asked(door: Door, monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> str:
    return asyncio.run(version_by(door, monkeypatch, variables))


def mutual(authority: Authority, folder: Path) -> tuple[ssl.SSLContext, dict[str, str]]:
    """Return a server that wants a client's certificate, and what a client must set."""
    context = authority.server_context("temporal.test")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ca_of(authority, folder))
    authority.server_context("client.test")  # writes key and certificate
    own = str(folder / "client.test.pem")
    return context, {
        "TEMPORAL_ADDRESS": "{}",
        "TEMPORAL_TLS": "true",
        "TEMPORAL_TLS_SERVER_NAME": "temporal.test",
        "TEMPORAL_TLS_SERVER_CA_CERT_PATH": ca_of(authority, folder),
        "TEMPORAL_TLS_CLIENT_CERT_PATH": own,
        "TEMPORAL_TLS_CLIENT_KEY_PATH": own,
    }


def test_a_client_shows_its_certificate(
    temporal_server: TemporalServer, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, variables = mutual(authority, tmp_path)
    assert asked(Door(temporal_server.address, context), monkeypatch, variables)


def test_a_server_that_wants_a_certificate_refuses_who_has_none(
    temporal_server: TemporalServer, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, variables = mutual(authority, tmp_path)
    without = {name: value for name, value in variables.items() if "CLIENT" not in name}
    with pytest.raises(TemporalUnreachable) as refused:
        asked(Door(temporal_server.address, context), monkeypatch, without)
    assert "TEMPORAL_TLS_CLIENT_CERT_PATH" in str(refused.value)


def test_an_api_key_asks_for_tls_and_reaches_the_server(
    temporal_server: TemporalServer, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = Door(temporal_server.address, authority.server_context("temporal.test"))
    variables = {
        "TEMPORAL_ADDRESS": "{}",
        "TEMPORAL_API_KEY": KEY,
        "TEMPORAL_TLS_SERVER_NAME": "temporal.test",
        "TEMPORAL_TLS_SERVER_CA_CERT_PATH": ca_of(authority, tmp_path),
    }
    assert asked(door, monkeypatch, variables)
    assert door.heard(KEY_ON_THE_WIRE)


def test_a_profile_of_a_file_is_taken(
    temporal_server: TemporalServer, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = Door(temporal_server.address, authority.server_context("temporal.test"))
    file = tmp_path / "temporal.toml"
    file.write_text(
        f"""
[profile.production]
namespace = "default"
api_key = "{KEY}"
[profile.production.tls]
server_name = "temporal.test"
server_ca_cert_path = "{ca_of(authority, tmp_path)}"
"""
    )
    variables = {"TEMPORAL_CONFIG_FILE": str(file), "TEMPORAL_PROFILE": "production", "TEMPORAL_ADDRESS": "{}"}
    assert asked(door, monkeypatch, variables)
    assert door.heard(KEY_ON_THE_WIRE)


def test_a_server_of_another_authority_is_not_trusted(
    temporal_server: TemporalServer, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = Door(temporal_server.address, authority.server_context("temporal.test"))
    variables = {
        "TEMPORAL_ADDRESS": "{}",
        "TEMPORAL_API_KEY": KEY,
        "TEMPORAL_TLS_SERVER_NAME": "temporal.test",
        "TEMPORAL_TLS_SERVER_CA_CERT_PATH": ca_of(Authority(tmp_path), tmp_path),
    }
    with pytest.raises(TemporalUnreachable) as refused:
        asked(door, monkeypatch, variables)
    assert "(BadSignature)" in str(refused.value)
    assert "TEMPORAL_TLS_SERVER_CA_CERT_PATH" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not door.said, "the key is not told to a stranger"


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"TEMPORAL_TLS_SERVER_CA_CERT_PATH": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
        ({"TEMPORAL_PROFILE": "nobodys"}, "nobodys"),
        ({"TEMPORAL_CONFIG_FILE": "{folder}/broken.toml"}, "TOML"),
    ],
)
def test_a_profile_that_cannot_be_used_is_one_line(
    variables: Mapping[str, str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "broken.toml").write_text(f'[profile.default]\napi_key = "{KEY}\n')
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(folder=tmp_path))
    with pytest.raises(NightmillError) as refused:
        asyncio.run(connect(Settings(_env_file=None)))
    assert isinstance(refused.value, NotConfigured)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert KEY not in str(refused.value)


def test_the_command_line_says_that_a_server_is_not_trusted_and_ends_with_5(
    temporal_server: TemporalServer,
    authority: Authority,
    tmp_path: Path,
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NIGHTMILL_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("TEMPORAL_API_KEY", KEY)

    async def listed() -> int:
        door = Door(temporal_server.address, authority.server_context("localhost"))
        async with door.open() as address:
            monkeypatch.setenv("TEMPORAL_ADDRESS", address.replace("127.0.0.1", "localhost"))
            return await asyncio.to_thread(run, ["schedules", "list"])

    assert asyncio.run(listed()) == ExitCode.UNREACHABLE
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert "TEMPORAL_TLS_SERVER_CA_CERT_PATH" in told
    assert KEY not in told


@pytest.mark.parametrize("status", [PERMISSION_DENIED, UNIMPLEMENTED])
def test_search_attributes_that_may_not_be_listed_cost_a_line_and_one_that_may_not_be_added_the_start(
    temporal_server: TemporalServer, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    async def scene() -> None:
        gate = Gate(temporal_server.address)
        async with gate.open() as address:
            client = await Client.connect(address)
            keys = [SearchAttributeKey.for_keyword("NightmillNotThere")]
            gate.refused = {"ListSearchAttributes": status}
            await register_search_attributes(client, keys)
            [record] = [record for record in caplog.records if record.name == "nightmill.connection"]
            assert record.levelname == "WARNING"
            assert vars(record)["needed"] == "NightmillNotThere=INDEXED_VALUE_TYPE_KEYWORD"
            gate.refused = {"AddSearchAttributes": status}
            with pytest.raises(NotConfigured, match="NightmillNotThere=INDEXED_VALUE_TYPE_KEYWORD"):
                await register_search_attributes(client, keys)
            assert gate.heard == ["ListSearchAttributes", "AddSearchAttributes"]

    asyncio.run(scene())


def test_search_attributes_that_may_not_be_listed_keep_the_doctor_from_nothing_else(
    temporal_server: TemporalServer, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTMILL_DATABASE_URL", sqlite_url)

    async def scene() -> dict[str, Finding]:
        async with Gate(temporal_server.address, {"ListSearchAttributes": PERMISSION_DENIED}).open() as address:
            monkeypatch.setenv("TEMPORAL_ADDRESS", address)
            return {finding.name: finding for finding in await asyncio.to_thread(list, examine({"temporal"}))}

    seen = asyncio.run(scene())
    assert seen["search attributes"].state is State.WARN
    assert "NightmillProvider" in str(seen["search attributes"].fix)
    assert {"workers", "encryption"} <= set(seen)


def test_a_worker_does_not_start_where_it_may_not_ask_what_its_readiness_asks(temporal_server: TemporalServer) -> None:
    """Readiness takes a refusal for a key that was good once; were this another way, no worker might become ready."""

    async def scene() -> None:
        gate = Gate(temporal_server.address)
        async with gate.open() as address:
            client = await Client.connect(address)
            [temporal] = [one for one in checks_of(client, [], None) if one.name == "temporal"]  # type: ignore[arg-type]
            for status, wrong in (
                (RESOURCE_EXHAUSTED, None), (UNIMPLEMENTED, None),
                (UNAUTHENTICATED, AccessDenied), (PERMISSION_DENIED, AccessDenied),
            ):  # fmt: skip
                gate.refused = {"DescribeNamespace": status}
                with pytest.raises(wrong) if wrong else nullcontext():
                    await temporal.ask()
            there = await Client.connect(temporal_server.address)
            workers = [
                Worker(by, task_queue=queue, activities=[nothing], deployment_config=HOST_DEPLOYMENT)
                for queue, by in (("first", there), ("refused", client), ("last", there))
            ]
            with pytest.raises(RuntimeError, match="could not be described"):
                async with running(workers):
                    await asyncio.sleep(20)
            assert not any(worker.is_running for worker in workers), "those that could have worked have stopped as well"
            stranger = await Client.connect(address, namespace="nobodys")
            gate.refused = {}
            [temporal] = [one for one in checks_of(stranger, [], None) if one.name == "temporal"]  # type: ignore[arg-type]
            with pytest.raises(TemporalUnreachable, match="nobodys"):
                await temporal.ask()

    asyncio.run(scene())
