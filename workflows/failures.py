"""What a failed activity tells the workflow: what went wrong, whether it may pass, how long to wait."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, TimeoutType
from temporalio.exceptions import TimeoutError as TemporalTimeout

with workflow.unsafe.imports_passed_through():
    from activities.boundary import WORKER_SHUTDOWN
    from nightmill.contracts import Fault, SlicingErrorCode, duration_text


def is_permanent(error: ActivityError) -> bool:
    """Whether someone must change something before the same call can succeed."""
    return isinstance(error.cause, ApplicationError) and error.cause.non_retryable


def is_about_access(error: ActivityError) -> bool:
    """Whether a key is missing or not accepted, which an operator can mend."""
    return isinstance(error.cause, ApplicationError) and error.cause.type in ("AccessDenied", "NotConfigured")


def reason_of(error: ActivityError) -> str:
    """Return the failure's own message, one line."""
    return str(error.cause or error)[:1000]


def pause_asked_for(error: ActivityError) -> timedelta:
    """Return how long the provider wants to be left alone, where that was too long for the activity to wait."""
    asked = error.cause.next_retry_delay if isinstance(error.cause, ApplicationError) else None
    return asked or timedelta(0)


def is_canceled(error: ActivityError) -> bool:
    """Whether the activity ended because we canceled it."""
    return isinstance(error.cause, CancelledError)


def is_timeout(error: ActivityError) -> bool:
    """Whether the activity took too long, or its worker was lost."""
    return isinstance(error.cause, TemporalTimeout)


def is_lost_worker(error: ActivityError) -> bool:
    """Whether the activity's worker has fallen silent."""
    return isinstance(error.cause, TemporalTimeout) and error.cause.type == TimeoutType.HEARTBEAT


def is_worker_shutdown(error: ActivityError) -> bool:
    """Whether a worker that shuts down has handed the activity back."""
    return isinstance(error.cause, ApplicationError) and error.cause.type == WORKER_SHUTDOWN


def timeout_fault(error: ActivityError, limit: timedelta) -> Fault:
    """Return the fault of a program whose activity ran into a timeout.

    That a worker was lost is no fault of the slicer's: a machine that is switched off would open the breaker.
    """
    lost = is_lost_worker(error)
    after = f"timed out after {duration_text(limit)}, the time for one attempt"
    message = "timed out: its worker was lost while it ran" if lost else after
    return Fault(code=SlicingErrorCode.TIMED_OUT, message=message, retried=True, counts=not lost)


def last_fault(error: ActivityError) -> Fault:
    """Return the fault of a program that cannot be run for something else than itself: storage, database, or a bug."""
    kind = error.cause.type if isinstance(error.cause, ApplicationError) else None
    away = kind in {"StorageUnavailable", "StorageFull", "FileMissing"}
    code = SlicingErrorCode.STORAGE_FAILED if away else SlicingErrorCode.INTERNAL
    return Fault(code=code, message=reason_of(error))
