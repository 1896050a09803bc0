"""Who hears of what recovery cannot mend: the log always, operators once."""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightmill.contracts import Subject
from nightmill.errors import NotificationFailed
from nightmill.notify import Notification

if TYPE_CHECKING:
    from nightmill.notify import Notifier
    from nightmill.recovery.model import Candidate

logger = logging.getLogger(__name__)

COMPONENT = "reconciler"
FRAMES = 20


@dataclass(frozen=True)
class Alarms:
    """Tells of candidates that could not be looked at or repaired. A lost notification costs the notification only.

    Attributes:
        notifier: Tells operators.
    """

    notifier: Notifier

    def broken(self, candidate: Candidate, error: BaseException, *, is_news: bool) -> None:
        """Log an error with where it happened, and tell operators of it if that is news."""
        frames = "".join(traceback.format_tb(error.__traceback__, limit=FRAMES))
        logger.error(
            "candidate failed",
            extra={**names_of(candidate), "error": type(error).__name__, "detail": str(error), "frames": frames},
        )
        if is_news:
            self._notify(
                candidate, f"{_shown(candidate)} could not be repaired", f"{type(error).__name__}: {error}"[:1000]
            )

    def fruitless(self, candidate: Candidate, detail: str) -> None:
        """Tell operators of a repair that raised an error some time ago, and of which nothing has come."""
        logger.error("repair came to nothing", extra={**names_of(candidate), "detail": detail})
        self._notify(candidate, f"{_shown(candidate)} could not be repaired", detail[:1000])

    def given_up(self, candidate: Candidate, reason: str) -> None:
        """Tell operators that something is not repaired any more."""
        logger.warning("repairs given up", extra={**names_of(candidate), "reason": reason})
        self._notify(candidate, f"{_shown(candidate)} needs attention", reason)

    def without_worker(self, queue: str) -> None:
        """Tell operators that nobody listens to a task queue; it recovers by itself when somebody does."""
        logger.error("no worker", extra={"task_queue": queue})
        text = (
            f"No worker has asked the task queue {queue!r} for work for more than a minute. What is due there waits, "
            "and goes on by itself once a worker runs."
        )
        self._send(Notification(subject=f"Nightmill: no worker on {queue}", body=text, component=COMPONENT))

    def _notify(self, candidate: Candidate, subject: str, body: str) -> None:
        notification = Notification(
            subject=f"Nightmill: {subject}",
            body=body,
            component=COMPONENT,
            batch_id=_batch_of(candidate),
            document_id=candidate.id if candidate.subject is Subject.DOCUMENT else None,
            slicing=candidate.id if candidate.subject is Subject.SLICING else None,
        )
        self._send(notification)

    def _send(self, notification: Notification) -> None:
        try:
            self.notifier.notify(notification)
        except NotificationFailed as error:
            logger.warning("notification failed", extra={"error": str(error)})


def names_of(candidate: Candidate) -> dict[str, object]:
    """Return what log records say of a candidate."""
    return {"subject": candidate.subject.value, "id": candidate.id, **candidate.facts}


def _shown(candidate: Candidate) -> str:
    return f"{candidate.subject} {candidate.id}"


def _batch_of(candidate: Candidate) -> str | None:
    if candidate.subject in (Subject.BATCH, Subject.PART):
        return candidate.id.partition("/")[0]
    return None
