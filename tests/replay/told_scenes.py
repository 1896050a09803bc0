"""Scenes of batches that are steered, and of hosts that are told by activities and workflows of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import WorkflowFailureError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.errors import BatchConflict
from nightmill.sandbox import Sandbox
from tests.lanes import HOST_DEPLOYMENT
from tests.replay.document_scenes import Stage
from tests.stack import WebhookSink, requests

QUEUE = "host"
BY_WORKFLOW = {"kind": "workflow", "type": "HostIsTold", "task_queue": QUEUE}
BY_ACTIVITY = {"kind": "activity", "type": "host_is_told", "task_queue": QUEUE}


@workflow.defn(name="HostIsTold", sandboxed=False)
class _HostIsTold:
    @workflow.run
    async def run(self, told: dict[str, Any]) -> str:
        return "noted"


@activity.defn(name="host_is_told")
def _host_is_told(told: dict[str, Any]) -> str:
    return "noted"


@asynccontextmanager
async def host(nightmill: Nightmill) -> AsyncIterator[None]:
    """Run a host's worker."""
    with ThreadPoolExecutor(2) as pool:
        async with Worker(
            nightmill.temporal,
            task_queue=QUEUE,
            workflows=[_HostIsTold],
            activities=[_host_is_told],
            activity_executor=pool,
            workflow_runner=UnsandboxedWorkflowRunner(),
            deployment_config=HOST_DEPLOYMENT,
        ):
            yield


async def _told(nightmill: Nightmill, handler: dict[str, str]) -> str:
    async with host(nightmill):
        batch_id = await nightmill.submit(
            requests(3), provider="openai", model="gpt-5-mini", completion_handler=handler
        )
        await nightmill.temporal.get_workflow_handle(ids.batch_workflow_id(batch_id)).result()
    return batch_id


async def told_by_workflow(nightmill: Nightmill, sandbox: Sandbox, sink: WebhookSink) -> str:
    """A handler that is a workflow of the host."""
    return await _told(nightmill, BY_WORKFLOW)


async def told_by_activity(nightmill: Nightmill, sandbox: Sandbox, sink: WebhookSink) -> str:
    """A handler that is an activity of the host."""
    return await _told(nightmill, BY_ACTIVITY)


async def redispatched(nightmill: Nightmill, sandbox: Sandbox, sink: WebhookSink) -> str:
    """A handler that refuses, and is called again by an operator."""
    sink.answers[:] = [400]
    batch_id = await nightmill.submit(
        requests(3), provider="openai", model="gpt-5-mini", completion_handler={"kind": "webhook", "url": sink.url}
    )
    while not nightmill.assembly.batches.get(batch_id).needs_attention:
        await asyncio.sleep(0.1)
    while True:
        try:
            await nightmill.redispatch(batch_id)
        except BatchConflict:  # it is still being called
            await asyncio.sleep(0.1)
        else:
            break
    await nightmill.temporal.get_workflow_handle(ids.batch_workflow_id(batch_id)).result()
    return batch_id


async def steered_parts(nightmill: Nightmill, sandbox: Sandbox, sink: WebhookSink) -> str:
    """Three provider batches that are polled now, and then canceled."""
    sandbox.set_profile(finish_after=60.0)
    batch_id = await nightmill.submit(
        requests(12), provider="xai", model="grok-4-fast", poll_schedule=[timedelta(seconds=30)]
    )
    while len(sandbox.batches()) < 3:
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    await nightmill.poll_now(batch_id)
    await asyncio.sleep(1)
    await nightmill.cancel(batch_id)
    await nightmill.temporal.get_workflow_handle(ids.batch_workflow_id(batch_id)).result()
    return batch_id


async def stopped(nightmill: Nightmill, sandbox: Sandbox, sink: WebhookSink) -> str:
    """A workflow that is canceled from the UI: it cancels at the provider, and ends Canceled."""
    sandbox.set_profile(finish_after=60.0)
    batch_id = await nightmill.submit(requests(3), provider="openai", model="gpt-5-mini")
    while not sandbox.batches():
        await asyncio.sleep(0.1)
    handle = nightmill.temporal.get_workflow_handle(ids.batch_workflow_id(batch_id))
    await handle.cancel()
    try:
        await handle.result()
    except WorkflowFailureError:
        return batch_id
    raise AssertionError("it was canceled, and did not end so")


async def traced(nightmill: Nightmill, sandbox: Sandbox, sink: WebhookSink) -> str:
    """Three provider batches whose workflows and activities carry the headers of traces."""
    return await nightmill.submit(requests(12), provider="xai", model="grok-4-fast")


# What is exported is lost: nobody listens there. The headers are what counts.
SETTINGS = {"traced": {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}}

SCENES: tuple[Callable[[Nightmill, Sandbox, WebhookSink], Awaitable[str]], ...] = (
    told_by_workflow, told_by_activity, redispatched, steered_parts, stopped, traced,
)  # fmt: skip


async def _changed(stage: Stage, handler: dict[str, str]) -> str:
    documents = stage.nightmill.documents
    await documents.add_account("acme", "daily", change_handler=handler)
    document_id = await documents.add(stage.site.url("/0"), account="acme", collection="docs", sync=False)
    async with host(stage.nightmill):
        await documents.sync(document_id)
    return ids.document_workflow_id(document_id)


async def workflow_told(stage: Stage) -> str:
    """A change of which a workflow of the host is told."""
    return await _changed(stage, BY_WORKFLOW)


async def activity_told(stage: Stage) -> str:
    """A change of which an activity of the host is told."""
    return await _changed(stage, BY_ACTIVITY)


async def taken_over(stage: Stage) -> str:
    """A change whose handler workflow an earlier sync has started, which was terminated; a look a minute finds it."""
    documents = stage.nightmill.documents
    await documents.add_account("acme", "daily", change_handler=BY_WORKFLOW)
    document_id = await documents.add(stage.site.url("/0"), account="acme", collection="docs", sync=False)
    handle = stage.nightmill.temporal.get_workflow_handle(ids.document_workflow_id(document_id))
    await documents.sync_now(document_id)
    while not any(
        event.HasField("child_workflow_execution_started_event_attributes")
        for event in (await handle.fetch_history()).events
    ):
        await asyncio.sleep(0.1)
    await handle.terminate("by mistake")
    await documents.sync_now(document_id)
    while not any(event.HasField("timer_started_event_attributes") for event in (await handle.fetch_history()).events):
        await asyncio.sleep(0.1)
    async with host(stage.nightmill):
        await handle.result()
    return handle.id


DOCUMENT_SCENES: tuple[Callable[[Stage], Awaitable[str]], ...] = (
    workflow_told, activity_told, taken_over,
)  # fmt: skip
