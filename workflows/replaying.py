"""Tells whether the code that runs here replays a history; what recovery asks before it resets a run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial

from temporalio.client import Client, WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner
from temporalio.worker import WorkflowReplayResult as Result

from workflows.admission import AdmissionInterceptor

PATIENCE = timedelta(seconds=30)
"""How long a replay may take. 4,000 events take about 2 s; without a bound, code that blocks would hold it for ever."""

logger = logging.getLogger("nightmill.replaying")


def replays_with(
    workflows: Sequence[type], client: Client, *, patience: timedelta = PATIENCE
) -> Callable[[WorkflowHistory], Awaitable[bool | None]]:
    """Return a function that tells whether `workflows` replay a history; of other types it answers None.

    The history must end with a started workflow task. It may be called within a running worker's activity, and by
    several at once. A replay that does not end within `patience` counts as failed; its thread may go on.
    """
    replayer = Replayer(
        workflows=workflows,
        data_converter=client.data_converter,
        interceptors=[AdmissionInterceptor()],
        workflow_runner=UnsandboxedWorkflowRunner(),
        namespace=client.namespace,
        build_id="replay",  # else one is made by compiling every module that is loaded
    )
    known = frozenset(_type_name(one) for one in workflows)
    return partial(_replays, replayer, known, patience)


async def _replays(
    replayer: Replayer, known: frozenset[str], patience: timedelta, history: WorkflowHistory
) -> bool | None:
    if history.events[0].workflow_execution_started_event_attributes.workflow_type.name not in known:
        return None
    replay = asyncio.create_task(replayer.replay_workflow(history, raise_on_replay_failure=False))
    try:
        # Not `wait_for`, which waits for what it has cancelled; code that blocks a thread does not hear of it.
        await asyncio.wait({replay}, timeout=patience.total_seconds())
        if replay.done():
            return replay.result().replay_failure is None
    finally:
        replay.cancel()
        replay.add_done_callback(_forget)
    logger.warning("replay does not end", extra={"workflow_id": history.workflow_id, "patience": str(patience)})
    return False


def _forget(replay: asyncio.Task[Result]) -> None:
    """Take note of how it ended, of which nobody else will; else it would be reported as never retrieved."""
    if not replay.cancelled() and (error := replay.exception()) is not None:
        logger.debug("replay ended late", exc_info=error)


def _type_name(workflow: type) -> str:
    return str(vars(workflow)["__temporal_workflow_definition"].name)
