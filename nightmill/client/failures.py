"""What a failed workflow failed of."""

from __future__ import annotations

from temporalio.client import WorkflowFailureError
from temporalio.exceptions import FailureError


def innermost(error: BaseException) -> BaseException:
    """Return the failure that caused all the others."""
    while isinstance(error, WorkflowFailureError | FailureError) and error.cause is not None:
        error = error.cause
    return error
