"""Every type that crosses a Temporal boundary or a public function.

They live in histories for weeks: add fields with defaults, never rename or retype. Ids and counts, never bodies or
secrets. Durations are seconds or ISO 8601 on the way in, and ISO 8601 in histories.
"""

from __future__ import annotations

from nightmill.contracts.base import Contract, Dollars, Duration, Outcome, duration_text
from nightmill.contracts.batches import (
    MAX_METADATA_BYTES,
    MAX_SCHEDULE_LENGTH,
    BatchInput,
    BatchSummary,
    Counts,
    HandlerPayload,
    Progress,
    Tokens,
)
from nightmill.contracts.handlers import ActivityHandler, CompletionHandler, WebhookHandler, WorkflowHandler
from nightmill.contracts.steps import (
    Attention,
    DeliverInput,
    FollowInput,
    PartOutcome,
    PartRef,
    PollInput,
    PollOutcome,
    PreparedBatch,
    PrepareInput,
    RoundInput,
    RoundOutcome,
    SettleInput,
    Submission,
    SubmitInput,
)
from nightmill.contracts.words import TERMINAL, BatchStatus, CompletionStatus, ErrorCode, HandledStatus, SubmitState

__all__ = [
    "MAX_METADATA_BYTES",
    "MAX_SCHEDULE_LENGTH",
    "TERMINAL",
    "ActivityHandler",
    "Attention",
    "BatchInput",
    "BatchStatus",
    "BatchSummary",
    "CompletionHandler",
    "CompletionStatus",
    "Contract",
    "Counts",
    "DeliverInput",
    "Dollars",
    "Duration",
    "ErrorCode",
    "FollowInput",
    "HandledStatus",
    "HandlerPayload",
    "Outcome",
    "PartOutcome",
    "PartRef",
    "PollInput",
    "PollOutcome",
    "PrepareInput",
    "PreparedBatch",
    "Progress",
    "RoundInput",
    "RoundOutcome",
    "SettleInput",
    "Submission",
    "SubmitInput",
    "SubmitState",
    "Tokens",
    "WebhookHandler",
    "WorkflowHandler",
    "duration_text",
]
