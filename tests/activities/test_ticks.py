"""A tick's steps by themselves: whom it tells of task queues without a worker, and how long a page may take."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from temporalio.testing import ActivityEnvironment

from activities.reconciliation import ReconcileActivities
from activities.repairing import Handled
from nightmill.contracts import (
    Finding,
    PageOutcome,
    ReconcilePage,
    ReconcileSummary,
    Source,
    Subject,
    TickRecord,
)
from nightmill.notify import Notifier, SmtpServer
from nightmill.recovery.model import Candidate
from nightmill.recovery.parts import RecoveryParts
from nightmill.settings.recovery import ReconcilerSettings

WAITS = ReconcileSummary(findings={Finding.NO_WORKER: 3}, queues_without_worker=("nightmill-slicing",))
SCHEDULED = TickRecord(workflow="Reconciler", summary=WAITS)

CASES: dict[str, tuple[TickRecord, bool]] = {
    "work waits there": (SCHEDULED, True),
    "nothing waits there": (
        SCHEDULED.model_copy(update={"summary": WAITS.model_copy(update={"findings": {Finding.HEALTHY: 3}})}),
        False,
    ),
    "it only reports": (
        SCHEDULED.model_copy(update={"summary": WAITS.model_copy(update={"dry_run": True})}),
        False,
    ),
    "the reconciler tells": (SCHEDULED.model_copy(update={"workflow": "ExpirySweep"}), False),
    "they know": (SCHEDULED.model_copy(update={"told_without_worker": ("nightmill-slicing",)}), False),
}


@pytest.mark.parametrize(("record", "is_told"), CASES.values(), ids=CASES)
def test_operators_are_told_of_a_task_queue_without_a_worker(record: TickRecord, is_told: bool) -> None:
    sent: list[bytes] = []
    notifier = Notifier(
        ["https://ops.example/told"], SmtpServer(), post_signed=lambda url, message_id, body: sent.append(body)
    )
    nowhere = cast(Any, None)  # a tick is recorded without Temporal and without the database
    activities = ReconcileActivities(
        repairer=nowhere,
        parts=RecoveryParts(cast(Any, SimpleNamespace(notifier=notifier))),
        executions=nowhere,
        settings=ReconcilerSettings(),
        build="b1",
    )
    ActivityEnvironment().run(activities.record_tick, record)
    assert [b"nightmill-slicing" in body for body in sent] == ([True] if is_told else [])


class Slow:
    """A repairer that takes a while, as one does that replays histories; it keeps whom it looked at."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def handle(self, candidate: Candidate, *_: Any, **__: Any) -> Handled:
        self.seen.append(candidate.id)
        await asyncio.sleep(0.2)
        return Handled(Finding.HEALTHY)


def test_a_page_that_takes_too_long_says_where_the_next_one_begins() -> None:
    found = [Candidate(Subject.BATCH, f"b{n}", f"batch/b{n}", after=str(n)) for n in range(20)]

    async def nobody_is_away(*_: Any, **__: Any) -> frozenset[str]:
        return frozenset()

    repairer = Slow()
    parts = SimpleNamespace(
        candidates=SimpleNamespace(page=lambda *_, **__: found), repairs=SimpleNamespace(past=lambda _: {})
    )
    executions = SimpleNamespace(task_queue="q", slicing_queue="s", idle_queues=nobody_is_away)
    activities = ReconcileActivities(
        repairer=cast(Any, repairer),
        parts=cast(Any, parts),
        executions=cast(Any, executions),
        settings=ReconcilerSettings(),
        build="b1",
        page_patience=timedelta(seconds=0.3),
    )
    page = ReconcilePage(tick="t", source=Source.BATCHES, limit=20)
    outcome: PageOutcome = asyncio.run(ActivityEnvironment().run(activities.reconcile_page, page))
    assert repairer.seen == [f"b{n}" for n in range(outcome.candidates)]
    assert 0 < outcome.candidates < 20
    assert outcome.after == str(outcome.candidates - 1)
