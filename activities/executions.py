"""What recovery sees of workflows on Temporal and does to them: describe, reset, start, signal.

How a reset behaves on the server, as measured (Server 1.32):

- The old run is terminated if it was running. What was pending at the point begins again in the new run: activities at
  attempt 1, whether they had failed since or not. Signals and updates after the point are applied again. A cancel
  request before the point is kept; one after it is dropped, which is why `Executions.reset` sends it again.
- Children of a run that is reset go on. The end of one that was started before the point is told to the new run, also
  if it came between point and reset. One that was started after the point goes on without a parent that knows of it:
  the new run cannot start another by its id before it ends; `ModelCompletionBatch` waits for that.
- Children of a run that ended by itself, or was terminated, are terminated with it, unless they are abandoned, and
  nothing in its history says so. A new run that thinks it has started them waits for ever. So it is cut before.
- A child that is reset stays its parent's: the end of the new run is told to the parent, and nothing has to be done.
- The server neither deduplicates resets by their request id nor compares the current run: see `Executions.reset`.
"""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeWorkflowExecutionRequest,
    DescribeWorkflowExecutionResponse,
    ListWorkflowExecutionsRequest,
    ResetActivityRequest,
    ResetWorkflowExecutionRequest,
)
from temporalio.client import Client, WorkflowHandle, WorkflowHistory
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode

from activities import histories, sightings
from activities.histories import PATIENCE
from activities.reset_points import last_that
from nightmill import ids
from nightmill.contracts import BatchInput, Finding
from nightmill.errors import PermanentError, TransientError
from nightmill.recovery.model import Candidate, RunState, Seen

Replays = Callable[[WorkflowHistory], Awaitable[bool | None]]
"""Tells whether the code that runs here replays a history; None: it does not know the workflow type."""

BATCH = "ModelCompletionBatch"
TYPES = (
    BATCH,
    "ProviderBatch",
    "DocumentSync",
    "DocumentSyncSweep",
    "SiteCrawl",
    "DocumentSlicing",
    "SlicerHealth",
)
"""Workflow types whose failing tasks are ours to repair."""

GONE_AFTER = timedelta(seconds=70)
"""A worker's poll ends after a minute at the latest, and it asks again; who has not asked for longer is gone."""

CHOSEN_WITHIN = timedelta(minutes=1)
"""For replaying one history again and again until it is known where to cut it; a dozen times at most."""

_REPORTED = "TemporalReportedProblems IS NOT NULL AND ExecutionStatus = 'Running'"


class RunChanged(PermanentError):
    """Another run is the present one by now: it is left alone."""

    code: ClassVar[str] = "run_changed"


class CancelNotCarried(TransientError):
    """A run was replaced, and it is not known whether a cancel request went over to the new one."""

    code: ClassVar[str] = "cancel_not_carried"


@contextmanager
def _none_if_gone() -> Iterator[None]:
    """Pass over what the server does not find."""
    try:
        yield
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise


@dataclass(frozen=True)
class Executions:
    """The workflows of one namespace.

    Attributes:
        client: Leads there.
        replays: Asked before a reset; without it a run whose tasks fail is reset to its beginning.
        task_queue: Of all workflows but slicings.
        slicing_queue: Of slicings.
        chosen_within: How long it may take to find out where code replays; then a run is reset to its beginning.
    """

    client: Client
    replays: Replays | None
    task_queue: str
    slicing_queue: str
    chosen_within: timedelta = CHOSEN_WITHIN

    # --- looking

    async def look(self, workflow_id: str) -> Seen | None:
        """Return how a workflow's present run stands, by a strongly consistent read; None: there is none.

        Raises:
            RPCError: The server cannot tell.
        """
        found = await self._describe(workflow_id)
        if found is None:
            return None
        seen = sightings.seen_in(found)
        if seen.state is RunState.FAILED:
            close = await histories.close_event(self.client, workflow_id, seen.run_id)
            failure = close.workflow_execution_failed_event_attributes.failure
            type_, message = sightings.reason_in(await self.client.data_converter.decode_failure(failure))
            return replace(seen, failure_type=type_, failure=message)
        if seen.state is RunState.COMPLETED and found.workflow_execution_info.type.name == BATCH:
            close = await histories.close_event(self.client, workflow_id, seen.run_id)
            result = close.workflow_execution_completed_event_attributes.result.payloads
            return replace(seen, failure=await sightings.lost_batch_in(result, self.client.data_converter))
        return seen

    async def diagnose(self, workflow_id: str, seen: Seen) -> Seen:
        """Return `seen` with whose code the tasks fail, and whether the code here would go on; else as it is.

        Only of a run whose pending workflow task has failed before.

        Raises:
            RPCError: The server cannot tell.
        """
        if seen.state is not RunState.RUNNING or seen.task_attempt <= 1:
            return seen
        whole = (await histories.outline(self.client, workflow_id, seen.run_id)).whole()
        replays = await self.replays(whole) if self.replays and whole else None
        failed = await histories.failed_task(self.client, workflow_id, seen.run_id)
        return replace(seen, failed_build=sightings.build_of(failed) if failed else None, replays=replays)

    async def present_run(self, workflow_id: str) -> str | None:
        """Return the id of a workflow's present run, open or closed; None: there is none."""
        found = await self._describe(workflow_id)
        return found.workflow_execution_info.execution.run_id if found else None

    async def idle_queues(self, queues: Iterable[str], *, now: datetime | None = None) -> frozenset[str]:
        """Return those task queues of which no worker has asked for a workflow task lately.

        Args:
            queues: The task queues.
            now: The present by the server's clock, which says when workers asked; by default that of this machine.
        """
        since = (now or datetime.now(UTC)) - GONE_AFTER
        idle = set()
        for queue in queues:
            found = await self.client.workflow_service.describe_task_queue(
                DescribeTaskQueueRequest(
                    namespace=self.client.namespace,
                    task_queue=TaskQueue(name=queue),
                    task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
                ),
                retry=True,
                timeout=PATIENCE,
            )
            if not any(one.last_access_time.ToDatetime(UTC) > since for one in found.pollers):
                idle.add(queue)
        return frozenset(idle)

    async def problems(self, after: str | None, limit: int) -> tuple[list[Candidate], str | None]:
        """Return a page of our workflows whose tasks the server reports to fail, and where the next page begins.

        The server reports it after five failed tries in a row, about a minute. A page may hold fewer than `limit`, even
        none, and not be the last one; the host's own workflows are not among them.
        """
        types = ", ".join(f"'{one}'" for one in TYPES)
        queues = ", ".join(f"'{one}'" for one in (self.task_queue, self.slicing_queue))
        found = await self.client.workflow_service.list_workflow_executions(
            ListWorkflowExecutionsRequest(
                namespace=self.client.namespace,
                page_size=limit,
                next_page_token=base64.b64decode(after) if after else b"",
                query=f"{_REPORTED} AND WorkflowType IN ({types}) AND TaskQueue IN ({queues})",
            ),
            retry=True,
            timeout=PATIENCE,
        )
        page = [sightings.candidate_of(one) for one in found.executions]
        token = base64.b64encode(found.next_page_token).decode() or None
        return [one for one in page if one is not None], token

    # --- repairing

    async def choose_point(self, workflow_id: str, run_id: str, finding: Finding) -> int:
        """Return the event where a run is best cut for what was found; may take a minute, and changes nothing.

        It is where `Outline.wanted` says; or earlier, so that no child is waited for in vain, and that the code here
        replays what is kept. The first task always does: code begins at the top, and its rows say what has been done.

        Raises:
            NoResetPoint: The run has never had a workflow task.
            RPCError: The server cannot tell.
        """
        outline = await histories.outline(self.client, workflow_id, run_id)
        wanted = outline.wanted(finding)
        if not outline.tasks:
            return wanted
        waited_for = outline.open_children(wanted)
        lost = [child.task for child in waited_for if not await self._goes_on(child.workflow_id, parent=workflow_id)]

        async def replays(point: int) -> bool:
            kept = outline.cut_at(point)
            answer = await self.replays(kept) if self.replays and kept else None
            # Nobody can tell: fine, unless it is known that some of it does not replay.
            return finding is not Finding.TASKS_FAIL if answer is None else answer

        with suppress(TimeoutError):
            async with asyncio.timeout(self.chosen_within.total_seconds()):
                found = await last_that(outline.points_up_to(min([wanted, *lost])), replays)
                return found or outline.tasks[0]
        return outline.tasks[0]

    async def reset(
        self,
        workflow_id: str,
        run_id: str,
        *,
        finding: Finding,
        reason: str,
        identity: str = "nightmill-reconciler",
        point: int | None = None,
    ) -> tuple[str, int]:
        """Reset a run; return the new run's id and the event where the history was cut.

        Whoever calls has recorded the intent. Right before the call the present run is compared with `run_id`: the
        server would reset an old run as well, and end the present one. It is called once; after an answer that was
        lost, look whether the present run is another, and call `carry_cancel`.

        Args:
            workflow_id: The workflow.
            run_id: The run that was looked at.
            finding: What was found.
            reason: For the UI. Temporal stores it as it is: where payloads are encrypted only what was found is told,
                because the reason may hold a failure's text.
            identity: Who does it, for the UI.
            point: What `choose_point` said; without it, that is asked now.

        Raises:
            NoResetPoint: The run has never had a workflow task.
            RunChanged: It is not the present run any more; nothing was done.
            CancelNotCarried: The run was reset; call `carry_cancel`.
            RPCError: The server refused, or its answer was lost; then nobody knows.
        """
        if point is None:
            point = await self.choose_point(workflow_id, run_id, finding)
        if await self.present_run(workflow_id) != run_id:
            raise RunChanged(f"workflow {workflow_id}: run {run_id} is not the present one any more")
        answer = await self.client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=self.client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
                reason=reason if self.client.data_converter.payload_codec is None else finding.value,
                workflow_task_finish_event_id=point,
                request_id=str(uuid.uuid4()),
                identity=identity,
            ),
            timeout=PATIENCE,
        )
        await self.carry_cancel(workflow_id, old_run=run_id, new_run=answer.run_id)
        return answer.run_id, point

    async def carry_cancel(self, workflow_id: str, *, old_run: str, new_run: str) -> bool:
        """Cancel a new run if its old one had been asked to; return whether it had. A second call changes nothing.

        A reset drops the cancel requests that came after the point, and keeps those before, where one more is ignored.

        Raises:
            CancelNotCarried: The server did not answer, or refused.
        """
        try:
            found = await self._describe(workflow_id, old_run)
            if found is None or not found.workflow_extended_info.cancel_requested:
                return False
            with _none_if_gone():  # the new run has ended already
                await self._handle(workflow_id, new_run).cancel(rpc_timeout=PATIENCE)
        except RPCError as error:
            raise CancelNotCarried(
                f"workflow {workflow_id}, from run {old_run} to {new_run}: {error.message}"
            ) from error
        return True

    async def reset_activity(self, workflow_id: str, run_id: str, activity_id: str) -> None:
        """Let an activity that waits for its next attempt begin at once, as attempt 1; its heartbeat's details stay."""
        await self.client.workflow_service.reset_activity(
            ResetActivityRequest(
                namespace=self.client.namespace,
                execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
                identity="nightmill-reconciler",
                id=activity_id,
            ),
            timeout=PATIENCE,
        )

    async def poll_now(self, workflow_id: str, run_id: str) -> None:
        """Ask a batch or a part to do at once what is next."""
        await self._handle(workflow_id, run_id).signal("poll_now", rpc_timeout=PATIENCE)

    async def start_batch(self, batch_id: str, *, summary: str, terminate_existing: bool = False) -> str:
        """Start a run that goes on with a stored batch from its rows; return its id, or that of the one that runs.

        Attributes are read again from the rows by its first step. A second call does nothing while the first one's run
        is open.

        Args:
            batch_id: The batch.
            summary: One line for the UI.
            terminate_existing: End a run that is open, in the same transaction.
        """
        conflict = (
            WorkflowIDConflictPolicy.TERMINATE_EXISTING if terminate_existing else WorkflowIDConflictPolicy.USE_EXISTING
        )
        handle = await self.client.start_workflow(
            BATCH,
            BatchInput(batch_id=batch_id).model_dump(exclude_unset=True),  # the rest would be eleven nulls in the UI
            id=ids.batch_workflow_id(batch_id),
            task_queue=self.task_queue,
            id_conflict_policy=conflict,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=summary,
            rpc_timeout=PATIENCE,
        )
        return str(handle.result_run_id)  # the first run's id is another one where a run was reset

    # --- inner

    def _handle(self, workflow_id: str, run_id: str | None = None) -> WorkflowHandle[object, object]:
        return self.client.get_workflow_handle(workflow_id, run_id=run_id)

    async def _describe(self, workflow_id: str, run_id: str = "") -> DescribeWorkflowExecutionResponse | None:
        # Not the handle's own `describe`, which fails for a workflow that is paused.
        with _none_if_gone():
            return await self.client.workflow_service.describe_workflow_execution(
                DescribeWorkflowExecutionRequest(
                    namespace=self.client.namespace,
                    execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
                ),
                retry=True,
                timeout=PATIENCE,
            )
        return None

    async def _goes_on(self, workflow_id: str, *, parent: str) -> bool:
        """Return whether a child runs whose end will be told to its parent's new run."""
        found = await self._describe(workflow_id)
        if found is None or found.workflow_execution_info.parent_execution.workflow_id != parent:
            return False
        return sightings.state_in(found.workflow_execution_info.status) in (RunState.RUNNING, RunState.PAUSED)
