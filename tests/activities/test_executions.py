"""What recovery sees of real workflows on a real server, and how it starts and ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    PauseActivityRequest,
    PauseWorkflowExecutionRequest,
)
from temporalio.client import Client
from temporalio.common import WorkerDeploymentVersion
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig

from nightmill.client.converter import DATA_CONVERTER
from nightmill.contracts import BatchInput, Subject
from nightmill.recovery.model import ActivityState, RunState
from tests.scenes import Scene, scene
from tests.stack import TemporalServer

pytestmark = pytest.mark.server


# --- looking


@scene
async def test_a_workflow_that_never_was_is_not_found(scene: Scene) -> None:
    assert await scene.executions.look("never") is None
    assert await scene.executions.present_run("never") is None


@scene
async def test_an_activity_that_waits_for_its_next_attempt_is_seen_and_reset(scene: Scene) -> None:
    scene.effects.failures = {"slow": 1}
    async with scene.worker():
        handle = await scene.start("Patient")
        seen = await scene.seen(handle, lambda seen: any(one.attempt == 2 for one in seen.activities))
        [waiting] = seen.activities
        assert (waiting.type, waiting.state, seen.queue) == ("step", ActivityState.WAITING, scene.name)
        assert waiting.next_attempt_at is not None
        assert waiting.next_attempt_at - datetime.now(UTC) > timedelta(minutes=50)
        await scene.executions.reset_activity(handle.id, seen.run_id, waiting.id)
        assert await scene.result(handle, seen.run_id) == "slow"


@scene
async def test_a_paused_activity_is_seen(scene: Scene) -> None:
    scene.effects.failures = {"slow": 1}
    async with scene.worker():
        handle = await scene.start("Patient")
        seen = await scene.seen(handle, lambda seen: any(one.attempt == 2 for one in seen.activities))
        execution = WorkflowExecution(workflow_id=handle.id, run_id=seen.run_id)
        await scene.client.workflow_service.pause_activity(
            PauseActivityRequest(namespace="default", execution=execution, id=seen.activities[0].id)
        )
        seen = await scene.seen(handle, lambda seen: seen.activities[0].state is ActivityState.PAUSED)
        assert seen.activities[0].next_attempt_at is None
        await handle.terminate()


@scene
async def test_of_a_run_that_failed_the_innermost_error_is_seen(scene: Scene) -> None:
    scene.effects.failures = {"early": 1}
    async with scene.worker():
        seen = await scene.ends(await scene.start("Parallel"))
    assert (seen.state, seen.failure_type, seen.failure) == (RunState.FAILED, "Broken", "early fails")


@scene
async def test_a_batch_that_ended_for_its_missing_row_says_so(scene: Scene) -> None:
    async with scene.worker():
        for batch_id, failure in (("lost", "batch not found"), ("kept", "")):
            handle = await scene.client.start_workflow(
                "ModelCompletionBatch", BatchInput(batch_id=batch_id), id=f"{scene.name}-{batch_id}",
                task_queue=scene.name, start_signal="poll_now",
            )  # fmt: skip
            seen = await scene.ends(handle)
            assert (seen.state, seen.failure) == (RunState.COMPLETED, failure)


# --- starting


@scene
async def test_a_batch_is_started_once_and_asked_to_poll(scene: Scene) -> None:
    executions = scene.executions
    first = await executions.start_batch(scene.name, summary="started again")
    assert await executions.start_batch(scene.name, summary="started again") == first
    handle = scene.client.get_workflow_handle(f"batch/{scene.name}")
    assert await (await handle.describe()).static_summary() == "started again"
    second = await executions.start_batch(scene.name, summary="afresh", terminate_existing=True)
    assert second != first
    assert await executions.present_run(handle.id) == second
    async with scene.worker():
        await executions.poll_now(handle.id, second)
        result = await scene.result(handle, second)
        assert (result["batch_id"], result["reason"]) == (scene.name, "polled")
        third = await executions.start_batch(scene.name, summary="after it completed")
        assert third not in (first, second)
    await scene.client.get_workflow_handle(handle.id, run_id=third).terminate("a test")
    assert (await scene.ends(handle)).state is RunState.TERMINATED


@scene
async def test_a_queue_that_nobody_listens_to_is_idle(scene: Scene) -> None:
    queues = [scene.name, f"{scene.name}-nobody"]
    assert await scene.executions.idle_queues(queues) == set(queues)
    async with scene.worker():
        async with asyncio.timeout(30):
            while scene.name in await scene.executions.idle_queues(queues):
                await asyncio.sleep(0.1)
        assert await scene.executions.idle_queues(queues) == {f"{scene.name}-nobody"}
        ahead = datetime.now(UTC) + timedelta(minutes=2)
        assert await scene.executions.idle_queues(queues, now=ahead) == set(queues)


# --- what the server reports


@pytest.fixture
def eager_server(tmp_path: Any) -> Iterator[TemporalServer]:
    """A server that reports a failing task at once, and can pause workflows."""
    flags = (
        "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute=1",
        "frontend.WorkflowPauseEnabled=true",
    )
    extra = tuple(part for flag in flags for part in ("--dynamic-config-value", flag))
    server = TemporalServer(log=tmp_path / "server.log", fair=False, extra=extra)
    server.start()
    yield server
    server.stop()


@workflow.defn(name="DocumentSync")
class Failing:
    @workflow.run
    async def run(self) -> str:
        raise KeyError("bug")


@workflow.defn(name="HostsOwn")
class HostsOwn(Failing):
    @workflow.run
    async def run(self) -> str:
        raise KeyError("bug")


def test_what_the_server_reports_is_found_page_by_page_and_a_paused_run_is_seen(eager_server: TemporalServer) -> None:
    ids = {
        "batch/b1": (Subject.BATCH, "b1"),
        "batch/b1/0/2": (Subject.PART, "b1/0/2"),
        "document/d1": (Subject.DOCUMENT, "d1"),
        f"slice/{'0' * 64}/boe": (Subject.SLICING, f"{'0' * 64}/boe"),
        "sweep-1": (Subject.WORKFLOW, "sweep-1"),
    }
    others = ("batch/b1/handler", "document/d1/handler/7")

    async def run() -> None:
        client = await Client.connect(eager_server.address, data_converter=DATA_CONVERTER)
        scene = Scene(client, "reported")
        async with Worker(
            client,
            task_queue=scene.name,
            workflows=[Failing, HostsOwn],
            workflow_runner=UnsandboxedWorkflowRunner(),
            deployment_config=WorkerDeploymentConfig(WorkerDeploymentVersion("x", "1"), use_worker_versioning=False),
        ):
            for id_ in (*ids, *others):
                await client.start_workflow("DocumentSync", id=id_, task_queue=scene.name)
            await client.start_workflow("HostsOwn", id="of the host", task_queue=scene.name)
            await client.start_workflow("DocumentSync", id="elsewhere", task_queue="elsewhere")
            async with asyncio.timeout(60):
                while (await client.count_workflows("TemporalReportedProblems IS NOT NULL")).count != 8:
                    await asyncio.sleep(0.1)
        found, after, pages = [], None, 0
        while pages == 0 or after is not None:
            page, after = await scene.executions.problems(after, 3)
            assert len(page) <= 3
            found += page
            pages += 1
        assert pages > 2
        assert {one.workflow_id: (one.subject, one.id) for one in found} == ids
        assert len(found) == len(ids)
        await client.workflow_service.pause_workflow_execution(
            PauseWorkflowExecutionRequest(namespace="default", workflow_id="sweep-1", request_id="x")
        )
        seen = await scene.executions.look("sweep-1")
        assert seen is not None
        assert seen.state is RunState.PAUSED

    asyncio.run(run())
