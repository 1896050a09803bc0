"""Versions of the worker side by side: what runs on which, through rollout, ramp, rollback and both migrations.

The workers are processes of their own, each of a build of its own, in a deployment that each lane has to itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle

from nightmill import ids
from nightmill.assembly import assembled
from nightmill.client.connection import register_search_attributes
from nightmill.client.converter import data_converter
from nightmill.client.deployment import Deployment
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, BatchStatus, Finding, SlicingStatus
from tests.forks import ForkedWorker
from tests.lanes import PATIENCE, Lane, in_a_lane, until
from tests.recovering import lose, recovering_at_once
from tests.slicing import command, slicing_here, small_pdf
from tests.stack import beside_python
from tests.stuck import ended, repaired, run_of, submitted, tick
from tests.workflows.test_reconciler_builds import TidyBatch, build_of, until_tasks_fail
from workflows.story import SEARCH_ATTRIBUTES

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

SET_CURRENT = "temporal worker deployment set-current-version"


@dataclass
class Versions:
    """A lane whose workers have versions.

    Attributes:
        lane: The lane; its task queue names the deployment.
    """

    lane: Lane

    @property
    def deployment(self) -> str:
        return self.lane.stack.task_queue

    @property
    def log(self) -> str:
        """What all workers so far have said; nothing before the first one says something."""
        return self.lane.stack.worker_log() if (self.lane.stack.folder / "worker.log").exists() else ""

    def start(self, build: str) -> ForkedWorker:
        """Start a worker of a build."""
        named = {"TEMPORAL_DEPLOYMENT_NAME": self.deployment, "TEMPORAL_WORKER_BUILD_ID": build}
        return self.lane.stack.fork_worker(**named)

    async def started(self, build: str | None) -> ForkedWorker:
        """Start a worker of a build, or one without a version, and wait until the server knows it."""
        ready = self.log.count("worker ready")
        worker = self.lane.stack.fork_worker() if build is None else self.start(build)
        await until(lambda: self.log.count("worker ready") > ready)
        if build is not None:
            version = f"--deployment-name {self.deployment} --build-id {build}"
            async with asyncio.timeout(30):
                while (await self.run(f"temporal worker deployment describe-version {version}", fails=None))[0]:
                    await asyncio.sleep(0.1)
        return worker

    async def run(self, line: str, *, fails: bool | None = False) -> tuple[int, str]:
        """Run a command line as it stands; return its exit code and what it says."""

        def call() -> tuple[int, str]:
            given = [beside_python("temporal"), *shlex.split(line)[1:]]
            environment = {**os.environ, "TEMPORAL_ADDRESS": self.lane.stack.server.address}
            ran = subprocess.run(
                given, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment, check=False
            )
            return ran.returncode, ran.stdout + ran.stderr

        code, said = await asyncio.to_thread(call)
        assert fails is None or bool(code) is fails, said
        return code, said

    async def set_current(self, build: str | None, *, fails: bool = False) -> str:
        """Let a build, or workers without versions, be the current one; return what the command says."""
        version = "--unversioned" if build is None else f"--build-id {build}"
        line = f"{SET_CURRENT} --deployment-name {self.deployment} {version} --yes"
        # A version whose task queues are not all known yet is refused like one that lacks some.
        if fails:
            return (await self.run(line, fails=True))[1]
        async with asyncio.timeout(30):
            while (await self.run(line, fails=None))[0]:
                await asyncio.sleep(0.2)
        return ""

    def warnings(self, message: str) -> list[dict[str, Any]]:
        """Return the records of the workers' log with this message."""
        return [
            each
            for line in self.log.splitlines()
            if line.startswith("{") and (each := json.loads(line))["message"] == message
        ]


@asynccontextmanager
async def client_of(lane: Lane) -> AsyncIterator[Nightmill]:
    with lane.stack.assembly() as assembly:
        nightmill = await lane.stack.nightmill(assembly)
        await register_search_attributes(nightmill.temporal, SEARCH_ATTRIBUTES)
        yield nightmill


async def builds_of(handle: WorkflowHandle[Any, Any]) -> list[str]:
    """Return the build that completed each workflow task, with a minus before one that had no version."""
    history = await handle.fetch_history()
    done = [event.workflow_task_completed_event_attributes for event in history.events]
    found = [each for each in done if each.started_event_id]
    return [each.deployment_version.build_id or f"-{each.worker_version.build_id}" for each in found]


async def until_driven_by(nightmill: Nightmill, batch_id: str, build: str) -> None:
    """Wait until a build has completed a workflow task of the batch."""
    async with asyncio.timeout(60):
        while (await builds_of(run_of(nightmill, batch_id)))[-1:] != [build]:
            await asyncio.sleep(0.2)


@in_a_lane
async def test_a_batch_goes_on_with_the_version_that_is_current_and_back_with_it_and_is_submitted_once(
    lane: Lane,
) -> None:
    versions = Versions(lane)
    lane.sandbox.set_profile(finish_after=None)
    async with client_of(lane) as nightmill:
        await versions.started("b1")
        batch_id = await lane.submit(nightmill)
        [warned] = versions.warnings("this version gets no work")
        assert (warned["build"], warned["current"]) == ("b1", "workers without versioning")
        assert not lane.sandbox.batches(), "nobody has said which version is the current one"
        await versions.run(warned["command"])
        await until_driven_by(nightmill, batch_id, "b1")
        await until(lambda: lane.asked("batches.get"))

        await versions.started("b2")
        await until(lambda: len(versions.warnings("this version gets no work")) == 2)
        assert versions.warnings("this version gets no work")[-1]["current"] == f"{versions.deployment}:b1"
        await versions.set_current("b2")
        await until_driven_by(nightmill, batch_id, "b2")
        second = await submitted(lane, nightmill, 4, prefix="s")
        assert set(await builds_of(run_of(nightmill, second))) == {"b2"}

        await versions.set_current("b1")
        await until_driven_by(nightmill, batch_id, "b1")
        await until_driven_by(nightmill, second, "b1")
        for batch in lane.sandbox.batches():
            lane.sandbox.advance(batch["id"], "completed")
        summaries = [await ended(nightmill, each) for each in (batch_id, second)]
        driven = await builds_of(run_of(nightmill, batch_id))
    assert [(each.status, each.completed) for each in summaries] == [(BatchStatus.ENDED, 5), (BatchStatus.ENDED, 4)]
    assert sorted(batch["requests"] for batch in lane.sandbox.batches()) == [4, 5], "each one is submitted once"
    assert list(dict.fromkeys(driven)) == ["b1", "b2"]
    assert driven[-1] == "b1"


@pytest.mark.slow
@in_a_lane
async def test_a_ramp_gives_a_part_of_the_workflows_to_the_next_version(lane: Lane) -> None:
    versions = Versions(lane)
    async with client_of(lane) as nightmill:
        await versions.started("b1")
        await versions.set_current("b1")
        await versions.started("b2")
        line = f"temporal worker deployment set-ramping-version --deployment-name {versions.deployment} --build-id b2"
        await versions.run(f"{line} --percentage 50 --yes")
        # What cannot be used fails in its first task, without an activity.
        queue = nightmill.assembly.settings.worker.task_queue
        started = [
            await nightmill.temporal.start_workflow(
                "ModelCompletionBatch", {"provider": 7}, id=f"batch/ramp-{queue}-{number}", task_queue=queue
            )
            for number in range(24)
        ]
        await asyncio.gather(*(handle.result() for handle in started), return_exceptions=True)
        first = Counter([(await builds_of(handle))[0] for handle in started])
        await versions.started("b2")
        [warned] = versions.warnings("this version gets a part of the work")
        await versions.run(f"{line} --delete --yes")
    assert first.total() == 24
    assert set(first) == {"b1", "b2"}
    assert min(first.values()) >= 3, "half of them, give or take"
    assert (warned["build"], warned["percentage"]) == ("b2", 50.0)


@pytest.mark.slow
@in_a_lane
async def test_a_run_that_is_reset_goes_on_with_the_current_version(lane: Lane) -> None:
    recovering_at_once(lane)
    versions = Versions(lane)
    lane.sandbox.set_profile(finish_after=None)
    async with client_of(lane) as nightmill:
        await versions.started("b1")
        await versions.set_current("b1")
        batch_id = await submitted(lane, nightmill)
        await versions.started("b2")
        await versions.set_current("b2")
        await lose(nightmill.temporal, ids.batch_workflow_id(batch_id), "terminated")
        assert await repaired(nightmill) == [(Finding.TERMINATED, Action.RESET)]
        lane.sandbox.advance(lane.sandbox.batches()[0]["id"], "completed")
        summary = await ended(nightmill, batch_id)
        [repair] = await nightmill.recovery.repairs(subject_id=batch_id)
        driven = await builds_of(run_of(nightmill, batch_id))
    assert (summary.status, repair.build, driven[-1]) == (BatchStatus.ENDED, "b2", "b2")
    lane.assert_once()


@pytest.mark.slow
@in_a_lane
async def test_a_version_that_does_not_replay_a_run_is_rolled_back_and_the_run_goes_on_unrepaired(lane: Lane) -> None:
    recovering_at_once(lane)
    versions = Versions(lane)
    lane.set(WORKER__WORKFLOW_SANDBOX="false", RECONCILER__GRACE="3600")
    lane.sandbox.set_profile(finish_after=None)
    await versions.started("b1")
    await versions.set_current("b1")
    async with client_of(lane) as nightmill:
        batch_id = await submitted(lane, nightmill)
        await until(lambda: lane.asked("batches.get"))
    async with running_version(lane, versions, "b2", TidyBatch) as nightmill:
        await versions.set_current("b2")
        await until_tasks_fail(nightmill, batch_id)
        await versions.set_current("b1")
        await until_driven_by(nightmill, batch_id, "b1")
    lane.sandbox.advance(lane.sandbox.batches()[0]["id"], "completed")
    async with client_of(lane) as nightmill:
        assert await tick(nightmill) == []
        summary = await ended(nightmill, batch_id)
        assert await nightmill.recovery.repairs() == []
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    lane.assert_once()


@asynccontextmanager
async def running_version(lane: Lane, versions: Versions, build: str, batch: type) -> AsyncIterator[Nightmill]:
    """Run a version with other code for batches in this process, and give a client of it."""
    settings, other = lane.stack.settings(), build_of(batch)
    own = Deployment(versions.deployment, build, versioned=True)
    with assembled(settings) as assembly:
        client = await Client.connect(lane.stack.server.address, data_converter=data_converter(settings.encryption_key))
        async with other.running(other.build_workers(client, assembly, own)):
            yield Nightmill(client, assembly)


@pytest.mark.slow
@in_a_lane
async def test_running_batches_come_under_versions_and_out_of_them_again(lane: Lane) -> None:
    versions = Versions(lane)
    lane.sandbox.set_profile(finish_after=None)
    async with client_of(lane) as nightmill:
        plain = await versions.started(None)
        batch_id = await submitted(lane, nightmill)
        versioned = await versions.started("b1")
        before = await builds_of(run_of(nightmill, batch_id))
        await versions.set_current("b1")
        await until_driven_by(nightmill, batch_id, "b1")
        plain.terminate()
        assert await asyncio.to_thread(plain.wait, 30) == 0

        await versions.started(None)
        await until(lambda: len(versions.warnings("this version gets no work")) == 2)
        warned = versions.warnings("this version gets no work")[-1]
        assert warned["current"] == f"{versions.deployment}:b1"
        await versions.run(warned["command"])
        versioned.terminate()  # the server leaves to it what it has in its cache, until it goes
        assert await asyncio.to_thread(versioned.wait, 30) == 0
        await until_driven_by(nightmill, batch_id, before[0])
        lane.sandbox.advance(lane.sandbox.batches()[0]["id"], "completed")
        summary = await ended(nightmill, batch_id)
        driven = await builds_of(run_of(nightmill, batch_id))
    assert all(build.startswith("-") for build in before)
    assert "b1" in driven
    assert driven[-1].startswith("-")
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    lane.assert_once()


@pytest.mark.slow
@in_a_lane
async def test_one_batch_stays_with_a_version_that_it_is_pinned_to(lane: Lane) -> None:
    versions = Versions(lane)
    lane.sandbox.set_profile(finish_after=None)
    async with client_of(lane) as nightmill:
        await versions.started("b1")
        await versions.set_current("b1")
        batch_id = await submitted(lane, nightmill)
        options = f"temporal workflow update-options --workflow-id batch/{batch_id} --versioning-override-behavior"
        pinned_to = f"--versioning-override-deployment-name {versions.deployment} --versioning-override-build-id b1"
        await versions.run(f"{options} pinned {pinned_to}")
        await versions.started("b2")
        await versions.set_current("b2")
        count = len(lane.asked("batches.get"))
        await until(lambda: len(lane.asked("batches.get")) > count + 2)
        assert set(await builds_of(run_of(nightmill, batch_id))) == {"b1"}
        await versions.run(f"{options} unspecified")
        await until_driven_by(nightmill, batch_id, "b2")
        lane.sandbox.advance(lane.sandbox.batches()[0]["id"], "completed")
        await ended(nightmill, batch_id)
    lane.assert_once()


@pytest.mark.slow
@in_a_lane
async def test_a_version_that_leaves_a_task_queue_alone_does_not_become_current_by_accident(lane: Lane) -> None:
    versions = Versions(lane)
    slicing_here(lane, {"cut": {"command": command("cut")}})
    async with client_of(lane) as nightmill:
        await versions.started("b1")
        await versions.set_current("b1")
        sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut")
        summary = await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
        driven = await builds_of(nightmill.temporal.get_workflow_handle(ids.slicing_workflow_id(sha256, "cut")))
        lane.set(WORKER__QUEUES=lane.stack.task_queue)
        await versions.started("b2")
        said = await versions.set_current("b2", fails=True)
        lane.set(WORKER__QUEUES=f"{lane.stack.task_queue}-slicing")
        await versions.started("b2")
        await versions.set_current("b2")
    assert summary.status is SlicingStatus.SLICED
    assert set(driven) == {"b1"}
    assert "missing active task queues" in said


# --- what cannot be meant


@pytest.mark.parametrize(
    ("name", "build", "said"),
    [
        ("acme.nightmill", "b1", "TEMPORAL_DEPLOYMENT_NAME: 'acme.nightmill' may hold neither a dot nor a colon"),
        ("acme:nightmill", "b1", "TEMPORAL_DEPLOYMENT_NAME: 'acme:nightmill' may hold neither"),
        ("__nightmill", "b1", "nor begin with two underscores"),
        ("nightmill", "b" * 256, "TEMPORAL_WORKER_BUILD_ID: 'bbb"),
    ],
)
@in_a_lane
async def test_what_the_server_would_not_take_is_refused_in_a_line(
    lane: Lane, name: str, build: str, said: str
) -> None:
    worker = lane.stack.fork_worker(TEMPORAL_DEPLOYMENT_NAME=name, TEMPORAL_WORKER_BUILD_ID=build)
    assert await asyncio.to_thread(worker.wait, 30) == 2
    [line] = lane.stack.worker_log().splitlines()
    assert said in line


@in_a_lane
async def test_one_of_the_two_variables_alone_is_told_and_switches_nothing_on(lane: Lane) -> None:
    versions = Versions(lane)
    lane.stack.fork_worker(TEMPORAL_DEPLOYMENT_NAME=versions.deployment)
    async with client_of(lane) as nightmill:
        batch_id = await lane.submit(nightmill)
        await nightmill.wait(batch_id, timeout=timedelta(seconds=60))
        driven = await builds_of(run_of(nightmill, batch_id))
    [warned] = versions.warnings("worker versioning is off: one of its two variables is missing")
    assert (warned["set"], warned["missing"]) == ("TEMPORAL_DEPLOYMENT_NAME", "TEMPORAL_WORKER_BUILD_ID")
    assert all(build.startswith("-") for build in driven)
