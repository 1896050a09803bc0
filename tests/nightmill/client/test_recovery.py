"""Recovery from a program, on a real Temporal server, with a worker in this process."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle

from nightmill import ids
from nightmill.client import recovery
from nightmill.client.converter import data_converter
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, BatchStatus, Finding, ReconcileSummary, RepairState, Subject
from nightmill.errors import TemporalUnreachable
from nightmill.sandbox import Profile, Sandbox
from tests.lanes import running, until
from tests.stack import Stack, TemporalServer, requests

pytestmark = [pytest.mark.server, pytest.mark.timeout(90)]

PATIENCE = timedelta(seconds=60)
_queues = itertools.count()

Story = Callable[[Nightmill], Coroutine[Any, Any, None]]
Play = Callable[[Story], None]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(profile=Profile(finish_after=0.5)) as providers:
        yield providers


@pytest.fixture
def play(temporal_server: TemporalServer, sandbox: Sandbox, tmp_path: Path, migrated_sqlite: Path) -> Iterator[Play]:
    """Runs a story with a worker for which nothing is too early."""
    shutil.copyfile(migrated_sqlite, tmp_path / "nightmill.db")
    stack = Stack(
        tmp_path,
        temporal_server,
        sandbox,
        database_url=f"sqlite:///{tmp_path / 'nightmill.db'}",
        task_queue=f"recovery-{next(_queues)}",
        extra={"NIGHTMILL_RECONCILER__GRACE": "0"},
    )

    async def work(story: Story) -> None:
        async with running(stack) as nightmill:
            await story(nightmill)

    yield lambda story: asyncio.run(work(story))
    stack.stop()


async def terminated(nightmill: Nightmill) -> tuple[str, WorkflowHandle[Any, Any]]:
    """Submit a batch, and terminate its workflow once it has submitted."""
    batch_id = await nightmill.submit(requests(3), provider="openai", model="gpt-5-mini")
    await until(lambda: nightmill.assembly.batches.get(batch_id).next_poll_at)
    handle = nightmill.temporal.get_workflow_handle(ids.batch_workflow_id(batch_id))
    await handle.terminate("by mistake")
    await asyncio.sleep(0.6)  # until the poll that it misses is due
    return batch_id, handle


def test_a_dry_run_only_says_what_the_real_one_does_then(play: Play, sandbox: Sandbox) -> None:
    async def story(nightmill: Nightmill) -> None:
        batch_id, handle = await terminated(nightmill)
        first = (await handle.describe()).run_id

        planned = await nightmill.recovery.reconcile(dry_run=True, timeout=PATIENCE)
        [plan] = planned.repairs
        assert (plan.subject, plan.id, plan.finding, plan.action, plan.state) == (
            Subject.BATCH, batch_id, Finding.TERMINATED, Action.RESET, None,
        )  # fmt: skip
        assert await nightmill.recovery.repairs() == []
        assert (await handle.describe()).run_id == first

        done = await nightmill.recovery.reconcile(timeout=PATIENCE)
        assert (done.dry_run, done.candidates, done.repaired, done.failed) == (False, 1, 1, 0)
        [repair] = await nightmill.recovery.repairs(subject=Subject.BATCH, subject_id=batch_id)
        assert (repair.finding, repair.action, repair.state) == (Finding.TERMINATED, Action.RESET, RepairState.DONE)
        assert (repair.run_id, repair.new_run_id) == (first, (await handle.describe()).run_id)
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
        assert (summary.status, summary.completed) == (BatchStatus.ENDED, 3)
        assert await nightmill.recovery.repairs(before=repair.key) == []

    play(story)
    assert len(sandbox.batches()) == 1


def test_the_expiry_sweep_leaves_alone_what_is_not_past_its_max_age(play: Play) -> None:
    async def story(nightmill: Nightmill) -> None:
        await terminated(nightmill)
        summary = await nightmill.recovery.reconcile(expiry=True, timeout=PATIENCE)
        assert (summary.candidates, summary.repairs) == (0, ())
        assert await nightmill.recovery.repairs() == []

    play(story)


def test_whoever_asks_twice_waits_for_the_same_run_but_not_for_one_that_only_reports(play: Play) -> None:
    async def story(nightmill: Nightmill) -> None:
        await terminated(nightmill)
        one, other, report = await asyncio.gather(
            nightmill.recovery.reconcile(timeout=PATIENCE),
            nightmill.recovery.reconcile(timeout=PATIENCE),
            nightmill.recovery.reconcile(dry_run=True, timeout=PATIENCE),
        )
        assert report.dry_run
        assert not one.dry_run
        assert one.started_at == other.started_at or other.repaired == 0
        assert len(await nightmill.recovery.repairs()) == 1

    play(story)


def test_what_was_found_so_far_is_shown_meanwhile(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(nightmill: Nightmill) -> None:
        monkeypatch.setattr(recovery, "_LOOK_EVERY", 0.02)
        seen: list[ReconcileSummary] = []
        result = await nightmill.recovery.reconcile(on_progress=seen.append, timeout=PATIENCE)
        assert seen
        assert max(each.candidates for each in seen) <= result.candidates

    play(story)


def test_an_answer_that_is_none_is_told_as_such(play: Play, temporal_server: TemporalServer) -> None:
    async def story(nightmill: Nightmill) -> None:
        elsewhere = await Client.connect(
            temporal_server.address, namespace="there-is-no-such-namespace", data_converter=data_converter(None)
        )
        lost = Nightmill(elsewhere, nightmill.assembly)
        with pytest.raises(TemporalUnreachable, match="the expiry sweep: Temporal answered"):
            await lost.recovery.reconcile(expiry=True)
        with pytest.raises(TemporalUnreachable, match="schedules: Temporal answered"):
            await lost.recovery.schedules()

    play(story)
