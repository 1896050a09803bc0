"""What a failed activity tells the workflow: what went wrong, whether it may pass, how long to wait."""

from __future__ import annotations

from datetime import timedelta

from temporalio.exceptions import ActivityError, ApplicationError


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
