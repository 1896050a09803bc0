"""What `nightmill doctor` looks at for recovery: whether it runs, and what it could not repair."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from nightmill.cli.checks import Finding, State
from nightmill.cli.output import ago, length_of
from nightmill.cli.runtime import run_async
from nightmill.cli.temporal_checks import reached
from nightmill.errors import NightmillError

if TYPE_CHECKING:
    from temporalio.client import Client

    from nightmill.assembly import Assembly
    from nightmill.client.schedules import Planned
    from nightmill.settings import Settings
    from nightmill.storage.recovery_models import RepairRow

_LOOKED_AT = 500
_NAMED = 5
_RECENT = timedelta(hours=24)


def examine_recovery(assembly: Assembly) -> Iterator[Finding]:
    """Yield the findings about recovery."""
    yield from run_async(_schedules(assembly.settings))
    try:
        newest = assembly.recovery.repairs.newest(limit=_LOOKED_AT)
    except Exception:  # noqa: BLE001 - that the database is away, or has no tables yet, has been said already
        return
    yield _repairs(assembly, newest)


async def schedule_finding(client: Client, settings: Settings, planned: Planned) -> Finding:
    """Return whether a schedule is there, is not paused, and runs.

    Raises:
        RPCError: Temporal does not say.
    """
    from nightmill.client.schedule_looks import ScheduleState, look_at_schedule

    look = await look_at_schedule(client, settings, planned)
    schedule, name, otherwise = planned.id, planned.called, planned.otherwise
    match look.state:
        case ScheduleState.OFF:
            return Finding(name, State.OK, f"no schedule, as {planned.setting} says: {otherwise}")
        case ScheduleState.MISSING:
            fix = f"a worker makes it when it starts, if it may; else `nightmill schedules apply {schedule}`"
            return Finding(name, State.WARN, f"{schedule} does not exist: {otherwise}", fix)
        case ScheduleState.PAUSED:
            message = f"{schedule} is paused: {look.note or 'no reason given'}"
            return Finding(name, State.WARN, message, f"`temporal schedule toggle --unpause --schedule-id {schedule}`")
    queue = planned.task_queue(settings)
    if look.task_queue != queue:
        message = f"{schedule} starts its runs on task queue {look.task_queue}, not on {queue}: {otherwise}"
        fix = f"one Nightmill a namespace; or, if the queue has a new name, `nightmill schedules apply {schedule}`"
        return Finding(name, State.WARN, message, fix)
    every = planned.every(settings)
    if look.every is not None and look.every != every:
        message = f"{schedule} runs every {length_of(look.every)}, the settings say every {length_of(every)}"
        return Finding(name, State.WARN, message, f"`nightmill schedules apply {schedule}`")
    if look.last_at is None:
        return Finding(name, State.OK, f"{schedule} has not run yet")
    since = datetime.now(UTC) - look.last_at
    if look.every is not None and since > 3 * look.every:
        message = f"{schedule} ran last {length_of(since)} ago: a run may be stuck"
        return Finding(name, State.WARN, message, f"look at the workflow {look.last_run}")
    if look.last_result not in (None, "running", "completed"):
        message = f"{schedule} ran last {length_of(since)} ago: {look.last_result.replace('_', ' ')}"
        return Finding(name, State.WARN, message, f"look at the workflow {look.last_run}")
    return Finding(name, State.OK, f"{schedule} ran last {length_of(since)} ago")


async def _schedules(settings: Settings) -> list[Finding]:
    from temporalio.service import RPCError

    from nightmill.client.schedules import AUDIT, EXPIRY, RECONCILER

    try:
        client = await reached(settings)
        return [await schedule_finding(client, settings, planned) for planned in (RECONCILER, EXPIRY, AUDIT)]
    except NightmillError:  # that Temporal is away has been said already
        return []
    except RPCError as error:
        return [Finding("reconciler", State.FAIL, f"{error.message}", "check the rights of the API key")]


def _repairs(assembly: Assembly, newest: list[RepairRow]) -> Finding:
    """Return whether something was given up, or could not be repaired; as the newest repair of each says."""
    from nightmill.contracts import Action, RepairState

    last: dict[str, RepairRow] = {}
    for row in newest:
        last.setdefault(row.workflow_id, row)
    given_up = [row for row in last.values() if row.action is Action.GIVE_UP and _still_waits(assembly, row)]
    if given_up:
        named = ", ".join(f"{row.subject} {row.subject_id}" for row in given_up[:_NAMED])
        message = f"{len(given_up):,} need attention, repaired in vain: {named}{' …' if len(given_up) > _NAMED else ''}"
        return Finding(
            "repairs", State.WARN, message, "`nightmill repairs` says what was tried, docs/recovery.md how on"
        )
    failed = [row for row in last.values() if row.state is RepairState.FAILED and _is_recent(row)]
    if failed:
        message = f"{len(failed):,} failed, the last one {ago(failed[0].ended_at)}: {failed[0].error}"
        return Finding("repairs", State.WARN, message, "`nightmill repairs` shows them; each run tries again")
    if not newest:
        return Finding("repairs", State.OK, "none yet")
    return Finding("repairs", State.OK, f"the last one {ago(newest[0].asked_at)}; nothing was repaired in vain")


def _still_waits(assembly: Assembly, row: RepairRow) -> bool:
    from nightmill.contracts import Subject

    if row.subject not in (Subject.BATCH, Subject.PART):
        return _is_recent(row)
    batch = assembly.batches.find(row.subject_id.partition("/")[0])
    return batch is not None and batch.needs_attention is not None


def _is_recent(row: RepairRow) -> bool:
    return datetime.now(UTC) - (row.ended_at or row.asked_at) < _RECENT
