"""What the doctor says of set-ups that are broken, each one for real, and that it ends whatever happens."""

from __future__ import annotations

import ast
import asyncio
import base64
import contextlib
import http.server
import re
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from temporalio.client import Client

from nightmill.cli.checks import GROUPS, Finding, Look, State, examine, looked
from nightmill.cli.database_checks import file_system_of
from nightmill.cli.machine_checks import memory
from nightmill.cli.temporal_checks import what_is_at
from nightmill.client.converter import data_converter
from nightmill.errors import InvalidInput
from nightmill.settings import load_settings
from tests.conftest import PostgresServer
from tests.nightmill.cli.conftest import Cli
from tests.nightmill.web.certificates import Authority
from tests.stack import ROOT, TemporalServer, free_port

pytestmark = pytest.mark.usefixtures("cli")  # its environment: an empty database, no key, no Temporal server

ENCRYPTION_KEY = base64.b64encode(bytes(range(32))).decode()


@contextmanager
def listening(answer: bytes = b"") -> Iterator[int]:
    """Something that listens and answers everybody with the same bytes; gives its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def found(group: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine({group})}


SETTINGS = [
    ("NIGHTMILL_OPENAI_API_KEY", "k", "settings", "variables", "warn", "is NIGHTMILL_OPENAI__API_KEY meant?"),
    ("NIGHTMILL_DATABSE_URL", "k", "settings", "variables", "warn", "is NIGHTMILL_DATABASE_URL meant?"),
    ("NIGHTMILL_INPUT_ROOTS", "/no/such", "settings", "input roots", "warn", "/no/such: no folder"),
    ("NIGHTMILL_SECRETS_DIR", "/no/such", "settings", "settings", "fail", "/no/such is not a folder"),
    ("NIGHTMILL_OPENAI__MAX_OPEN", "3", "settings", "settings", "fail", "NIGHTMILL_OPENAI__MAX_OPEN: "),
    ("NIGHTMILL_DATABASE_URL", "mysql://u:hush-hush@h/d", "database", "database", "fail", "mysql is not supported"),
    ("NIGHTMILL_DATABASE_URL", "nonsense", "database", "database", "fail", "use sqlite:///FILE or postgresql://"),
    ("NIGHTMILL_STORAGE_URL", "ftp://h/d", "storage", "file storage", "fail", "scheme 'ftp'"),
    ("NIGHTMILL_STORAGE_URL", "/dev/null/files", "storage", "file storage", "fail", "/dev/null/files"),
    ("NIGHTMILL_ENCRYPTION_KEY", "short", "temporal", "temporal", "fail", "NIGHTMILL_ENCRYPTION_KEY: give 32 bytes"),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "http://127.0.0.1:9",
        "serving",
        "telemetry",
        "warn",
        "http://127.0.0.1:9 takes no",
    ),
    ("OTEL_TRACES_EXPORTER", "zipkin", "serving", "telemetry", "fail", "OTEL_TRACES_EXPORTER=zipkin"),
    ("NIGHTMILL_NOTIFY__URLS", '["carrier://pigeon"]', "notices", "notifications", "fail", "carrier"),
    ("NIGHTMILL_NOTIFY__URLS", '["https://example.org/s"]', "notices", "notifications", "fail", "no secret to sign"),
    ("NIGHTMILL_WEBHOOK__SECRET", "whsec_!", "notices", "webhooks", "fail", "must be base64"),
]


@pytest.mark.parametrize(("variable", "value", "group", "name", "state", "told"), SETTINGS)
def test_a_setting_that_cannot_work_is_named_with_what_mends_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, group: str, name: str, state: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    finding = found(group)[name]
    assert finding.state.value == state, finding
    assert told in finding.message
    assert finding.fix
    assert "hush-hush" not in f"{finding.message}{finding.fix}"


def test_an_address_with_a_version_too_many_or_too_few_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    for name, path in (("OPENAI", ""), ("ANTHROPIC", "/v1"), ("GOOGLE", ""), ("XAI", "/v1/")):
        monkeypatch.setenv(f"NIGHTMILL_{name}__API_KEY", "k")
        monkeypatch.setenv(f"NIGHTMILL_{name}__BASE_URL", f"http://127.0.0.1:{port}{path}")
    told = [finding.message for finding in examine({"providers"}) if finding.name == "provider addresses"]
    assert [line.partition(":")[0] for line in told] == ["openai", "anthropic"]
    assert "lacks /v1" in told[0]
    assert "ends with a version" in told[1]


def test_a_line_of_the_env_file_that_nobody_reads_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TEMPORAL_ADDRES=x:1\nNIGHTMILL_LOG_FORMT=json\n")
    seen = found("settings")
    assert "is NIGHTMILL_LOG_FORMAT meant?" in seen["variables"].message
    assert seen["env file"].message.startswith("TEMPORAL_ADDRES: stands in .env")


def test_an_env_file_that_is_no_text_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00")
    assert found("settings")["settings"].message.startswith(".env: ")


# --- the database


def test_each_way_in_which_sqlite_cannot_be_used_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cli.db"
    assert {finding.state for finding in found("database").values()} == {State.OK}
    with closing(sqlite3.connect(file)) as writer:
        monkeypatch.setenv("NIGHTMILL_DATABASE__BUSY_TIMEOUT", "0.1")
        writer.execute("BEGIN IMMEDIATE")
        locked = found("database")["database writes"]
        writer.rollback()
        writer.execute("UPDATE alembic_version SET version_num = '9999'")
        writer.commit()
    assert (locked.state, locked.fix) == (State.FAIL, "another process writes for long: which one says `fuser FILE`")
    newer = found("database")["database schema"]
    assert "of a later release" in newer.message
    assert newer.fix == "install the release that made it"
    (tmp_path / "text.db").write_text(
        "this is no database at all, but a text that is long enough to be read as one" * 20
    )
    monkeypatch.setenv("NIGHTMILL_DATABASE_URL", f"sqlite:///{tmp_path}/text.db")
    assert "names a file of another kind" in str(found("database")["database"].fix)
    monkeypatch.setenv("NIGHTMILL_DATABASE_URL", f"sqlite:///{tmp_path}/none.db")
    everything = list(examine({"database", "documents", "slicing", "recovery", "notices"}))
    assert everything[0].message.endswith("there is no such file yet")
    assert not (tmp_path / "none.db").exists(), "the doctor makes no database"


def test_a_file_system_of_others_is_known_by_the_longest_mount() -> None:
    mounts = "overlay / overlay rw 0 0\nhost:/data /mnt/my\\040data nfs4 rw 0 0\ntmpfs /mnt tmpfs rw 0 0\n"
    assert file_system_of(Path("/mnt/my data/n.db"), mounts) == "nfs4"
    assert file_system_of(Path("/mnt/n.db"), mounts) == "tmpfs"
    assert file_system_of(Path("/srv/n.db"), mounts) == "overlay"


def test_each_way_in_which_postgresql_cannot_be_used_is_told_apart(
    postgres: PostgresServer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTMILL_DATABASE_URL", postgres_url)
    assert {finding.state for finding in found("database").values()} == {State.OK}
    monkeypatch.setenv("NIGHTMILL_DATABASE__POOL_SIZE", "400")
    assert found("database")["database connections"].state is State.WARN
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE reads_only LOGIN")
        connection.execute("CREATE ROLE no_rights LOGIN")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reads_only")
    monkeypatch.setenv("NIGHTMILL_DATABASE_URL", postgres_url.replace("nightmill@", "reads_only@"))
    refused = found("database")["database writes"]
    assert (refused.state, str(refused.fix)[:5]) == (State.FAIL, "GRANT"), refused
    empty = postgres.new_database()
    of_nobody = postgres_url.replace("nightmill@", "no_rights@")
    wrong = {
        of_nobody: "GRANT ALL",
        postgres.url("nobodys"): "`createdb NAME`",
        "postgresql://nightmill:hush-hush@127.0.0.1:9/n": "start PostgreSQL, or correct host and port",
        postgres.url("x").replace("nightmill@", "mallory@"): "create the user",
        "postgresql://n@/n?host=/no/such/folder": "its socket is not there",
        postgres.url(empty): "`nightmill db upgrade`",
    }
    for url, fix in wrong.items():
        monkeypatch.setenv("NIGHTMILL_DATABASE_URL", url)
        [last] = [finding for finding in examine({"database"}) if finding.state is State.FAIL]
        assert fix in str(last.fix), last
        assert "hush-hush" not in last.message
        assert last.unreachable is (url not in (postgres.url(empty), of_nobody))


@pytest.mark.slow
def test_a_standby_is_told_from_a_primary(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    folder = Path(tempfile.mkdtemp(prefix="nightmill-standby-"))  # whoever PostgreSQL runs as enters it
    server = PostgresServer(folder)
    server.initialize()
    server.start()
    try:
        url = server.url(server.new_database())
        monkeypatch.setenv("NIGHTMILL_DATABASE_URL", url)
        cli("db", "upgrade")
        server.stop()
        (server.data / "standby.signal").touch()
        server.start()
        refused = found("database")["database writes"]
        assert (refused.state, str(refused.fix)[:15]) == (State.FAIL, "it is a standby"), refused
    finally:
        server.stop()
        shutil.rmtree(folder)


# --- Temporal


def test_what_answers_in_place_of_temporal_is_said() -> None:
    assert "nobody listens there" in what_is_at(f"127.0.0.1:{free_port()}")
    assert "HOST:PORT" in what_is_at("temporal")
    assert "the name service" in what_is_at("no-such-host.invalid:7233")
    with listening() as port:
        assert "an HTTP server answers there" in what_is_at(f"127.0.0.1:{port}")


def test_a_server_that_speaks_tls_is_known(tmp_path: Path) -> None:
    context = Authority(tmp_path).server_context("127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(2):  # the question in plain text, and then TLS
                accepted, _ = listener.accept()
                with accepted, contextlib.suppress(OSError):
                    context.wrap_socket(accepted, server_side=True).close()

        thread = threading.Thread(target=answer)
        thread.start()
        assert "TEMPORAL_TLS=true" in what_is_at(f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join()


@pytest.mark.server
def test_the_doctor_looks_at_namespace_workers_versions_and_keys(
    temporal_server: TemporalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
    queue = f"doctor-{free_port()}"
    monkeypatch.setenv("NIGHTMILL_WORKER__TASK_QUEUE", queue)
    seen = found("temporal")
    assert seen["temporal"].state is State.OK
    assert seen["workers"].message == f"none listens to task queue {queue}: batches wait"
    assert seen["encryption"].message == "off: payloads are in Temporal as they are"

    for variables, state, told in (
        ({"TEMPORAL_DEPLOYMENT_NAME": "nightmill"}, State.WARN, "without TEMPORAL_WORKER_BUILD_ID"),
        ({"TEMPORAL_WORKER_BUILD_ID": "b1"}, State.WARN, "without TEMPORAL_DEPLOYMENT_NAME"),
        ({"TEMPORAL_DEPLOYMENT_NAME": "night.mill"}, State.FAIL, "neither a dot nor a colon"),
        ({"TEMPORAL_DEPLOYMENT_NAME": "n", "TEMPORAL_WORKER_BUILD_ID": "b"}, State.WARN, f"n:b gets 0 % of {queue}"),
    ):
        with monkeypatch.context() as patched:
            for name, value in variables.items():
                patched.setenv(name, value)
            deployment = found("temporal")["deployment"]
        assert deployment.state is state
        assert told in deployment.message
        assert deployment.fix

    async def start_encrypted() -> None:
        monkeypatch.setenv("NIGHTMILL_ENCRYPTION_KEY", ENCRYPTION_KEY)
        converter = data_converter(load_settings().encryption_key)
        client = await Client.connect(temporal_server.address, data_converter=converter)
        await client.start_workflow("Nothing", "text", id=queue, task_queue=queue)

    asyncio.run(start_encrypted())
    ours = wait_for_state(State.OK)
    assert "1 open workflows looked at, 0 of them of older keys" in ours.message
    monkeypatch.setenv("NIGHTMILL_ENCRYPTION_KEY", base64.b64encode(b"x" * 32).decode())
    other = found("temporal")["encryption"]
    assert other.state is State.FAIL
    assert other.message.startswith("1 of 1 open workflows looked at are encrypted with a key not set here: ")
    monkeypatch.setenv("NIGHTMILL_ENCRYPTION_OLD_KEYS", f'["{ENCRYPTION_KEY}"]')
    assert "1 of them of older keys" in found("temporal")["encryption"].message
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "nobodys")
    missing = found("temporal")["namespace"]
    assert (missing.state, missing.message) == (State.FAIL, "nobodys does not exist")


def wait_for_state(state: State) -> Finding:
    """Return the finding once the server lists the workflow, which it does a moment after its start."""
    deadline = time.monotonic() + 20
    while True:
        finding = found("temporal")["encryption"]
        if finding.state is state and "1 open" in finding.message:
            return finding
        assert time.monotonic() < deadline, finding
        time.sleep(0.2)


# --- ports


def test_a_port_that_is_taken_fails_only_where_it_was_set_and_not_if_a_worker_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with listening(b"hello") as port:
        monkeypatch.setenv("NIGHTMILL_WORKER__HEALTH_PORT", str(port))
        taken = found("serving")["health port"]
    assert (taken.state, "no worker starts like this" in taken.message) == (State.FAIL, True)
    assert "NIGHTMILL_WORKER__HEALTH_PORT" in str(taken.fix)
    assert found("serving")["health port"].state is State.OK
    with listening(b'{"status": "ok", "uptime": 3.0}') as port:
        monkeypatch.setenv("NIGHTMILL_WORKER__HEALTH_PORT", str(port))
        assert found("serving")["health port"].message == f"a worker answers at 127.0.0.1:{port}"


def test_the_codec_server_and_the_receiver_are_looked_at_where_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not {"codec server", "events receiver"} & found("serving").keys()
    monkeypatch.setenv("NIGHTMILL_ENCRYPTION_KEY", ENCRYPTION_KEY)
    monkeypatch.setenv("NIGHTMILL_CODEC__PORT", str(free_port()))
    monkeypatch.setenv("NIGHTMILL_OPENAI__WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("NIGHTMILL_EVENTS__PORT", str(mute.getsockname()[1]))
        seen = found("serving")
    assert seen["codec server"].fix == "`nightmill codec-server`, to read payloads in the UI"
    assert seen["events receiver"].state is State.WARN
    monkeypatch.setenv("NIGHTMILL_CODEC__HOST", "0.0.0.0")
    assert "NIGHTMILL_CODEC__TOKEN" in str(found("serving")["codec server"].fix)


def test_little_memory_is_seen() -> None:
    assert memory("MemTotal: 1 kB\nMemAvailable:  100000 kB\n").state is State.WARN
    assert memory("MemAvailable: 4000000 kB\n").state is State.OK


# --- as a whole


def test_a_check_that_hangs_holds_nobody_up_and_one_that_throws_is_a_finding() -> None:
    never = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield Finding("begun", State.OK, "seen")
        never.wait(30)

    def throws() -> Iterator[Finding]:
        raise KeyError("bug")

    looks = [
        Look("database", "database", hangs, "open the firewall"),
        Look("machine", "clock", throws),
        Look("storage", "files", lambda: [Finding("files", State.OK, "well")]),
    ]
    began = time.monotonic()
    first, hung, threw, well = looked(looks, timedelta(seconds=0.2))
    never.set()
    assert time.monotonic() - began < 5
    assert (first.name, well.group) == ("begun", "storage")
    assert (hung.state, hung.unreachable) == (State.FAIL, True)
    assert "no end within 0.2 s" in hung.message
    assert hung.fix == "open the firewall; alone: `nightmill doctor --only database`"
    assert (threw.name, threw.message) == ("clock", "KeyError: 'bug'")


def test_everything_that_takes_calls_and_never_answers_is_told_within_20_seconds(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightmill.cli.checks.PATIENCE", timedelta(seconds=5))  # of the 12: the way is the same
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        monkeypatch.setenv("NIGHTMILL_DATABASE_URL", f"postgresql://n:hush-hush@{address}/n")
        monkeypatch.setenv("NIGHTMILL_STORAGE_URL", "s3://bucket/prefix")
        for name, value in {"ENDPOINT": f"http://{address}", "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("TEMPORAL_ADDRESS", address)
        monkeypatch.setenv("NIGHTMILL_OPENAI__API_KEY", "hush-hush-too")
        monkeypatch.setenv("NIGHTMILL_OPENAI__BASE_URL", f"http://{address}/v1")
        monkeypatch.setenv("NIGHTMILL_WORKER__QUEUES", "nightmill")
        began = time.monotonic()
        ended = cli("doctor", "--only", "settings,database,storage,temporal,providers,documents,recovery", "--json")
    assert time.monotonic() - began < 15
    assert ended.code == 5
    failed = {line["check"] for line in ended.lines if line["state"] == "fail"}
    assert failed >= {"database", "file storage", "temporal", "openai"}
    assert "hush-hush" not in ended.out


def test_the_last_line_says_how_many_checks_need_someone_and_lines_stand_in_groups(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTMILL_OPENAI_API_KEY", "k")
    ended = cli("doctor", "--only", "settings, storage")
    lines = ended.out.splitlines()
    assert (ended.code, lines[0], lines[-1]) == (0, "settings", "1 of 3 checks need you: 0 fail, 1 warn")
    assert "storage" in lines
    assert cli("doctor", "--only", "storage").out.splitlines()[-1] == "0 of 1 checks need you"
    assert cli("doctor", "--only", "everything").code == 2
    with pytest.raises(InvalidInput, match="known are settings, database"):
        list(examine({"everything"}))


def test_the_page_names_each_check_and_each_group() -> None:
    page = (ROOT / "docs" / "doctor.md").read_text()
    listed = set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))
    made = set(GROUPS)
    sources = "".join(path.read_text() for path in (ROOT / "nightmill" / "cli").glob("*checks.py"))
    sources += (ROOT / "nightmill" / "client" / "schedules.py").read_text()  # what is found of one is called there
    for path in (ROOT / "nightmill" / "cli").glob("*checks.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding":
                first = node.args[0]
                made |= {str(first.value)} if isinstance(first, ast.Constant) else set()
    assert made - listed == set(), "checks that the page does not tell of"
    unknown = {name for name in listed if f'"{name}' not in sources and "NAME" not in name}
    assert unknown == set(), "of the page, and not of the doctor"
