"""What recovery sees of real workflows on a real server, and what it does to them; all scenes run side by side."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    PauseActivityRequest,
    PauseWorkflowExecutionRequest,
    ResetWorkflowExecutionRequest,
)
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RetryPolicy, WorkerDeploymentVersion, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig

from activities import histories
from activities.executions import Executions
from activities.reset_points import NoResetPoint
from activities.sightings import worker_identity
from nightmill.client.converter import DATA_CONVERTER
from nightmill.contracts import BatchInput, BatchStatus, BatchSummary, Finding, Subject
from nightmill.recovery.model import ActivityState, RunState, Seen
from tests.stack import TemporalServer
from workflows.replaying import replays_with

pytestmark = pytest.mark.server

SOON = {"start_to_close_timeout": timedelta(seconds=10)}
_numbers = itertools.count()


# --- what the scenes run


@dataclass
class Effects:
    """Activities that count how often they ran, and fail as often as they are told to."""

    ran: list[str] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)

    @activity.defn(name="step")
    async def step(self, name: str) -> str:
        if name == "early":
            await asyncio.sleep(0.3)  # fails after "later" has
        self.ran.append(name)
        if self.failures.get(name, 0) > 0:
            self.failures[name] -= 1
            raise ApplicationError(f"{name}\n fails", type="Broken", non_retryable=not name.startswith("slow"))
        return name


class Steered:
    """A workflow that waits to be told to go on."""

    def __init__(self) -> None:
        self.told = 0

    async def until(self, count: int) -> None:
        await workflow.wait_condition(lambda: self.told >= count)


async def step(name: str, **options: Any) -> str:
    return str(await workflow.execute_activity("step", name, result_type=str, **{**SOON, **options}))


@workflow.defn(name="DocumentSync")
class Story(Steered):
    @workflow.signal
    def go_on(self) -> None:
        self.told += 1

    @workflow.run
    async def run(self) -> str:
        await step("first")
        await self.until(1)
        await step("second")
        await self.until(2)
        return await step("third")


@workflow.defn(name="DocumentSync")
class ChangedStory(Steered):
    """The same, changed without care: another command where the second activity was."""

    @workflow.signal
    def go_on(self) -> None:
        self.told += 1

    @workflow.run
    async def run(self) -> str:
        await step("first")
        await self.until(1)
        await workflow.sleep(0.01)
        await step("changed")
        await self.until(2)
        return "changed"


@workflow.defn(name="DocumentSync")
class RaisingStory(Steered):
    """The same, with a bug in what comes after the second activity."""

    @workflow.signal
    def go_on(self) -> None:
        self.told += 1

    @workflow.run
    async def run(self) -> str:
        await step("first")
        await self.until(1)
        await step("second")
        await self.until(2)
        raise KeyError("bug")


@workflow.defn(name="Parallel")
class Parallel:
    """One activity is scheduled in the first task, another in a later one; both fail, the later one first."""

    @workflow.run
    async def run(self) -> str:
        async def later() -> str:
            await workflow.sleep(0.05)
            return await step("later")

        both = await asyncio.gather(later(), step("early"), return_exceptions=True)
        for one in both:
            if isinstance(one, BaseException):
                raise one
        return " ".join(map(str, both))


@workflow.defn(name="Careful")
class Careful:
    """Fails in its own words, after it has tidied up: nothing says for which activity."""

    @workflow.run
    async def run(self) -> str:
        await step("first")
        try:
            return await step("broken")
        except Exception:
            raise ApplicationError("in its own words", type="Own") from None


@workflow.defn(name="Child")
class Child(Steered):
    @workflow.signal
    def go_on(self) -> None:
        self.told += 1

    @workflow.run
    async def run(self) -> str:
        await self.until(1)
        return await step("of the child")


@workflow.defn(name="Parent")
class Parent(Steered):
    @workflow.signal
    def go_on(self) -> None:
        self.told += 1

    @workflow.run
    async def run(self) -> str:
        await step("first")
        id_ = f"{workflow.info().workflow_id}-child"
        child = await workflow.start_child_workflow(
            Child.run, id=id_, id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE
        )
        await self.until(1)
        return await child


@workflow.defn(name="Canceled")
class Canceled(Steered):
    @workflow.signal
    def go_on(self) -> None:
        self.told += 1

    @workflow.run
    async def run(self) -> str:
        for count in (1, 2, 3):
            try:
                await self.until(count)
            except asyncio.CancelledError:
                return f"canceled while waiting for {count}"
        return "never canceled"


@workflow.defn(name="Patient")
class Patient:
    """Has an activity that waits long for its second attempt."""

    @workflow.run
    async def run(self) -> str:
        return await step("slow", retry_policy=RetryPolicy(initial_interval=timedelta(hours=1)))


@workflow.defn(name="ModelCompletionBatch")
class Batch:
    def __init__(self) -> None:
        self.polls = 0

    @workflow.signal
    def poll_now(self) -> None:
        self.polls += 1

    @workflow.run
    async def run(self, asked: BatchInput) -> BatchSummary:
        await workflow.wait_condition(lambda: self.polls > 0)
        lost = asked.batch_id == "lost"
        return BatchSummary(
            batch_id=asked.batch_id or "", status=BatchStatus.ENDED, reason="batch not found" if lost else "polled"
        )


@activity.defn(name="tell")
async def tell_whether_it_replays(workflow_id: str) -> list[bool | None]:
    client = activity.client()
    history = await client.get_workflow_handle(workflow_id).fetch_history()
    return [
        await replays_with([code], client)(type(history)(workflow_id, list(history.events)[:-2]))
        for code in (Story, ChangedStory, Parallel)
    ]


def type_name(code: type) -> str:
    return str(vars(code)["__temporal_workflow_definition"].name)


CODE: Sequence[type] = [Story, Parallel, Careful, Child, Parent, Canceled, Patient, Batch]


# --- the scenes


@dataclass
class Scene:
    """A task queue of its own on the shared server."""

    client: Client
    name: str
    effects: Effects = field(default_factory=Effects)
    code: Sequence[type] = tuple(CODE)

    @property
    def executions(self) -> Executions:
        return Executions(self.client, replays_with(self.code, self.client), self.name, f"{self.name}-slicing")

    @asynccontextmanager
    async def worker(self, *changed: type, build: str = "1") -> AsyncIterator[None]:
        """Run a worker; `changed` code replaces that of the same name, and is what histories are replayed with."""
        names = {type_name(one) for one in changed}
        self.code = [one for one in CODE if type_name(one) not in names] + list(changed)
        async with Worker(
            self.client,
            task_queue=self.name,
            workflows=self.code,
            activities=[self.effects.step, tell_whether_it_replays],
            workflow_runner=UnsandboxedWorkflowRunner(),
            identity=worker_identity(1, "here", build),
            deployment_config=WorkerDeploymentConfig(
                WorkerDeploymentVersion("nightmill", build), use_worker_versioning=False
            ),
            sticky_queue_schedule_to_start_timeout=timedelta(milliseconds=200),
        ):
            yield

    async def start(self, code: str, *args: Any, **options: Any) -> WorkflowHandle[Any, Any]:
        return await self.client.start_workflow(
            code, args=args, id=f"{self.name}-{code}", task_queue=self.name, **options
        )

    async def seen(self, handle: WorkflowHandle[Any, Any], check: Callable[[Seen], Any]) -> Seen:
        """Look until `check` holds."""
        async with asyncio.timeout(60):
            while True:
                seen = await self.executions.look(handle.id)
                if seen is not None and check(seen):
                    return seen
                await asyncio.sleep(0.1)

    async def idle(self, handle: WorkflowHandle[Any, Any], *ran: str) -> Seen:
        """Wait until the activities ran and the workflow waits for what comes from outside."""
        return await self.seen(
            handle, lambda seen: self.effects.ran == list(ran) and not seen.task_attempt and not seen.activities
        )

    async def tasks(self, handle: WorkflowHandle[Any, Any], count: int) -> None:
        """Wait until the present run has completed as many workflow tasks."""
        run_id = await self.executions.present_run(handle.id)
        assert run_id is not None
        async with asyncio.timeout(60):
            while len((await histories.outline(self.client, handle.id, run_id)).tasks) < count:
                await asyncio.sleep(0.1)

    async def ends(self, handle: WorkflowHandle[Any, Any]) -> Seen:
        return await self.seen(handle, lambda seen: seen.state not in (RunState.RUNNING, RunState.PAUSED))

    async def result(self, handle: WorkflowHandle[Any, Any], run_id: str) -> Any:
        return await asyncio.wait_for(self.client.get_workflow_handle(handle.id, run_id=run_id).result(), 60)

    async def reset(self, handle: WorkflowHandle[Any, Any], finding: Finding) -> tuple[str, int]:
        run_id = await self.executions.present_run(handle.id)
        assert run_id is not None
        return await self.executions.reset(handle.id, run_id, finding=finding, reason="a test")


SceneTest = Callable[[Scene], Awaitable[None]]


def scene(test: SceneTest) -> Callable[..., None]:
    """Make a test of a coroutine function; all of the module run side by side."""

    def run(request: pytest.FixtureRequest, scenes: dict[str, Future[None]]) -> None:
        scenes[request.node.name].result()

    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    run.coroutine = test  # type: ignore[attr-defined]
    return run


@pytest.fixture(scope="module")
def scenes(request: pytest.FixtureRequest, temporal_server: TemporalServer) -> Iterator[dict[str, Future[None]]]:
    """The module's scenes, in one event loop of one thread."""
    selected = {
        item.name: item.function.coroutine  # type: ignore[attr-defined]
        for item in request.session.items
        if getattr(item, "module", None) is request.module and hasattr(getattr(item, "function", None), "coroutine")
    }
    futures: dict[str, Future[None]] = {name: Future() for name in selected}

    async def play(client: Client, name: str, test: SceneTest) -> None:
        try:
            await test(Scene(client, f"scene-{next(_numbers)}"))
        except BaseException as error:
            futures[name].set_exception(error)
        else:
            futures[name].set_result(None)

    async def play_all() -> None:
        client = await Client.connect(temporal_server.address, data_converter=DATA_CONVERTER)
        await asyncio.gather(*(play(client, name, test) for name, test in selected.items()))

    pool = ThreadPoolExecutor(1)
    pool.submit(asyncio.run, play_all())
    yield futures
    pool.shutdown()


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


# --- resetting


@scene
async def test_a_terminated_run_goes_on_without_doing_anything_again(scene: Scene) -> None:
    async with scene.worker():
        handle = await scene.start("DocumentSync")
        await scene.idle(handle, "first")
        await handle.signal("go_on")
        await scene.idle(handle, "first", "second")
        await handle.terminate()
        assert (await scene.ends(handle)).state is RunState.TERMINATED
        new, _ = await scene.reset(handle, Finding.TERMINATED)
        await scene.client.get_workflow_handle(handle.id).signal("go_on")
        assert await scene.result(handle, new) == "third"
    assert scene.effects.ran == ["first", "second", "third"]


@scene
async def test_a_run_that_timed_out_goes_on(scene: Scene) -> None:
    async with scene.worker():
        handle = await scene.start("DocumentSync", run_timeout=timedelta(seconds=5))
        assert (await scene.ends(handle)).state is RunState.TIMED_OUT
        new, _ = await scene.reset(handle, Finding.TIMED_OUT)  # which begins the timeout anew
        for _ in range(2):
            await scene.client.get_workflow_handle(handle.id).signal("go_on")
        assert await scene.result(handle, new) == "third"
    assert scene.effects.ran == ["first", "second", "third"]


@scene
async def test_a_run_that_failed_for_an_activity_does_only_that_again(scene: Scene) -> None:
    scene.effects.failures = {"second": 1}
    async with scene.worker():
        handle = await scene.start("DocumentSync", start_signal="go_on")
        assert (await scene.ends(handle)).failure == "second fails"
        new, _ = await scene.reset(handle, Finding.FAILED)
        await scene.client.get_workflow_handle(handle.id).signal("go_on")
        assert await scene.result(handle, new) == "third"
    assert scene.effects.ran == ["first", "second", "second", "third"]


@scene
async def test_two_activities_that_failed_side_by_side_both_begin_again(scene: Scene) -> None:
    scene.effects.failures = {"early": 1, "later": 1}
    async with scene.worker():
        handle = await scene.start("Parallel")
        await scene.ends(handle)
        new, _ = await scene.reset(handle, Finding.FAILED)
        assert await scene.result(handle, new) == "later early"
    assert sorted(scene.effects.ran) == ["early", "early", "later", "later"]


@scene
async def test_a_run_that_failed_in_its_own_words_does_again_what_it_did_last(scene: Scene) -> None:
    scene.effects.failures = {"broken": 1}
    async with scene.worker():
        handle = await scene.start("Careful")
        assert (await scene.ends(handle)).failure_type == "Own"
        new, _ = await scene.reset(handle, Finding.FAILED)
        assert await scene.result(handle, new) == "broken"
    assert scene.effects.ran == ["first", "broken", "broken"]


@scene
async def test_a_run_without_a_worker_is_started_from_the_top_once_it_was_terminated(scene: Scene) -> None:
    handle = await scene.start("DocumentSync")
    with pytest.raises(NoResetPoint):
        await scene.reset(handle, Finding.STILL_OVERDUE)
    await handle.terminate()
    new, point = await scene.reset(handle, Finding.TERMINATED)
    assert point == 3
    async with scene.worker():
        for _ in range(2):
            await scene.client.get_workflow_handle(handle.id).signal("go_on")
        assert await scene.result(handle, new) == "third"


@scene
async def test_an_old_run_cannot_be_reset_where_there_is_none(scene: Scene) -> None:
    with pytest.raises(RPCError):
        await scene.executions.reset("never", "", finding=Finding.TERMINATED, reason="a test")


# --- code that has changed


@scene
async def test_a_run_whose_tasks_fail_with_changed_code_goes_on_where_that_replays(scene: Scene) -> None:
    async with scene.worker():
        handle = await scene.start("DocumentSync")
        await scene.idle(handle, "first")
        await handle.signal("go_on")
        await scene.idle(handle, "first", "second")
    async with scene.worker(ChangedStory, build="2"):
        await handle.signal("go_on")
        seen = await scene.seen(handle, lambda seen: seen.task_attempt > 1)
        told = await scene.executions.diagnose(handle.id, seen)
        assert (told.failed_build, told.replays) == ("2", False)
        new, point = await scene.reset(handle, Finding.TASKS_FAIL)
        assert await scene.result(handle, new) == "changed"
    assert point > 5
    assert scene.effects.ran == ["first", "second", "changed"]


@scene
async def test_a_task_that_failed_with_a_build_that_is_gone_is_found_to_go_on_by_itself(scene: Scene) -> None:
    async with scene.worker(RaisingStory, build="bad"):
        handle = await scene.start("DocumentSync")
        await scene.idle(handle, "first")
        await handle.signal("go_on")
        await handle.signal("go_on")
        seen = await scene.seen(handle, lambda seen: seen.task_attempt > 1)
        told = await scene.executions.diagnose(handle.id, seen)
        assert (told.failed_build, told.replays) == ("bad", False)
    async with scene.worker():
        told = await scene.executions.diagnose(handle.id, seen)
        assert (told.failed_build, told.replays) == ("bad", True)
        assert await scene.result(handle, seen.run_id) == "third"


@scene
async def test_a_terminated_run_is_cut_where_changed_code_replays(scene: Scene) -> None:
    async with scene.worker():
        handle = await scene.start("DocumentSync")
        await scene.idle(handle, "first")
        await handle.signal("go_on")
        await scene.idle(handle, "first", "second")
        await handle.terminate()
    async with scene.worker(ChangedStory, build="2"):
        new, _ = await scene.reset(handle, Finding.TERMINATED)
        await scene.client.get_workflow_handle(handle.id).signal("go_on")
        assert await scene.result(handle, new) == "changed"
    assert scene.effects.ran == ["first", "second", "changed"]


@scene
async def test_a_healthy_run_is_not_diagnosed(scene: Scene) -> None:
    async with scene.worker():
        handle = await scene.start("DocumentSync")
        seen = await scene.idle(handle, "first")
        assert await scene.executions.diagnose(handle.id, seen) is seen
        await handle.terminate()


@scene
async def test_an_activity_can_tell_whether_the_code_of_its_own_worker_replays(scene: Scene) -> None:
    async with scene.worker():
        handle = await scene.start("DocumentSync")
        for _ in range(2):
            await handle.signal("go_on")
        await scene.ends(handle)
        told = await scene.client.execute_activity(
            "tell", handle.id, id=f"{scene.name}-tell", task_queue=scene.name, **SOON, result_type=list[bool | None]
        )
    assert told == [True, False, None]


# --- children


@scene
async def test_a_run_that_failed_for_its_child_starts_it_again(scene: Scene) -> None:
    scene.effects.failures = {"of the child": 1}
    async with scene.worker():
        handle = await scene.start("Parent", start_signal="go_on")
        child = scene.client.get_workflow_handle(f"{handle.id}-child")
        await scene.seen(child, lambda seen: True)
        await child.signal("go_on")
        assert (await scene.ends(handle)).failure == "of the child fails"
        new, _ = await scene.reset(handle, Finding.FAILED)
        await scene.seen(child, lambda seen: seen.state is RunState.RUNNING)
        await child.signal("go_on")
        assert await scene.result(handle, new) == "of the child"
    assert scene.effects.ran == ["first", "of the child", "of the child"]


@scene
async def test_a_child_that_ended_with_its_parent_is_started_again_and_not_waited_for_in_vain(scene: Scene) -> None:
    async with scene.worker():
        handle = await scene.start("Parent")
        child = scene.client.get_workflow_handle(f"{handle.id}-child")
        await scene.idle(handle, "first")
        await scene.seen(child, lambda seen: seen.state is RunState.RUNNING)
        await scene.tasks(handle, 3)
        await handle.terminate()
        await scene.seen(child, lambda seen: seen.state is RunState.TERMINATED)
        new, _ = await scene.reset(handle, Finding.TERMINATED)
        await scene.seen(child, lambda seen: seen.state is RunState.RUNNING)
        await child.signal("go_on")
        await scene.client.get_workflow_handle(handle.id).signal("go_on")
        assert await scene.result(handle, new) == "of the child"
    assert scene.effects.ran == ["first", "of the child"]


@scene
async def test_the_end_of_a_child_that_runs_is_told_to_its_parents_new_run(scene: Scene) -> None:
    async with scene.worker():
        handle = await scene.start("Parent")
        child = scene.client.get_workflow_handle(f"{handle.id}-child")
        await scene.idle(handle, "first")
        before = await scene.seen(child, lambda seen: seen.state is RunState.RUNNING)
        await scene.tasks(handle, 3)
        new, _ = await scene.reset(handle, Finding.STILL_OVERDUE)
        await child.signal("go_on")
        await scene.client.get_workflow_handle(handle.id).signal("go_on")
        assert await scene.result(handle, new) == "of the child"
        assert await scene.executions.present_run(child.id) == before.run_id


@scene
async def test_a_child_that_is_reset_stays_its_parents(scene: Scene) -> None:
    async with scene.worker():
        handle = await scene.start("Parent", start_signal="go_on")
        child = scene.client.get_workflow_handle(f"{handle.id}-child")
        await scene.seen(child, lambda seen: not seen.task_attempt)
        await scene.idle(handle, "first")
        await scene.reset(child, Finding.STILL_OVERDUE)
        await child.signal("go_on")
        assert await asyncio.wait_for(handle.result(), 60) == "of the child"


# --- cancel requests


@scene
async def test_a_cancel_after_the_point_is_sent_again(scene: Scene) -> None:
    handle = await scene.start("Canceled")
    async with scene.worker():
        await scene.seen(handle, lambda seen: not seen.task_attempt)
    await handle.cancel()
    new, _ = await scene.reset(handle, Finding.STILL_OVERDUE)
    async with scene.worker():
        assert await scene.result(handle, new) == "canceled while waiting for 1"


@scene
async def test_a_cancel_whose_resending_a_death_prevented_is_sent_later(scene: Scene) -> None:
    handle = await scene.start("Canceled")
    async with scene.worker():
        seen = await scene.seen(handle, lambda seen: not seen.task_attempt)
    await handle.cancel()
    execution = WorkflowExecution(workflow_id=handle.id, run_id=seen.run_id)
    answer = await scene.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace="default", workflow_execution=execution, workflow_task_finish_event_id=4, request_id="x"
        )
    )
    for _ in range(2):  # more than once does no harm
        assert await scene.executions.carry_cancel(handle.id, old_run=seen.run_id, new_run=answer.run_id)
    async with scene.worker():
        assert await scene.result(handle, answer.run_id) == "canceled while waiting for 1"
    assert await scene.executions.carry_cancel(handle.id, old_run=seen.run_id, new_run=answer.run_id)
    assert not await scene.executions.carry_cancel("never", old_run=seen.run_id, new_run=answer.run_id)


@scene
async def test_a_run_that_nobody_canceled_stays_so(scene: Scene) -> None:
    async with scene.worker():
        handle = await scene.start("Canceled")
        await scene.seen(handle, lambda seen: not seen.task_attempt)
        new, _ = await scene.reset(handle, Finding.STILL_OVERDUE)
        for _ in range(3):
            await scene.client.get_workflow_handle(handle.id).signal("go_on")
        assert await scene.result(handle, new) == "never canceled"


# --- starting and ending


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
    await executions.terminate(handle.id, third, "a test")
    assert (await scene.ends(handle)).state is RunState.TERMINATED


@scene
async def test_a_run_is_canceled_in_good_order(scene: Scene) -> None:
    async with scene.worker():
        handle = await scene.start("Canceled")
        await scene.executions.cancel(handle.id)
        assert (await scene.ends(handle)).state is RunState.COMPLETED


@scene
async def test_a_queue_that_nobody_listens_to_is_idle(scene: Scene) -> None:
    queues = [scene.name, f"{scene.name}-nobody"]
    assert await scene.executions.idle_queues(queues) == set(queues)
    async with scene.worker():
        async with asyncio.timeout(30):
            while scene.name in await scene.executions.idle_queues(queues):
                await asyncio.sleep(0.1)
        assert await scene.executions.idle_queues(queues) == {f"{scene.name}-nobody"}


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
