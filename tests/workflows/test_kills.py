"""A worker killed with SIGKILL at every step of a batch: one provider batch, every entry once, one delivery.

Every lane is a Nightmill of its own (database, sandbox, task queue). For each fail point a batch is submitted, a worker
is started that dies there, and then one that does not. The lanes wait more than they work, so several run at once.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nightmill.contracts import BatchStatus
from nightmill.failpoints import BATCH_POINTS
from nightmill.sandbox import Fault, Profile, Sandbox
from tests.stack import Stack, TemporalServer, WebhookSink, requests

pytestmark = [pytest.mark.server, pytest.mark.kill, pytest.mark.timeout(600)]

LANES = 6
# From the death on: 8 s until a heartbeat is missed, at most 5 s until the next attempt, 3 s of stickiness; and a busy
# machine's share.
RECOVERY = timedelta(seconds=20)
REQUESTS = 12

# These points are passed only if something goes wrong, or somebody cancels.
FAULTS: dict[str, Callable[[Sandbox], None]] = {
    "find.found": lambda sandbox: sandbox.add_faults(Fault("drop", operation="batches.create", when="after")),
    "poll.requeued": lambda sandbox: sandbox.add_faults(
        Fault("fail", operation="batches.create", code="token_limit_exceeded", message="no tokens left")
    ),
}
CANCELS = {"cancel.saved", "cancel.sent"}

_queues = itertools.count()


@dataclass
class Recovery:
    """What came of one kill."""

    status: BatchStatus
    completed: int
    failed: int
    provider_batches: list[int]
    results: Counter[str]
    deliveries: int
    died: bool
    took: float


def recover(case: Case, server: TemporalServer, folder: Path, database: Path) -> Recovery:
    """Kill a worker at this point and let another one finish."""
    folder.mkdir(parents=True)
    shutil.copyfile(database, folder / "nightmill.db")
    sink = WebhookSink()
    cancels = case.point in CANCELS
    with Sandbox(profile=Profile(finish_after=60.0 if cancels else 0.3, partial_share=0.5)) as sandbox:
        FAULTS.get(case.point, lambda _: None)(sandbox)
        stack = Stack(
            folder=folder,
            server=server,
            sandbox=sandbox,
            database_url=f"sqlite:///{folder / 'nightmill.db'}",
            task_queue=f"nightmill-kill-{next(_queues)}",
            extra={
                "NIGHTMILL_FAIL_MARKER": str(folder / "died"),
                f"NIGHTMILL_{case.provider.upper()}__MAX_REQUESTS": str(REQUESTS // case.parts),
            },
        )
        try:
            return asyncio.run(_recover(case, stack, sink, cancels=cancels))
        finally:
            stack.stop()
            sink.close()


async def _recover(case: Case, stack: Stack, sink: WebhookSink, *, cancels: bool) -> Recovery:
    model = {"openai": "gpt-5-mini", "anthropic": "claude-haiku-4-5"}[case.provider]
    with stack.assembly() as assembly:
        nightmill = await stack.nightmill(assembly)
        doomed = stack.fork_worker(NIGHTMILL_FAIL_POINT=case.point)
        batch_id = await nightmill.submit(
            requests(REQUESTS), provider=case.provider, model=model,
            completion_handler={"kind": "webhook", "url": sink.url},
        )  # fmt: skip
        cancel: asyncio.Task[Any] | None = None
        deadline = time.monotonic() + 60
        while doomed.poll() is None and time.monotonic() < deadline:
            if cancels and cancel is None and stack.sandbox.batches():
                cancel = asyncio.create_task(nightmill.cancel(batch_id))
            await asyncio.sleep(0.05)
        died = doomed.poll() == -9
        began = time.monotonic()
        stack.fork_worker()
        ready = stack.worker_log().count("worker ready")
        while stack.worker_log().count("worker ready") == ready:
            await asyncio.sleep(0.05)
        before = len(stack.worker_log())
        while len(stack.worker_log()) == before and time.monotonic() < began + 60:
            await asyncio.sleep(0.05)
        took = time.monotonic() - began
        if cancel is not None:
            await asyncio.gather(cancel, return_exceptions=True)
        summary = await nightmill.wait(batch_id, timeout=timedelta(seconds=90))
        results = Counter([result.custom_id async for result in nightmill.results(batch_id)])
    tags = Counter(str(batch["tag"] or batch["ids_sha"]) for batch in stack.sandbox.batches())
    return Recovery(
        status=summary.status,
        completed=summary.completed,
        failed=summary.failed,
        provider_batches=list(tags.values()),
        results=results,
        deliveries=len(sink.received),
        died=died,
        took=took,
    )


@dataclass(frozen=True)
class Case:
    """Where the worker dies, and in what kind of batch."""

    point: str
    provider: str = "openai"
    parts: int = 1

    def __str__(self) -> str:
        return f"{self.point}-{self.provider}-{self.parts}"


CASES = [
    *(Case(point) for point in BATCH_POINTS),
    # The provider that keeps no tag: around the create.
    *(Case(point, provider="anthropic") for point in ("create.intent_saved", "create.sent", "find.found")),
    # Several provider batches, each followed by a child workflow.
    *(
        Case(point, parts=3)
        for point in ("create.sent", "poll.asked", "harvest.page", "harvest.settled", "round.finished")
    ),
]


@pytest.fixture(scope="module")
def recoveries(
    request: pytest.FixtureRequest,
    temporal_server: TemporalServer,
    tmp_path_factory: pytest.TempPathFactory,
    migrated_sqlite: Path,
) -> dict[Case, Future[Recovery]]:
    """Start all cases that were selected; each test waits for its own."""
    folder = tmp_path_factory.mktemp("kills")
    pool = ThreadPoolExecutor(LANES, thread_name_prefix="lane")
    selected = [item.callspec.params["case"] for item in request.session.items if item.path == request.path]
    return {case: pool.submit(recover, case, temporal_server, folder / str(case), migrated_sqlite) for case in selected}


# Hardly another state than at the point before or after.
NEIGHBOURS = {
    "prepare.stored",
    "upload.intent_saved",
    "upload.saved",
    "poll.asked",
    "cancel.saved",
    "harvest.start",
    "harvest.end",
    "harvest.filled",
    "clean_up.done",
    "round.start",
    "deliver.start",
}


# Elsewhere in the batch, or with another provider, what is shown of one already.
OTHERS = {
    Case("create.intent_saved", provider="anthropic"),
    *(Case(point, parts=3) for point in ("poll.asked", "harvest.page", "harvest.settled")),
}


def marked(case: Case) -> list[pytest.MarkDecorator]:
    """Leave the neighbours to the long run."""
    is_neighbour = case.point in NEIGHBOURS and case == Case(case.point)
    return [pytest.mark.slow] if is_neighbour or case in OTHERS else []


@pytest.mark.parametrize("case", [pytest.param(case, marks=marked(case)) for case in CASES], ids=str)
def test_a_worker_killed_at_any_step_loses_and_doubles_nothing(
    recoveries: dict[Case, Future[Recovery]], case: Case
) -> None:
    check(recoveries[case].result(), case)


def check(recovery: Recovery, case: Case) -> None:
    point = case.point
    assert recovery.died, f"the worker never came to {point}"
    # A batch that the provider took back is created again, under a tag of its own.
    assert recovery.provider_batches == [1] * (2 if point == "poll.requeued" else case.parts)
    assert set(recovery.results.values()) == {1}
    assert len(recovery.results) == REQUESTS
    # Between the receiver's answer and the gate a call may be repeated, with the same id; nowhere else.
    assert recovery.deliveries == (2 if point == "deliver.answered" else 1)
    if point in CANCELS:
        assert recovery.status is BatchStatus.CANCELED
        assert recovery.completed + recovery.failed == REQUESTS
    else:
        assert recovery.status is BatchStatus.ENDED
        assert recovery.completed == REQUESTS
    assert recovery.took < RECOVERY.total_seconds(), f"{recovery.took:.1f} s until another worker went on"
