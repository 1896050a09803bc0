"""Fixtures of the tests that run whole batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from nightmill.sandbox import Profile, Sandbox
from tests.lanes import AT_ONCE, start_lanes
from tests.stack import Stack, TemporalServer, WebhookSink

_queues = itertools.count()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(profile=Profile(finish_after=1.0)) as running:
        yield running


@pytest.fixture
def webhook() -> Iterator[WebhookSink]:
    sink = WebhookSink()
    yield sink
    sink.close()


@pytest.fixture
def stack(temporal_server: TemporalServer, sandbox: Sandbox, tmp_path: Path, sqlite_url: str) -> Iterator[Stack]:
    built = Stack(
        folder=tmp_path,
        server=temporal_server,
        sandbox=sandbox,
        database_url=sqlite_url,
        task_queue=f"nightmill-test-{next(_queues)}",
    )
    yield built
    built.stop()


@pytest.fixture(scope="module")
def lanes(
    request: pytest.FixtureRequest,
    temporal_server: TemporalServer,
    tmp_path_factory: pytest.TempPathFactory,
    migrated_sqlite: Path,
) -> Iterator[dict[str, Future[None]]]:
    """The module's tests that are marked `in_a_lane`, running side by side."""
    folder = tmp_path_factory.mktemp("lanes")
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="lane")
    yield start_lanes(request.session.items, request.module, temporal_server, folder, migrated_sqlite, pool)
    pool.shutdown(cancel_futures=True)
