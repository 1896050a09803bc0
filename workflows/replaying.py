"""Tells whether the code that runs here replays a history; what recovery asks before it resets a run."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.client import Client, WorkflowHistory
from temporalio.worker import (
    Replayer,
    UnsandboxedWorkflowRunner,
    WorkflowInstance,
    WorkflowInstanceDetails,
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
    counts as failed; its thread may go on, and holds up nobody.
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
        replay = _Replay(code, self.client, self.threads, history)
        ended = asyncio.wrap_future(replay.outcome)
        try:
            await asyncio.wait({ended}, timeout=self.patience.total_seconds())
            if ended.done():
                return ended.result()
        finally:
            replay.cancel()
            ended.cancel()
        logger.warning(
            "replay does not end", extra={"workflow_id": history.workflow_id, "patience": str(self.patience)}
        )
        return False


class _Replay:
    """One replay, in a thread and an event loop of its own.

    The replayer waits for code that blocks, also when it is canceled; in the worker's loop it would keep the worker
    from ending. The thread is a daemon, so that it keeps nobody.
    """

    def __init__(self, code: type, client: Client, threads: ThreadPoolExecutor, history: WorkflowHistory) -> None:
        self.outcome: Future[bool] = Future()
        self._runner = _WatchedRunner()
        self._replayer = Replayer(
            workflows=[code],
            data_converter=client.data_converter,
            interceptors=[AdmissionInterceptor()],
            workflow_runner=self._runner,
            workflow_task_executor=threads,
            namespace=client.namespace,
            build_id="replay",  # else one is made by compiling every module that is loaded
        )
        self._history = history
        self._cancel: Callable[[], object] | None = None
        threading.Thread(target=self._run, name="replay", daemon=True).start()

    def cancel(self) -> None:
        """End it, if it can be ended."""
        cancel = self._cancel
        if cancel is not None and not self.outcome.done():
            with suppress(RuntimeError):  # it has ended just now, and closed its loop
                cancel()

    def _run(self) -> None:
        with suppress(InvalidStateError):  # whoever asked has gone
            try:
                replays = asyncio.run(self._replay())
            except BaseException as error:  # noqa: BLE001 - whoever asked gets it
                self.outcome.set_exception(error)
            else:
                self.outcome.set_result(replays)

    async def _replay(self) -> bool:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is one
        self._cancel = partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
        result = await self._replayer.replay_workflow(self._history, raise_on_replay_failure=False)
        return result.replay_failure is None and not self._runner.has_failed


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
