"""Batches that get stuck, for tests: brought as far as the provider, repaired, and followed to their end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import update
from sqlmodel import col
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest, DescribeWorkflowExecutionResponse
from temporalio.client import WorkflowHandle

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, BatchStatus, BatchSummary, Finding
from nightmill.storage.models import BatchRow, ProviderBatchRow
from tests.lanes import MODELS, PATIENCE, Lane, until
from tests.stack import requests


async def submitted(lane: Lane, nightmill: Nightmill, count: int = 5, **options: Any) -> str:
    """Start a batch and return its id once the provider has it."""
    batch_id = await lane.submit(nightmill, count, **options)
    await _until_submitted(nightmill, batch_id)
    return batch_id


async def _until_submitted(nightmill: Nightmill, batch_id: str) -> None:
    def is_submitted() -> bool:
        row = nightmill.assembly.batches.find(batch_id)
        return row is not None and row.status is not BatchStatus.PENDING

    await until(is_submitted)


async def start_by_hand(nightmill: Nightmill, batch_id: str, asked: Mapping[str, Any], **options: Any) -> None:
    """Start a batch's workflow as an operator does from the UI."""
    queue = nightmill.assembly.settings.worker.task_queue
    await nightmill.temporal.start_workflow(
        "ModelCompletionBatch", asked, id=ids.batch_workflow_id(batch_id), task_queue=queue, **options
    )


async def submitted_by_hand(lane: Lane, nightmill: Nightmill, **options: Any) -> str:
    """Start a batch of a file of five requests from the UI, and return its id once the provider has it."""
    lines = lane.stack.folder / "requests.jsonl"
    lines.write_text("".join(json.dumps(each) + "\n" for each in requests(5)))
    asked = {"provider": "openai", "model": MODELS["openai"], "requests_uri": str(lines)}
    batch_id = f"by-hand-{lane.stack.task_queue}"
    await start_by_hand(nightmill, batch_id, {**asked, "completion_handler": lane.handler}, **options)
    await _until_submitted(nightmill, batch_id)
    return batch_id


async def tick(nightmill: Nightmill, **options: bool) -> list[tuple[Finding, Action]]:
    """Let the reconciler run once, and return what it repaired and how, one by one."""
    summary = await nightmill.recovery.reconcile(timeout=PATIENCE, **options)
    assert summary.failed == 0
    return [(each.finding, each.action) for each in summary.repairs]


async def repaired(nightmill: Nightmill, **options: bool) -> list[tuple[Finding, Action]]:
    """Reconcile until something was repaired, and return what that tick repaired and how."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not (done := await tick(nightmill, **options)):
            await asyncio.sleep(0.5)
    return done


async def ended(nightmill: Nightmill, batch_id: str) -> BatchSummary:
    """Return the summary once the batch is terminal and its handler has been told."""

    def done() -> bool:
        row = nightmill.assembly.batches.get(batch_id)
        return row.status.is_terminal and row.handler_dispatched_at is not None

    await until(done)
    return await nightmill.summary(batch_id)


def run_of(nightmill: Nightmill, batch_id: str) -> WorkflowHandle[Any, Any]:
    """Return a handle of the batch's present run."""
    return nightmill.temporal.get_workflow_handle(ids.batch_workflow_id(batch_id))


async def described(nightmill: Nightmill, batch_id: str) -> DescribeWorkflowExecutionResponse:
    """Return what the server says of the batch's present run."""
    return await nightmill.temporal.workflow_service.describe_workflow_execution(
        DescribeWorkflowExecutionRequest(
            namespace=nightmill.temporal.namespace,
            execution=WorkflowExecution(workflow_id=ids.batch_workflow_id(batch_id)),
        )
    )


def make_due(nightmill: Nightmill, batch_id: str, due: datetime | None = None) -> None:
    """Let what is planned for the batch have been due a minute ago, or then, as if time had passed."""
    due = due or datetime.now(UTC) - timedelta(minutes=1)
    batch = nightmill.assembly.batches.get(batch_id)
    with nightmill.assembly.database.transaction() as session:
        session.connection().execute(update(BatchRow).where(col(BatchRow.id) == batch_id).values(next_poll_at=due))
        session.connection().execute(
            update(ProviderBatchRow).where(col(ProviderBatchRow.batch_key) == batch.key).values(next_poll_at=due)
        )
