"""Of which task queues without a worker operators are told, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from temporalio.testing import ActivityEnvironment

from activities.reconciliation import ReconcileActivities
from nightmill.contracts import Finding, ReconcileSummary, TickRecord
from nightmill.notify import Notifier, SmtpServer
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
