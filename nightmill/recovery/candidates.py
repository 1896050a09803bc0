"""Where candidates come from: each source, a page at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from nightmill.contracts import Source, Subject

if TYPE_CHECKING:
    from nightmill.recovery.model import Candidate
    from nightmill.settings import BatchSettings
    from nightmill.settings.recovery import ReconcilerSettings
    from nightmill.storage.candidates import CandidateReads
    from nightmill.storage.document_candidates import DocumentCandidates
    from nightmill.storage.slicing_candidates import SlicingCandidates


@dataclass(frozen=True)
class Candidates:
    """Reads what may be stuck out of the database.

    Attributes:
        settings: How late is late.
        defaults: How long a batch may wait to be submitted.
        batches: Of batches and their parts.
        documents: Of documents.
        slicings: Of slicings.
    """

    settings: ReconcilerSettings
    defaults: BatchSettings
    batches: CandidateReads
    documents: DocumentCandidates
    slicings: SlicingCandidates

    def page(self, source: Source, *, after: str | None, limit: int, now: datetime) -> list[Candidate]:
        """Return up to `limit` candidates behind `after`.

        Raises:
            ValueError: The source is not the database.
        """
        grace, margin = self.settings.grace, self.settings.expiry_margin
        match source:
            case Source.BATCHES:
                ttl = self.defaults.pending_ttl
                return self.batches.batches(after=after, limit=limit, now=now, grace=grace, pending_ttl=ttl)
            case Source.PARTS:
                return self.batches.parts(after=after, limit=limit, now=now, grace=grace)
            case Source.PAST_DEADLINE:
                return self.batches.past_deadline(after=after, limit=limit, now=now, expiry_margin=margin)
            case Source.DOCUMENTS:
                return self.documents.page(after=after, limit=limit, now=now, grace=grace)
            case Source.SLICINGS:
                return self.slicings.page(after=after, limit=limit, now=now, grace=grace)
            case Source.PROBLEMS:
                raise ValueError("problems are Temporal's to tell")

    def has_moved(self, candidate: Candidate) -> bool:
        """Whether the database says another thing of a candidate by now; asked where a step more would be one too many.

        A page takes a while, and after an outage everything goes on at once. Starts of documents and slicings find out
        by themselves.
        """
        is_ours = candidate.known and candidate.subject in (Subject.BATCH, Subject.PART)
        return is_ours and self.batches.has_moved(candidate)
