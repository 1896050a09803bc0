"""Where Nightmill's errors become Temporal's: what is tried again, when, and what is only noise."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from nightmill.errors import NightmillError, PermanentError
from nightmill.storage.fence import running_as

WORKER_SHUTDOWN = "WorkerShutdown"
"""Type of the failure of an activity that a worker hands back because it shuts down."""

LONGEST_MESSAGE = 1_000
"""A failure is a payload: what a provider wrote stays out of histories beyond this many characters."""


@contextmanager
def temporal_errors() -> Iterator[None]:
    """Turn `TransientError` into a benign retry, honouring `Retry-After`, and `PermanentError` into a final failure.

    Anything else passes: it is a bug, and Temporal shows it with its trace. Inside, rows of batches are written as the
    activity's run, which is refused once another run has taken its place.
    """
    try:
        with running_as(activity.info().workflow_run_id if activity.in_activity() else None):
            yield
    except PermanentError as error:
        raise ApplicationError(
            str(error)[:LONGEST_MESSAGE], error.code, type=type(error).__name__, non_retryable=True
        ) from None
    except NightmillError as error:
        raise ApplicationError(
            str(error)[:LONGEST_MESSAGE],
            error.code,
            type=type(error).__name__,
            next_retry_delay=getattr(error, "retry_after", None) or None,  # no pause at all would be a hot loop
            category=ApplicationErrorCategory.BENIGN,
        ) from None


@contextmanager
def handed_back_at_shutdown() -> Iterator[None]:
    """Turn the cancel of an asynchronous activity into a failure that says so where its worker shuts down."""
    try:
        yield
    except asyncio.CancelledError:
        if activity.is_worker_shutdown():
            raise ApplicationError(
                "the worker shuts down; another one begins again",
                type=WORKER_SHUTDOWN,
                category=ApplicationErrorCategory.BENIGN,
            ) from None
        raise
