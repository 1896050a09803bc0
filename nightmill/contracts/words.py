"""The words that stand in histories, tables and answers; stable once released."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal


class BatchStatus(StrEnum):
    """Status of a batch and of each of its provider batches."""

    PENDING = "pending"
    SUBMITTED = "submitted"
    IN_PROGRESS = "in_progress"
    CANCELING = "canceling"
    ENDED = "ended"
    CANCELED = "canceled"
    EXPIRED = "expired"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        """Whether no later status can follow."""
        return self in TERMINAL


TERMINAL = frozenset({BatchStatus.ENDED, BatchStatus.CANCELED, BatchStatus.EXPIRED, BatchStatus.FAILED})


class CompletionStatus(StrEnum):
    """Status of one completion."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"


class ErrorCode(StrEnum):
    """Why a completion failed."""

    PROVIDER_ERROR = "provider_error"
    """The provider answered this request with an error."""
    ENTRY_MISSING = "entry_missing"
    """The provider batch ended without an answer for this request."""
    CANCELED = "canceled"
    """Canceled before it was answered."""
    EXPIRED = "expired"
    """Not answered within the provider's window or the batch's max age."""
    INVALID_OUTPUT = "invalid_output"
    """The answer violates the request's response schema."""
    EMPTY_OUTPUT = "empty_output"
    """The answer has neither text nor a tool call."""
    BATCH_FAILED = "batch_failed"
    """The provider failed the whole provider batch."""
    REJECTED = "rejected"
    """The provider refused to take the provider batch."""
    NOT_SUBMITTED = "not_submitted"
    """Never sent to the provider, so never billed."""
    MALFORMED_ENTRY = "malformed_entry"
    """The provider's entry for this request cannot be read; its raw text is kept."""


HandledStatus = Literal["ended", "canceled", "expired", "failed"]


class SubmitState(StrEnum):
    """What `submit_part` and `find_part` came to."""

    SUBMITTED = "submitted"
    UNCERTAIN = "uncertain"
    """A create may have taken effect; look for it before anything else."""
    AMBIGUOUS = "ambiguous"
    """Several of the provider's batches could be ours; ask again when they have ended."""
    NOT_FOUND = "not_found"
    WAIT = "wait"
    """The provider is at its bound of open batches, out of quota or away; try later."""
    REFUSED = "refused"
    """The provider refuses the requests as they are."""
    DENIED = "denied"
    """The key is missing or not accepted; nothing was sent."""
    CANCELED = "canceled"
    """A cancel was asked for before anything was created."""
    LOST = "lost"
