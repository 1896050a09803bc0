"""Scenes of the reconciler, the expiry sweep and the audit whose histories `record.py` records."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import AuditInput
from nightmill.ids import part_tag
from nightmill.sandbox import Sandbox
from tests.stack import requests
from tests.workflows.test_provider_audit import behind_our_back

SETTINGS = {
    "NIGHTMILL_RECONCILER__GRACE": "0",
    "NIGHTMILL_RECONCILER__SPACING": "[0,0,0]",
    "NIGHTMILL_RECONCILER__EXPIRY_MARGIN": "0",
}


async def terminated(nightmill: Nightmill, sandbox: Sandbox, **options: Any) -> str:
    """Start a batch that takes long at the provider, and end its workflow; return its id."""
    sandbox.set_profile(finish_after=60.0)
    batch_id = await nightmill.submit(requests(3), provider="openai", model="gpt-5-mini", **options)
    while nightmill.assembly.batches.get(batch_id).submitted_at is None:
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    await nightmill.temporal.get_workflow_handle(ids.batch_workflow_id(batch_id)).terminate("by mistake")
    await asyncio.sleep(1)
    sandbox.set_profile(finish_after=1.0)
    return batch_id


async def reconciled(nightmill: Nightmill, sandbox: Sandbox) -> list[str]:
    """A terminated batch that is reset: the reconciler's history, and that of the batch's new run."""
    batch_id = await terminated(nightmill, sandbox)
    assert (await nightmill.recovery.reconcile()).repaired
    await nightmill.wait(batch_id, timeout=timedelta(seconds=120))
    queue = nightmill.assembly.settings.worker.task_queue
    return [
        ids.by_hand_workflow_id(ids.RECONCILER_SCHEDULE, queue, dry_run=False),
        ids.batch_workflow_id(batch_id),
    ]


async def ended_late(nightmill: Nightmill, sandbox: Sandbox) -> list[str]:
    """A batch past its max age that nobody drives: the expiry sweep's history, and that of the batch's new run."""
    batch_id = await terminated(nightmill, sandbox, max_age=timedelta(seconds=2))
    await asyncio.sleep(2)
    assert (await nightmill.recovery.reconcile(expiry=True)).repaired
    await nightmill.wait(batch_id, timeout=timedelta(seconds=120))
    queue = nightmill.assembly.settings.worker.task_queue
    return [
        ids.by_hand_workflow_id(ids.EXPIRY_SCHEDULE, queue, dry_run=False),
        ids.batch_workflow_id(batch_id),
    ]


async def audited(nightmill: Nightmill, sandbox: Sandbox) -> list[str]:
    """An audit of a batch that the rows own."""
    batch_id = await nightmill.submit(requests(3), provider="openai", model="gpt-5-mini")
    await nightmill.wait(batch_id, timeout=timedelta(seconds=120))
    handle = await nightmill.temporal.start_workflow(
        "ProviderAudit", AuditInput(), id="audit-by-hand", task_queue=nightmill.assembly.settings.worker.task_queue
    )
    await handle.result()
    return [handle.id]


async def orphaned(nightmill: Nightmill, sandbox: Sandbox) -> list[str]:
    """An audit that finds a provider batch that no row owns, and tells of it."""
    batch_id = await nightmill.submit(requests(3), provider="openai", model="gpt-5-mini")
    await nightmill.wait(batch_id, timeout=timedelta(seconds=120))
    behind_our_back(nightmill, batch_id, part_tag("gone", 0, 0, 0))
    handle = await nightmill.temporal.start_workflow(
        "ProviderAudit", AuditInput(), id="audit-of-orphans", task_queue=nightmill.assembly.settings.worker.task_queue
    )
    assert (await handle.result())["news"] == 1
    return [handle.id]


SCENES: tuple[Callable[[Nightmill, Sandbox], Awaitable[list[str]]], ...] = (
    reconciled, ended_late, audited, orphaned,
)  # fmt: skip
