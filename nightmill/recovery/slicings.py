"""Slicings whose run is gone: what another run is started with, and the end that a run could not write or tell."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from nightmill import ids
from nightmill.contracts import (
    Fault,
    FinishSlicing,
    NoticeRef,
    SlicingErrorCode,
    SlicingInput,
    SlicingRef,
    SlicingStatus,
)
from nightmill.contracts.slicing import STORED
from nightmill.errors import PermanentError, SlicingNotFound, SlicingSuperseded, TransientError

if TYPE_CHECKING:
    from nightmill.slicing.jobs import SlicingJobs
    from nightmill.slicing.notices import Notices
    from nightmill.storage.slicing_models import SlicingRow
    from nightmill.storage.slicings import SlicingRepository

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlicingRecovery:
    """Says how slicings are brought in order, and ends those that no run can end. Any thread may use it.

    Attributes:
        slicings: The documents' records.
        jobs: Writes ends.
        notices: Tells owners.
    """

    slicings: SlicingRepository
    jobs: SlicingJobs
    notices: Notices

    def lost_run(self, sha256: str, profile: str) -> SlicingInput | None:
        """Return what a new run is to be given; None where the document has ended by now, or was deleted.

        Whom to tell and the user's metadata are in the row, and stay there. The PDF is in the file storage once any run
        has begun; where none has, it comes from where it was asked to, as far as the row knows: of a web address that
        is without its query, as that may be secret.
        """
        try:
            row = self.slicings.get(sha256, profile)
        except SlicingNotFound:
            return None
        if row.status.is_terminal:
            return None
        return SlicingInput(source=row.source or f"{STORED}{row.name}", profile=profile)

    def tell(self, sha256: str, profile: str) -> None:
        """Tell those who asked how a document's last run has ended, and delete what nobody needs, as that run would.

        Nobody is told twice. Whoever cannot be told is an operator's business, and says so in the row.

        Raises:
            TransientError: Somebody could not be told now, or the file storage or the database is away.
        """
        try:
            row = self.slicings.get(sha256, profile)
        except SlicingNotFound:
            return
        if not row.status.is_terminal or row.run_id is None:
            return  # another run works on it, and tells by itself
        self._tell(row, SlicingRef(sha256=sha256, profile=profile, run_id=row.run_id))

    def close(self, sha256: str, profile: str, *, run_id: str | None, reason: str, canceled: bool) -> None:
        """Write the end that a document's run could not write, and tell its owner; a second call changes nothing.

        What an earlier run found stays. Where another run than `run_id` works on the document by now, nothing happens.

        Args:
            sha256: The PDF.
            profile: The profile.
            run_id: The run that the row names; None: no run has begun.
            reason: Why it failed, a line for people.
            canceled: Whether somebody wanted it to end; then nobody is told.

        Raises:
            TransientError: The end is written, and somebody could not be told now; or nothing is written.
        """
        try:
            ref = self._close(sha256, profile, run_id, reason, canceled=canceled)
            self._tell(self.slicings.get(sha256, profile), ref)
        except (SlicingNotFound, SlicingSuperseded) as error:
            logger.info("not closed", extra={"slicing": sha256, "profile": profile, "reason": str(error)})

    def _close(self, sha256: str, profile: str, run_id: str | None, reason: str, *, canceled: bool) -> SlicingRef:
        now = datetime.now(UTC)
        row = self.slicings.get(sha256, profile)
        if row.run_id != run_id:
            raise SlicingSuperseded(f"{sha256[:12]}/{profile}: another run works on it")
        # Where no run has begun, this is one that nobody else has.
        ref = SlicingRef(sha256=sha256, profile=profile, run_id=run_id or ids.new_id())
        fault = Fault(code=SlicingErrorCode.INTERNAL, message=reason[:1_000])
        if canceled:
            done = FinishSlicing(ref=ref, status=SlicingStatus.CANCELED)
        elif run_id is None:
            self.slicings.refuse(ref, fault.message, code=fault.code, now=now)
            return ref
        else:
            done = FinishSlicing(ref=ref, status=SlicingStatus.FAILED, fault=fault)
        # As if asked for with the run that has ended: one that has begun since is not canceled by this.
        self.jobs.finish(done, scheduled_at=row.queued_at, now=now)
        return ref

    def _tell(self, row: SlicingRow, ref: SlicingRef) -> None:
        if row.run_id != ref.run_id:
            return  # another run has begun, and tells by itself
        away: TransientError | None = None
        for number in range(len(row.notify)):
            try:
                self.notices.deliver(NoticeRef(ref=ref, number=number), datetime.now(UTC))
            except (SlicingNotFound, SlicingSuperseded):
                raise
            except TransientError as error:
                away = away or error  # the others are told all the same
            except PermanentError as error:
                self.slicings.attention(ref, f"notice {number + 1}: {error}")
        self.jobs.delete_files(ref)
        if away is not None:
            raise away
