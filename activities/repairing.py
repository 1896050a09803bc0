"""One candidate: look at its workflow, decide, record, repair, record.

The order is what makes it safe to be killed anywhere, and to be run by two at once. A repair is recorded before it is
carried out, under an epoch that nobody else can record; right before the call the run is compared with the one that was
looked at; and a record that a dead reconciler left is settled by a look, never by repeating the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from temporalio import activity
from temporalio.service import RPCError, RPCStatusCode

from activities.executions import CancelNotCarried, RunChanged
from nightmill.contracts import Action, Finding, RepairState, RepairView, Subject
from nightmill.errors import NightmillError
from nightmill.failpoints import fail_point
from nightmill.recovery.alarms import names_of
from nightmill.recovery.decisions import decide
from nightmill.recovery.model import Candidate, Decision, Here, RunState, Seen
from nightmill.recovery.past import IN_HAND
from nightmill.storage.fence import SUPERSEDING
from nightmill.storage.repairs import Intent
from nightmill.telemetry.recovery import record_finding, record_repair
from nightmill.threads import in_thread

if TYPE_CHECKING:
    from activities.executions import Executions
    from activities.other_repairs import OtherRepairs
    from nightmill.recovery.parts import RecoveryParts
    from nightmill.storage.batches import BatchRepository
    from nightmill.storage.recovery_models import RepairRow

CARRIED_OUT_WITHIN = timedelta(seconds=30)
"""A reconciler that was held up for longer between its record and its call does not make the call any more."""

_REFUSED = frozenset(
    {
        RPCStatusCode.INVALID_ARGUMENT,
        RPCStatusCode.NOT_FOUND,
        RPCStatusCode.FAILED_PRECONDITION,
        RPCStatusCode.PERMISSION_DENIED,
        RPCStatusCode.UNAUTHENTICATED,
        RPCStatusCode.UNIMPLEMENTED,
    }
)
"""Answers by which a call certainly had no effect; after any other failure that is not known."""

_AWAY = frozenset({RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED})
"""Answers of a server, or of what stands before it, that is not there just now."""

_OF_RUNNING = (Action.POLL_NOW, Action.RESET_ACTIVITY)
"""What is not found where it should be done has ended, or gone on, since it was looked at."""


@dataclass(frozen=True)
class Handled:
    """What came of one candidate.

    Attributes:
        finding: What was found.
        view: The repair, if there was one.
        failed: Whether it could not be looked at or repaired.
    """

    finding: Finding
    view: RepairView | None = None
    failed: bool = False


@dataclass(frozen=True)
class Repairer:
    """Repairs candidates, one at a time; many of them may run at once.

    Attributes:
        parts: Records, closings, alarms.
        batches: The records of batches.
        executions: Temporal.
        others: Repairs of documents and slicings.
    """

    parts: RecoveryParts
    batches: BatchRepository
    executions: Executions
    others: OtherRepairs

    async def handle(
        self, candidate: Candidate, past: Sequence[RepairRow], here: Here, *, tick: str, dry_run: bool
    ) -> Handled:
        """Look, decide and repair; whatever goes wrong is recorded, told, and no matter of the other candidates'."""
        try:
            return await self._handle(candidate, past, here, tick=tick, dry_run=dry_run)
        except Exception as error:  # noqa: BLE001 - one bad candidate never blocks the next
            return await self._failed(candidate, error, here, tick=tick, dry_run=dry_run)

    async def _handle(
        self, candidate: Candidate, past: Sequence[RepairRow], here: Here, *, tick: str, dry_run: bool
    ) -> Handled:
        seen = await self.executions.look(candidate.workflow_id)
        if seen is not None and _needs_diagnosis(seen, past, here):
            seen = await self.executions.diagnose(candidate.workflow_id, seen)
        decision = decide(candidate, seen, past, here)
        record_finding(candidate.subject, decision.finding)
        if decision.action is None:
            return Handled(decision.finding)
        fail_point("repair.found")
        if dry_run:
            return Handled(decision.finding, _view(candidate, decision, seen, None))
        return await self._repair(candidate, decision, seen, here, tick)

    async def settle_left_over(self, now: datetime) -> int:
        """Find out what came of repairs whose reconciler died, by a look, and record it; return how many there were."""
        left = await in_thread(self.parts.repairs.left_over, before=now - IN_HAND)
        for row in left:
            try:
                await self._settle(row, now)
            except (RPCError, CancelNotCarried) as error:  # one that cannot be settled does not keep the others
                names = {"subject": row.subject.value, "id": row.subject_id}
                activity.logger.warning("repair not settled", extra={**names, "error": str(error)})
        return len(left)

    async def _settle(self, row: RepairRow, now: datetime) -> None:
        assert row.key is not None  # noqa: S101 - a loaded row has its key
        present = await self.executions.present_run(row.workflow_id)
        if row.action in SUPERSEDING and present is not None and present != row.run_id:
            if row.run_id is not None:
                await self.executions.carry_cancel(row.workflow_id, old_run=row.run_id, new_run=present)
            await in_thread(self.parts.repairs.done, row.key, new_run_id=present, now=now)
        elif row.error is not None:  # Temporal said so, and nothing has come of it
            if await in_thread(self.parts.repairs.failed, row.key, row.error, now=now):
                await in_thread(self.parts.alarms.fruitless, _candidate_of(row), row.error)
        else:
            reason = "its reconciler died before it was carried out, or what it did can be done again"
            await in_thread(self.parts.repairs.void, row.key, reason, now=now)

    async def _repair(
        self, candidate: Candidate, decision: Decision, seen: Seen | None, here: Here, tick: str
    ) -> Handled:
        assert decision.action is not None  # noqa: S101 - the caller has seen to it
        repairs = self.parts.repairs
        point, refusal = None, None
        if decision.action is Action.RESET and seen is not None:
            # May take a minute, so that it comes first. What is wrong is recorded of the reset: a run whose history
            # cannot be read is not looked at for ever, but replaced.
            try:
                point = await self.executions.choose_point(candidate.workflow_id, seen.run_id, decision.finding)
            except Exception as error:
                if isinstance(error, RPCError) and error.status in _AWAY:
                    raise  # nothing was done: the next tick asks again
                refusal = error
        if await in_thread(self.parts.candidates.has_moved, candidate):
            return Handled(Finding.HEALTHY)
        asked_at = datetime.now(UTC)
        intent = Intent(
            subject=candidate.subject,
            subject_id=candidate.id,
            workflow_id=candidate.workflow_id,
            epoch=decision.epoch,
            finding=decision.finding,
            action=decision.action,
            reason=decision.reason,
            run_id=seen.run_id if seen else None,
            build=here.build,
            tick=tick,
        )
        key = await in_thread(repairs.intend, intent, now=asked_at)
        if key is None:
            return Handled(Finding.BEING_REPAIRED)
        fail_point("repair.recorded")
        present = await self.executions.present_run(candidate.workflow_id)
        if present != (seen.run_id if seen else None) or datetime.now(UTC) - asked_at > CARRIED_OUT_WITHIN:
            await in_thread(repairs.void, key, "the run is another one by now", now=datetime.now(UTC))
            return Handled(Finding.HEALTHY)
        if refusal is not None:
            return await self._unfinished(candidate, decision, key, refusal)
        try:
            new_run, event_id = await self._carry_out(candidate, decision, seen, point)
        except RunChanged as error:
            await in_thread(repairs.void, key, str(error), now=datetime.now(UTC))
            return Handled(Finding.HEALTHY)
        except Exception as error:  # noqa: BLE001 - one bad candidate never blocks the next
            return await self._unfinished(candidate, decision, key, error)
        fail_point("repair.done")
        await in_thread(
            repairs.done, key, new_run_id=new_run, event_id=event_id, reason=decision.reason, now=datetime.now(UTC)
        )
        fail_point("repair.saved")
        if candidate.subject is Subject.BATCH and decision.action in SUPERSEDING:
            await self._withdraw_attention(candidate)
        record_repair(candidate.subject, decision.action, RepairState.DONE)
        view = _view(candidate, decision, seen, RepairState.DONE, new_run)
        activity.logger.warning(
            "repaired",
            extra={**names_of(candidate), "finding": decision.finding.value, "action": decision.action.value},
        )
        return Handled(decision.finding, view)

    async def _withdraw_attention(self, candidate: Candidate) -> None:
        """Take back what recovery said when it gave up; where the database is away just now, the batch's end does."""
        try:
            await in_thread(self.parts.closer.goes_on, candidate.id)
        except NightmillError as error:
            activity.logger.warning("attention not withdrawn", extra={**names_of(candidate), "error": str(error)})

    async def _unfinished(self, candidate: Candidate, decision: Decision, key: int, error: Exception) -> Handled:
        """Record what is known of a repair that raised."""
        assert decision.action is not None  # noqa: S101 - the caller has seen to it
        repairs, now, is_news = self.parts.repairs, datetime.now(UTC), False
        if _needs_nothing(decision, error):
            record_repair(candidate.subject, decision.action, RepairState.VOID)
            await in_thread(repairs.void, key, _said(error)[:1_000], now=now)
            return Handled(decision.finding)
        if isinstance(error, CancelNotCarried) or (isinstance(error, RPCError) and error.status not in _REFUSED):
            # Nobody knows what came of it, or not all of it was done: a later tick looks.
            record_repair(candidate.subject, decision.action, RepairState.ASKED)
            await in_thread(repairs.unanswered, key, _said(error))
        else:
            record_repair(candidate.subject, decision.action, RepairState.FAILED)
            is_news = await in_thread(repairs.failed, key, _said(error), now=now)
        await in_thread(self.parts.alarms.broken, candidate, error, is_news=is_news)
        return Handled(decision.finding, failed=True)

    async def _carry_out(
        self, candidate: Candidate, decision: Decision, seen: Seen | None, point: int | None
    ) -> tuple[str | None, int | None]:
        """Do it; return the run that goes on, if it is another one, and where the old one's history was cut."""
        match decision.action:
            case Action.RESET if seen is not None:
                return await self.executions.reset(
                    candidate.workflow_id, seen.run_id, finding=decision.finding, reason=_told(decision), point=point
                )
            case Action.RESET_ACTIVITY if seen is not None and decision.activity_id is not None:
                await self.executions.reset_activity(candidate.workflow_id, seen.run_id, decision.activity_id)
            case Action.POLL_NOW if seen is not None:
                await self.executions.poll_now(candidate.workflow_id, seen.run_id)
            case Action.START | Action.START_AFRESH:
                return await self._start(candidate, decision, seen), None
            case Action.CANCEL:
                return await self._cancel(candidate, seen), None
            case Action.CLOSE:
                return await self._close(candidate, decision, seen), None
            case Action.APPLY:
                await in_thread(self.parts.closer.record_delivery, candidate.id)
            case Action.GIVE_UP:
                await self._give_up(candidate, decision)
            case _:
                raise ValueError(f"{decision.action} cannot be done to {candidate.workflow_id}")
        return None, None

    async def _start(self, candidate: Candidate, decision: Decision, seen: Seen | None) -> str | None:
        """Start a run that goes on from what is stored."""
        if candidate.subject is Subject.DOCUMENT:
            return await self.others.start_document(candidate)
        if candidate.subject is Subject.SLICING:
            return await self.others.start_slicing(candidate)
        if seen is not None and seen.state is RunState.COMPLETED and not seen.failure and not candidate.terminal:
            # The run could only complete after the handler had succeeded, whatever the rows, which are behind, say;
            # unless it found no batch, which is all that can be wrong with one that completed.
            await in_thread(self.parts.closer.record_delivery, candidate.id)
        new_run = await self._start_batch(candidate.id, afresh=decision.action is Action.START_AFRESH)
        if seen is not None and not candidate.terminal:
            await self.executions.carry_cancel(candidate.workflow_id, old_run=seen.run_id, new_run=new_run)
        return new_run

    async def _start_batch(self, batch_id: str, *, afresh: bool = False) -> str:
        row = await in_thread(self.batches.get, batch_id)
        summary = f"{row.provider} {row.model}: {row.requests:,} requests"
        return await self.executions.start_batch(batch_id, summary=summary, terminate_existing=afresh)

    async def _cancel(self, candidate: Candidate, seen: Seen | None) -> str | None:
        """Store the cancel, and let a run end the batch in good order."""
        await in_thread(self.batches.request_cancel, candidate.id, now=datetime.now(UTC))
        if seen is not None and seen.state is RunState.RUNNING:
            await self.executions.poll_now(candidate.workflow_id, seen.run_id)  # it looks at the row, and ends
            return None
        return await self._start_batch(candidate.id)

    async def _close(self, candidate: Candidate, decision: Decision, seen: Seen | None) -> str | None:
        if candidate.subject is Subject.SLICING:
            canceled = seen is not None and seen.state is RunState.CANCELED
            await self.others.close_slicing(candidate, decision.reason, canceled=canceled)
            return None
        await in_thread(self.parts.closer.refuse, candidate.id, decision.reason)
        return await self._start_batch(candidate.id)  # finds it closed, and tells the handler

    async def _give_up(self, candidate: Candidate, decision: Decision) -> None:
        if candidate.subject in (Subject.BATCH, Subject.PART):
            batch_id = candidate.id.partition("/")[0]
            await in_thread(self.parts.closer.needs_attention, batch_id, decision.reason)
        await in_thread(self.parts.alarms.given_up, candidate, decision.reason)

    async def _failed(self, candidate: Candidate, error: Exception, here: Here, *, tick: str, dry_run: bool) -> Handled:
        """Record that a candidate could not be looked at or repaired; the next tick tries it again."""
        is_news = False
        if not dry_run:
            is_news = await in_thread(
                self.parts.repairs.record_failure,
                subject=candidate.subject,
                subject_id=candidate.id,
                workflow_id=candidate.workflow_id,
                error=_said(error),
                build=here.build,
                tick=tick,
                now=datetime.now(UTC),
            )
        await in_thread(self.parts.alarms.broken, candidate, error, is_news=is_news)
        record_finding(candidate.subject, Finding.UNKNOWN)
        return Handled(Finding.UNKNOWN, failed=True)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _needs_nothing(decision: Decision, error: Exception) -> bool:
    """Whether nothing was done, and that says nothing against doing it another time."""
    if not isinstance(error, RPCError):
        return False
    has_gone_on = error.status is RPCStatusCode.NOT_FOUND and decision.action in _OF_RUNNING
    return has_gone_on or error.status is RPCStatusCode.RESOURCE_EXHAUSTED


def _candidate_of(row: RepairRow) -> Candidate:
    """Return what a repair was for, as far as its record says."""
    return Candidate(subject=row.subject, id=row.subject_id, workflow_id=row.workflow_id, after="", known=False)


def _needs_diagnosis(seen: Seen, past: Sequence[RepairRow], here: Here) -> bool:
    """Whether a history has to be read: only where tasks fail, and this build has not tried its luck yet."""
    if seen.state is not RunState.RUNNING or seen.task_attempt <= 1:
        return False
    return not any(row.epoch == f"replay/{here.build}" for row in past)


def _told(decision: Decision) -> str:
    return f"{decision.finding}: {decision.reason}" if decision.reason else decision.finding.value


def _view(
    candidate: Candidate, decision: Decision, seen: Seen | None, state: RepairState | None, new_run: str | None = None
) -> RepairView:
    assert decision.action is not None  # noqa: S101 - the caller has seen to it
    return RepairView(
        subject=candidate.subject,
        id=candidate.id,
        finding=decision.finding,
        action=decision.action,
        state=state,
        reason=decision.reason,
        old_run=seen.run_id if seen else None,
        new_run=new_run,
    )
