"""Does the Temporal server mind fairness keys? It does not say, so it is tried.

On a task queue of its own, workflows that nobody runs wait in line: a crowd of one key, then a few of other keys. Their
tasks are fetched, in the order in which the server hands them out, and everything is deleted. A server that minds the
keys hands the few out early, another one after the crowd. Nothing in the API of 1.32 tells the two apart.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DeleteWorkflowExecutionRequest,
    DescribeTaskQueueRequest,
    ListTaskQueuePartitionsRequest,
    PollWorkflowTaskQueueRequest,
)
from temporalio.client import Client, WorkflowHandle
from temporalio.common import Priority
from temporalio.service import RPCError

from nightmill.errors import TemporalUnreachable

CROWD, FEW = 9, 3
"""For one partition: the few come second to fourth, or last."""

LARGE_CROWD, LARGE_FEW = 24, 8
TRIES = 3
"""For several partitions, of which the server empties one after the other, in an order of chance."""

LIMIT = 0.46
"""Seen with one partition: 0.1 and 1.0. With four, over eighteen tries each: 0.10 to 0.43 and 0.52 to 0.89."""

_FORGOTTEN_AFTER = timedelta(minutes=1)
_POLL = timedelta(seconds=5)  # shorter than about two seconds the server refuses
_IN_LINE_WITHIN = timedelta(seconds=10)
_CROWD_KEY = "crowd"


@dataclass(frozen=True)
class Probe:
    """What was seen.

    Attributes:
        is_fair: Whether keys have an effect.
        partitions: Partitions of a task queue; over more than one, the order is fair on average only.
        waited: Share of the crowd that came before one of the few, on average.
    """

    is_fair: bool
    partitions: int
    waited: float


async def probe(client: Client) -> Probe:
    """Try whether the server minds fairness keys; takes a second or two and leaves nothing behind.

    Raises:
        RPCError: The server does not allow it, or does not answer.
        TemporalUnreachable: It is too slow to try.
    """
    listed = await client.workflow_service.list_task_queue_partitions(
        ListTaskQueuePartitionsRequest(namespace=client.namespace, task_queue=TaskQueue(name=_new_queue()))
    )
    partitions = max(1, len(listed.workflow_task_queue_partitions))
    if partitions == 1:
        waited = await _try_once(client, CROWD, FEW)
    else:
        waited = sum([await _try_once(client, LARGE_CROWD, LARGE_FEW) for _ in range(TRIES)]) / TRIES
    return Probe(is_fair=waited < LIMIT, partitions=partitions, waited=waited)


async def _try_once(client: Client, crowd: int, few: int) -> float:
    """Return what `share_before` says of one line."""
    queue = _new_queue()
    started: list[WorkflowHandle[object, object]] = []
    try:
        for keys in ([_CROWD_KEY] * crowd, [f"one-{n}" for n in range(few)]):
            starts = (_start(client, queue, f"{queue}/{len(started) + n}", key) for n, key in enumerate(keys))
            started += await asyncio.gather(*starts)
            await _stand_in_line(client, queue, len(started))
        return share_before([await _next_key(client, queue) for _ in started])
    finally:
        await asyncio.gather(*(_delete(client, handle) for handle in started))


def _new_queue() -> str:
    return f"nightmill-doctor-{secrets.token_hex(8)}"


def share_before(order: list[str]) -> float:
    """Return which share of the crowd comes before one of the few, on average over the few: 1.0 is first come first."""
    before = seen = 0
    for key in order:
        seen += key == _CROWD_KEY
        before += seen if key != _CROWD_KEY else 0
    few = len(order) - seen
    return before / (seen * few) if seen and few else 1.0


async def _start(client: Client, queue: str, workflow_id: str, key: str) -> WorkflowHandle[object, object]:
    return await client.start_workflow(
        "NightmillDoctor",
        id=workflow_id,
        task_queue=queue,
        run_timeout=_FORGOTTEN_AFTER,
        priority=Priority(fairness_key=key),
    )


async def _stand_in_line(client: Client, queue: str, count: int) -> None:
    """Wait until so many tasks are in the queue's backlog: a started workflow's task gets there a little later."""
    listed = await client.workflow_service.list_task_queue_partitions(
        ListTaskQueuePartitionsRequest(namespace=client.namespace, task_queue=TaskQueue(name=queue))
    )
    partitions = [partition.key for partition in listed.workflow_task_queue_partitions] or [queue]
    give_up_at = asyncio.get_running_loop().time() + _IN_LINE_WITHIN.total_seconds()
    while sum(await asyncio.gather(*(_waiting(client, name) for name in partitions))) < count:
        if asyncio.get_running_loop().time() > give_up_at:
            raise TemporalUnreachable(f"tasks were not in line after {_IN_LINE_WITHIN.total_seconds():g} s")
        await asyncio.sleep(0.05)


async def _waiting(client: Client, partition: str) -> int:
    # The newer `report_stats` answers from a memory that is up to ten seconds old.
    described = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=partition),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
            include_task_queue_status=True,
        )
    )
    return described.task_queue_status.backlog_count_hint


async def _next_key(client: Client, queue: str) -> str:
    task = await client.workflow_service.poll_workflow_task_queue(
        PollWorkflowTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=queue), identity="nightmill doctor"
        ),
        timeout=_POLL,
    )
    if not task.history.events:
        return _CROWD_KEY
    return task.history.events[0].workflow_execution_started_event_attributes.priority.fairness_key


async def _delete(client: Client, handle: WorkflowHandle[object, object]) -> None:
    """Delete a workflow that runs, or at least end it; after a minute it ends by itself."""
    execution = WorkflowExecution(workflow_id=handle.id, run_id=handle.first_execution_run_id or "")
    try:
        await client.workflow_service.delete_workflow_execution(
            DeleteWorkflowExecutionRequest(namespace=client.namespace, workflow_execution=execution)
        )
    except RPCError:  # deleting is a right of its own
        with suppress(RPCError):
            await handle.terminate(reason="nightmill doctor")
