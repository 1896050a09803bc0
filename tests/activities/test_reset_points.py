"""Where a history is cut, and whether the code that runs here replays what is kept."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from temporalio import workflow
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client
from temporalio.common import WorkerDeploymentVersion
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig

from activities import histories, reset_points
from activities.reset_points import NoResetPoint, Outline, last_that
from nightmill.client.converter import DATA_CONVERTER
from nightmill.contracts import Finding
from tests.stack import TemporalServer
from workflows.replaying import replays_with


def outline(*events: tuple[str, dict[str, Any]]) -> Outline:
    """Return the outline of a history of these events, by their names without `_event_attributes`."""
    taken = Outline("one")
    for number, (name, attributes) in enumerate(events, 1):
        event = HistoryEvent(event_id=number)
        getattr(event, f"{name}_event_attributes").SetInParent()
        event = HistoryEvent(event_id=number, **{f"{name}_event_attributes": attributes})
        taken.take(event)
    return taken


def task(number: int) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of a workflow task that was completed; `number` is the event before."""
    return [
        ("workflow_task_scheduled", {"attempt": 1}),
        ("workflow_task_started", {"scheduled_event_id": number + 1}),
        ("workflow_task_completed", {"scheduled_event_id": number + 1, "started_event_id": number + 2}),
    ]


STARTED: tuple[str, dict[str, Any]] = ("workflow_execution_started", {"workflow_type": {"name": "One"}})


def scheduled(by: int) -> tuple[str, dict[str, Any]]:
    return "activity_task_scheduled", {"workflow_task_completed_event_id": by}


def initiated(by: int, id_: str = "child") -> tuple[str, dict[str, Any]]:
    return (
        "start_child_workflow_execution_initiated",
        {"workflow_task_completed_event_id": by, "workflow_id": id_},
    )


@pytest.mark.parametrize(
    ("finding", "point"),
    [
        (Finding.TERMINATED, 8),
        (Finding.TIMED_OUT, 8),
        (Finding.STILL_OVERDUE, 8),
        (Finding.TASKS_FAIL, 8),
        (Finding.FAILED, 4),
        (Finding.COMPLETED, 4),
    ],
)
def test_the_last_task_is_done_again_or_the_one_before_where_it_would_only_end_the_run(
    finding: Finding, point: int
) -> None:
    found = outline(STARTED, *task(1), scheduled(4), *task(5), ("workflow_execution_signaled", {}))
    assert found.wanted(finding) == point
    assert found.points_up_to(point) == [one for one in (4, 8) if one <= point]


def test_a_run_that_ended_with_its_first_task_does_that_again() -> None:
    failed = ("workflow_execution_failed", {"failure": {"message": "own words"}})
    assert outline(STARTED, *task(1), failed).wanted(Finding.FAILED) == 4


def test_what_a_run_failed_for_is_found_beneath_its_own_words() -> None:
    failure = {
        "message": "own words",
        "application_failure_info": {"type": "Own"},
        "cause": {"activity_failure_info": {"scheduled_event_id": 5}},
    }
    events = [STARTED, *task(1), scheduled(4), *task(5), scheduled(8), *task(9), *task(12)]
    found = outline(*events, ("workflow_execution_failed", {"failure": failure}))
    assert found.wanted(Finding.FAILED) == 4


def test_what_a_child_failed_for_is_not_taken_for_an_event_of_its_parent() -> None:
    inner = {"activity_failure_info": {"scheduled_event_id": 5}}
    failure = {"child_workflow_execution_failure_info": {"initiated_event_id": 9}, "cause": inner}
    events = [STARTED, *task(1), scheduled(4), *task(5), initiated(8), *task(9)]
    found = outline(*events, ("workflow_execution_failed", {"failure": failure}))
    assert found.wanted(Finding.FAILED) == 8


def test_of_two_children_that_failed_at_once_the_one_that_was_started_first_decides() -> None:
    failure = {"child_workflow_execution_failure_info": {"initiated_event_id": 9}}
    events = [STARTED, *task(1), initiated(4, "first"), *task(5), initiated(8, "second"), *task(9)]
    ends = [("child_workflow_execution_failed", {"initiated_event_id": number}) for number in (9, 5)]
    found = outline(*events, *ends, *task(14), ("workflow_execution_failed", {"failure": failure}))
    assert found.wanted(Finding.FAILED) == 4


def test_only_children_whose_end_is_not_told_are_waited_for() -> None:
    found = outline(
        STARTED, *task(1), initiated(4, "told"), initiated(4, "open"), initiated(4, "refused"),
        ("child_workflow_execution_started", {"initiated_event_id": 5}),
        ("child_workflow_execution_completed", {"initiated_event_id": 5}),
        ("start_child_workflow_execution_failed", {"initiated_event_id": 7}),
        *task(10), initiated(13, "later"),
    )  # fmt: skip
    assert [child.workflow_id for child in found.open_children(13)] == ["open"]
    assert [child.task for child in found.open_children(13)] == [4]
    assert found.open_children(4) == []


def test_a_run_without_a_task_is_cut_where_its_first_one_would_have_started() -> None:
    scheduled_ = ("workflow_task_scheduled", {"attempt": 1})
    assert outline(STARTED, scheduled_, ("workflow_execution_terminated", {})).wanted(Finding.TERMINATED) == 3
    for events in ([STARTED], [STARTED, scheduled_], [STARTED, ("workflow_execution_terminated", {})]):
        with pytest.raises(NoResetPoint):
            outline(*events).wanted(Finding.TERMINATED)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_history_is_handed_out_with_the_task_that_is_pending(kept: int) -> None:
    history = outline(STARTED, *task(1), ("workflow_execution_signaled", {}), *task(5)[:kept]).whole()
    assert history is not None
    assert [event.event_id for event in history.events] == list(range(1, 8))
    last, before = history.events[-1], history.events[-2]
    assert last.workflow_task_started_event_attributes.scheduled_event_id == before.event_id
    assert before.HasField("workflow_task_scheduled_event_attributes")


def test_a_history_that_is_too_long_to_be_replayed_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reset_points, "KEPT_EVENTS", 7)
    found = outline(STARTED, *task(1), scheduled(4), *task(5))
    assert found.events is None
    assert found.whole() is None
    assert found.cut_at(8) is None
    assert found.wanted(Finding.TERMINATED) == 8
    monkeypatch.setattr(reset_points, "KEPT_EVENTS", 100)
    monkeypatch.setattr(reset_points, "KEPT_BYTES", 10)
    assert outline(STARTED, *task(1)).events is None


def test_bisection_finds_what_a_linear_search_does_with_few_questions() -> None:
    for count in range(70):
        for good in range(count + 1):
            asked: list[int] = []

            async def holds(point: int, *, good: int = good, asked: list[int] = asked) -> bool:
                asked.append(point)
                return point < good

            points = range(count)
            assert asyncio.run(last_that(points, holds)) == (good - 1 if good else None)
            assert len(asked) <= 8
            assert len(set(asked)) == len(asked)


# --- real code and real histories


@workflow.defn(name="Long")
class Long:
    @workflow.run
    async def run(self) -> None:
        for _ in range(65):
            await workflow.sleep(0.001)


@workflow.defn(name="Long")
class ChangedLong:
    """The same, with another command from some turn on."""

    changed_at: ClassVar[int] = 0

    @workflow.run
    async def run(self) -> None:
        for turn in range(65):
            if turn >= self.changed_at:
                await workflow.execute_local_activity("other", start_to_close_timeout=timedelta(seconds=1))
            await workflow.sleep(0.001)


@workflow.defn(name="Long")
class Raising:
    """The same, until something in it raises."""

    @workflow.run
    async def run(self) -> None:
        await workflow.sleep(0.001)
        raise KeyError("bug")


@workflow.defn(name="Long")
class Blocking:
    """The same, with a call that holds its thread."""

    @workflow.run
    async def run(self) -> None:
        time.sleep(3)


@pytest.fixture(scope="module")
def long(temporal_server: TemporalServer) -> Outline:
    """The outline of a real history of more than 300 events."""

    async def run() -> Outline:
        client = await Client.connect(temporal_server.address, data_converter=DATA_CONVERTER)
        async with Worker(
            client,
            task_queue="long",
            workflows=[Long],
            workflow_runner=UnsandboxedWorkflowRunner(),
            deployment_config=WorkerDeploymentConfig(WorkerDeploymentVersion("x", "1"), use_worker_versioning=False),
        ):
            handle = await client.start_workflow("Long", id="long", task_queue="long")
            await handle.result()
        return await histories.outline(client, "long", str(handle.result_run_id))

    return asyncio.run(run())


@pytest.mark.server
def test_of_a_long_history_the_last_point_is_found_that_changed_code_replays(
    temporal_server: TemporalServer, long: Outline
) -> None:
    async def run() -> None:
        replays = replays_with([ChangedLong], await Client.connect(temporal_server.address))

        async def holds(point: int) -> bool:
            kept = long.cut_at(point)
            assert kept is not None
            return bool(await replays(kept))

        for changed_at in (0, 40, 65):
            ChangedLong.changed_at = changed_at
            # The task of that turn is done again, and with it what the turn commands.
            assert await last_that(long.tasks, holds) == long.tasks[changed_at]
        ChangedLong.changed_at = 40
        some = [*long.tasks[:36:6], *long.tasks[36:45], *long.tasks[45::6]]
        good = [point for point in some if await holds(point)]
        assert good == [point for point in some if point <= long.tasks[40]]

    assert long.last > 300
    asyncio.run(run())


@pytest.mark.server
def test_code_that_fails_the_last_task_or_does_not_end_does_not_replay(
    temporal_server: TemporalServer, long: Outline
) -> None:
    first, second = (long.cut_at(point) for point in long.tasks[:2])
    assert first is not None
    assert second is not None

    async def run() -> None:
        client = await Client.connect(temporal_server.address)
        assert await replays_with([Long], client)(second) is True
        raising = replays_with([Raising], client)
        assert [await raising(first), await raising(second)] == [True, False]
        begun = time.monotonic()
        assert await replays_with([Blocking], client, patience=timedelta(seconds=0.3))(first) is False
        assert time.monotonic() - begun < 2.5
        # It ends without the thread that blocks, which is longer than the SDK allows a task.

    asyncio.run(run())
