"""The sweep's plan: which documents are due, in an order that is fair to all accounts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from nightmill.contracts import SweepPick, SweepTaken, SyncStatus, TakeInput
from nightmill.documents import plans
from nightmill.documents.fairness import Waiting, interleave
from nightmill.storage.sweeps import Wanted

if TYPE_CHECKING:
    from nightmill.settings import DocumentSettings
    from nightmill.storage.document_models import AccountRow
    from nightmill.storage.sweeps import DueAccount, Scheduled, SweepRepository

logger = logging.getLogger(__name__)

_RESCHEDULED_AT_ONCE = 50_000
"""When plans change, accounts are brought up to date until this many documents are; the others in the next sweep."""


@dataclass(frozen=True)
class Sweeper:
    """Takes what is due. Any thread may use it.

    Attributes:
        sweeps: What is due, and marking it.
        settings: Plans and limits.
    """

    sweeps: SweepRepository
    settings: DocumentSettings

    def take(self, asked: TakeInput, now: datetime) -> SweepTaken:
        """Mark the documents that are due, or will be before the next sweep; a second call finds what the first took.

        Raises:
            AccountNotFound: Only the documents of an account are asked for, and there is no such account.
        """
        accounts = self.sweeps.accounts(asked.account)
        known = {each.plan: plans.plan_of(each.plan, self.settings.plans) for each in accounts}
        self._apply_plans(accounts, known)
        limit = self.settings.sweep_limit if asked.limit is None else asked.limit

        def turns(due: Sequence[DueAccount]) -> list[str]:
            return self._turns(due, known, limit)

        wanted = Wanted(
            now=now,
            until=now + self.settings.sweep_interval,
            marked_until=now + 2 * self.settings.sweep_interval,
            plans=frozenset(name for name, plan in known.items() if name is not None and plan.interval),
            account=asked.account,
        )
        scanned = SweepTaken(
            accounts_scanned=len(accounts),
            accounts_enabled=sum(each.auto_sync and known[each.plan].interval is not None for each in accounts),
        )
        return self.sweeps.take(asked.sweep_id, wanted, turns=turns, limit=limit, scanned=scanned)

    def picks(self, sweep_id: str, *, first: int, count: int, now: datetime | None = None) -> list[SweepPick]:
        """Return documents that a sweep has taken, in the order of their starts, those deleted since left out."""
        present = now or datetime.now(UTC)
        return [
            SweepPick(
                document_id=taken.document_id,
                account=taken.account,
                weight=plans.plan_of(taken.plan, self.settings.plans).weight,
                delay=max(timedelta(0), taken.due_at - present),
                has_begun=taken.has_begun,
            )
            for taken in self.sweeps.picks(sweep_id, first=first, count=count)
        ]

    def settle(self, document_ids: Sequence[str]) -> None:
        """Pass documents by that turn out to be synced already, so that the next sweep's places are not theirs again.

        Their marks go when their syncs end, or lapse.
        """
        self.sweeps.drop_picks(document_ids)

    def give_back(self, document_ids: Sequence[str]) -> None:
        """Let documents be due again that were taken and are not to be started."""
        self.sweeps.give_back(document_ids)

    def _turns(self, due: Sequence[DueAccount], known: dict[str | None, plans.Plan], limit: int) -> list[str]:
        """Return the order: first of all that is due, then of what will be."""

        def waiting(each: DueAccount, documents: int) -> Waiting:
            return Waiting(each.name, documents, known.get(each.plan, plans.Plan()).weight, each.last_served_at)

        most = self.settings.account_limit
        turns = interleave((waiting(each, each.due) for each in due), account_limit=most, limit=limit)
        ahead = (waiting(each, min(each.ahead, max(0, most - each.due))) for each in due)
        return turns + interleave(ahead, account_limit=most, limit=limit - len(turns))

    def _apply_plans(self, accounts: Sequence[AccountRow], known: dict[str | None, plans.Plan]) -> None:
        """Compute anew when documents are due whose plan has another interval than it had."""
        done = 0
        for account in accounts:
            plan = known[account.plan]
            interval = None if plan.interval is None else plan.interval.total_seconds()
            if account.applied_interval == interval or done >= _RESCHEDULED_AT_ONCE:
                continue

            def due_at(row: Scheduled, plan: plans.Plan = plan) -> datetime | None:
                return self._due_at(row, plan)

            number = self.sweeps.reschedule(account, interval, due_at)
            done += number
            if number:
                logger.info("plan applied", extra={"account": account.name, "documents": number})

    def _due_at(self, row: Scheduled, plan: plans.Plan) -> datetime | None:
        last, pace = row.last_synced_at, row.pace if self.settings.adaptive else 1.0
        if row.sync_status == SyncStatus.FAILED:
            last = row.last_sync_attempted_at
            pace = plans.failure_pace(row.consecutive_failures, self.settings.slowest_pace)
        if last is None or plan.interval is None:
            return None
        phase = plans.phase_of(row.id)
        interval = plans.interval_of(None, plan) or plan.interval
        return plans.next_sync_at(last=last, interval=interval, jitter=plan.jitter, phase=phase, pace=pace)
