"""What owners are told when a slicing has ended, and operators when a breaker opens or closes."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from nightmill.contracts import (
    BreakerState,
    NoticeLevel,
    NoticeRef,
    SlicingRef,
    SlicingStatus,
    SlicingSummary,
    duration_text,
)
from nightmill.errors import NightmillError
from nightmill.failpoints import fail_point
from nightmill.notify import Notification, Notifier, shown
from nightmill.storage.slicing_reads import shown_name

if TYPE_CHECKING:
    from nightmill.storage.slicing_models import BreakerTransitionRow, SlicingRow
    from nightmill.storage.slicing_notices import NoticeRepository
    from nightmill.storage.slicings import SlicingRepository

logger = logging.getLogger(__name__)

COMPONENT = "slicing"
_MAX_REASONS = 10
_MAX_REASON = 300
_MAX_METADATA = 500  # characters in a text; webhooks carry all of it


@dataclass(frozen=True)
class Notices:
    """Tells those who asked how a run ended. Any thread may use it.

    Attributes:
        slicings: Knows how it ended, and whom to tell.
        notices: Keeps who was told.
        notifier: Sends.
        link: Address of a document in the operator's application, with `{sha256}` and `{profile}`.
    """

    slicings: SlicingRepository
    notices: NoticeRepository
    notifier: Notifier
    link: str | None = None

    def deliver(self, notice: NoticeRef, now: datetime) -> bool:
        """Tell one of them; return whether this call did.

        At least once, under an id that is the same in every try; never again once a success is recorded. Nobody is
        told of a run that was canceled, for somebody wanted that; of one that has not ended; of one after which
        another has begun, which tells by itself; and nobody who is not, or no longer, on the list.

        Raises:
            SlicingNotFound: The document was deleted meanwhile.
            TransientError: It could not be sent, or recorded, now.
            PermanentError: It cannot be sent like this: see `Notifier.send`.
        """
        ref, number = notice.ref, notice.number
        row = self.slicings.get(ref.sha256, ref.profile)
        level = level_of(row)
        if row.run_id != ref.run_id or level is None or number >= len(row.notify):
            logger.info("nobody to tell", extra={"document": ref.sha256, "run_id": ref.run_id, "number": number})
            return False
        target = row.notify[number]
        begun = self.notices.begin(ref, number, shown(target), level, message_id(ref, number), now)
        if begun is None:
            return False
        fail_point("notice.begun")
        try:
            self.notifier.send(target, compose(row, link=self.link, message_id=begun.message_id))
        except NightmillError as error:
            self.notices.failed(ref, number, str(error))
            raise
        fail_point("notice.sent")
        self.notices.sent(ref, number, now)
        fail_point("notice.recorded")
        logger.info("owner told", extra={"document": ref.sha256, "profile": ref.profile, "notice": level})
        return True


def message_id(ref: SlicingRef, number: int) -> str:
    """Return the id of a notice, `nm-slice-<12 digits of the PDF's hash>-<20 digits>-<number>`.

    It follows from what is told to whom, so that it is the same also where the record of a first try was lost.
    """
    text = f"{ref.sha256}/{ref.profile}/{ref.run_id}/{number}"
    return f"nm-slice-{ref.sha256[:12]}-{hashlib.sha256(text.encode()).hexdigest()[:20]}-{number}"


def level_of(row: SlicingRow) -> NoticeLevel | None:
    """Return how a run's end is told; None where nobody is told: canceled, or not at its end."""
    if row.status is SlicingStatus.FAILED:
        return "error"
    if row.status is SlicingStatus.NEEDS_REVIEW:
        return "warning"
    if row.status is SlicingStatus.SLICED:
        return "success" if row.slice_count and not row.flagged_count else "warning"
    return None


def summary_of(row: SlicingRow) -> SlicingSummary:
    """Return what a slicing came to, as its row says."""
    message = row.error if row.status is SlicingStatus.FAILED else "; ".join(row.reasons) or None
    ended = row.ended_at if row.status.is_terminal else None
    return SlicingSummary(
        sha256=row.sha256,
        profile=row.profile,
        name=row.name,
        status=row.status,
        page_count=row.page_count,
        number=row.number,
        issued_on=row.issued_on,
        slices=row.slice_count,
        flagged=row.flagged_count,
        error_code=row.error_code,
        message=message,
        duration=ended - row.started_at if ended and row.started_at else None,
    )


def compose(row: SlicingRow, *, link: str | None, message_id: str) -> Notification:
    """Return what an owner is told of a run that has ended: no texts of the document, no addresses of others.

    Args:
        row: The document.
        link: See `Notices`.
        message_id: The fixed id.
    """
    where = None
    if link is not None:
        where = link.replace("{sha256}", row.sha256).replace("{profile}", row.profile)
    outcome, subject = _outcome(row)
    lines = [outcome, "", *_facts(row)]
    if row.status is not SlicingStatus.FAILED and row.reasons:
        lines += ["", "To be looked at:"]
        lines += [f"- {' '.join(reason.split())[:_MAX_REASON]}" for reason in row.reasons[:_MAX_REASONS]]
        if len(row.reasons) > _MAX_REASONS:
            lines.append(f"- and {len(row.reasons) - _MAX_REASONS} more")
    if where is None:
        lines += ["", f"To see it: nightmill slice show {shown_name(row)}"]
    details = summary_of(row).model_dump(mode="json")
    return Notification(
        subject=f"Nightmill: {subject}",
        body="\n".join(lines),
        component=COMPONENT,
        slicing=f"{row.sha256}/{row.profile}",
        level=level_of(row),
        link=where,
        details=details | {"run_id": row.run_id, "metadata": row.user_metadata},
        message_id=message_id,
    )


def breaker_notification(transition: BreakerTransitionRow) -> Notification:
    """Return what operators are told of a breaker's transition; its id makes it the same however often it is sent."""
    profile = transition.profile
    reason = transition.reason or "no reason was given"
    if transition.state is BreakerState.CLOSED:
        level: NoticeLevel = "success"
        subject = f"Nightmill: slicing by {profile} goes on"
        body = f"The breaker of the slicer profile {profile} is closed: what was parked goes on by itself, in order."
    elif transition.state is BreakerState.HELD_OPEN:
        level = "warning"
        subject = f"Nightmill: slicing by {profile} is held"
        body = (
            f"The breaker of the slicer profile {profile} was opened by hand: new slicings are parked until it is "
            f"closed by hand."
        )
    else:
        level = "error"
        subject = f"Nightmill: slicing by {profile} is interrupted"
        body = (
            f"The breaker of the slicer profile {profile} is open: new slicings are parked, none is lost. A canary is "
            f"sliced now and then; when it passes, everything parked goes on."
        )
    facts = (
        f"Reason: {' '.join(reason.split())}\nBy: {transition.changed_by}\nAt: {transition.at:%Y-%m-%d %H:%M:%S} UTC"
    )
    return Notification(
        subject=subject,
        body=f"{body}\n\n{facts}",
        component=COMPONENT,
        level=level,
        details={
            "profile": profile,
            "number": transition.number,
            "state": transition.state.value,
            "reason": transition.reason,
            "changed_by": transition.changed_by,
        },
        message_id=transition.message_id,
    )


def _outcome(row: SlicingRow) -> tuple[str, str]:
    """Return the first line and the subject."""
    name = " ".join(row.name.split())
    found = f"{row.slice_count} slice{'' if row.slice_count == 1 else 's'}"
    if row.status is SlicingStatus.FAILED:
        reason = " ".join((row.error or "the reason is not known").split())
        kept = f" What an earlier run found is kept: {found}." if row.slice_count else ""
        return f"{name} could not be sliced: {reason.rstrip('.')}.{kept}", f"{name} could not be sliced"
    if row.slice_count == 0:
        return f"No slices were found in {name}. The document is kept.", f"no slices found in {name}"
    if level_of(row) == "warning":
        return f"{name} was cut into {found}. A person should look at it.", f"{name} is to be looked at"
    return f"{name} was cut into {found}.", f"{name} is sliced"


def _facts(row: SlicingRow) -> list[str]:
    pages = "" if row.page_count is None else f", {row.page_count} page{'' if row.page_count == 1 else 's'}"
    lines = [f"Document: {' '.join(row.name.split())}{pages}"]
    if row.number or row.issued_on:
        number = f"No. {row.number}" if row.number else "number unknown"
        lines.append(f"Gazette: {number}" + (f" of {row.issued_on.isoformat()}" if row.issued_on else ""))
    if row.status is not SlicingStatus.FAILED:
        lines.append(f"Slices: {row.slice_count}" + (f", {row.flagged_count} with a problem" * bool(row.flagged_count)))
    elif row.error_code is not None:
        lines.append(f"Error: {row.error_code.value}")
    duration = summary_of(row).duration
    if duration is not None:
        lines.append(f"Took: {duration_text(duration)}")
    if row.user_metadata:
        lines.append(f"Metadata: {json.dumps(row.user_metadata, ensure_ascii=False)[:_MAX_METADATA]}")
    return lines
