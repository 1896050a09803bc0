"""Do providers and rows agree? What only one of them has is listed, with what it costs."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.audit import AuditActivities
    from nightmill.contracts import (
        MOST_FINDINGS_SHOWN,
        MOST_REMEMBERED,
        AuditFailure,
        AuditFinding,
        AuditInput,
        AuditKind,
        AuditNotice,
        AuditOutcome,
        AuditSummary,
        AuditTarget,
    )

from workflows import failures, policies, story

AT_ONCE = 4
"""Keys looked at side by side, so that a provider that is away does not hold up the others."""


@workflow.defn(name="ProviderAudit", failure_exception_types=[TypeError])
class ProviderAudit:
    """Look at every key of every provider, and tell operators of what is new.

    1. `find_audit_targets` finds the keys: those that are set, and those that rows were made with.
    2. `audit_provider` lists what one key shows and compares it with the rows. A key that fails is reported as such.
    3. `tell_audit` tells operators of what they were not told of; the last audit's result says what they know.
    4. `record_audit` writes one log record and the metrics.

    It only reads: nothing is canceled, deleted or repaired.
    """

    def __init__(self) -> None:
        self._summary = AuditSummary()
        self._told: tuple[str, ...] = ()

    @workflow.run
    async def run(self, asked: AuditInput) -> AuditSummary:
        """Return what was found."""
        started_at = workflow.now()
        since = started_at - timedelta(days=asked.days)
        self._summary = AuditSummary(since=since, started_at=started_at)
        if last := workflow.get_last_completion_result(AuditSummary):
            self._told = last.told
        found = await workflow.execute_activity_method(
            AuditActivities.find_audit_targets, since, **policies.titled(policies.DATABASE_WRITE, "which keys?")
        )
        turns = asyncio.Semaphore(AT_ONCE)

        async def look(target: AuditTarget) -> None:
            async with turns:
                self._take(target, await self._audit(target))
            story.show_audit(self._summary, of=len(found.targets))

        await asyncio.gather(*(look(target) for target in found.targets))
        await self._tell(notify=asked.notify)
        self._summary = self._summary.model_copy(update={"duration": workflow.now() - started_at})
        await workflow.execute_activity_method(
            AuditActivities.record_audit,
            self._summary,
            **policies.titled(policies.DATABASE_WRITE, "record the audit"),
        )
        story.show_audit(self._summary, of=len(found.targets))
        return self._summary

    @workflow.query(description="Keys asked, findings so far")
    def progress(self) -> AuditSummary:
        """Return what was found so far."""
        return self._summary

    async def _audit(self, target: AuditTarget) -> AuditOutcome | AuditFailure:
        title = target.provider if target.account is None else f"{target.provider}, {target.account}"
        try:
            return await workflow.execute_activity_method(
                AuditActivities.audit_provider, target, **policies.titled(policies.AUDIT, title)
            )
        except ActivityError as error:
            if failures.is_canceled(error):
                raise
            return AuditFailure(provider=target.provider, account=target.account, message=failures.reason_of(error))

    def _take(self, target: AuditTarget, outcome: AuditOutcome | AuditFailure) -> None:
        """Add what one key came to."""
        before = self._summary
        if isinstance(outcome, AuditFailure):
            failed = sorted((*before.failures, outcome), key=lambda one: one.key)
            self._summary = before.model_copy(update={"keys": before.keys + 1, "failures": tuple(failed)})
            return
        known = {one.key for one in before.findings}
        new = [one for one in outcome.findings if one.key not in known]
        counts = {
            kind: before.counts.get(kind, 0)
            + outcome.counts.get(kind, 0)
            # Keys of one organisation show the same batches.
            - sum(1 for one in outcome.findings if one.kind is kind and one.key in known)
            for kind in AuditKind
            if kind in before.counts or kind in outcome.counts
        }
        added = ("listed", "owned", "on_their_way", "untagged_suspects", "unclear")
        self._summary = before.model_copy(
            update={
                "keys": before.keys + 1,
                "counts": counts,
                "findings": _newest((*before.findings, *new)),
                **{name: getattr(before, name) + getattr(outcome, name) for name in added},
            }
        )

    async def _tell(self, *, notify: bool) -> None:
        """Tell operators of what they were not told of; what cannot be told now stays new for the next audit."""
        summary, known = self._summary, set(self._told)
        findings = tuple(one for one in summary.findings if one.key not in known)
        failed = tuple(one for one in summary.failures if one.key not in known)
        new = [*(one.key for one in failed), *(one.key for one in findings)]
        if notify and new:
            notice = AuditNotice(
                audit=workflow.info().run_id, findings=findings, failures=failed, counts=summary.counts
            )
            try:
                await workflow.execute_activity_method(
                    AuditActivities.tell_audit,
                    notice,
                    **policies.titled(policies.OPERATOR_NOTICE, f"tell of {len(new)} new"),
                )
                known.update(new)
            except ActivityError as error:
                if failures.is_canceled(error):
                    raise
                workflow.logger.warning("operators not told", extra={"error": failures.reason_of(error)})
        present = [*(one.key for one in summary.failures), *(one.key for one in summary.findings)]
        # What failed, went well and fails again is told again; a finding that is gone may only be out of the list.
        past = [key for key in self._told if not key.startswith(AuditFailure.PREFIX)]
        told = dict.fromkeys([*(key for key in present if key in known), *past])
        self._summary = summary.model_copy(update={"news": len(new), "told": tuple(told)[:MOST_REMEMBERED]})


def _newest(findings: tuple[AuditFinding, ...]) -> tuple[AuditFinding, ...]:
    """Return the newest findings of each kind, as many as are shown."""

    def place(one: AuditFinding) -> tuple[float, str]:
        return (-one.created_at.timestamp() if one.created_at is not None else 0.0, one.key)

    shown: list[AuditFinding] = []
    for kind in AuditKind:
        shown += sorted((one for one in findings if one.kind is kind), key=place)[:MOST_FINDINGS_SHOWN]
    return tuple(shown)
