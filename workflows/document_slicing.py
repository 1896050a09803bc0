"""One PDF: cut up by a supervised program, checked, stored, and its owner told."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.slicing import SlicingActivities
    from activities.slicing_programs import ProgramActivities
    from nightmill import ids
    from nightmill.contracts import (
        Fault,
        FinishedSlicing,
        FinishSlicing,
        Inspection,
        NoticeRef,
        OpenSlicing,
        PageRange,
        ProgramInput,
        ProgramOutcome,
        SlicerBeat,
        SlicingAttention,
        SlicingErrorCode,
        SlicingInput,
        SlicingProgress,
        SlicingRef,
        SlicingStatus,
        SlicingSummary,
        SlicingTerms,
        duration_text,
    )
    from nightmill.errors import InvalidInput

from workflows import failures, policies, story
from workflows.program_attempts import ProgramAttempts

CHUNKS_AT_ONCE = 16
"""Page ranges that one document has scheduled at once; how many run is what the workers have slots for."""

_T = TypeVar("_T")


@workflow.defn(name="DocumentSlicing", failure_exception_types=[TypeError])
class DocumentSlicing:
    """Slice one document by one profile; the workflow id, which holds the content's hash, is the mutex.

    1. `open_slicing` keeps the PDF in the file storage and makes the document's row.
    2. While the profile's breaker is open, the document waits, and goes on by itself.
    3. `inspect_pdf` opens it; `read_pages` reads page ranges, many at once, where that pays; `slice_pdf` cuts it up,
       and `find_metadata` runs the profile's second program. A fault of a program is tried once more.
    4. `finish_slicing` replaces the document's slices, or writes what went wrong and leaves those that it had.
    5. `notify_owner` tells each of those who asked to be told.

    The job's time is counted while its programs run: neither in queues, nor while it waits for the breaker.
    """

    # Without @workflow.init, so that a start without input is refused by `workflows.admission`, in a line.
    def __init__(self) -> None:
        self._progress = SlicingProgress()
        self._beats: dict[int, SlicerBeat] = {}
        self._programs: ProgramAttempts | None = None

    @workflow.run
    async def run(self, asked: SlicingInput) -> SlicingSummary:
        """Return what came of it; a document that cannot be sliced is an outcome, not a failure of the workflow."""
        self._ref = _named()
        try:
            done = await self._slice_in_time(asked)
        except asyncio.CancelledError:
            await _whatever_comes(self._finish(self._ended(SlicingStatus.CANCELED)))
            raise
        return await _whatever_comes(self._finish(done))

    @workflow.signal(description="Sent by the running program")
    def report_progress(self, beat: SlicerBeat) -> None:
        """Take a program's progress; the first report of an attempt starts the job's clock."""
        if self._programs is None or self._progress.status.is_terminal:
            return
        if beat.step != "inspect":
            self._programs.started(beat.step, beat.first_page, beat.attempt)
        self._beats[beat.first_page if beat.step == "pages" else 0] = beat
        self._show(
            status=SlicingStatus.SLICING,
            phase=beat.step if beat.phase == "running" else beat.phase,
            page=sum(each.page for each in self._beats.values()),
            of=self._progress.of or beat.of,
            attempt=beat.attempt,
            started_at=self._programs.clock.started_at,
        )

    @workflow.signal(description="Look at the breaker again: it was closed")
    def go_on(self) -> None:
        """Look at the breaker again: it was closed."""
        if self._programs is not None:
            self._programs.go_on()

    @workflow.query(description="Status, phase, page, since when, what it waits for")
    def progress(self) -> SlicingProgress:
        """Return how the slicing stands."""
        return self._progress

    async def _slice_in_time(self, asked: SlicingInput) -> FinishSlicing:
        """Return how it ended, which may be by its time: then its programs have ended before this returns."""
        try:
            terms = await workflow.execute_activity_method(
                SlicingActivities.open_slicing,
                OpenSlicing(ref=self._ref, asked=asked),
                **policies.titled(policies.SOURCE_FETCH, "keep the PDF"),
            )
        except ActivityError as error:
            if workflow.cancellation_reason() is not None:
                raise asyncio.CancelledError from error
            raise
        if terms.fault is not None:
            return self._ended(SlicingStatus.FAILED, terms.fault)
        self._programs = ProgramAttempts(self._ref, self._wait)
        self._programs.clock.limit = terms.job_timeout
        job = asyncio.create_task(self._slice(terms, self._programs))
        if await _and_end([job], self._ends_in_time(job, self._programs)):
            return job.result()
        limit = duration_text(terms.job_timeout)
        fault = Fault(
            code=SlicingErrorCode.TIMED_OUT,
            message=f"timed out after {limit}, the time for the whole job (job_timeout of the profile)",
        )
        return self._ended(SlicingStatus.FAILED, fault)

    async def _ends_in_time(self, job: asyncio.Task[Any], programs: ProgramAttempts) -> bool:
        """Return whether the job ends before its clock, which stands now and then, has run out."""
        clock = programs.clock
        while not job.done():
            await workflow.wait_condition(lambda: job.done() or clock.runs)
            try:
                await workflow.wait_condition(
                    lambda: job.done() or not clock.runs,
                    timeout=clock.left(workflow.now()),
                    timeout_summary="the time for the whole job",
                )
            except TimeoutError:
                return job.done()
        return True

    async def _slice(self, terms: SlicingTerms, programs: ProgramAttempts) -> FinishSlicing:
        found = await programs.run("inspect", policies.INSPECTION, lambda attempt: self._inspect(terms, attempt))
        if isinstance(found, Fault):
            return self._ended(SlicingStatus.FAILED, found)
        self._show(of=found.page_count, estimate=found.estimate.duration if found.estimate else None)
        asked = ProgramInput(
            ref=self._ref, chunks=found.chunks, page_count=found.page_count, text_source=found.text_source
        )
        fault = await self._read_all(terms, asked, programs)
        if fault is not None:
            return self._ended(SlicingStatus.FAILED, fault)
        cut = await programs.run("slice", terms.slicing_timeout, lambda attempt: self._cut(terms, asked, attempt))
        if isinstance(cut, Fault):
            return self._ended(SlicingStatus.FAILED, cut)
        named: ProgramOutcome | Fault = ProgramOutcome()
        if terms.metadata_timeout is not None:
            limit = terms.metadata_timeout
            named = await programs.run("metadata", limit, lambda attempt: self._name(terms, asked, attempt))
        return self._sliced(found, cut, named)

    def _sliced(self, found: Inspection, cut: ProgramOutcome, named: ProgramOutcome | Fault) -> FinishSlicing:
        """Return what becomes of the slices; that number and date could not be found does not lose them."""
        reasons = [*found.reasons, *cut.reasons]
        if isinstance(named, Fault):
            reasons.append(f"number and date: {named.message}"[:300])
            named = ProgramOutcome()
        return FinishSlicing(
            ref=self._ref,
            status=SlicingStatus.NEEDS_REVIEW if reasons else SlicingStatus.SLICED,
            result=cut,
            reasons=tuple(reasons),
            number=named.number or cut.number,
            issued_on=named.issued_on or cut.issued_on,
        )

    async def _inspect(self, terms: SlicingTerms, attempt: int) -> Inspection:
        return await workflow.execute_activity_method(
            ProgramActivities.inspect_pdf,
            ProgramInput(ref=self._ref, attempt=attempt),
            **policies.program(terms, policies.INSPECTION, "open the PDF"),
        )

    async def _read_all(self, terms: SlicingTerms, asked: ProgramInput, programs: ProgramAttempts) -> Fault | None:
        """Read all page ranges, some of them at once; return what kept one from being read."""
        free = asyncio.Semaphore(CHUNKS_AT_ONCE)

        async def read(chunk: PageRange) -> Fault | None:
            async with free:
                limit = terms.slicing_timeout
                read = await programs.run(
                    "pages", limit, lambda attempt: self._read(terms, asked, chunk, attempt), first_page=chunk.first
                )
            return read if isinstance(read, Fault) else None

        chunks = [asyncio.create_task(read(chunk)) for chunk in asked.chunks]
        fault = await _and_end(chunks, _first_fault(chunks))
        self._beats.clear()
        return fault

    async def _read(self, terms: SlicingTerms, asked: ProgramInput, chunk: PageRange, attempt: int) -> ProgramOutcome:
        return await workflow.execute_activity_method(
            ProgramActivities.read_pages,
            asked.model_copy(update={"attempt": attempt, "pages": chunk, "chunks": ()}),
            **policies.program(terms, terms.slicing_timeout, f"read pages {chunk.first + 1} to {chunk.last + 1}"),
        )

    async def _cut(self, terms: SlicingTerms, asked: ProgramInput, attempt: int) -> ProgramOutcome:
        return await workflow.execute_activity_method(
            ProgramActivities.slice_pdf,
            asked.model_copy(update={"attempt": attempt}),
            **policies.program(terms, terms.slicing_timeout, "slice"),
        )

    async def _name(self, terms: SlicingTerms, asked: ProgramInput, attempt: int) -> ProgramOutcome:
        return await workflow.execute_activity_method(
            ProgramActivities.find_metadata,
            asked.model_copy(update={"attempt": attempt, "chunks": ()}),
            **policies.program(terms, terms.metadata_timeout or timedelta(0), "find number and date"),
        )

    async def _finish(self, done: FinishSlicing) -> SlicingSummary:
        """Write how it ended, tell those who asked, and delete what nobody needs any more."""
        finished = await self._write(done)
        summary = finished.summary
        page = self._progress.page if done.result is None else self._progress.of
        self._show(status=summary.status, phase="ended", page=page, message=summary.message)
        story.show_slicing(summary)
        story.upsert(story.STATUS.value_set(summary.status.value))
        await asyncio.gather(*(self._notify(number) for number in range(finished.notices)))
        await self._clean_up()
        return summary

    async def _write(self, done: FinishSlicing) -> FinishedSlicing:
        """Write how it ended; a result that cannot be stored is a failure, and that is written and told, too."""
        policy = policies.RESULT_WRITE if done.result is not None else policies.DATABASE_WRITE
        try:
            return await workflow.execute_activity_method(
                SlicingActivities.finish_slicing, done, **policies.titled(policy, f"{done.status}")
            )
        except ActivityError as error:
            if done.result is None:
                raise
            return await self._write(self._ended(SlicingStatus.FAILED, failures.last_fault(error)))

    async def _notify(self, number: int) -> None:
        """Tell one of those who asked; that it cannot be done is an operator's business and fails nothing."""
        try:
            await workflow.execute_activity_method(
                SlicingActivities.notify_owner,
                NoticeRef(ref=self._ref, number=number),
                **policies.titled(policies.NOTICE, "tell who asked"),
            )
        except ActivityError as error:
            await workflow.execute_activity_method(
                SlicingActivities.set_slicing_attention,
                SlicingAttention(ref=self._ref, message=f"notice {number + 1}: {failures.reason_of(error)}"[:1000]),
                **policies.titled(policies.DATABASE_WRITE, "a notice needs attention"),
            )

    async def _clean_up(self) -> None:
        try:
            await workflow.execute_activity_method(
                SlicingActivities.delete_files,
                self._ref,
                **policies.titled(policies.FILE_CLEAN_UP, "delete what nobody needs"),
            )
        except ActivityError as error:
            workflow.logger.warning("files are left behind", extra={"reason": failures.reason_of(error)})

    def _wait(self, reason: str | None) -> None:
        """Show that the slicing waits for the breaker, or goes on."""
        if reason is not None:
            self._show(status=SlicingStatus.WAITING, message=reason)
        elif self._progress.status is SlicingStatus.WAITING:
            self._show(status=SlicingStatus.QUEUED, message=None)

    def _show(self, **changes: Any) -> None:
        self._progress = self._progress.model_copy(update=changes)
        story.show_slicing_progress(self._progress)

    def _ended(self, status: SlicingStatus, fault: Fault | None = None) -> FinishSlicing:
        return FinishSlicing(ref=self._ref, status=status, fault=fault)


async def _whatever_comes(steps: Coroutine[Any, Any, _T]) -> _T:
    """Return what the steps return; a cancel that comes while they run comes too late."""
    task = asyncio.create_task(steps)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        return await task


async def _first_fault(chunks: Sequence[asyncio.Task[Fault | None]]) -> Fault | None:
    """Return what kept the first one from being read that could not be; None once all are read."""
    for chunk in workflow.as_completed(chunks):
        fault = await chunk
        if fault is not None:
            return fault
    return None


async def _and_end(tasks: Sequence[asyncio.Task[Any]], wait: Coroutine[Any, Any, _T]) -> _T:
    """Return what `wait` returns, or raise what it raises, when the tasks have ended, by a cancel if need be.

    Without `finally`: that also runs when a worker drops the run from its cache, and then nothing is to be done.
    """
    try:
        found = await wait
    except (Exception, asyncio.CancelledError):
        await _end(tasks)
        raise
    await _end(tasks)
    return found


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel what still runs and return when all of it has ended, the programs of its activities included."""
    for task in tasks:
        if not task.done():
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _named() -> SlicingRef:
    try:
        sha256, profile = ids.slicing_of(workflow.info().workflow_id)
    except InvalidInput as error:
        raise ApplicationError(f"invalid SlicingInput: {error}", type="InvalidInput", non_retryable=True) from None
    return SlicingRef(sha256=sha256, profile=profile, run_id=workflow.info().original_execution_run_id)
