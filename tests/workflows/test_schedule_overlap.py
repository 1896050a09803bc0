"""Schedules whose runs take longer than their interval."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from temporalio.client import ScheduleDescription, ScheduleIntervalSpec, ScheduleSpec

from nightmill.client.connection import register_search_attributes
from nightmill.client.schedules import RECONCILER
from tests.stack import Stack
from workflows.story import SEARCH_ATTRIBUTES

pytestmark = pytest.mark.server


def test_a_run_that_takes_longer_than_its_interval_is_not_overtaken_and_what_is_skipped_is_counted(
    stack: Stack,
) -> None:
    found, runs = asyncio.run(_overlapping(stack))
    assert found.info.num_actions == 1
    assert len(found.info.running_actions) == 1
    assert found.info.num_actions_skipped_overlap >= 2
    assert runs == 1


async def _overlapping(stack: Stack) -> tuple[ScheduleDescription, int]:
    """Let the reconciler's schedule come round every second, and its first run go on for ever: no worker takes it."""
    with stack.assembly() as assembly:
        client = (await stack.nightmill(assembly)).temporal
        await register_search_attributes(client, SEARCH_ATTRIBUTES)
        made = RECONCILER.schedule(assembly.settings)
        every_second = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=1))])
        name = f"overlap-{stack.task_queue}"
        schedule = await client.create_schedule(
            name, replace(made, spec=every_second, action=replace(made.action, id=name))
        )
        async with asyncio.timeout(60):
            while (await schedule.describe()).info.num_actions_skipped_overlap < 2:
                await asyncio.sleep(0.2)
        found = await schedule.describe()
        await schedule.delete()
        history = [one async for one in client.list_workflows(f'TaskQueue = "{stack.task_queue}"')]
        for one in history:
            await client.get_workflow_handle(one.id).terminate()
    return found, len(history)
