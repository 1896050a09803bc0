"""Small workflows on a real server for tests of recovery; each scene has a task queue, and all run side by side."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RetryPolicy, WorkerDeploymentVersion, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig

from activities import histories
from activities.executions import Executions
from activities.sightings import worker_identity
from nightmill.client.converter import DATA_CONVERTER
from nightmill.contracts import BatchInput, BatchStatus, BatchSummary, Finding
from nightmill.recovery.model import RunState, Seen
from tests.stack import TemporalServer
from workflows.replaying import replays_with

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
        while name == "early" and "later" not in self.ran:
            await asyncio.sleep(0.05)
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


@contextmanager
def playing(request: pytest.FixtureRequest, server: TemporalServer) -> Iterator[dict[str, Future[None]]]:
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
        client = await Client.connect(server.address, data_converter=DATA_CONVERTER)
        await asyncio.gather(*(play(client, name, test) for name, test in selected.items()))

    pool = ThreadPoolExecutor(1)
    pool.submit(asyncio.run, play_all())
    yield futures
    pool.shutdown()
