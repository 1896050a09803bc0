"""Resets of real workflows on a real server: what is done again, what stays, and what must not be waited for."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from datetime import timedelta

import pytest
from pydantic import SecretStr
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    ResetWorkflowExecutionRequest,
)
from temporalio.client import Client, WorkflowHistory
from temporalio.service import RPCError

from activities.executions import RunChanged
from activities.reset_points import NoResetPoint
from nightmill.client.converter import data_converter
from nightmill.contracts import Finding
from nightmill.recovery.model import RunState
from tests.scenes import SOON, ChangedStory, RaisingStory, Scene, scene

pytestmark = pytest.mark.server


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
        handle = await scene.start("DocumentSync", run_timeout=timedelta(seconds=8))
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
async def test_a_run_that_is_not_the_present_one_any_more_is_left_alone(scene: Scene) -> None:
    handle = await scene.start("DocumentSync")
    await handle.terminate()
    old = str(handle.result_run_id)
    new, point = await scene.reset(handle, Finding.TERMINATED)
    with pytest.raises(RunChanged):
        await scene.executions.reset(handle.id, old, finding=Finding.TERMINATED, reason="a test", point=point)
    assert await scene.executions.present_run(handle.id) == new
    with pytest.raises(RPCError):
        await scene.executions.reset("never", old, finding=Finding.TERMINATED, reason="a test")


@scene
async def test_a_run_is_cut_at_its_beginning_where_nobody_can_tell_in_time_what_replays(scene: Scene) -> None:
    async def ponder(history: WorkflowHistory) -> bool:
        await asyncio.sleep(100)
        return True

    async with scene.worker():
        handle = await scene.start("DocumentSync", start_signal="go_on")
        seen = await scene.idle(handle, "first", "second")
    slow = replace(scene.executions, replays=ponder, chosen_within=timedelta(milliseconds=100))
    blind = replace(scene.executions, replays=None)
    assert await slow.choose_point(handle.id, seen.run_id, Finding.TERMINATED) <= 5
    assert await blind.choose_point(handle.id, seen.run_id, Finding.TASKS_FAIL) <= 5
    assert await blind.choose_point(handle.id, seen.run_id, Finding.TERMINATED) > 5


@scene
async def test_the_cut_of_a_reset_is_not_taken_for_a_failing_task(scene: Scene) -> None:
    handle = await scene.start("DocumentSync")
    async with scene.worker():
        await scene.idle(handle, "first")
    await scene.reset(handle, Finding.STILL_OVERDUE)
    new = await scene.executions.look(handle.id)
    assert new is not None
    told = await scene.executions.diagnose(handle.id, replace(new, task_attempt=2))
    assert (told.failed_build, told.replays) == (None, True)


@scene
async def test_what_is_encrypted_is_read_and_replayed(scene: Scene) -> None:
    key = SecretStr(base64.b64encode(b"k" * 32).decode())
    address = scene.client.service_client.config.target_host
    secret = Scene(await Client.connect(address, data_converter=data_converter(key)), scene.name)
    secret.effects.failures = {"second": 1}
    async with secret.worker():
        handle = await secret.start("DocumentSync", start_signal="go_on")
        seen = await secret.ends(handle)
        assert (seen.failure_type, seen.failure) == ("Broken", "second fails")
        why = f"its run is failed: {seen.failure}"
        new, point = await secret.executions.reset(handle.id, seen.run_id, finding=Finding.FAILED, reason=why)
        assert point > 5
        await secret.client.get_workflow_handle(handle.id).signal("go_on")
        assert await secret.result(handle, new) == "third"
        history = await secret.client.get_workflow_handle(handle.id, run_id=new).fetch_history()
        assert "second fails" not in str(history.events), "the reason of a reset is stored as it is"


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
        await scene.seen(child, lambda seen: True)
        await scene.tasks(child, 1)
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
