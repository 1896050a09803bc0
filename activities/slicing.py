"""The short steps of a slicing: source, breaker, rows, notices, clean-up. Each may run more than once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from temporalio import activity

from activities.boundary import temporal_errors
from nightmill.contracts import (
    AttemptFault,
    BreakerView,
    FinishedSlicing,
    FinishSlicing,
    NoticeRef,
    OpenSlicing,
    SlicingAttention,
    SlicingRef,
    SlicingTerms,
)
from nightmill.failpoints import fail_point
from nightmill.slicing.breaker import Breaker
from nightmill.slicing.jobs import SlicingJobs
from nightmill.slicing.notices import Notices
from nightmill.storage.slicings import SlicingRepository


@dataclass(frozen=True)
class SlicingActivities:
    """Everything around the programs of a slicing.

    Attributes:
        jobs: Opens and finishes slicings.
        slicings: Their records.
        breaker: Keeps a failing slicer from being started.
        notices: Tells those who asked.
    """

    jobs: SlicingJobs
    slicings: SlicingRepository
    breaker: Breaker
    notices: Notices

    @activity.defn
    def open_slicing(self, asked: OpenSlicing) -> SlicingTerms:
        """Keep the PDF and make its row; a second run finds both."""
        with temporal_errors():
            scheduled_at = activity.info().scheduled_time
            return self.jobs.open(asked, scheduled_at=scheduled_at, now=datetime.now(UTC))

    @activity.defn
    def ask_breaker(self, ref: SlicingRef) -> BreakerView:
        """Say whether the profile's programs may be started, and park the document where not; may be asked again."""
        with temporal_errors():
            now = datetime.now(UTC)
            view = self.breaker.ask(ref.profile, now)
            if view.is_open:
                self.slicings.park(ref, now=now)
            else:
                self.slicings.unpark(ref)
            return view

    @activity.defn
    def record_fault(self, failed: AttemptFault) -> BreakerView:
        """Let the breaker count a fault that counts; the same one is counted once, however often this runs."""
        fault = failed.fault
        fields = {"slicing": failed.ref.sha256, "profile": failed.ref.profile, "step": failed.step}
        activity.logger.warning("program failed", extra={**fields, "code": fault.code.value, "reason": fault.message})
        if not fault.counts:
            return BreakerView()
        with temporal_errors():
            key = f"{failed.ref.run_id}/{failed.step}/{failed.attempt}"
            view = self.breaker.count_fault(failed.ref.profile, fault.message, datetime.now(UTC), key=key)
            fail_point("breaker.counted")
            return view

    @activity.defn
    def finish_slicing(self, done: FinishSlicing) -> FinishedSlicing:
        """Write how a run ended; a second run writes the same."""
        with temporal_errors():
            return self.jobs.finish(done, scheduled_at=activity.info().scheduled_time, now=datetime.now(UTC))

    @activity.defn
    def notify_owner(self, notice: NoticeRef) -> None:
        """Tell one person: at least once by a fixed id, never again once that is recorded."""
        with temporal_errors():
            self.notices.deliver(notice, datetime.now(UTC))

    @activity.defn
    def set_slicing_attention(self, attention: SlicingAttention) -> None:
        """Write what waits for an operator; a second run changes nothing."""
        with temporal_errors():
            self.slicings.attention(attention.ref, attention.message)

    @activity.defn
    def delete_files(self, ref: SlicingRef) -> None:
        """Delete files that nobody needs any more; what is gone already is no error."""
        with temporal_errors():
            self.jobs.delete_files(ref)
