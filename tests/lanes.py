"""Tests that wait more than they work, side by side: each lane is a Nightmill of its own with a worker in this process.

A test of a lane is a coroutine function under `in_a_lane`; all that are selected of a module start together, a few at a
time, and each test waits for its own. They share the Temporal server and nothing else.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.common import WorkerDeploymentVersion
from temporalio.worker import WorkerDeploymentConfig

from nightmill.client.connection import register_search_attributes
from nightmill.client.converter import data_converter
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import BatchSummary
from nightmill.sandbox import Profile, Sandbox
from tests.stack import Stack, TemporalServer, WebhookSink, requests
from worker import build_workers
from worker import running as running_workers
from workflows.story import SEARCH_ATTRIBUTES

AT_ONCE = 6
PATIENCE = timedelta(seconds=90)

MODELS = {
    "openai": "gpt-5-mini",
    "anthropic": "claude-haiku-4-5",
    "google": "gemini-2.5-flash",
    "xai": "grok-4-fast",
}

# A worker that is not told its version makes one by compiling every module that is loaded: 3 s of CPU.
HOST_DEPLOYMENT = WorkerDeploymentConfig(WorkerDeploymentVersion("host", "1"), use_worker_versioning=False)

_queues = itertools.count()


def long(*values: Any) -> Any:
    """Return a case of a parametrized test that shows hardly more than those beside it: only in `make test-full`."""
    return pytest.param(*values, marks=pytest.mark.slow)


@asynccontextmanager
async def running(stack: Stack, *, address: str | None = None) -> AsyncIterator[Nightmill]:
    """Run a worker in this process, and give a client of it; `address` leads to the server by another way."""
    from nightmill.assembly import assembled

    settings = stack.settings()
    with assembled(settings) as assembly:
        converter = data_converter(settings.encryption_key, settings.encryption_old_keys)
        client = await Client.connect(address or stack.server.address, data_converter=converter)
        await register_search_attributes(client, SEARCH_ATTRIBUTES)
        async with running_workers(build_workers(client, assembly)):
            yield Nightmill(client, assembly)


@dataclass
class Lane:
    """What a test gets."""

    stack: Stack
    sandbox: Sandbox
    webhook: WebhookSink

    @property
    def handler(self) -> dict[str, str]:
        """The completion handler that tells the sink."""
        return {"kind": "webhook", "url": self.webhook.url}

    def set(self, **settings: str) -> None:
        """Change settings, by their names without `NIGHTMILL_`."""
        self.stack.extra = {**self.stack.extra, **{f"NIGHTMILL_{name}": value for name, value in settings.items()}}

    def in_the_workflow_sandbox(self) -> None:
        """Let the SDK refuse what is not deterministic: in one scene of each workflow, for it is a third of all CPU.

        The recorded histories, which go all ways, are replayed in the sandbox, too.
        """
        self.set(WORKER__WORKFLOW_SANDBOX="true")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Nightmill]:
        """Run a worker in this process."""
        async with running(self.stack) as nightmill:
            yield nightmill

    async def run(self, count: int = 5, *, provider: str = "openai", **options: Any) -> BatchSummary:
        """Run a batch to its end, and tell the sink."""
        async with self.running() as nightmill:
            batch_id = await self.submit(nightmill, count, provider=provider, **options)
            return await nightmill.wait(batch_id, timeout=PATIENCE)

    async def submit(
        self, nightmill: Nightmill, count: int = 5, *, provider: str = "openai", prefix: str = "r", **options: Any
    ) -> str:
        """Start a batch that tells the sink."""
        options = {"completion_handler": self.handler, **options}
        return await nightmill.submit(requests(count, prefix), provider=provider, model=MODELS[provider], **options)

    def asked(self, operation: str) -> list[dict[str, Any]]:
        """Return the provider's own record of the requests of a kind."""
        return self.sandbox.log(operation=operation)

    def assert_once(self, *, batches: int = 1, requests: int = 5) -> None:
        """Assert by the provider's and the host's own records: nothing twice at the provider, one call of the host."""
        made = self.sandbox.batches()
        assert [batch["requests"] for batch in made] == [requests] * batches
        marks = [batch["tag"] or batch["ids_sha"] for batch in made]
        assert len(set(marks)) == batches
        keys = [headers["webhook-id"] for headers, _ in self.webhook.received]
        assert len(keys) == len(set(keys)) == batches


async def until(check: Callable[[], Any], *, within: timedelta = timedelta(seconds=90)) -> Any:
    """Return the first true answer of `check`."""
    async with asyncio.timeout(within.total_seconds()):
        while not (answer := check()):
            await asyncio.sleep(0.05)
    return answer


async def shown(nightmill: Nightmill, batch_id: str) -> str:
    """Return what the batch needs attention for, once it does."""

    def attention() -> str | None:
        return nightmill.assembly.batches.get(batch_id).needs_attention

    return str(await until(attention))


LaneTest = Callable[..., Awaitable[None]]


def in_a_lane(test: LaneTest) -> Callable[..., None]:
    """Make a test of a coroutine function that takes a `lane` and whatever it is parametrized with."""

    def run(request: pytest.FixtureRequest, lanes: Mapping[str, Future[None]], **_: Any) -> None:
        lanes[request.node.nodeid].result()

    given = [one for name, one in inspect.signature(test).parameters.items() if name != "lane"]
    own = list(inspect.signature(run).parameters.values())[:2]
    run.__signature__ = inspect.Signature([*own, *(one.replace(kind=one.KEYWORD_ONLY) for one in given)])  # type: ignore[attr-defined]
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    run.coroutine = test  # type: ignore[attr-defined]
    return run


@asynccontextmanager
async def _lane(server: TemporalServer, folder: Path, database: Path) -> AsyncIterator[Lane]:
    folder.mkdir(parents=True)
    shutil.copyfile(database, folder / "nightmill.db")
    webhook = WebhookSink()
    with Sandbox(profile=Profile(finish_after=0.5)) as sandbox:
        stack = Stack(
            folder=folder,
            server=server,
            sandbox=sandbox,
            database_url=f"sqlite:///{folder / 'nightmill.db'}",
            task_queue=f"nightmill-lane-{next(_queues)}",
            extra={"NIGHTMILL_WORKER__SHUTDOWN_GRACE": "2"},
        )
        try:
            yield Lane(stack, sandbox, webhook)
        finally:
            stack.stop()
            webhook.close()


def start_lanes(
    items: list[pytest.Item],
    module: Any,
    server: TemporalServer,
    folder: Path,
    database: Path,
    pool: ThreadPoolExecutor,
) -> dict[str, Future[None]]:
    """Start every selected test of a module that belongs in a lane; returns them by node id."""

    async def go(test: LaneTest, place: Path, given: dict[str, Any]) -> None:
        async with _lane(server, place, database) as lane:
            await test(lane, **given)

    started: dict[str, Future[None]] = {}
    for number, item in enumerate(items):
        test = getattr(getattr(item, "function", None), "coroutine", None)
        if test is not None and getattr(item, "module", None) is module:
            given = dict(item.callspec.params) if hasattr(item, "callspec") else {}
            started[item.nodeid] = pool.submit(lambda *args: asyncio.run(go(*args)), test, folder / str(number), given)
    return started


class CuttableProxy:
    """Forwards connections to a server, until it is told to break them, or to let everything vanish on the way.

    Between an address (host, port) or a UNIX socket's path on both sides.
    """

    def __init__(self, target: tuple[str, int] | str, listen: str | None = None) -> None:
        self.target = target
        self.listen = listen
        self.silent = False
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._pipes: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> CuttableProxy:
        if self.listen is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        else:
            self._server = await asyncio.start_unix_server(self._serve, self.listen)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for pipe in list(self._pipes):
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    @property
    def address(self) -> str:
        """Where it listens."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> int:
        """Break every connection, without a word; returns how many there were."""
        broken = len(self._writers)
        for writer in list(self._writers):
            writer.transport.abort()
        self._writers.clear()
        return broken

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            if isinstance(self.target, str):
                there, back = await asyncio.open_unix_connection(self.target)
            else:
                there, back = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        pipes = {asyncio.create_task(self._pipe(reader, back)), asyncio.create_task(self._pipe(there, writer))}
        self._pipes |= pipes
        await asyncio.wait(pipes)
        self._pipes -= pipes
        self._writers -= {writer, back}

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while data := await source.read(65_536):
                if not self.silent:
                    sink.write(data)
                    await sink.drain()
        sink.transport.abort()
