"""What of a trace Temporal gets to see, and what becomes of the headers of others."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from pydantic import SecretStr
from temporalio import activity, workflow
from temporalio.api.common.v1 import Payload
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client
from temporalio.common import HeaderCodecBehavior
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from nightmill.client.converter import DATA_CONVERTER, data_converter
from nightmill.client.tracing import Headers, Tracing
from tests.lanes import HOST_DEPLOYMENT

if TYPE_CHECKING:
    from tests.stack import TemporalServer

KEY = SecretStr("q" * 43 + "=")
CANARY = "customer-canary"


def sampled() -> context.Context:
    """A context as of a host's span, with what its vendor and its own code keep beside the ids."""
    state = TraceState([("vendor", CANARY)])
    ids = SpanContext(17, 4, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED), trace_state=state)
    return baggage.set_baggage("customer", CANARY, trace.set_span_in_context(NonRecordingSpan(ids)))


def test_headers_hold_the_ids_of_a_trace_and_nothing_else() -> None:
    token = context.attach(sampled())
    try:
        [payload] = Tracing()._context_to_headers({}).values()
    finally:
        context.detach(token)
    [carrier] = DATA_CONVERTER.payload_converter.from_payloads([payload])
    assert carrier == {"traceparent": f"00-{17:032x}-{4:016x}-01"}


@pytest.mark.parametrize(
    "payload",
    [
        Payload(metadata={"encoding": b"binary/encrypted"}, data=b"\0\1"),
        Payload(metadata={"encoding": b"json/plain"}, data=b"\xff{"),
        Payload(metadata={"encoding": b"json/plain"}, data=b'["traceparent"]'),
        Payload(metadata={"encoding": b"json/plain"}, data=b'{"traceparent": 7}'),
        Payload(),
    ],
)
def test_a_header_that_holds_something_else_is_as_none(payload: Payload) -> None:
    assert Headers().from_payloads([payload]) == [{}]


@activity.defn
async def look() -> str:
    return "seen"


@workflow.defn
class Asked:
    """Is asked in all ways that carry headers, and goes on as a new run once."""

    def __init__(self) -> None:
        self.told = ""

    @workflow.run
    async def run(self, elsewhere: str, runs: int) -> str:
        await workflow.wait_condition(lambda: bool(self.told))
        if runs > 1:
            workflow.continue_as_new(args=[elsewhere, runs - 1])
        return await workflow.execute_activity(look, task_queue=elsewhere, start_to_close_timeout=timedelta(seconds=5))

    @workflow.signal
    def tell(self, what: str) -> None:
        self.told = what

    @workflow.update
    async def change(self, what: str) -> str:
        return what

    @change.validator
    def is_good(self, what: str) -> None:
        assert what

    @workflow.query
    def ask(self) -> str:
        return self.told


async def everything(host: Client, queue: str, elsewhere: str) -> list[HistoryEvent]:
    """Have a host start a workflow and ask it in all ways; return what its runs leave in the histories."""
    handle = await host.start_workflow(
        Asked.run,
        args=[elsewhere, 2],
        id=f"headers-{uuid.uuid4()}",
        task_queue=queue,
        run_timeout=timedelta(seconds=30),
    )
    assert await handle.execute_update(Asked.change, "now") == "now"
    assert await handle.query(Asked.ask) == ""
    await handle.signal(Asked.tell, "go on")
    first = host.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    left = [event async for event in first.fetch_history_events(wait_new_event=True)]
    await handle.signal(Asked.tell, "and end")
    assert await handle.result() == "seen"
    return left + [event async for event in host.get_workflow_handle(handle.id).fetch_history_events()]


def handed_on(events: list[HistoryEvent]) -> list[bytes]:
    """Return what headers say that a workflow writes by itself: to its next run, and to its activity."""
    kinds = ("workflow_execution_continued_as_new_event_attributes", "activity_task_scheduled_event_attributes")
    written = [getattr(event, kind).header.fields for event in events for kind in kinds if event.HasField(kind)]  # type: ignore[arg-type]
    return [fields["_tracer-data"].data for fields in written]


@asynccontextmanager
async def serving(
    server: TemporalServer, queue: str, tracing: TracingInterceptor, **more: Any
) -> AsyncIterator[Client]:
    """Run a worker, and give its client."""
    tracing.tracer = TracerProvider().get_tracer("test")
    client = await Client.connect(server.address, data_converter=data_converter(KEY), interceptors=[tracing], **more)
    worker = Worker(
        client,
        task_queue=queue,
        workflows=[Asked],
        activities=[look],
        workflow_runner=UnsandboxedWorkflowRunner(),
        deployment_config=HOST_DEPLOYMENT,
    )
    async with worker:
        yield client


@pytest.mark.server
@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", [HeaderCodecBehavior.CODEC, HeaderCodecBehavior.NO_CODEC], ids=["encrypted", "clear"])
def test_the_headers_of_a_host_hold_nobody_up_and_what_it_adds_to_them_goes_no_further(
    temporal_server: TemporalServer, how: HeaderCodecBehavior
) -> None:
    async def scene() -> None:
        mine, its = f"headers-{uuid.uuid4()}", f"headers-{uuid.uuid4()}"
        async with (
            serving(temporal_server, mine, Tracing()),
            serving(temporal_server, its, TracingInterceptor(), header_codec_behavior=how) as host,
        ):
            context.attach(sampled())  # for this event loop's task alone
            found, _ = await asyncio.gather(everything(host, mine, its), everything(host, its, mine))
        to_its_next_run, to_its_activity = handed_on(found)
        assert CANARY.encode() not in to_its_next_run + to_its_activity
        assert b"traceparent" in to_its_activity

    asyncio.run(scene())
