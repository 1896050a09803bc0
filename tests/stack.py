"""A whole Nightmill for tests: a real Temporal server, the sandbox providers, and workers in processes of their own."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from temporalio.client import Client

from nightmill.assembly import Assembly
from nightmill.client.converter import data_converter
from nightmill.client.nightmill import Nightmill
from nightmill.sandbox import Sandbox
from nightmill.settings import Settings, load_settings
from tests.forks import ForkedWorker, Forker

T = TypeVar("T")
ROOT = Path(__file__).parent.parent
FAIRNESS = (
    "matching.enableFairness=true",
    "matching.numTaskqueueReadPartitions=1",
    "matching.numTaskqueueWritePartitions=1",
)
# The environment is the whole process's: of stacks in several threads, one at a time puts its own there or copies it.
_environment = threading.RLock()
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def beside_python(name: str) -> str:
    """Return the path of a program that a package has installed into this environment."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is not installed"
    return found


def temporal_binary() -> str:
    return beside_python("temporal")


# Below the ports that kernels give to connections, else one may take it before the server does, or while it is down.
# Every process begins elsewhere.
_ports = itertools.cycle(range(10_000, 32_000))
next(itertools.islice(_ports, os.getpid() * 641 % 22_000, None))


def free_port() -> int:
    """Return a port that nobody uses, and that this process gives to nobody else."""
    while True:
        port = next(_ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class TemporalServer:
    """A dev server process; `kill` and `start` again keep what it knew if it has a file.

    Attributes:
        fair: whether it obeys fairness keys, of one partition a queue: with more, each would be fair to itself only.
    """

    database: Path | None = None
    fair: bool = True
    port: int = field(default_factory=free_port)
    extra: tuple[str, ...] = ()
    log: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            temporal_binary(), "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(self.port),
            "--http-port", str(free_port()), "--metrics-port", str(free_port()), "--log-level", "error",
            # Timers are exact to the millisecond instead of a second.
            "--dynamic-config-value", 'history.timerProcessorMaxTimeShift="1ms"',
            # A workflow task that fails is reported at its first failure, not after a minute, and soon tried again.
            "--dynamic-config-value", "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute=1",
            "--dynamic-config-value", 'history.workflowTaskRetryMaxInterval="4s"',
            *self.extra,
        ]  # fmt: skip
        if self.fair:
            for setting in FAIRNESS:
                command += ["--dynamic-config-value", setting]
        if self.database:
            command += ["--db-filename", str(self.database)]
        out = self.log.open("ab") if self.log else subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        if self.log:
            out.close()  # type: ignore[union-attr]
        asyncio.run(self._wait())

    async def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                client = await Client.connect(self.address)
                await client.workflow_service.get_system_info(
                    __import__("temporalio.api.workflowservice.v1", fromlist=["x"]).GetSystemInfoRequest()
                )
            except Exception:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
            else:
                return

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
            self.process = None


class WebhookSink:
    """Receives webhooks on loopback and remembers them; `answers` are statuses to give first."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.on_request: Any = None
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = sink.answers.pop(0) if sink.answers else 200
                if sink.on_request:
                    sink.on_request()
                if status < 300:
                    sink.received.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/done"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@dataclass
class Stack:
    """One test's Nightmill: database, files, sandbox, task queue, and the environment that its workers get."""

    folder: Path
    server: TemporalServer
    sandbox: Sandbox
    database_url: str
    task_queue: str
    extra: Mapping[str, str] = field(default_factory=dict)
    workers: list[subprocess.Popen[bytes] | ForkedWorker] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        values = {
            "NIGHTMILL_DATABASE_URL": self.database_url,
            "NIGHTMILL_STORAGE_URL": str(self.folder / "files"),
            "NIGHTMILL_INPUT_ROOTS": str(self.folder),
            "NIGHTMILL_WEBHOOK__SECRET": SECRET,
            "NIGHTMILL_WEBHOOK__ALLOW_PRIVATE_ADDRESSES": "true",
            "NIGHTMILL_BATCH__POLL_SCHEDULE": "[0.5]",
            "NIGHTMILL_BATCH__FIND_DELAYS": "[0,0.5,1]",
            "NIGHTMILL_BATCH__REFETCH_DELAYS": "[0.2,0.2,0.2]",
            "NIGHTMILL_DOCUMENTS__ALLOW_PRIVATE_ADDRESSES": "true",
            "NIGHTMILL_DOCUMENTS__HOST_DELAY": "0",
            "NIGHTMILL_DOCUMENTS__SWEEP": "false",
            "NIGHTMILL_LOG_FORMAT": "json",
            "NIGHTMILL_WORKER__TASK_QUEUE": self.task_queue,
            "NIGHTMILL_WORKER__QUEUES": self.task_queue,
            "NIGHTMILL_SLICING__TASK_QUEUE": f"{self.task_queue}-slicing",
            "NIGHTMILL_SLICING__ISOLATION": "process",
            "NIGHTMILL_SLICING__CANARY": "false",
            "NIGHTMILL_RECONCILER__SCHEDULES": "false",
            "NIGHTMILL_WORKER__HEALTH_PORT": "0",
            "NIGHTMILL_WORKER__METRICS_PORT": "0",
            "TEMPORAL_ADDRESS": self.server.address,
        }
        for name, url in self.sandbox.base_urls.items():
            values[f"NIGHTMILL_{name.upper()}__BASE_URL"] = url
            values[f"NIGHTMILL_{name.upper()}__API_KEY"] = "sandbox-key"
        return values | dict(self.extra)

    def settings(self) -> Settings:
        with _environment, environment(self.environment):
            return _again_if_pytest_moved(load_settings)

    def start_worker(self, **extra: str) -> subprocess.Popen[bytes]:
        """Start `python -m worker` on this stack's task queue."""
        log = (self.folder / "worker.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "worker"],
            cwd=ROOT,
            env=self._whole_environment(extra),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        log.close()
        self.workers.append(process)
        return process

    def fork_worker(self, **extra: str) -> ForkedWorker:
        """Start a worker as `start_worker` does, in a tenth of the time: forked where its modules are imported."""
        with _environment:
            fork = forker()
        process = fork.start(self._whole_environment(extra), self.folder / "worker.log")
        self.workers.append(process)
        return process

    def _whole_environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        with _environment:
            return {**_again_if_pytest_moved(os.environ.copy), **self.environment, **extra}

    def worker_log(self) -> str:
        return (self.folder / "worker.log").read_text(errors="replace")

    def stop(self) -> None:
        for process in self.workers:
            if process.poll() is None:
                process.kill()
            process.wait(10)
        self.workers.clear()

    @contextmanager
    def assembly(self) -> Iterator[Assembly]:
        from nightmill.assembly import assembled

        with assembled(self.settings()) as assembly:
            yield assembly

    async def nightmill(self, assembly: Assembly) -> Nightmill:
        converter = data_converter(assembly.settings.encryption_key, assembly.settings.encryption_old_keys)
        client = await Client.connect(self.environment["TEMPORAL_ADDRESS"], data_converter=converter)
        return Nightmill(client, assembly)


def _again_if_pytest_moved(read: Callable[[], T]) -> T:
    """Read the environment; again where pytest, which keeps the test's name there, took it away under our eyes."""
    while True:
        try:
            return read()
        except KeyError as missing:
            if missing.args != ("PYTEST_CURRENT_TEST",):
                raise


@functools.cache
def forker() -> Forker:
    """Return the process that forks this process's workers; it ends when this one does."""
    return Forker()


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the time of the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def eventually(check: Any, *, within: timedelta = timedelta(seconds=30), every: float = 0.1) -> Any:
    """Return the first true answer of `check`; fail after the bound."""
    deadline = time.monotonic() + within.total_seconds()
    while True:
        answer = check()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not true within {within}: {check}"
        time.sleep(every)


def requests(count: int, prefix: str = "r") -> list[dict[str, Any]]:
    """Return `count` small neutral requests."""
    return [{"custom_id": f"{prefix}{n}", "prompt": f"Say {n}", "max_output_tokens": 50} for n in range(count)]
