"""Reads what the server says of a workflow into the words that decisions are made of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import PendingActivityState, WorkflowExecutionStatus
from temporalio.api.history.v1 import WorkflowTaskFailedEventAttributes
from temporalio.api.workflow.v1 import PendingActivityInfo, WorkflowExecutionInfo
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError

from nightmill.contracts import BatchSummary, Subject
from nightmill.recovery.model import ActivityState, Candidate, RunState, Seen, SeenActivity

LONGEST_MESSAGE = 1_000
"""Of a failure; the column that keeps it, and people, need no more."""

LOST_BATCH = "batch not found"
"""The reason that a batch's run gives which ended since its row was gone: `workflows.batch_completion`."""

_STATES = {
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING: RunState.RUNNING,
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_PAUSED: RunState.PAUSED,
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED: RunState.COMPLETED,
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_FAILED: RunState.FAILED,
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_CANCELED: RunState.CANCELED,
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TERMINATED: RunState.TERMINATED,
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TIMED_OUT: RunState.TIMED_OUT,
}
_ACTIVITY_STATES = {
    PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED: ActivityState.WAITING,
    PendingActivityState.PENDING_ACTIVITY_STATE_PAUSED: ActivityState.PAUSED,
}


def state_in(status: WorkflowExecutionStatus.ValueType) -> RunState:
    """Return how a run stands. One that went on in a new run counts as running, as that one does."""
    return _STATES.get(status, RunState.RUNNING)


def seen_in(found: DescribeWorkflowExecutionResponse) -> Seen:
    """Return what a description says of a run, without the failure, which it does not say."""
    info = found.workflow_execution_info
    queue = found.execution_config.task_queue.name or info.task_queue
    return Seen(
        run_id=info.execution.run_id,
        state=state_in(info.status),
        queue=queue,
        closed_at=_time(info, "close_time"),
        task_attempt=found.pending_workflow_task.attempt if found.HasField("pending_workflow_task") else 0,
        activities=tuple(_activity(one, queue) for one in found.pending_activities),
    )


def _activity(one: PendingActivityInfo, queue: str) -> SeenActivity:
    # One that was asked to cancel or to pause still runs.
    state = _ACTIVITY_STATES.get(one.state, ActivityState.RUNNING)
    return SeenActivity(
        id=one.activity_id,
        type=one.activity_type.name,
        state=state,
        attempt=max(one.attempt, 1),
        next_attempt_at=_time(one, "next_attempt_schedule_time") if state is ActivityState.WAITING else None,
        is_elsewhere=one.activity_options.task_queue.name not in ("", queue),
    )


def _time(message: Message, name: str) -> datetime | None:
    value: Timestamp = getattr(message, name)
    return value.ToDatetime(UTC) if message.HasField(name) and value.seconds > 0 else None


def reason_in(error: BaseException) -> tuple[str, str]:
    """Return type and message, in one line, of what a run failed for: the innermost error that code of ours raised."""
    found, cause = error, error.__cause__
    while cause is not None:
        if isinstance(cause, ApplicationError) or not isinstance(found, ApplicationError):
            found = cause
        cause = cause.__cause__
    own = isinstance(found, ApplicationError)
    message = found.message if isinstance(found, ApplicationError) else str(found)
    type_ = found.type if isinstance(found, ApplicationError) else None
    return type_ or ("Exception" if own else type(found).__name__), " ".join(message.split())[:LONGEST_MESSAGE]


async def lost_batch_in(result: Sequence[Payload], converter: DataConverter) -> str:
    """Return `batch not found` if a batch's run ended since its row was gone; else nothing."""
    if not result:
        return ""
    try:
        [summary] = await converter.decode(result[:1], [BatchSummary])
    except ApplicationError:  # written by a release that has other fields, which completed all the same
        return ""
    return LOST_BATCH if summary.reason == LOST_BATCH else ""


def build_of(failed: WorkflowTaskFailedEventAttributes) -> str | None:
    """Return the build whose code failed a workflow task.

    The server leaves `worker_version` empty for tasks that fail (1.32), so that only the worker's identity can tell:
    see `worker_identity`.
    """
    return failed.worker_version.build_id or failed.identity.partition("#")[2] or None


def worker_identity(pid: int, host: str, build: str) -> str:
    """Return `<pid>@<host>#<build>`: the SDK's own form, with the build, for `build_of` to find."""
    return f"{pid}@{host}#{build}"


def candidate_of(info: WorkflowExecutionInfo) -> Candidate | None:
    """Return a workflow of which the server reported something as a candidate; None: it is the host's own."""
    id_ = info.execution.workflow_id
    found = _subject(id_)
    if found is None:
        return None
    subject, subject_id = found
    facts = {"workflow_type": info.type.name, "run_id": info.execution.run_id}
    return Candidate(subject=subject, id=subject_id, workflow_id=id_, after=id_, known=False, facts=facts)


def _subject(workflow_id: str) -> tuple[Subject, str] | None:
    """Return what a workflow id says that it works on; None: it is a handler's, which is the host's."""
    match workflow_id.split("/"):
        case ["batch", _, "handler"] | ["document", _, "handler", _]:
            return None
        case ["batch", batch_id]:
            return Subject.BATCH, batch_id
        case ["batch", batch_id, round_, part] if round_.isdecimal() and part.isdecimal():
            return Subject.PART, f"{batch_id}/{round_}/{part}"
        case ["document", document_id]:
            return Subject.DOCUMENT, document_id
        case ["slice", sha256, profile]:
            return Subject.SLICING, f"{sha256}/{profile}"
    return Subject.WORKFLOW, workflow_id
