"""The schedules that a worker makes: created or brought up to date, with an operator's pause kept."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError

from nightmill import ids
from nightmill.contracts import HealthInput, SweepInput
from nightmill.errors import NotConfigured

if TYPE_CHECKING:
    from nightmill.settings import Settings

LONGEST_SWEEP = timedelta(minutes=50)
"""A sweep that takes longer is ended; what it took and did not start becomes due again by itself."""


def sync_sweep(settings: Settings) -> Schedule:
    """Return the schedule of the sweep: a missed one is caught up once, one that overlaps is skipped."""
    every = settings.documents.sweep_interval
    return Schedule(
        action=ScheduleActionStartWorkflow(
            "DocumentSyncSweep",
            SweepInput().model_dump(exclude_none=True),
            id=ids.SYNC_SWEEP_SCHEDULE,
            task_queue=settings.worker.task_queue,
            execution_timeout=max(every, LONGEST_SWEEP),
            static_summary="sync the documents that are due",
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)], jitter=min(every / 10, timedelta(minutes=1))),
        # A window of one interval: after an outage of days, one sweep, not hundreds.
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=every, pause_on_failure=False),
    )


def slicer_canary(settings: Settings) -> Schedule:
    """Return the schedule of the health check of the built-in slicer; one that overlaps is skipped."""
    every = settings.slicing.canary_interval
    return Schedule(
        action=ScheduleActionStartWorkflow(
            "SlicerHealth",
            HealthInput().model_dump(exclude_none=True),
            id=ids.CANARY_SCHEDULE,
            task_queue=settings.slicing.task_queue,
            static_summary="slice the canary",
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)], jitter=min(every / 10, timedelta(minutes=1))),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=every, pause_on_failure=False),
    )


async def apply_schedule(client: Client, schedule_id: str, schedule: Schedule) -> None:
    """Create the schedule, or bring it up to date; many workers may do so at once.

    Raises:
        NotConfigured: This client may not make schedules; the message names the setting that does without.
    """

    def updated(found: ScheduleUpdateInput) -> ScheduleUpdate:
        state = found.description.schedule.state
        schedule.state.paused, schedule.state.note = state.paused, state.note
        schedule.state.limited_actions, schedule.state.remaining_actions = (
            state.limited_actions,
            state.remaining_actions,
        )
        return ScheduleUpdate(schedule=schedule)

    try:
        try:
            await client.create_schedule(schedule_id, schedule)
        except ScheduleAlreadyRunningError:
            await client.get_schedule_handle(schedule_id).update(updated)
    except RPCError as error:
        raise NotConfigured(
            f"schedule {schedule_id} could not be made ({error.message}): let the worker, or set "
            "NIGHTMILL_DOCUMENTS__SWEEP=false or NIGHTMILL_SLICING__CANARY=false and make it yourself"
        ) from error
