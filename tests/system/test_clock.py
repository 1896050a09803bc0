"""Workers whose clock is two days wrong: batches and recovery go by Temporal's clock, documents' plans by theirs."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightmill.client.connection import register_search_attributes
from nightmill.contracts import BatchStatus, SyncResult
from nightmill.sandbox import Profile, Sandbox
from tests.lanes import MODELS, PATIENCE
from tests.pages import article
from tests.site import Site
from tests.stack import Stack, TemporalServer, WebhookSink, requests
from workflows.story import SEARCH_ATTRIBUTES

pytestmark = [pytest.mark.system, pytest.mark.server, pytest.mark.timeout(180)]

_queues = itertools.count()
LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
POLLS = 6


@pytest.fixture(params=["+2d", pytest.param("-2d", marks=pytest.mark.slow)])
def stack(
    request: pytest.FixtureRequest, temporal_server: TemporalServer, tmp_path: Path, sqlite_url: str
) -> Iterator[Stack]:
    """A stack whose workers' clock is off, and nobody else's."""
    assert LIBRARY is not None, "apt-get install faketime"
    assert shutil.which("faketime")
    off = {"LD_PRELOAD": str(LIBRARY), "FAKETIME": request.param, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with Sandbox(profile=Profile(finish_after=None)) as sandbox:
        built = Stack(
            tmp_path,
            temporal_server,
            sandbox,
            sqlite_url,
            f"nightmill-clock-{next(_queues)}",
            {"NIGHTMILL_RECONCILER__GRACE": "5", **off},
        )
        yield built
        built.stop()


def test_a_batch_goes_as_ever_and_a_document_is_due_again_as_its_worker_sees_it(stack: Stack) -> None:
    sink = WebhookSink()
    stack.start_worker()
    asyncio.run(_batch(stack, sink))
    asyncio.run(_document(stack, timedelta(days=float(stack.extra["FAKETIME"].removesuffix("d")))))
    sink.close()
    [made] = stack.sandbox.batches()
    assert made["requests"] == 5
    assert len(sink.received) == 1


async def _batch(stack: Stack, sink: WebhookSink) -> None:
    with stack.assembly() as assembly:
        nightmill = await stack.nightmill(assembly)
        await register_search_attributes(nightmill.temporal, SEARCH_ATTRIBUTES)
        batch_id = await nightmill.submit(
            requests(5),
            provider="openai",
            model=MODELS["openai"],
            max_age=timedelta(hours=26),
            completion_handler={"kind": "webhook", "url": sink.url},
        )
        async with asyncio.timeout(60):
            while len(stack.sandbox.log(operation="batches.get")) < POLLS:
                await asyncio.sleep(0.1)
        # By its clock the worker is two days late, or early: neither is overdue, expired or too old.
        summary = await nightmill.recovery.reconcile(timeout=PATIENCE)
        expired = await nightmill.recovery.reconcile(expiry=True, timeout=PATIENCE)
        row = assembly.batches.get(batch_id)
        stack.sandbox.advance(stack.sandbox.batches()[0]["id"], "completed")
        done = await nightmill.wait(batch_id, timeout=PATIENCE)
    assert (summary.repairs, expired.repairs) == ((), ())
    assert row.status is BatchStatus.IN_PROGRESS
    assert row.submitted_at is not None
    assert abs(row.submitted_at - datetime.now(UTC)) < timedelta(minutes=2), "by Temporal's clock"
    assert (done.status, done.completed) == (BatchStatus.ENDED, 5)
    log = stack.worker_log()
    assert f'"time": "{datetime.now(UTC):%Y-%m-%d}' not in log, "its clock was off"


async def _document(stack: Stack, off: timedelta) -> None:
    with stack.assembly() as assembly, Site({"/0": article(0)}) as site:
        nightmill = await stack.nightmill(assembly)
        await register_search_attributes(nightmill.temporal, SEARCH_ATTRIBUTES)
        await nightmill.documents.add_account("acme", "daily")
        document_id = await nightmill.documents.add(site.url("/0"), account="acme", collection="docs", sync=False)
        outcome = await nightmill.documents.sync(document_id)
        row = assembly.documents.get(document_id).row
    assert outcome.result is SyncResult.UPDATED
    assert row.next_sync_at is not None
    assert timedelta(hours=12) < row.next_sync_at - (datetime.now(UTC) + off) < timedelta(hours=36)
