"""Tells whether the code that runs here replays a history; what recovery asks before it resets a run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.client import Client, WorkflowHistory
from temporalio.worker import (
    Replayer,
    UnsandboxedWorkflowRunner,
    WorkflowInstance,
    WorkflowInstanceDetails,
    WorkflowReplayResult,
)

from workflows.admission import AdmissionInterceptor

PATIENCE = timedelta(seconds=30)
"""How long a replay may take. 4,000 events take about 2 s; without a bound, code that blocks would hold it for ever."""

logger = logging.getLogger("nightmill.replaying")


def replays_with(
    workflows: Sequence[type], client: Client, *, patience: timedelta = PATIENCE
) -> Callable[[WorkflowHistory], Awaitable[bool | None]]:
    """Return a function that tells whether `workflows` replay a history; of other types it answers None.

    The history must end with a started workflow task; code that fails that task does not replay it. The function may be
    called within a running worker's activity, and by several at once. A replay that does not end within `patience`
    counts as failed; its thread may go on.
    """
    known = {str(vars(one)["__temporal_workflow_definition"].name): one for one in workflows}
    return _Replays(known, client, patience, ThreadPoolExecutor(thread_name_prefix="replay"))


@dataclass(frozen=True)
class _Replays:
    known: dict[str, type]
    client: Client
    patience: timedelta
    threads: ThreadPoolExecutor

    async def __call__(self, history: WorkflowHistory) -> bool | None:
        code = self.known.get(history.events[0].workflow_execution_started_event_attributes.workflow_type.name)
        if code is None:
            return None
        runner = _WatchedRunner()
        replayer = Replayer(
            workflows=[code],
            data_converter=self.client.data_converter,
            interceptors=[AdmissionInterceptor()],
            workflow_runner=runner,
            workflow_task_executor=self.threads,
            namespace=self.client.namespace,
            build_id="replay",  # else one is made by compiling every module that is loaded
        )
        replay = asyncio.create_task(replayer.replay_workflow(history, raise_on_replay_failure=False))
        try:
            # Not `wait_for`, which waits for what it has canceled; code that blocks a thread does not hear of it.
            await asyncio.wait({replay}, timeout=self.patience.total_seconds())
            if replay.done():
                return replay.result().replay_failure is None and not runner.has_failed
        finally:
            replay.cancel()
            replay.add_done_callback(_forget)
        logger.warning(
            "replay does not end", extra={"workflow_id": history.workflow_id, "patience": str(self.patience)}
        )
        return False


class _WatchedRunner(UnsandboxedWorkflowRunner):
    """Takes note of a failing task. The replayer tells of all but the last, which it drops as soon as it was run."""

    def __init__(self) -> None:
        super().__init__()
        self.has_failed = False

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        instance = super().create_instance(det)
        activate = instance.activate

        def watched(act: WorkflowActivation) -> WorkflowActivationCompletion:
            completion = activate(act)
            self.has_failed = self.has_failed or completion.HasField("failed")
            return completion

        instance.activate = watched  # type: ignore[method-assign]
        return instance


def _forget(replay: asyncio.Task[WorkflowReplayResult]) -> None:
    """Take note of how it ended, of which nobody else will; else it would be reported as never retrieved."""
    if not replay.cancelled() and (error := replay.exception()) is not None:
        logger.debug("replay ended late", exc_info=error)
