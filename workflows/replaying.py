"""Tells whether the code that runs here replays a history; what recovery asks before it resets a run."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.client import Client, WorkflowHistory
from temporalio.converter import DataConverter
from temporalio.runtime import Runtime
from temporalio.worker import (
    Replayer,
    UnsandboxedWorkflowRunner,
    WorkflowInstance,
    WorkflowInstanceDetails,
)

from workflows.admission import AdmissionInterceptor

PATIENCE = timedelta(seconds=30)
"""How long a replay may take. 4,000 events take about 2 s; without a bound, code that blocks would hold it for ever."""

LONGEST_REASON = 500

_INNER = re.compile(r'message: "((?:[^"\\]|\\.)+)"')

logger = logging.getLogger("nightmill.replaying")


def replays_with(
    workflows: Sequence[type], client: Client, *, patience: timedelta = PATIENCE
) -> Callable[[WorkflowHistory], Awaitable[bool | None]]:
    """Return a function that tells whether `workflows` replay a history; of other types it answers None.

    The history must end with a started workflow task; code that fails that task does not replay it. The function may be
    called within a running worker's activity, and by several at once. A replay that does not end within `patience`
    counts as failed; its thread may go on, and holds up nobody.
    """
    replays = Replays(workflows, client.data_converter, client.namespace, patience=patience)

    async def replays_here(history: WorkflowHistory) -> bool | None:
        return None if type_of(history) not in replays.known else await replays.failure_of(history) is None

    return replays_here


def type_of(history: WorkflowHistory) -> str:
    """Return the workflow type that a history is of."""
    return history.events[0].workflow_execution_started_event_attributes.workflow_type.name


class Replays:
    """Replays histories, several at once if need be.

    Attributes:
        known: The workflows, by their types.
    """

    def __init__(
        self,
        workflows: Sequence[type],
        converter: DataConverter,
        namespace: str,
        *,
        patience: timedelta = PATIENCE,
        runtime: Runtime | None = None,
    ) -> None:
        self.known = {str(vars(one)["__temporal_workflow_definition"].name): one for one in workflows}
        self._converter = converter
        self._namespace = namespace
        self._patience = patience
        self._runtime = runtime
        self._threads = ThreadPoolExecutor(thread_name_prefix="replay")

    async def failure_of(self, history: WorkflowHistory) -> str | None:
        """Return why the code does not replay a history, in a line; None: it does."""
        type_ = type_of(history)
        if type_ not in self.known:
            return f"there is no workflow {type_} in this version"
        replayer, runner = self._replayer(self.known[type_])
        replay = _Replay(replayer, runner, history)
        ended = asyncio.wrap_future(replay.outcome)
        try:
            await asyncio.wait({ended}, timeout=self._patience.total_seconds())
            if ended.done():
                return ended.result()
        finally:
            replay.cancel()
            ended.cancel()
        logger.warning(
            "replay does not end", extra={"workflow_id": history.workflow_id, "patience": str(self._patience)}
        )
        return f"its replay does not end within {self._patience.total_seconds():.0f} s"

    def _replayer(self, code: type) -> tuple[Replayer, _WatchedRunner]:
        runner = _WatchedRunner()
        return Replayer(
            workflows=[code],
            data_converter=self._converter,
            interceptors=[AdmissionInterceptor()],
            workflow_runner=runner,
            workflow_task_executor=self._threads,
            namespace=self._namespace,
            build_id="replay",  # else one is made by compiling every module that is loaded
            runtime=self._runtime,
        ), runner


class _Replay:
    """One replay, in a thread and an event loop of its own.

    The replayer waits for code that blocks, also when it is canceled; in the worker's loop it would keep the worker
    from ending. The thread is a daemon, so that it keeps nobody.
    """

    def __init__(self, replayer: Replayer, runner: _WatchedRunner, history: WorkflowHistory) -> None:
        self.outcome: Future[str | None] = Future()
        self._replayer = replayer
        self._runner = runner
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
                failure = asyncio.run(self._replay())
            except BaseException as error:  # noqa: BLE001 - whoever asked gets it
                self.outcome.set_exception(error)
            else:
                self.outcome.set_result(failure)

    async def _replay(self) -> str | None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is one
        self._cancel = partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
        result = await self._replayer.replay_workflow(self._history, raise_on_replay_failure=False)
        if result.replay_failure is not None:
            return _line(str(result.replay_failure))
        return self._runner.failure


class _WatchedRunner(UnsandboxedWorkflowRunner):
    """Takes note of a failing task. The replayer tells of all but the last, which it drops as soon as it was run."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: str | None = None

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        instance = super().create_instance(det)
        activate = instance.activate

        def watched(act: WorkflowActivation) -> WorkflowActivationCompletion:
            completion = activate(act)
            if completion.HasField("failed") and self.failure is None:
                self.failure = _line(completion.failed.failure.message)
            return completion

        instance.activate = watched  # type: ignore[method-assign]
        return instance


def _line(message: str) -> str:
    inner = _INNER.search(message)  # the SDK's core wraps what it has to say into what its language prints
    message = inner[1] if inner else message
    return " ".join(message.split())[:LONGEST_REASON] or "it fails, and does not say why"
