"""What Temporal's errors mean here: a workflow that failed, a call that was not taken, a wait that was too long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError, FailureError
from temporalio.service import RPCError, RPCStatusCode

from nightmill.errors import InvalidInput, NotConfigured, TemporalUnreachable, WorkflowFailed

_INPUT_FAILURES = frozenset(
    {"AccountNotFound", "BatchConflict", "BatchNotFound", "InvalidInput", "OverBudget", "RequestRefused"}
)
"""Types of failures that say that a workflow could not use its input; any other one is a bug."""


Timeout = timedelta | float | None
"""How long to wait; a number is seconds, None is as long as it takes."""


def checked(timeout: Timeout) -> timedelta | None:
    """Return a timeout as a duration.

    Raises:
        InvalidInput: It is none. What starts something asks before it does.
    """
    if timeout is None or isinstance(timeout, timedelta):
        return timeout
    try:
        return timedelta(seconds=timeout)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput(f"timeout: {repr(timeout)[:80]} is no time: give seconds or a timedelta") from None


@asynccontextmanager
async def within(timeout: Timeout, what: str) -> AsyncIterator[None]:
    """Give up waiting for the end of something after this long; None waits as long as it takes.

    Raises:
        TimeoutError: It has not ended in time.
        InvalidInput: The timeout is no time.
    """
    patience = checked(timeout)
    try:
        async with asyncio.timeout(None if patience is None else patience.total_seconds()) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(f"{what} has not ended within {patience}; it goes on") from None


def innermost(error: BaseException) -> BaseException:
    """Return the failure that caused all the others."""
    while isinstance(error, WorkflowFailureError | FailureError) and error.cause is not None:
        error = error.cause
    return error


def failure_of(what: str, error: BaseException) -> InvalidInput | WorkflowFailed:
    """Return the error for a workflow that failed: for its input, or by a bug."""
    cause = innermost(error)
    is_input = isinstance(cause, ApplicationError) and cause.type in _INPUT_FAILURES
    return (InvalidInput if is_input else WorkflowFailed)(f"{what}: {getattr(cause, 'message', cause)}")


def unreachable(what: str, error: RPCError) -> TemporalUnreachable:
    """Return the error for a call that Temporal did not answer as it should."""
    return TemporalUnreachable(f"{what}: Temporal answered {error.message!r}")


def refusal(what: str, error: RPCError) -> NotConfigured | TemporalUnreachable:
    """Return the error for a call with search attributes that Temporal did not take."""
    if error.status is RPCStatusCode.INVALID_ARGUMENT:
        return NotConfigured(
            f"{what}: Temporal refuses it ({error.message}): start a worker once, which registers the search attributes"
        )
    return unreachable(what, error)
