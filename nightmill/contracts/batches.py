"""What users give and get: the input of a batch, its summary, its progress."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from pydantic import Field, field_validator, model_validator

from nightmill.contracts.base import Contract, Dollars, Duration, Metadata, Outcome
from nightmill.contracts.handlers import CompletionHandler
from nightmill.contracts.words import BatchStatus

MAX_SCHEDULE_LENGTH = 100


class BatchInput(Contract):
    """Input of the workflow `ModelCompletionBatch`.

    Exactly one of `requests_uri` (new requests) and `batch_id` (a batch that `submit` stored before) is given; with
    `batch_id` everything else comes from the stored batch.

    Attributes:
        provider: `openai`, `anthropic`, `google` or `xai`; given with `requests_uri`.
        model: The provider's model name; given with `requests_uri`.
        requests_uri: JSONL with one request a line: a path or `file:` URL under `NIGHTMILL_INPUT_ROOTS`, or `https:`.
        batch_id: Id of a stored batch.
        endpoint: OpenAI only: `/v1/responses` (default), `/v1/chat/completions` or `/v1/embeddings`.
        completion_handler: Whom to tell at the end.
        metadata: Travels to the handler; never sent to the provider. At most 16 KiB as JSON.
        poll_schedule: Delays between status polls, the last one repeats; default from `NIGHTMILL_BATCH__POLL_SCHEDULE`.
        max_age: How long after submission a provider batch may stay unresolved; default 26 h, or later where the
            provider's own expiry plus 2 h is later.
        retry_rounds: How often completions that failed with a retriable error are sent again; 0 to 10.
        budget: Highest estimated cost in US dollars that is submitted.
        account: Name of the key to use: `NIGHTMILL_ACCOUNTS__<NAME>__<PROVIDER>__API_KEY`.
    """

    provider: str | None = None
    model: str | None = Field(default=None, min_length=1, max_length=200)
    requests_uri: str | None = Field(default=None, min_length=1, max_length=2_000)
    batch_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,64}$")
    endpoint: str | None = Field(default=None, max_length=100)
    completion_handler: CompletionHandler | None = None
    metadata: Metadata = Field(default_factory=dict)
    poll_schedule: tuple[Duration, ...] | None = Field(default=None, max_length=MAX_SCHEDULE_LENGTH)
    max_age: Duration | None = None
    retry_rounds: int | None = Field(default=None, ge=0, le=10)
    budget: Decimal | None = Field(default=None, gt=0)
    account: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]{1,64}$")

    @field_validator("poll_schedule")
    @classmethod
    def _delays_are_positive(cls, value: tuple[timedelta, ...] | None) -> tuple[timedelta, ...] | None:
        if value and min(value) <= timedelta(0):
            raise ValueError("every delay must be positive")
        return value

    @field_validator("max_age")
    @classmethod
    def _age_is_positive(cls, value: timedelta | None) -> timedelta | None:
        if value is not None and value <= timedelta(0):
            raise ValueError("must be positive")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> BatchInput:
        if (self.requests_uri is None) == (self.batch_id is None):
            raise ValueError("requests_uri, batch_id: give exactly one of the two")
        if self.requests_uri is not None:
            for name in ("provider", "model"):
                if getattr(self, name) is None:
                    raise ValueError(f"{name}: required with requests_uri")
        return self


class Counts(Outcome):
    """A provider batch's counts as the provider reports them, normalised; None where it does not say."""

    total: int | None = None
    succeeded: int | None = None
    failed: int | None = None
    canceled: int | None = None
    expired: int | None = None
    pending: int | None = None


class Tokens(Outcome):
    """Sums of tokens over completions; `cached` is what the provider read from its cache."""

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0


class BatchSummary(Outcome):
    """What became of a batch: result of `ModelCompletionBatch`, of `batch show --json` and of the handler's payload.

    Attributes:
        batch_id: The batch.
        status: Its status; terminal in a workflow result.
        reason: Why it has this status, where there is something to say.
        total: Number of requests.
        completed: How many have an answer.
        failed: How many failed for good.
        failed_by_code: The failed ones by `ErrorCode`.
        tokens: Sums over all attempts.
        cost: US dollars over all attempts whose cost is known, as a decimal string; None if none is known.
        cost_complete: Whether every attempt that used tokens has a known cost.
        all_failed: Terminal with not one completed request.
        partial: Some completed and some did not.
        metadata: The user's metadata.
    """

    batch_id: str
    status: BatchStatus
    reason: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    failed_by_code: dict[str, int] = Field(default_factory=dict)
    tokens: Tokens = Tokens()
    cost: Dollars | None = None
    cost_complete: bool = False
    all_failed: bool = False
    partial: bool = False
    metadata: dict[str, Any] = Field(default_factory=dict)


class HandlerPayload(Outcome):
    """What a completion handler gets. The completions themselves are read by batch id, never carried.

    Attributes:
        batch_id: The batch; also the key to make the handler's effect idempotent.
        status: Terminal status.
        summary: The whole summary, metadata included.
        dispatch: 1 for the first delivery, one more for every re-dispatch by an operator.
    """

    batch_id: str
    status: BatchStatus
    summary: BatchSummary
    dispatch: int = 1


class Progress(Outcome):
    """Answer of the query `progress`."""

    batch_id: str
    status: BatchStatus
    round: int = 0
    parts: int = 1
    counts: Counts = Counts()
    polls: int = 0
    next_poll_at: datetime | None = None
    deadline: datetime | None = None
    provider_batch_id: str | None = None
    needs_attention: str | None = None
