"""The beginning and the end of a slicing: its PDF and its row, and what becomes of what its programs found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from nightmill.contracts import (
    FinishedSlicing,
    FinishSlicing,
    OpenSlicing,
    SlicingRef,
    SlicingStatus,
    SlicingTerms,
)
from nightmill.errors import InvalidInput, SourceAway
from nightmill.failpoints import fail_point
from nightmill.slicing import keys
from nightmill.slicing.faults import DocumentFault, Unreadable
from nightmill.slicing.notices import summary_of
from nightmill.slicing.originals import name_of
from nightmill.slicing.profiles import find_profile
from nightmill.slicing.rules import with_masthead
from nightmill.slicing.stored_results import new_slices, read_stored_result
from nightmill.telemetry.slicings import record_slicing

if TYPE_CHECKING:
    from nightmill.settings.slicing import SlicingSettings
    from nightmill.slicing.breaker import Breaker
    from nightmill.slicing.originals import Originals
    from nightmill.storage.files import FileStore
    from nightmill.storage.slicing_attempts import AttemptRepository
    from nightmill.storage.slicings import SlicingRepository

SOURCE_PATIENCE = timedelta(minutes=30)
"""How long the place where a PDF is may be away, before that is taken for the document's fault."""

MAX_OBSOLETE_RUNS = 20
"""Runs whose files one run deletes at most: its predecessor's, and what runs left that were ended from outside."""


@dataclass(frozen=True)
class SlicingJobs:
    """Opens and finishes slicings. Any thread may use it.

    Attributes:
        settings: How PDFs are sliced.
        originals: The PDFs.
        files: The file storage.
        slicings: The documents' records.
        attempts: The records of programs, by which runs are known.
        breaker: Hears of slicers that work.
    """

    settings: SlicingSettings
    originals: Originals
    files: FileStore
    slicings: SlicingRepository
    attempts: AttemptRepository
    breaker: Breaker

    def open(self, asked: OpenSlicing, *, scheduled_at: datetime, now: datetime) -> SlicingTerms:
        """Return the profile's terms once the PDF is kept and the document has a row; a source that is none is a fault.

        Raises:
            InvalidInput: There is no such profile, or the PDF has another hash.
            SlicingSuperseded: A later run works on the document.
            SourceAway: Where the source is does not answer; after a while that is a fault of the document.
            StorageUnavailable: The file storage or the database is away.
        """
        try:
            return self._open(asked, scheduled_at=scheduled_at, now=now)
        except InvalidInput as error:
            self.slicings.refuse(asked.ref, str(error), now=now)
            raise

    def _open(self, asked: OpenSlicing, *, scheduled_at: datetime, now: datetime) -> SlicingTerms:
        given = asked.asked
        profile = find_profile(self.settings, asked.ref.profile)
        if given.profile != asked.ref.profile:
            raise InvalidInput(f"profile {given.profile!r} does not fit the workflow id, which says {profile.name!r}")
        fault = None
        name, size = name_of(given.source), 0
        try:
            name, size = self.originals.keep(given.source, asked.ref.sha256)
        except DocumentFault as error:
            fault = error.fault()
        except SourceAway as error:
            if now - scheduled_at < SOURCE_PATIENCE:
                raise
            fault = Unreadable(str(error)).fault()
        fail_point("slicing.fetched")
        self.slicings.open(
            asked.ref,
            name=name,
            source=given.source,
            size=size,
            notify=given.notify or None,
            metadata=given.metadata or None,
            scheduled_at=scheduled_at,
            now=now,
        )
        if fault is None:  # a prune may have taken away what was kept before; from now on the row stops it
            self.originals.keep(given.source, asked.ref.sha256)
        fail_point("slicing.opened")
        return profile.terms(self.settings).model_copy(update={"fault": fault})

    def finish(self, done: FinishSlicing, *, scheduled_at: datetime, now: datetime) -> FinishedSlicing:
        """Write how a run ended, its slices included, in one transaction; a second call writes the same.

        Raises:
            SlicingSuperseded: Another run works on the document.
            TransientError: The file storage or the database is away.
        """
        if done.result is not None and done.result.result_key is not None:
            result, entries = read_stored_result(self.files.read(done.result.result_key))
            # The metadata program may have said since what the gazette is called.
            result = replace(result, number=done.number or result.number, issued_on=done.issued_on or result.issued_on)
            named = (with_masthead(entry, number=result.number, issued_on=result.issued_on) for entry in entries)
            row = self.slicings.finish(done, new_slices(named), description=result.description, now=now)
            self.breaker.count_success(done.ref.profile, now)
        else:
            row = self.slicings.finish(done, (), scheduled_at=scheduled_at, now=now)
        fail_point("slicing.finished")
        summary = summary_of(row)
        if row.ended_at == now:  # otherwise it was written, and counted, before
            record_slicing(summary, queue_wait=row.started_at - row.queued_at if row.started_at else None)
        told = 0 if row.status is SlicingStatus.CANCELED else len(row.notify)
        return FinishedSlicing(summary=summary, notices=told)

    def delete_files(self, ref: SlicingRef) -> None:
        """Delete the files of runs whose slices the document does not have; those that are gone already are no error.

        Raises:
            TransientError: The file storage or the database is away.
        """
        row = self.slicings.get(ref.sha256, ref.profile)
        if row.run_id != ref.run_id:
            return  # a later run works on it, and does this at its end
        obsolete = set(self.attempts.earlier_runs(row, limit=MAX_OBSOLETE_RUNS)) | ({ref.run_id} - {row.result_run})
        for run in obsolete:
            self.files.delete(keys.run(ref.sha256, ref.profile, run))
        self.files.delete(keys.all_pages(ref))
        fail_point("slicing.swept")
