"""Recovery from a program: let what is stuck be repaired now, see what was repaired, and keep the schedules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowQueryFailedError
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError

from nightmill import ids
from nightmill.client.failures import Timeout, checked, failure_of, unreachable, within
from nightmill.client.schedule_looks import ScheduleLook, look_at_schedules
from nightmill.client.schedules import EXPIRY, PLANNED, RECONCILER, apply_schedule, planned
from nightmill.contracts import ReconcileInput, ReconcileSummary, Subject
from nightmill.errors import TemporalUnreachable

if TYPE_CHECKING:
    from nightmill.assembly import Assembly
    from nightmill.storage.recovery_models import RepairRow

TAKEN_WITHIN = timedelta(seconds=20)
"""A worker that runs takes a workflow within a second or two; one that is busy has these."""

_LOOK_EVERY = 1.0
_ANSWERS_WITHIN = timedelta(seconds=5)
_BEFORE_ANY_WORKER = 2
"""Events of a workflow that no worker has taken: started, first task scheduled."""


@dataclass(frozen=True)
class Recovery:
    """What finds and repairs that which is stuck. From `Nightmill.recovery`.

    Attributes:
        temporal: The Temporal client, with Nightmill's data converter.
        assembly: The database, and what reads it.
    """

    temporal: Client
    assembly: Assembly

    async def reconcile(
        self,
        *,
        dry_run: bool = False,
        expiry: bool = False,
        timeout: Timeout = None,
        on_progress: Callable[[ReconcileSummary], None] | None = None,
    ) -> ReconcileSummary:
        """Look at everything that is late, repair it, and return what was found and done.

        The same work as the schedules start. One that was started by hand already is waited for; beside one of the
        schedule it does no harm, as each repair is done once.

        Args:
            dry_run: Only report what would be done.
            expiry: Do the expiry sweep in place of the reconciler: end batches past their max age that nobody drives.
            timeout: Give up waiting after this long; the work goes on.
            on_progress: Called about once a second with what was found so far.

        Raises:
            TimeoutError: It has not ended in time.
            TemporalUnreachable: Temporal does not answer, or no worker takes the work; it is done once one runs.
            WorkflowFailed: It ended without an answer.
        """
        patience = checked(timeout)
        schedule = EXPIRY if expiry else RECONCILER
        what = f"the {'expiry sweep' if expiry else 'reconciler'}"
        queue = self.assembly.settings.worker.task_queue
        try:
            handle = await self.temporal.start_workflow(
                schedule.workflow,
                ReconcileInput(dry_run=dry_run),
                id=ids.by_hand_workflow_id(schedule.id, queue, dry_run=dry_run),
                task_queue=queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                result_type=ReconcileSummary,
                static_summary=f"{what}, by hand" + (", only to report" if dry_run else ""),
            )
            async with within(patience, what):
                return await self._result(handle, what, on_progress)
        except WorkflowFailureError as error:
            raise failure_of(what, error) from error
        except RPCError as error:
            raise unreachable(what, error) from error

    async def _result(
        self,
        handle: WorkflowHandle[Any, ReconcileSummary],
        what: str,
        on_progress: Callable[[ReconcileSummary], None] | None,
    ) -> ReconcileSummary:
        clock = asyncio.get_running_loop()
        give_up_at = clock.time() + TAKEN_WITHIN.total_seconds()
        result = asyncio.create_task(handle.result())
        try:
            while not result.done():
                await asyncio.wait({result}, timeout=_LOOK_EVERY)
                if result.done():
                    break
                if (await handle.describe()).history_length > _BEFORE_ANY_WORKER:
                    if on_progress is not None:
                        await _show(handle, on_progress)
                elif clock.time() > give_up_at:
                    queue = self.assembly.settings.worker.task_queue
                    raise TemporalUnreachable(
                        f"{what}: no worker on task queue {queue} has taken it within {TAKEN_WITHIN.seconds} s; it is "
                        "done once one runs"
                    )
            return result.result()
        finally:
            result.cancel()

    async def repairs(
        self,
        *,
        subject: Subject | None = None,
        subject_id: str | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> list[RepairRow]:
        """Return what was repaired, newest first.

        Args:
            subject: Only repairs of this kind of thing.
            subject_id: Only repairs of this one: the id of a batch or a document, `<SHA-256>/<profile>` of a slicing.
            limit: At most this many.
            before: Only older ones than the repair with this key; the last one of the page before.
        """
        return await asyncio.to_thread(
            self.assembly.recovery.repairs.newest,
            limit=limit,
            subject=subject,
            subject_id=subject_id,
            before=before,
        )

    async def schedules(self) -> list[ScheduleLook]:
        """Return how each of Nightmill's schedules stands.

        Raises:
            TemporalUnreachable: Temporal does not say.
        """
        return await look_at_schedules(self.temporal, self.assembly.settings)

    async def apply_schedules(self, names: Sequence[str] = ()) -> list[str]:
        """Create schedules or bring them up to date, and return their ids; an operator's pause is kept.

        Args:
            names: Which; default all that the settings ask for.

        Raises:
            InvalidInput: Nightmill has no schedule of this name; nothing was done.
            NotConfigured: This client may not make schedules.
        """
        settings = self.assembly.settings
        named = [planned(name) for name in dict.fromkeys(names)]
        wanted = named or [each for each in PLANNED if each.is_asked_for(settings)]
        for each in wanted:
            await apply_schedule(self.temporal, each, settings)
        return [each.id for each in wanted]


async def _show(handle: WorkflowHandle[Any, ReconcileSummary], show: Callable[[ReconcileSummary], None]) -> None:
    try:
        show(await handle.query("progress", result_type=ReconcileSummary, rpc_timeout=_ANSWERS_WITHIN))
    except (RPCError, WorkflowQueryFailedError):
        return  # a worker that is busy or restarts answers the next one; whether Temporal is away the result says
