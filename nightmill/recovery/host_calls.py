"""Whether an activity of the host's may still be at work on a handler's call, which must not be made twice at once.

Nobody can end such a call: the run that made it may be gone, and the host's code goes on to its end.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from nightmill.contracts import LONGEST_HOST_CALL, Finding, Subject
from nightmill.recovery.model import ActivityState, Decision

if TYPE_CHECKING:
    from nightmill.recovery.model import Candidate, Seen

_TELLING = frozenset({Subject.BATCH, Subject.DOCUMENT})
"""What a host's activity may be told of."""


def awaited(candidate: Candidate, closed_at: datetime | None, now: datetime) -> Decision | None:
    """Return that a call is waited for which a run made before it closed; None: none can be at work any more."""
    if not candidate.calls_host or closed_at is None or now >= closed_at + LONGEST_HOST_CALL:
        return None
    until = (closed_at + LONGEST_HOST_CALL).isoformat(timespec="seconds")
    return Decision(Finding.TOO_EARLY, reason=f"its handler may be at work until {until}")


def runs(candidate: Candidate, seen: Seen) -> bool:
    """Whether a run that is open has a call at work."""
    if candidate.subject not in _TELLING:
        return False
    running = (each for each in seen.activities if each.state is ActivityState.RUNNING)
    return any(candidate.calls_host or each.is_elsewhere for each in running)
