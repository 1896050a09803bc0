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


@asynccontextmanager
async def within(timeout: timedelta | None, what: str) -> AsyncIterator[None]:
    """Give up waiting for the end of something after this long; None waits as long as it takes.

    Raises:
        TimeoutError: It has not ended in time.
    """
    try:
        async with asyncio.timeout(None if timeout is None else timeout.total_seconds()) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(f"{what} has not ended within {timeout}; it goes on") from None


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
