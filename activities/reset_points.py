"""Where a run's history is cut when the run is reset: what must be done again, and what stays done.

A point is the id of the event that completed a workflow task. The new run keeps what came before it; the task, and all
that it and later ones set going, is done again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from temporalio.api.enums.v1 import EventType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory

from nightmill.contracts import Finding
from nightmill.errors import PermanentError

KEPT_EVENTS = 6_000
"""Events of a history that are kept for replaying it, which takes a second of CPU for 4,000. Ours go on in a new run at
about 4,096 events or 4 MB, where Temporal suggests it; a longer one is cut without being replayed."""

KEPT_BYTES = 8 * 2**20


class NoResetPoint(PermanentError):
    """A run's history has no event at which it could be cut: it has never had a workflow task."""

    code: ClassVar[str] = "no_reset_point"


@dataclass
class StartedChild:
    """A child workflow that the run started.

    Attributes:
        workflow_id: Its id.
        task: The completed workflow task that started it.
        ended_at: The event that told of its end; None: the history tells of none.
        failed: Whether it ended in another way than by completing.
    """

    workflow_id: str
    task: int
    ended_at: int | None = None
    failed: bool = False


@dataclass
class Outline:
    """What of a run's history decides where it can be cut; taken in event by event, so that memory stays bounded.

    Attributes:
        workflow_id: The workflow.
        type: Its type.
        last: The last event's id.
        first_scheduled: The first workflow task's schedule; None: there is none.
        tasks: Completed workflow tasks, rising.
        activities: The task that scheduled an activity, by the event of its schedule.
        children: Child workflows, by the event that initiated them.
        blamed: The events that scheduled or initiated what the run says that it failed for, outermost first.
        events: All events; None: there are too many to be replayed.
    """

    workflow_id: str
    type: str = ""
    last: int = 0
    first_scheduled: int | None = None
    tasks: list[int] = field(default_factory=list)
    activities: dict[int, int] = field(default_factory=dict)
    children: dict[int, StartedChild] = field(default_factory=dict)
    blamed: list[int] = field(default_factory=list)
    events: list[HistoryEvent] | None = field(default_factory=list)
    _bytes: int = 0

    def take(self, event: HistoryEvent) -> None:
        """Take the next event in."""
        self.last = number = event.event_id
        self._keep(event)
        match event.WhichOneof("attributes"):
            case "workflow_execution_started_event_attributes":
                self.type = event.workflow_execution_started_event_attributes.workflow_type.name
            case "workflow_task_scheduled_event_attributes" if self.first_scheduled is None:
                self.first_scheduled = number
            case "workflow_task_completed_event_attributes":
                self.tasks.append(number)
            case "activity_task_scheduled_event_attributes":
                scheduled = event.activity_task_scheduled_event_attributes
                self.activities[number] = scheduled.workflow_task_completed_event_id
            case "start_child_workflow_execution_initiated_event_attributes":
                asked = event.start_child_workflow_execution_initiated_event_attributes
                self.children[number] = StartedChild(asked.workflow_id, asked.workflow_task_completed_event_id)
            case "start_child_workflow_execution_failed_event_attributes":
                self.children.pop(event.start_child_workflow_execution_failed_event_attributes.initiated_event_id, None)
            case "workflow_execution_failed_event_attributes":
                self.blamed = _blamed(event.workflow_execution_failed_event_attributes.failure)
            case str() as name if name.startswith("child_workflow_execution_") and "_started_" not in name:
                child = self.children.get(getattr(event, name).initiated_event_id)
                if child is not None:
                    child.ended_at, child.failed = number, "_completed_" not in name

    def _keep(self, event: HistoryEvent) -> None:
        if self.events is not None:
            self.events.append(event)
            self._bytes += event.ByteSize()
            if len(self.events) > KEPT_EVENTS or self._bytes > KEPT_BYTES:
                self.events = None

    def wanted(self, finding: Finding) -> int:
        """Return where a run is best cut for what was found, so that as little as possible is done again.

        - A run that failed for an activity or a child workflow: the task that set it going, of several the earliest.
          An activity that was pending at the point begins again at attempt 1, whatever became of it; so only what the
          run says that it failed for counts.
        - One that ended in another way by its own doing: the task before the last one, which would only end it again.
        - Every other: the last task that was completed.
        - One that never completed a task: the first one's start.

        Raises:
            NoResetPoint: It never had a task.
        """
        if not self.tasks:
            if self.first_scheduled is None or self.first_scheduled >= self.last:
                raise NoResetPoint(f"workflow {self.workflow_id}: no workflow task was ever started")
            return self.first_scheduled + 1
        if finding not in (Finding.FAILED, Finding.COMPLETED, Finding.CANCELED, Finding.INVALID_INPUT):
            return self.tasks[-1]
        guilty = [task for number in self.blamed if (task := self._task_of(number)) is not None]
        return min((guilty or self.tasks[-2:-1] or self.tasks) + self._tasks_of_failed_children())

    def _task_of(self, number: int) -> int | None:
        child = self.children.get(number)
        return child.task if child else self.activities.get(number)

    def _tasks_of_failed_children(self) -> list[int]:
        """Return who started the children whose failures the last task was told: a reset would tell the new run again.

        It does so of every child that the kept events initiate; activities begin again instead.
        """
        before = self.tasks[-2] if len(self.tasks) > 1 else 0
        return [child.task for child in self.children.values() if child.failed and (child.ended_at or 0) > before]

    def open_children(self, point: int) -> list[StartedChild]:
        """Return the children that a run cut at `point` would wait for, and whose end the history does not tell."""
        return [child for number, child in self.children.items() if number < point and child.ended_at is None]

    def points_up_to(self, point: int) -> list[int]:
        """Return the completed tasks up to and including `point`, rising."""
        return [task for task in self.tasks if task <= point]

    def cut_at(self, point: int) -> WorkflowHistory | None:
        """Return what a run cut at `point` keeps, as its first worker gets it; None: it is too long."""
        if self.events is None:
            return None
        return WorkflowHistory(self.workflow_id, [event for event in self.events if event.event_id < point])

    def whole(self) -> WorkflowHistory | None:
        """Return all of it with the workflow task that is pending, as a worker gets it; None: it is too long.

        The server stores a task that is tried again only once it succeeds, and adds it to what it hands out; without
        it the code that fails now would not be run.
        """
        if self.events is None:
            return None
        events, names = list(self.events), [event.WhichOneof("attributes") for event in self.events[-1:]]
        scheduled = self.last if names == ["workflow_task_scheduled_event_attributes"] else None
        if scheduled is None and names != ["workflow_task_started_event_attributes"]:
            scheduled = self.last + 1
            event = HistoryEvent(event_id=scheduled, event_type=EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED)
            event.event_time.CopyFrom(events[-1].event_time)
            event.workflow_task_scheduled_event_attributes.attempt = 1
            events.append(event)
        if scheduled is not None:
            event = HistoryEvent(event_id=scheduled + 1, event_type=EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED)
            event.event_time.CopyFrom(events[-1].event_time)
            event.workflow_task_started_event_attributes.scheduled_event_id = scheduled
            events.append(event)
        return WorkflowHistory(self.workflow_id, events)


async def last_that(points: Sequence[int], holds: Callable[[int], Awaitable[bool]]) -> int | None:
    """Return the last of `points` for which `holds`, or None; the last is tried first, then it is bisected.

    If it holds for a point, it must hold for those before it. That is so of replaying: what replays a history replays
    every beginning of it.
    """
    if not points:
        return None
    if await holds(points[-1]):
        return points[-1]
    low, high = -1, len(points) - 1  # it holds for `low`, and not for `high`
    while high - low > 1:
        middle = (low + high) // 2
        if await holds(points[middle]):
            low = middle
        else:
            high = middle
    return points[low] if low >= 0 else None


def _blamed(failure: Failure) -> list[int]:
    found = []
    while True:
        if failure.HasField("activity_failure_info"):
            found.append(failure.activity_failure_info.scheduled_event_id)
        elif failure.HasField("child_workflow_execution_failure_info"):
            found.append(failure.child_workflow_execution_failure_info.initiated_event_id)
            return found  # what follows happened in the child, whose events have numbers of their own
        if not failure.HasField("cause"):
            return found
        failure = failure.cause
