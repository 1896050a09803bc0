"""What goes between the workflows and their activities."""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import AwareDatetime, Field

from nightmill.contracts.base import Contract, Outcome
from nightmill.contracts.batches import BatchInput, BatchSummary, Counts
from nightmill.contracts.handlers import CompletionHandler
from nightmill.contracts.words import BatchStatus, ErrorCode, SubmitState


class PartRef(Contract):
    """Names one provider batch of a batch."""

    batch_id: str
    round: int = 0
    part: int = 0


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
        dispatches: How often the handler has been called so far.
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
    dispatches: int = 0
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
        cancel_requested: A cancel is stored in the row, whether or not the workflow has heard of it.
    """

    status: BatchStatus
    provider_status: str | None = None
    counts: Counts = Counts()
    requeue: bool = False
    lost: bool = False
    reason: str | None = None
    cancel_requested: bool = False


class SettleInput(Contract):
    """Input of `harvest_part`: how the part came to its end.

    Attributes:
        part: The provider batch.
        status: Terminal status to record for it.
        reason: Why, where there is something to say.
        code: Error of the requests that no result was found for; None: derived from `status`.
        without_results: Give up on results that could not be had.
        at_max_age: We ended it, not the provider; nobody but we asked for the cancel.
        ended_at: When its end was seen; shortly after, results that are not found may still appear.
    """

    part: PartRef
    status: BatchStatus
    reason: str | None = None
    code: ErrorCode | None = None
    without_results: bool = False
    at_max_age: bool = False
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
    """Something that waits for an operator; None clears it.

    Attributes:
        batch_id: The batch.
        part: The provider batch that waits; None: the completion handler.
        message: What it waits for.
    """

    batch_id: str
    part: PartRef | None = None
    message: str | None = Field(default=None, max_length=2_000)


class DeliverInput(Contract):
    """Input of `begin_delivery` and `deliver_webhook`: whose handler is called, and the payload's `dispatch`."""

    batch_id: str
    dispatch: int = 1
