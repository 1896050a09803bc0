"""The schedules that a worker makes: created or brought up to date, with an operator's pause kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from operator import attrgetter
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
from nightmill.contracts import HealthInput
from nightmill.errors import InvalidInput, NotConfigured, TemporalUnreachable

if TYPE_CHECKING:
    from nightmill.settings import Settings

LONGEST_SWEEP = timedelta(minutes=50)
"""A sweep that takes longer is ended; what it took and did not start becomes due again by itself."""

LONGEST_RECONCILIATION = timedelta(minutes=30)
"""One that hangs would be the last: none starts while another one runs. What it left is found by the next."""

LONGEST_EXPIRY = timedelta(minutes=50)
LONGEST_AUDIT = timedelta(hours=6)
AUDIT_INTERVAL = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A schedule of Nightmill, as the settings make it.

    Attributes:
        id: Its id, with which the ids of its runs begin.
        workflow: What it starts.
        what: What it does.
        called: How `nightmill doctor` calls what it finds of it.
        otherwise: What it means that it does not run.
        switch: The setting that keeps workers from making it, by its path.
        every: Between two runs.
        longest: A run that takes longer is ended; None: never.
        given: The workflow's input.
        task_queue: Where its runs go; a worker makes the schedules of the queues that it serves.
    """

    id: str
    workflow: str
    what: str
    called: str
    otherwise: str
    switch: str
    every: Callable[[Settings], timedelta]
    longest: Callable[[Settings], timedelta | None]
    given: Mapping[str, Any] = field(default_factory=dict)
    task_queue: Callable[[Settings], str] = lambda settings: settings.worker.task_queue

    @property
    def setting(self) -> str:
        """The variable that keeps workers from making it."""
        return f"NIGHTMILL_{self.switch.upper().replace('.', '__')}"

    def is_asked_for(self, settings: Settings) -> bool:
        """Return whether workers are to make it."""
        return bool(attrgetter(self.switch)(settings))

    def schedule(self, settings: Settings) -> Schedule:
        """Return it for Temporal: a missed run is caught up once, one that overlaps is skipped."""
        every = self.every(settings)
        return Schedule(
            action=ScheduleActionStartWorkflow(
                self.workflow,
                self.given,
                id=self.id,
                task_queue=self.task_queue(settings),
                execution_timeout=self.longest(settings),
                static_summary=self.what,
            ),
            spec=ScheduleSpec(
                intervals=[ScheduleIntervalSpec(every=every)], jitter=min(every / 10, timedelta(minutes=1))
            ),
            # A window of one interval: after an outage of days, one run, not hundreds. One that failed is no reason to
            # stop: what has to find what is stuck must not be stuck itself.
            policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=every, pause_on_failure=False),
        )


RECONCILER = Planned(
    id=ids.RECONCILER_SCHEDULE,
    workflow="Reconciler",
    what="find what is stuck and repair it",
    called="reconciler",
    otherwise="nothing that is stuck is repaired by itself",
    switch="reconciler.schedules",
    every=lambda settings: settings.reconciler.interval,
    longest=lambda _: LONGEST_RECONCILIATION,
)

EXPIRY = Planned(
    id=ids.EXPIRY_SCHEDULE,
    workflow="ExpirySweep",
    what="end the batches that are past their max age and that nobody drives",
    called="expiry sweep",
    otherwise="a batch that has lost its workflow for good never ends",
    switch="reconciler.schedules",
    every=lambda settings: settings.reconciler.expiry_interval,
    longest=lambda _: LONGEST_EXPIRY,
)

AUDIT = Planned(
    id=ids.AUDIT_SCHEDULE,
    workflow="ProviderAudit",
    what="compare what the providers have with what is stored",
    called="audit",
    otherwise="nobody looks for batches at providers that are not ours any more",
    switch="reconciler.schedules",
    every=lambda _: AUDIT_INTERVAL,
    longest=lambda _: LONGEST_AUDIT,
)

SYNC_SWEEP = Planned(
    id=ids.SYNC_SWEEP_SCHEDULE,
    workflow="DocumentSyncSweep",
    what="sync the documents that are due",
    called="schedule",
    otherwise="no sweeps by themselves",
    switch="documents.sweep",
    every=lambda settings: settings.documents.sweep_interval,
    longest=lambda settings: max(settings.documents.sweep_interval, LONGEST_SWEEP),
)

CANARY = Planned(
    id=ids.CANARY_SCHEDULE,
    workflow="SlicerHealth",
    what="slice the canary",
    called="canary",
    otherwise="nobody notices between two PDFs that the built-in slicer has stopped working",
    switch="slicing.canary",
    every=lambda settings: settings.slicing.canary_interval,
    longest=lambda _: None,
    given=HealthInput().model_dump(exclude_none=True),
    task_queue=lambda settings: settings.slicing.task_queue,
)

PLANNED = (RECONCILER, EXPIRY, AUDIT, SYNC_SWEEP, CANARY)
"""Every schedule of Nightmill."""


def planned(name: str) -> Planned:
    """Return one of Nightmill's schedules, whatever the settings ask for.

    Raises:
        InvalidInput: Nightmill has no such schedule.
    """
    for each in PLANNED:
        if each.id == name:
            return each
    raise InvalidInput(f"no schedule {name[:80]!r}; there are {', '.join(each.id for each in PLANNED)}")


async def apply_schedule(client: Client, planned: Planned, settings: Settings) -> None:
    """Create the schedule, or bring it up to date; many workers may do so at once.

    Raises:
        NotConfigured: This client may not make schedules; the message names the setting that does without.
        TemporalUnreachable: Temporal does not answer.
    """
    schedule = planned.schedule(settings)

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
            await client.create_schedule(planned.id, schedule)
        except ScheduleAlreadyRunningError:
            await client.get_schedule_handle(planned.id).update(updated)
    except RPCError as error:
        if is_away(error):
            raise TemporalUnreachable(f"schedule {planned.id}: Temporal answered {error.message!r}") from error
        raise NotConfigured(
            f"schedule {planned.id} could not be made ({error.message}): let the worker, or set "
            f"{planned.setting}=false and make it with rights of your own: `nightmill schedules apply {planned.id}`"
        ) from error
