"""Which running workflows this version of the code could not go on with, told before it is deployed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from google.protobuf.json_format import ParseError
from temporalio.api.workflowservice.v1 import ListWorkflowExecutionsRequest
from temporalio.client import Client, WorkflowHistory
from temporalio.converter import DataConverter
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError, RPCStatusCode

from activities import histories
from activities.reset_points import Outline
from nightmill.errors import InvalidInput
from nightmill.recovery.rehearsed import Rehearsed
from workflows.replaying import Replays

WORKFLOWS_A_PAGE = 200

_CLOSED = ("completed", "failed", "canceled", "terminated", "timed_out", "continued_as_new")
_CLOSING = frozenset(f"workflow_execution_{way}_event_attributes" for way in _CLOSED)


class Rehearsal:
    """Replays what runs, or what was stored, with some workflows. It only reads."""

    def __init__(self, workflows: Sequence[type], converter: DataConverter, namespace: str) -> None:
        # What does not replay is told to whoever asked; the SDK's core would write it to standard output.
        silent = Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(TelemetryFilter("OFF", "OFF"))))
        self._replays = Replays(workflows, converter, namespace, runtime=silent)

    async def running(self, client: Client, task_queues: Sequence[str]) -> AsyncIterator[Rehearsed]:
        """Replay what runs on these task queues, one run after the other. It only reads.

        A run that is deleted meanwhile is left out.

        Raises:
            RPCError: The server cannot tell.
        """
        queues = ", ".join(f'"{queue}"' for queue in task_queues)
        token = b""
        while True:
            page = await client.workflow_service.list_workflow_executions(
                ListWorkflowExecutionsRequest(
                    namespace=client.namespace,
                    query=f"ExecutionStatus = 'Running' AND TaskQueue IN ({queues})",
                    page_size=WORKFLOWS_A_PAGE,
                    next_page_token=token,
                ),
                retry=True,
                timeout=histories.PATIENCE,
            )
            for info in page.executions:
                try:
                    outline = await histories.outline(client, info.execution.workflow_id, info.execution.run_id)
                except RPCError as error:
                    if error.status is not RPCStatusCode.NOT_FOUND:
                        raise
                    continue
                yield await self._replayed(outline, info.execution.run_id)
            token = page.next_page_token
            if not token:
                return

    async def stored(self, name: str, text: str) -> Rehearsed:
        """Replay a history as `temporal workflow show --output json` prints it.

        Raises:
            InvalidInput: It is none.
        """
        try:
            events = WorkflowHistory.from_json(name, text).events
        except (ParseError, ValueError, TypeError, AttributeError) as error:
            raise InvalidInput(f"{name}: no history in JSON: {' '.join(str(error).split())[:200]}") from None
        if not events or not events[0].HasField("workflow_execution_started_event_attributes"):
            raise InvalidInput(f"{name}: no history: it does not begin with the start of a workflow")
        started = events[0].workflow_execution_started_event_attributes
        outline = Outline(started.workflow_id or name)
        for event in events:
            outline.take(event)
        return await self._replayed(outline, started.original_execution_run_id)

    async def _replayed(self, outline: Outline, run_id: str) -> Rehearsed:
        events = outline.events
        if events is None:
            too_long = f"its history of {outline.last:,} events is too long to be replayed here"
            return Rehearsed(outline.workflow_id, run_id, outline.type, None, too_long)
        is_closed = events[-1].WhichOneof("attributes") in _CLOSING
        # What is open is given a task to run, so that code that fails where it stands now is found, too.
        history = WorkflowHistory(outline.workflow_id, events) if is_closed else outline.whole()
        assert history is not None  # noqa: S101 - its events are there
        reason = await self._replays.failure_of(history)
        return Rehearsed(outline.workflow_id, run_id, outline.type, reason is None, reason)
