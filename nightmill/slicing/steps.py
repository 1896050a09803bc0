"""The steps of a slicing in which programs run: look at the PDF, read pages, slice, find number and date.

Every step has a private folder that is gone when it ends, and leaves what it found in the file storage. A second run of
a step does all of it again and writes the same keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nightmill.contracts import (
    Inspection,
    PageRange,
    ProgramInput,
    ProgramOutcome,
    SlicingErrorCode,
    SlicingEstimate,
    SlicingRef,
)
from nightmill.failpoints import fail_point
from nightmill.slicing import keys
from nightmill.slicing.faults import InvalidJson, InvalidResult, SlicingFault
from nightmill.slicing.files import pieces_of, read_answer, read_metadata, upload
from nightmill.slicing.forecast import fit, plan_chunks, rule
from nightmill.slicing.inspection import check_command, inspection_command, names_to_check, read_checks, read_inspection
from nightmill.slicing.profiles import find_profile
from nightmill.slicing.programs import DISK_FACTOR
from nightmill.slicing.results import read_result, with_checks
from nightmill.slicing.stored_results import write_result
from nightmill.slicing.workplace import LOOK, Tell, Workplace, Workshop
from nightmill.storage.slicing_attempts import NewAttempt
from nightmill.telemetry.redaction import redacted, without_secrets
from nightmill.telemetry.slicings import record_program
from nightmill.threads import in_thread

if TYPE_CHECKING:
    from nightmill.settings.slicing import SlicingSettings
    from nightmill.slicing.inspection import Inspected
    from nightmill.slicing.institutions import InstitutionNames
    from nightmill.slicing.originals import Originals
    from nightmill.slicing.programs import Bounds, ProgramRun
    from nightmill.slicing.slicer_result import SlicerResult
    from nightmill.storage.files import FileStore
    from nightmill.storage.slicing_attempts import AttemptRepository
    from nightmill.storage.slicings import SlicingRepository

_COUNTED = frozenset({"pages", "slice", "metadata"})
"""Steps whose programs are the job's own: its time runs from the first of them."""

_TOO_HARD = frozenset(
    {
        SlicingErrorCode.OUT_OF_MEMORY,
        SlicingErrorCode.WALL_CLOCK,
        SlicingErrorCode.CPU_CLOCK,
        SlicingErrorCode.PROGRAM_KILLED,
    }
)
"""What a document does to whoever opens it, before a slicer has seen it: no reason to keep others from slicers."""

MAX_STDERR_KEPT = 65_536
"""Characters of the end of standard error that are kept with an attempt."""


@dataclass(frozen=True)
class SlicingSteps:
    """Runs the programs of slicings. Every method is for the event loop, many at once.

    Attributes:
        workshop: Gives places to work.
        originals: The PDFs.
        files: The file storage.
        slicings: The documents' records.
        attempts: The records of programs.
        institutions: Names to look for in texts.
    """

    workshop: Workshop
    originals: Originals
    files: FileStore
    slicings: SlicingRepository
    attempts: AttemptRepository
    institutions: InstitutionNames

    @property
    def settings(self) -> SlicingSettings:
        """How PDFs are sliced."""
        return self.workshop.settings

    async def inspect(self, asked: ProgramInput, tell: Tell) -> Inspection:
        """Return what is known of a document before it is sliced; what is wrong with it is part of that.

        Raises:
            TransientError: The file storage or the database is away.
        """
        try:
            async with await self._place("inspect", asked, tell) as place:
                command = inspection_command(place.pdf, place.folder, max_pages=self.settings.max_pages)
                run = await place.run("inspect", command, LOOK)
                found = await in_thread(read_inspection, run.stdout, max_pages=self.settings.max_pages)
                size = place.size
        except SlicingFault as error:
            fault = error.fault()
            return Inspection(fault=fault.model_copy(update={"counts": fault.counts and fault.code not in _TOO_HARD}))
        await in_thread(self.slicings.inspected, asked.ref, page_count=found.page_count, text_source=found.text_source)
        profile = find_profile(self.settings, asked.ref.profile)
        chunks: Sequence[PageRange] = ()
        if profile.settings.fan_out:
            concurrency = self.settings.concurrency
            chunks = plan_chunks(found.page_count, found.text_source, None, concurrency=concurrency)
        estimate = await in_thread(self._estimate, asked.ref.profile, found, size, len(chunks))
        fail_point("slicing.inspected")
        return Inspection(
            page_count=found.page_count,
            size=size,
            text_source=found.text_source,
            estimate=estimate,
            chunks=tuple(chunks),
            reasons=found.flags,
        )

    async def read_pages(self, asked: ProgramInput, tell: Tell) -> ProgramOutcome:
        """Read one range of pages and keep it for `slice`.

        Raises:
            TransientError: The file storage or the database is away.
        """
        pages = asked.pages or PageRange(first=0, last=max(asked.page_count - 1, 0))
        count = pages.last - pages.first + 1
        try:
            async with await self._place("pages", asked, tell) as place:
                asked_for = (*self._command(place), "--read-pages", f"{pages.first}-{pages.last}")
                run = await place.run(
                    "pages", (*asked_for, *_arguments(place, asked)), self._bounds(place), pages=count
                )
                answer = await in_thread(read_answer, run.stdout)
                if (answer.get("first"), answer.get("last")) != (pages.first, pages.last):
                    raise InvalidResult(f"pages {pages.first + 1} to {pages.last + 1} were not read as asked for")
                key, size = keys.pages(asked.ref, pages), place.profile.settings.file_size
                await in_thread(upload, self.files, key, place.output, "pages.jsonl", at_most=size)
        except SlicingFault as error:
            return ProgramOutcome(fault=error.fault())
        return ProgramOutcome(page_count=count)

    async def slice(self, asked: ProgramInput, tell: Tell) -> ProgramOutcome:
        """Cut the document up, check every slice, and keep slices and result in the file storage.

        Raises:
            TransientError: The file storage or the database is away.
        """
        try:
            async with await self._place("slice", asked, tell) as place:
                command = self._command(place)
                readable: tuple[Path, ...] = ()
                if asked.chunks:
                    pages = await in_thread(self._bring_pages, asked, place.home)
                    command, readable = (*command, "--pages-from", str(pages)), (pages,)
                command = (*command, *_arguments(place, asked))
                run = await place.run("slice", command, self._bounds(place), readable=readable, pages=asked.page_count)
                fail_point("slicing.running")
                place.tell("checking")
                result = await self._checked(asked, place, run)
                fail_point("slicing.checked")
                return await self._keep(asked.ref, place, result)
        except SlicingFault as error:
            return ProgramOutcome(fault=error.fault())

    async def find_metadata(self, asked: ProgramInput, tell: Tell) -> ProgramOutcome:
        """Return the gazette's number and date as the profile's second program finds them.

        Raises:
            TransientError: The file storage or the database is away.
        """
        try:
            async with await self._place("metadata", asked, tell) as place:
                bounds = place.bounds(place.profile.settings.metadata_timeout)
                command = (*place.profile.metadata_command, *_arguments(place, asked))
                run = await place.run("metadata", command, bounds)
                number, issued_on = await in_thread(read_metadata, run.stdout)
        except SlicingFault as error:
            return ProgramOutcome(fault=error.fault())
        return ProgramOutcome(number=number, issued_on=issued_on)

    def _estimate(self, profile: str, found: Inspected, size: int, chunks: int) -> SlicingEstimate:
        """Return what a run is expected to take, by what the profile's earlier ones took if there were enough."""
        samples = [*self.attempts.samples(profile, "slice"), *self.attempts.samples(profile, "pages")]
        forecast = fit(samples)
        at_once = max(1, min(chunks, self.settings.concurrency))
        expect = rule if forecast is None else forecast.estimate
        return expect(found.page_count, size, found.text_source, at_once=at_once)

    async def _place(self, step: str, asked: ProgramInput, tell: Tell) -> AbstractAsyncContextManager[Workplace]:
        ref = asked.ref
        if step in _COUNTED:
            await in_thread(self.slicings.started, ref, attempt=asked.attempt, now=datetime.now(UTC))
            fail_point("slicing.started")
        size = await in_thread(self.files.size, keys.original(ref.sha256))
        return self.workshop.open(
            step,
            find_profile(self.settings, ref.profile),
            partial(self.originals.copy, ref.sha256),
            size=size or 0,
            attempt=asked.attempt,
            first_page=asked.pages.first if asked.pages else 0,
            tell=tell,
            ended=partial(self._record, asked),
        )

    def _command(self, place: Workplace) -> tuple[str, ...]:
        languages = ("--ocr-languages", self.settings.ocr_languages) if place.profile.is_built_in else ()
        return (*place.profile.command, *languages)

    def _bounds(self, place: Workplace) -> Bounds:
        return place.bounds(place.profile.settings.slicing_timeout)

    def _record(
        self, asked: ProgramInput, step: str, command: Sequence[str], run: ProgramRun, fault: SlicingFault | None,
        pages: int, size: int,
    ) -> None:  # fmt: skip
        """Keep and log a program that ended."""
        ended = NewAttempt(
            ref=asked.ref,
            attempt=asked.attempt,
            step=step,
            command=redacted(command),
            started_at=run.started_at,
            duration=run.duration,
            exit_code=run.exit_code,
            signal=run.signal,
            error_code=None if fault is None else fault.error_code,
            stdout_bytes=run.stdout_bytes,
            stderr_bytes=run.stderr_bytes,
            cpu=run.cpu,
            peak_memory=run.peak_memory,
            pages=pages,
            text_source=asked.text_source,
            size=size,
            stderr_tail=without_secrets(run.stderr_tail[-MAX_STDERR_KEPT:]),
        )
        record_program(ended)
        self.attempts.record(ended)

    def _bring_pages(self, asked: ProgramInput, home: Path) -> Path:
        folder = home / "pages"
        folder.mkdir(mode=0o700)
        for chunk in asked.chunks:
            with (folder / f"{chunk.first:06}-{chunk.last:06}.jsonl").open("xb") as file:
                file.writelines(self.files.read(keys.pages(asked.ref, chunk)))
        return folder

    async def _checked(self, asked: ProgramInput, place: Workplace, run: ProgramRun) -> SlicerResult:
        """Return the result with every entry held against its file, which a program of ours has opened."""
        try:
            result = await in_thread(
                read_result,
                run.stdout,
                folder=place.output,
                page_count=asked.page_count,
                institutions=self.institutions,
            )
        except (InvalidJson, InvalidResult):
            raw = keys.raw_output(asked.ref, "slice", asked.attempt)
            await in_thread(self.files.write, raw, pieces_of(run.stdout))
            raise
        names = place.home / "names.json"
        await in_thread(names.write_bytes, names_to_check(result))
        check = await place.run("check", check_command(place.output, names), LOOK, readable=(names,))
        return with_checks(result, await in_thread(read_checks, check.stdout))

    async def _keep(self, ref: SlicingRef, place: Workplace, result: SlicerResult) -> ProgramOutcome:
        """Bring slices and result into the file storage.

        Raises:
            OutputFlood: All slices together are more than a program may have on disk.
        """
        kept = []
        # What is on disk is bounded; but holes in files take no room there, and any number of slices may name one file.
        left = DISK_FACTOR * place.profile.settings.file_size
        for entry in result.entries:
            place.tell("storing", entry.position, len(result.entries))
            if entry.path is not None:
                key = keys.slice_file(ref, entry.position)
                size, sha256 = await in_thread(upload, self.files, key, place.output, entry.path, at_most=left)
                left -= size
                entry = replace(entry, file_key=key, file_size=size, file_sha256=sha256)
            kept.append(entry)
            fail_point("slicing.half_uploaded")
        result = replace(result, entries=tuple(kept))
        await in_thread(self.files.write, keys.result(ref), write_result(result))
        fail_point("slicing.uploaded")
        return ProgramOutcome(
            slices=len(result.entries),
            flagged=result.flagged,
            page_count=result.page_count,
            number=result.number,
            issued_on=result.issued_on,
            result_key=keys.result(ref),
            reasons=result.reasons(),
        )


def _arguments(place: Workplace, asked: ProgramInput) -> tuple[str, ...]:
    """Return what every slicer is given: PDF, OUTPUT_DIR, JOB_ID."""
    return str(place.pdf), str(place.output), f"{asked.ref.sha256[:16]}-{asked.attempt}"
