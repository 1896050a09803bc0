"""What a slicing begins, and what it counts, when programs end in ways that no real one can be made to end in."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.boundary import WORKER_SHUTDOWN
from nightmill.client.connection import register_search_attributes
from nightmill.client.converter import DATA_CONVERTER
from nightmill.contracts import (
    AttemptFault,
    BreakerState,
    BreakerView,
    CanaryInput,
    CanaryOutcome,
    CanaryTurn,
    CanaryVerdict,
    Fault,
    FinishedSlicing,
    FinishSlicing,
    HealthInput,
    Inspection,
    OpenSlicing,
    PageRange,
    ProgramInput,
    ProgramOutcome,
    SlicerBeat,
    SlicingErrorCode,
    SlicingInput,
    SlicingRef,
    SlicingStatus,
    SlicingSummary,
    SlicingTerms,
)
from tests.stack import TemporalServer
from workflows import policies
from workflows.document_slicing import DocumentSlicing
from workflows.slicer_health import SlicerHealth
from workflows.story import SEARCH_ATTRIBUTES

pytestmark = pytest.mark.server

_numbers = itertools.count()


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in an event loop of its own."""

    @functools.wraps(test)
    def run(**given: Any) -> None:
        asyncio.run(asyncio.wait_for(test(**given), 30))

    return run


@dataclass
class Steps:
    """The steps of a slicing, which do nothing but what a test wants.

    Attributes:
        queue: Their task queue.
        job_timeout: The job's time.
        ranges: Page ranges that are read.
        late: Ranges from this one on wait two seconds in the queue, as seen from the workflow.
        on_cancel: What the slicer comes to when it is canceled; None: it ends well at once.
        is_open: Whether the breaker is.
        asked: How often the breaker was asked while it was open.
        calls: The programs that were started.
    """

    queue: str = field(default_factory=lambda: f"nightmill-steps-{next(_numbers)}")
    job_timeout: timedelta = timedelta(minutes=30)
    ranges: int = 0
    late: int = 1
    on_cancel: Callable[[], ProgramOutcome] | None = None
    is_open: bool = False
    asked: int = 0
    calls: list[str] = field(default_factory=list)

    @activity.defn
    async def open_slicing(self, _: OpenSlicing) -> SlicingTerms:
        return SlicingTerms(
            job_timeout=self.job_timeout,
            slicing_timeout=timedelta(minutes=1),
            metadata_timeout=timedelta(minutes=1),
            heartbeat_timeout=timedelta(seconds=30),
            programs_queue=self.queue,
        )

    @activity.defn
    async def ask_breaker(self, _: SlicingRef) -> BreakerView:
        is_open = self.is_open and "inspect" in self.calls
        self.asked += is_open
        return BreakerView(is_open=is_open, reason="a test")

    @activity.defn
    async def inspect_pdf(self, _: ProgramInput) -> Inspection:
        self.calls.append("inspect")
        ranges = tuple(PageRange(first=at, last=at) for at in range(self.ranges))
        return Inspection(page_count=max(self.ranges, 1), chunks=ranges)

    @activity.defn
    async def read_pages(self, asked: ProgramInput) -> ProgramOutcome:
        assert asked.pages is not None
        self.calls.append("pages")
        if asked.pages.first >= self.late:
            await asyncio.sleep(2)
        await _tell(SlicerBeat(step="pages", phase="running", first_page=asked.pages.first))
        return ProgramOutcome()

    @activity.defn
    async def slice_pdf(self, _: ProgramInput) -> ProgramOutcome:
        self.calls.append("slice")
        await _tell(SlicerBeat(step="slice", phase="running"))
        if self.on_cancel is None:
            return ProgramOutcome()
        try:
            while True:
                await asyncio.sleep(0.1)
                activity.heartbeat()
        except asyncio.CancelledError:
            return self.on_cancel()

    @activity.defn
    async def find_metadata(self, _: ProgramInput) -> ProgramOutcome:
        self.calls.append("metadata")
        return ProgramOutcome()

    @activity.defn
    async def record_fault(self, _: AttemptFault) -> BreakerView:
        return BreakerView()

    @activity.defn
    async def finish_slicing(self, done: FinishSlicing) -> FinishedSlicing:
        code = done.fault.code if done.fault else None
        summary = SlicingSummary(sha256=done.ref.sha256, profile="cut", status=done.status, error_code=code)
        return FinishedSlicing(summary=summary)

    @activity.defn
    async def delete_files(self, _: SlicingRef) -> None:
        return None

    @asynccontextmanager
    async def slicing(self, server: TemporalServer) -> AsyncIterator[WorkflowHandle[DocumentSlicing, SlicingSummary]]:
        """Run a slicing with these steps."""
        steps: list[Callable[..., Any]] = [
            self.open_slicing, self.ask_breaker, self.inspect_pdf, self.read_pages, self.slice_pdf, self.find_metadata,
            self.record_fault, self.finish_slicing, self.delete_files,
        ]  # fmt: skip
        client = await Client.connect(server.address, data_converter=DATA_CONVERTER)
        await register_search_attributes(client, SEARCH_ATTRIBUTES)
        throttle = timedelta(seconds=0.1)
        async with Worker(
            client, task_queue=self.queue, workflows=[DocumentSlicing], activities=steps,
            workflow_runner=UnsandboxedWorkflowRunner(), max_heartbeat_throttle_interval=throttle,
            default_heartbeat_throttle_interval=throttle,
        ):  # fmt: skip
            yield await client.start_workflow(
                DocumentSlicing.run,
                SlicingInput(source="stored:a.pdf", profile="cut"),
                id=f"slice/{next(_numbers):064x}/cut",
                task_queue=self.queue,
            )


async def _tell(beat: SlicerBeat) -> None:
    info = activity.info()
    await activity.client().get_workflow_handle(info.workflow_id or "").signal("report_progress", beat)


def faulty() -> ProgramOutcome:
    return ProgramOutcome(fault=Fault(code=SlicingErrorCode.PROGRAM_KILLED, message="killed", retried=True))


def handed_back() -> ProgramOutcome:
    raise ApplicationError("the worker shuts down", type=WORKER_SHUTDOWN)


@pytest.mark.parametrize("on_cancel", [ProgramOutcome, faulty, handed_back])
@in_a_loop
async def test_a_job_whose_time_is_over_begins_nothing_more_however_its_program_ends(
    temporal_server: TemporalServer, on_cancel: Callable[[], ProgramOutcome]
) -> None:
    steps = Steps(job_timeout=timedelta(seconds=0.5), on_cancel=on_cancel)
    async with steps.slicing(temporal_server) as running:
        summary = await running.result()
    assert (summary.status, summary.error_code) == (SlicingStatus.FAILED, SlicingErrorCode.TIMED_OUT)
    assert steps.calls == ["inspect", "slice"]


@in_a_loop
async def test_a_cancel_begins_nothing_more_however_the_program_ends(temporal_server: TemporalServer) -> None:
    steps = Steps(on_cancel=faulty)
    async with steps.slicing(temporal_server) as running:
        while "slice" not in steps.calls:
            await asyncio.sleep(0.02)
        await running.cancel()
        with pytest.raises(Exception, match="Workflow execution failed"):
            await running.result()
    assert steps.calls == ["inspect", "slice"]


@in_a_loop
async def test_page_ranges_that_wait_in_a_queue_use_no_time_of_the_job(temporal_server: TemporalServer) -> None:
    steps = Steps(job_timeout=timedelta(seconds=1), ranges=3)
    async with steps.slicing(temporal_server) as running:
        summary = await running.result()
    assert summary.status is SlicingStatus.SLICED
    assert steps.calls.count("pages") == 3


@in_a_loop
async def test_one_page_range_looks_at_an_open_breaker_for_all(temporal_server: TemporalServer) -> None:
    steps = Steps(ranges=5, late=5, is_open=True)
    async with steps.slicing(temporal_server) as running:
        while not steps.asked:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)
        asked, steps.is_open = steps.asked, False
        await running.signal("go_on")
        summary = await running.result()
    assert (asked, summary.status) == (1, SlicingStatus.SLICED)


def test_a_document_may_wait_for_a_month_and_more_within_what_a_history_may_have() -> None:
    waited, looks = timedelta(0), 0
    while waited < timedelta(days=30):
        waited += policies.until_breaker_look(looks)
        looks += 1
    assert looks * 20 < 51_200 / 3
    assert policies.until_breaker_look(0) == timedelta(minutes=5)


@dataclass
class Health:
    """The steps of a health check, by a worker whose clock is an hour behind.

    Attributes:
        queue: Their task queue.
        asked: When the canary's turn was asked for.
    """

    queue: str = field(default_factory=lambda: f"nightmill-health-{next(_numbers)}")
    asked: list[datetime] = field(default_factory=list)

    @activity.defn
    async def tell_operators(self, _: str) -> None:
        return None

    @activity.defn
    async def release_parked(self, _: str) -> int:
        return 0

    @activity.defn
    async def begin_canary(self, asked: CanaryInput) -> CanaryTurn:
        self.asked.append(datetime.now(UTC))
        is_due = len(self.asked) > 2
        return CanaryTurn(
            token=asked.token if is_due else None,
            at=None if is_due else datetime.now(UTC) - timedelta(hours=1),
            programs_queue=self.queue,
            timeout=timedelta(minutes=1),
            heartbeat_timeout=timedelta(seconds=30),
        )

    @activity.defn
    async def slice_canary(self, asked: CanaryInput) -> CanaryOutcome:
        return CanaryOutcome(profile=asked.profile, passed=True)

    @activity.defn
    async def judge_canary(self, _: CanaryInput) -> CanaryVerdict:
        return CanaryVerdict(state=BreakerState.CLOSED)


@in_a_loop
async def test_a_canary_that_is_due_by_one_clock_and_not_by_another_is_not_asked_for_without_a_pause(
    temporal_server: TemporalServer,
) -> None:
    health = Health()
    client = await Client.connect(temporal_server.address, data_converter=DATA_CONVERTER)
    steps: list[Callable[..., Any]] = [
        health.tell_operators, health.release_parked, health.begin_canary, health.slice_canary, health.judge_canary,
    ]  # fmt: skip
    async with Worker(
        client, task_queue=health.queue, workflows=[SlicerHealth], activities=steps,
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):  # fmt: skip
        outcome = await client.execute_workflow(
            SlicerHealth.run, HealthInput(profile="cut"), id=health.queue, task_queue=health.queue
        )
    assert outcome is not None
    assert outcome.passed
    pauses = [after - before for before, after in itertools.pairwise(health.asked)]
    assert min(pauses) >= policies.CANARY_PATIENCE
