"""A little of all that a worker does, a few failures included, so that there is something of everything to measure."""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import update
from sqlmodel import select
from temporalio.client import WorkflowFailureError

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import AuditInput, PartRef
from nightmill.errors import BatchNotFound
from nightmill.ids import part_tag
from nightmill.sandbox import Fault, Sandbox
from nightmill.storage.document_models import DocumentRow
from nightmill.storage.provider_batches import ProviderBatchRepository
from nightmill.storage.requests import RequestRepository
from tests.lanes import MODELS, PATIENCE
from tests.pages import article
from tests.recovering import lose
from tests.site import Site
from tests.slicing import profile, small_pdf
from tests.stack import Stack, free_port, requests

_numbers = itertools.count()


def measured_by(stack: Stack) -> int:
    """Let a stack's workers serve everything, repair at once and be measured; return the port of their metrics."""
    port = free_port()
    stack.extra = {
        "NIGHTMILL_WORKER__QUEUES": f"{stack.task_queue},{stack.task_queue}-slicing",
        "NIGHTMILL_WORKER__METRICS_PORT": str(port),
        "NIGHTMILL_WORKER__WORKFLOW_SANDBOX": "false",
        "NIGHTMILL_RECONCILER__GRACE": "0",
        "NIGHTMILL_SLICING__PROFILES": json.dumps({"cut": profile("cut")}),
        **stack.extra,
    }
    return port


def site() -> Site:
    return Site({f"/{n}": article(n) for n in range(6)})


async def batches(nightmill: Nightmill, sandbox: Sandbox, *, count: int = 12) -> None:
    """A batch with each provider; some requests fail, and one provider does not answer a poll."""
    sandbox.add_faults(Fault("status", operation="batches.get", status=503, times=1))
    made = [
        await nightmill.submit(requests(count), provider=provider, model=model, poll_schedule=[0.5])
        for provider, model in MODELS.items()
    ]
    await asyncio.gather(*(nightmill.wait(batch_id, timeout=PATIENCE) for batch_id in made))


async def losses(nightmill: Nightmill, sandbox: Sandbox, task_queue: str) -> None:
    """A batch whose workflow is deleted and brought back, an orphan, a refused input, a workflow without code."""
    sandbox.set_profile(finish_after=3.0)
    number = next(_numbers)
    batch_id = await nightmill.submit(requests(2), provider="openai", model=MODELS["openai"], poll_schedule=[0.5])
    while (part := _part(nightmill, batch_id)) is None:
        await asyncio.sleep(0.1)
    await lose(nightmill.temporal, f"batch/{batch_id}", "deleted")
    lines = RequestRepository(nightmill.assembly.database).lines(part)
    provider, tag = nightmill.assembly.provider("openai"), part_tag(f"gone-{number}", 0, 0, 0)
    provider.create(
        lines, tag=tag, file_id=provider.upload(lines, tag=tag), model=MODELS["openai"], endpoint=provider.endpoints[0]
    )
    with suppress(WorkflowFailureError):
        await nightmill.temporal.execute_workflow(
            "ModelCompletionBatch",
            {"provider": "openai", "model": "m", "requests_uri": "/etc/hostname"},
            id=f"batch/refused-{number}",
            task_queue=task_queue,
        )
    unknown = await nightmill.temporal.start_workflow("Unknown", id=f"unknown-{number}", task_queue=task_queue)
    await asyncio.sleep(1)  # past the poll that the run missed
    await nightmill.recovery.reconcile(timeout=PATIENCE)
    await nightmill.temporal.execute_workflow(
        "ProviderAudit", AuditInput(notify=False), id=f"audit-{number}", task_queue=task_queue
    )
    await unknown.terminate()
    await nightmill.wait(batch_id, timeout=PATIENCE)
    sandbox.set_profile(finish_after=0.5, fail_ids=["r1"])


async def documents(nightmill: Nightmill, pages: Site) -> None:
    """Documents that a sweep syncs, one of them gone; the others are due, and wait for the next."""
    number = next(_numbers)
    account = f"account-{number % 3}"
    with suppress(Exception):
        await nightmill.documents.add_account(account, "daily")
    made = [
        await nightmill.documents.add(pages.url(f"/{path}?{number}"), account=account, collection="docs", sync=False)
        for path in ("gone", 0, 1, 2, 3)
    ]
    _due_since(nightmill, timedelta(minutes=20))
    began = datetime.now(UTC)
    await nightmill.documents.sync_now(made[0])
    await nightmill.documents.sweep(account=account, limit=3)
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while _tried_since(nightmill, began) < 3:
            await asyncio.sleep(0.2)


async def slicings(nightmill: Nightmill, folder: Path, *, broken: bool = True) -> None:
    """Two PDFs that are cut up and one that is none."""
    pdfs = [small_pdf(folder), small_pdf(folder, pages=7)]
    if broken:
        pdfs.append(folder / f"broken-{next(_numbers)}.pdf")
        pdfs[-1].write_bytes(b"%PDF-1.7 nothing " + str(pdfs[-1]).encode())
    found = [await nightmill.slicings.slice(pdf, profile="cut") for pdf in pdfs]
    await asyncio.gather(*(nightmill.slicings.wait(one, "cut", timeout=PATIENCE) for one in found))


def _part(nightmill: Nightmill, batch_id: str) -> int | None:
    with suppress(BatchNotFound):  # not prepared yet
        row = ProviderBatchRepository(nightmill.assembly.database).get(PartRef(batch_id=batch_id))[1]
        return row.key if row.provider_batch_id else None
    return None


def _tried_since(nightmill: Nightmill, began: datetime) -> int:
    with nightmill.assembly.database.reading() as session:
        tried = session.exec(select(DocumentRow.last_sync_attempted_at)).all()
    return sum(1 for at in tried if at is not None and at >= began)


def _due_since(nightmill: Nightmill, age: timedelta) -> None:
    statement = update(DocumentRow).values(next_sync_at=datetime.now(UTC) - age)
    with nightmill.assembly.database.transaction() as session:
        session.connection().execute(statement)
