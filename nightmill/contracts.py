"""Every type that crosses a Temporal boundary or a public function.

They live in histories for weeks: add fields with defaults, never rename or retype. Ids and counts, never bodies or
secrets. Durations are seconds or ISO 8601 on the way in, and ISO 8601 in histories.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

MAX_METADATA_BYTES = 16_384
"""Metadata travels through histories and handler payloads; larger things belong behind a URL."""

MAX_SCHEDULE_LENGTH = 100


class Contract(BaseModel):
    """Base of all contracts: frozen, and an unknown field is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Outcome(BaseModel):
    """Base of what activities and workflows return: frozen; unknown fields of a newer version are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Provider(StrEnum):
    """The providers that ship with Nightmill."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GOOGLE = "google"
    XAI = "xai"


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


def _seconds(value: Any) -> Any:
    """Read digits in a string as seconds, so that `60` and `"60"` mean the same as `"PT1M"`."""
    if isinstance(value, str) and value.replace(".", "", 1).isdigit():
        return float(value)
    return value


Duration = Annotated[timedelta, BeforeValidator(_seconds)]
"""A duration: seconds (`60`, `"60"`) or ISO 8601 (`"PT1M"`)."""

Dollars = Annotated[Decimal, PlainSerializer(lambda value: f"{value:f}", return_type=str, when_used="json")]
"""An amount that is a plain decimal string in JSON; by itself a small one would become `1E-7`."""


def duration_text(duration: timedelta) -> str:
    """Return a duration for people: `45 s`, `5 min`, `2.5 h`."""
    seconds = round(duration.total_seconds(), 1)
    if seconds < 90:
        return f"{seconds:g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:g} h"


HandledStatus = Literal["ended", "canceled", "expired", "failed"]


class WorkflowHandler(Contract):
    """Tell the host application by a workflow of its own, started with id `batch/<batch id>/handler`: exactly once.

    Attributes:
        type: Workflow type that the host's worker runs. It gets one `HandlerPayload`.
        task_queue: Task queue of the host's worker.
        on: Statuses to be told of; none means every terminal status.
    """

    kind: Literal["workflow"]
    type: str = Field(min_length=1, max_length=255)
    task_queue: str = Field(min_length=1, max_length=255)
    on: tuple[HandledStatus, ...] = ()


class ActivityHandler(Contract):
    """Tell the host application by an activity of its own: at least once.

    Attributes:
        type: Activity type that the host's worker runs. It gets one `HandlerPayload`.
        task_queue: Task queue of the host's worker.
        on: Statuses to be told of; none means every terminal status.
    """

    kind: Literal["activity"]
    type: str = Field(min_length=1, max_length=255)
    task_queue: str = Field(min_length=1, max_length=255)
    on: tuple[HandledStatus, ...] = ()


class WebhookHandler(Contract):
    """Tell the host application by a POST signed by the Standard Webhooks scheme: at least once, message id = batch id.

    Attributes:
        url: `https:` address (`http:` only where private addresses are allowed).
        on: Statuses to be told of; none means every terminal status.
    """

    kind: Literal["webhook"]
    url: str = Field(pattern=r"^https?://[^\s/@]+(/\S*)?$", max_length=2_000)
    on: tuple[HandledStatus, ...] = ()


CompletionHandler = Annotated[WorkflowHandler | ActivityHandler | WebhookHandler, Field(discriminator="kind")]


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
    metadata: dict[str, Any] = {}
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

    @field_validator("metadata")
    @classmethod
    def _metadata_is_small(cls, value: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(value, default=str)) > MAX_METADATA_BYTES:
            raise ValueError(f"larger than {MAX_METADATA_BYTES} bytes as JSON")
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


class PartRef(Contract):
    """Names one provider batch of a batch."""

    batch_id: str
    round: int = 0
    part: int = 0


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
    failed_by_code: dict[str, int] = {}
    tokens: Tokens = Tokens()
    cost: Dollars | None = None
    cost_complete: bool = False
    all_failed: bool = False
    partial: bool = False
    metadata: dict[str, Any] = {}


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


class PreparedBatch(Outcome):
    """What the workflow must know of a stored batch.

    Attributes:
        batch_id: The batch.
        provider: Its provider.
        model: Its model.
        account: Name of its key, if not the default one.
        total: Number of requests.
        status: Status in the row; terminal where the workflow was started again after the end.
        round: The round to go on with.
        parts: Number of provider batches of that round.
        poll_schedule: Delays between polls, never empty.
        max_age: See `BatchInput.max_age`.
        retry_rounds: See `BatchInput.retry_rounds`.
        handler: Whom to tell, if somebody.
        cancel_requested: Whether a cancel was asked for.
        handled: Whether the handler gate is set.
        summary: Set when the batch is terminal already.
        pending_ttl: How long it may wait to be submitted.
        find_delays: Pauses before each look for a create whose answer was lost.
    """

    batch_id: str
    provider: str
    model: str
    account: str | None = None
    total: int
    status: BatchStatus = BatchStatus.PENDING
    round: int = 0
    parts: int = 1
    poll_schedule: tuple[timedelta, ...]
    max_age: timedelta
    retry_rounds: int = 0
    handler: CompletionHandler | None = None
    cancel_requested: bool = False
    handled: bool = False
    summary: BatchSummary | None = None
    pending_ttl: timedelta = timedelta(days=7)
    find_delays: tuple[timedelta, ...] = (timedelta(0),)


class PrepareInput(Contract):
    """Input of `prepare_batch`: what the user asked for, under the id that the workflow runs by."""

    batch_id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    asked: BatchInput
    now: AwareDatetime


class FollowInput(Contract):
    """Input of the workflow `ProviderBatch`.

    Attributes:
        part: The provider batch to submit and follow.
        provider: Its provider.
        model: Its model.
        account: Name of its key, if not the default one.
        poll_schedule: Delays between polls, never empty.
        max_age: See `BatchInput.max_age`.
        pending_ttl: See `PreparedBatch.pending_ttl`.
        find_delays: See `PreparedBatch.find_delays`.
        cancel_requested: Whether a cancel was asked for before.
    """

    part: PartRef
    provider: str
    model: str
    account: str | None = None
    poll_schedule: tuple[timedelta, ...]
    max_age: timedelta
    pending_ttl: timedelta = timedelta(days=7)
    find_delays: tuple[timedelta, ...] = (timedelta(0),)
    cancel_requested: bool = False


class SubmitInput(Contract):
    """Input of `submit_part`.

    Attributes:
        part: The provider batch to submit.
        now: The workflow's clock; becomes the submission time if there is none yet.
        looked_for: When the create was sent that has been looked for in vain; another one is allowed only if no create
            was sent since, so that a retry of this very activity never creates blindly.
    """

    part: PartRef
    now: AwareDatetime
    looked_for: AwareDatetime | None = None


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


class Submission(Outcome):
    """What became of submitting a part.

    Attributes:
        state: Where it stands.
        submitted_at: The stored submission time, from which max age counts.
        create_sent_at: When the create was sent whose answer is not known.
        provider_batch_id: The provider's id, once there is one.
        polls: Polls made so far; more than 0 where the workflow goes on with a part submitted before.
        next_poll_at: When the next poll was planned for, likewise.
        retry_after: How long the provider asked us to wait.
        message: One line for people, where there is something to say.
        settled: The part's results are stored already.
    """

    state: SubmitState
    submitted_at: datetime | None = None
    create_sent_at: datetime | None = None
    provider_batch_id: str | None = None
    polls: int = 0
    next_poll_at: datetime | None = None
    retry_after: timedelta | None = None
    message: str | None = None
    settled: bool = False


class PollInput(Contract):
    """Input of `poll_part`.

    Attributes:
        part: The provider batch to ask about.
        next_poll_at: When the workflow means to ask again; stored whether or not this poll succeeds.
        attempt: Number of this poll, from 1.
    """

    part: PartRef
    next_poll_at: AwareDatetime
    attempt: int = 1


class PollOutcome(Outcome):
    """A provider batch's status as just read.

    Attributes:
        status: Normalised status.
        provider_status: The provider's own word.
        counts: The provider's counts.
        requeue: The provider took the batch back for lack of quota: submit it again after a pause.
        lost: The row no longer exists.
        reason: The provider's explanation, one line.
    """

    status: BatchStatus
    provider_status: str | None = None
    counts: Counts = Counts()
    requeue: bool = False
    lost: bool = False
    reason: str | None = None


class SettleInput(Contract):
    """Input of `harvest_part`: how the part came to its end.

    Attributes:
        part: The provider batch.
        status: Terminal status to record for it.
        reason: Why, where there is something to say.
        code: Error of the requests that no result was found for; None: derived from `status`.
        without_results: Give up on results that could not be had.
        ended_at: When its end was seen; shortly after, results that are not found may still appear.
    """

    part: PartRef
    status: BatchStatus
    reason: str | None = None
    code: ErrorCode | None = None
    without_results: bool = False
    ended_at: AwareDatetime | None = None


class PartOutcome(Outcome):
    """What a provider batch came to; the result of the workflow `ProviderBatch`."""

    status: BatchStatus
    completed: int = 0
    failed: int = 0
    lost: bool = False


class RoundInput(Contract):
    """Input of `settle_round`."""

    batch_id: str
    round: int
    now: AwareDatetime


class RoundOutcome(Outcome):
    """What is to be done after a round: the next round's parts, or the end.

    Attributes:
        summary: Set when the batch is terminal.
        next_round: The next round, when there is one.
        parts: Number of its provider batches.
        lost: The row no longer exists.
    """

    summary: BatchSummary | None = None
    next_round: int | None = None
    parts: int = 0
    lost: bool = False


class Attention(Contract):
    """Something that waits for an operator; None clears it."""

    batch_id: str
    message: str | None = Field(default=None, max_length=2_000)


class DeliverInput(Contract):
    """Input of `deliver_webhook`: which handler to call, and the payload's `dispatch`."""

    batch_id: str
    url: str
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
