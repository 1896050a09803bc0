"""The schedules that a worker makes: created or brought up to date, with an operator's pause kept."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

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
from nightmill.client.connection import is_away
from nightmill.contracts import HealthInput, ReconcileInput, SweepInput
from nightmill.errors import InvalidInput, NotConfigured, TemporalUnreachable

if TYPE_CHECKING:
    from nightmill.settings import Settings

RECONCILER = "Reconciler"
EXPIRY = "ExpirySweep"
AUDIT = "ProviderAudit"

LONGEST_SWEEP = timedelta(minutes=50)
"""A sweep that takes longer is ended; what it took and did not start becomes due again by itself."""

LONGEST_RECONCILIATION = timedelta(minutes=30)
"""One that hangs would be the last: none starts while another one runs. What it left is found by the next."""

LONGEST_EXPIRY = timedelta(minutes=50)
LONGEST_AUDIT = timedelta(hours=6)
AUDIT_INTERVAL = timedelta(days=1)

WHAT = {
    ids.RECONCILER_SCHEDULE: "find what is stuck and repair it",
    ids.EXPIRY_SCHEDULE: "end the batches that are past their max age and that nobody drives",
    ids.AUDIT_SCHEDULE: "compare what the providers have with what is stored",
    ids.SYNC_SWEEP_SCHEDULE: "sync the documents that are due",
    ids.CANARY_SCHEDULE: "slice the canary",
}
"""Every schedule of Nightmill, with what it does."""

SETTING = {
    ids.RECONCILER_SCHEDULE: "NIGHTMILL_RECONCILER__SCHEDULES",
    ids.EXPIRY_SCHEDULE: "NIGHTMILL_RECONCILER__SCHEDULES",
    ids.AUDIT_SCHEDULE: "NIGHTMILL_RECONCILER__SCHEDULES",
    ids.SYNC_SWEEP_SCHEDULE: "NIGHTMILL_DOCUMENTS__SWEEP",
    ids.CANARY_SCHEDULE: "NIGHTMILL_SLICING__CANARY",
}
"""The setting that keeps workers from making it."""


def sync_sweep(settings: Settings) -> Schedule:
    """Return the schedule of the sweep: a missed one is caught up once, one that overlaps is skipped."""
    every = settings.documents.sweep_interval
    given = SweepInput().model_dump(exclude_none=True)
    queue = settings.worker.task_queue
    return _schedule(
        ids.SYNC_SWEEP_SCHEDULE, "DocumentSyncSweep", given, queue, every, longest=max(every, LONGEST_SWEEP)
    )


def slicer_canary(settings: Settings) -> Schedule:
    """Return the schedule of the health check of the built-in slicer; one that overlaps is skipped."""
    given = HealthInput().model_dump(exclude_none=True)
    slicing = settings.slicing
    return _schedule(ids.CANARY_SCHEDULE, "SlicerHealth", given, slicing.task_queue, slicing.canary_interval)


def reconciler(settings: Settings) -> Schedule:
    """Return the schedule of the reconciler; one that overlaps is skipped, so that there is one at a time."""
    given = ReconcileInput().model_dump(exclude_unset=True)
    every, queue = settings.reconciler.interval, settings.worker.task_queue
    return _schedule(ids.RECONCILER_SCHEDULE, RECONCILER, given, queue, every, longest=LONGEST_RECONCILIATION)


def expiry(settings: Settings) -> Schedule:
    """Return the schedule of the expiry sweep; one that overlaps is skipped."""
    given = ReconcileInput().model_dump(exclude_unset=True)
    every, queue = settings.reconciler.expiry_interval, settings.worker.task_queue
    return _schedule(ids.EXPIRY_SCHEDULE, EXPIRY, given, queue, every, longest=LONGEST_EXPIRY)


def audit(settings: Settings) -> Schedule:
    """Return the schedule of the audit, once a day."""
    return _schedule(ids.AUDIT_SCHEDULE, AUDIT, {}, settings.worker.task_queue, AUDIT_INTERVAL, longest=LONGEST_AUDIT)


def _schedule(
    schedule_id: str,
    workflow: str,
    given: Mapping[str, Any],
    task_queue: str,
    every: timedelta,
    *,
    longest: timedelta | None = None,
) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            workflow,
            given,
            id=schedule_id,
            task_queue=task_queue,
            execution_timeout=longest,
            static_summary=WHAT[schedule_id],
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)], jitter=min(every / 10, timedelta(minutes=1))),
        # A window of one interval: after an outage of days, one run, not hundreds. One that failed is no reason to
        # stop: what has to find what is stuck must not be stuck itself.
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=every, pause_on_failure=False),
    )


_MAKERS = {
    ids.RECONCILER_SCHEDULE: reconciler,
    ids.EXPIRY_SCHEDULE: expiry,
    ids.AUDIT_SCHEDULE: audit,
    ids.SYNC_SWEEP_SCHEDULE: sync_sweep,
    ids.CANARY_SCHEDULE: slicer_canary,
}


def schedules_of(settings: Settings) -> dict[str, Schedule]:
    """Return the schedules that the settings ask for, by id.

    A worker makes those whose action goes to a task queue that it serves.
    """
    asked = {
        ids.RECONCILER_SCHEDULE: settings.reconciler.schedules,
        ids.EXPIRY_SCHEDULE: settings.reconciler.schedules,
        ids.AUDIT_SCHEDULE: settings.reconciler.schedules,
        ids.SYNC_SWEEP_SCHEDULE: settings.documents.sweep,
        ids.CANARY_SCHEDULE: settings.slicing.canary,
    }
    return {name: make(settings) for name, make in _MAKERS.items() if asked[name]}


def schedule_named(name: str, settings: Settings) -> Schedule:
    """Return one of Nightmill's schedules, whatever the settings ask for.

    Raises:
        InvalidInput: Nightmill has no such schedule.
    """
    if name not in _MAKERS:
        raise InvalidInput(f"no schedule {name[:80]!r}; there are {', '.join(_MAKERS)}")
    return _MAKERS[name](settings)


async def apply_schedule(client: Client, schedule_id: str, schedule: Schedule) -> None:
    """Create the schedule, or bring it up to date; many workers may do so at once.

    Raises:
        NotConfigured: This client may not make schedules; the message names the setting that does without.
        TemporalUnreachable: Temporal does not answer.
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
        if is_away(error):
            raise TemporalUnreachable(f"schedule {schedule_id}: Temporal answered {error.message!r}") from error
        raise NotConfigured(
            f"schedule {schedule_id} could not be made ({error.message}): let the worker, or set "
            f"{SETTING[schedule_id]}=false and make it with rights of your own: `nightmill schedules apply "
            f"{schedule_id}`"
        ) from error
