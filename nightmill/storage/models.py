"""The tables.

`batches` 1 ─ n `provider_batches` (one a part and round) and 1 ─ n `completions` (the frozen request) 1 ─ n `outcomes`
(one an attempt, that is a round). Outcomes are only ever appended; what became of a completion is its outcome of the
highest round, and every count is a count of rows. A status column has one writer: the batch's workflow.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, LargeBinary, Text, text
from sqlmodel import Column, Field, SQLModel, UniqueConstraint

from nightmill.contracts import BatchStatus
from nightmill.storage.columns import BIG_KEY, UtcDateTime, Word, time_column

BATCH_IS_HALF_DELETED = "deleted_at IS NOT NULL AND emptied_at IS NULL"

BATCH_IS_OPEN = "results_fetched_at IS NULL OR handler_dispatched_at IS NULL"
"""A gate is open, as it is of every batch until it is terminal."""


class BatchRow(SQLModel, table=True):
    """One model completion batch.

    Attributes:
        key: Our own number, which the other tables point to.
        id: The public id.
        poll_schedule: Delays in seconds, frozen when the batch was made.
        max_age: Seconds; frozen likewise.
        prices: Unit prices frozen at creation, None where none is known.
        budget: US dollars as a decimal string.
        results_fetched_at: The results gate: every part is harvested and the terminal status is written.
        handler_dispatched_at: The handler gate: the handler succeeded, or nobody wants to be told.
        dispatches: How often the handler was told to be called by an operator or for the first time.
        deleted_at: When somebody deleted it. This row and its provider batches stay, so that the id is not used twice
            and an audit knows what is ours.
        emptied_at: When its requests, outcomes and files were all gone after that.
        summary: What had become of a deleted one: `BatchSummary` as JSON, without metadata.
    """

    __tablename__ = "batches"

    key: int | None = Field(default=None, sa_column=Column(BIG_KEY, primary_key=True, autoincrement=True))
    id: str = Field(max_length=64, unique=True)
    provider: str = Field(max_length=32)
    model: str = Field(max_length=200)
    account: str | None = Field(default=None, max_length=64)
    endpoint: str = Field(default="", max_length=100)
    status: BatchStatus = Field(default=BatchStatus.PENDING, sa_column=Column(Word(BatchStatus), nullable=False))
    reason: str | None = Field(default=None, sa_column=Column(Text))
    needs_attention: str | None = Field(default=None, sa_column=Column(Text))
    user_metadata: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    completion_handler: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    poll_schedule: list[float] = Field(sa_column=Column(JSON, nullable=False))
    max_age: float
    retry_rounds: int = 0
    budget: str | None = Field(default=None, max_length=40)
    prices: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    retry_of: str | None = Field(default=None, max_length=64)
    requests: int = 0
    round: int = 0
    cancel_requested_at: datetime | None = time_column()
    created_at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False, index=True))
    submitted_at: datetime | None = time_column()
    started_at: datetime | None = time_column()
    ended_at: datetime | None = time_column()
    failed_at: datetime | None = time_column()
    next_poll_at: datetime | None = time_column()
    results_fetched_at: datetime | None = time_column()
    handler_dispatched_at: datetime | None = time_column()
    dispatches: int = 0
    deleted_at: datetime | None = time_column()
    emptied_at: datetime | None = time_column()
    summary: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))

    @property
    def budget_decimal(self) -> Decimal:
        """The budget as a number."""
        return Decimal(self.budget or 0)

    __table_args__ = (
        Index("ix_batches_status_next_poll_at", "status", "next_poll_at"),
        # What recovery looks through; see `nightmill.storage.candidates`.
        Index("ix_batches_open", "key", sqlite_where=text(BATCH_IS_OPEN), postgresql_where=text(BATCH_IS_OPEN)),
        Index(
            "ix_batches_half_deleted",
            "key",
            sqlite_where=text(BATCH_IS_HALF_DELETED),
            postgresql_where=text(BATCH_IS_HALF_DELETED),
        ),
    )


class ProviderBatchRow(SQLModel, table=True):
    """One batch object at the provider: a contiguous range of requests in one round.

    Attributes:
        first: First request's `seq`; in later rounds only the failed ones in the range belong to it.
        last: Last request's `seq`, included.
        requests: How many requests it holds.
        bytes: Sum of their lines' lengths.
        epoch: How often a create was meant to be made; part of the tag.
        upload_started_at: Written before an upload: a file may exist.
        create_sent_at: The intent, written before a create: a provider batch may exist.
        submitted_at: When it was first meant to be created; max age counts from here and it never changes.
        refs: The provider's file ids and addresses.
        fetched: Per result source, where ingestion stands: `{"output": {"bytes": 120, "done": false}}`.
        fetches: How often the results were fetched again because they were incomplete.
        settled_at: Its results are applied and its status is final.
        provider_error: The provider's message, one line.
        attention: What it waits for an operator for.
    """

    __tablename__ = "provider_batches"
    __table_args__ = (
        UniqueConstraint("batch_key", "round", "part", name="uq_provider_batches_part"),
        UniqueConstraint("provider", "provider_batch_id", name="uq_provider_batches_provider_batch_id"),
        Index("ix_provider_batches_open", "provider", "model", "settled_at"),
        Index(
            "ix_provider_batches_unsettled",
            "key",
            sqlite_where=text("settled_at IS NULL"),
            postgresql_where=text("settled_at IS NULL"),
        ),
    )

    key: int | None = Field(default=None, sa_column=Column(BIG_KEY, primary_key=True, autoincrement=True))
    batch_key: int = Field(sa_column=Column(BIG_KEY, ForeignKey("batches.key", ondelete="CASCADE"), nullable=False))
    round: int = 0
    part: int = 0
    first: int
    last: int
    requests: int
    bytes: int = Field(sa_column=Column(BigInteger, nullable=False))
    provider: str = Field(max_length=32)
    model: str = Field(max_length=200)
    account: str | None = Field(default=None, max_length=64)
    epoch: int = 0
    status: BatchStatus = Field(default=BatchStatus.PENDING, sa_column=Column(Word(BatchStatus), nullable=False))
    provider_status: str | None = Field(default=None, sa_column=Column(Text))
    provider_batch_id: str | None = Field(default=None, max_length=300)
    provider_error: str | None = Field(default=None, sa_column=Column(Text))
    attention: str | None = Field(default=None, sa_column=Column(Text))
    counts: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    refs: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    input_file_id: str | None = Field(default=None, max_length=300)
    upload_started_at: datetime | None = time_column()
    create_sent_at: datetime | None = time_column()
    created_at: datetime | None = time_column()
    submitted_at: datetime | None = time_column()
    canceled_at: datetime | None = time_column()
    next_poll_at: datetime | None = time_column()
    polls: int = 0
    fetched: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    fetches: int = 0
    settled_at: datetime | None = time_column()
    cleaned_at: datetime | None = time_column()


class CompletionRow(SQLModel, table=True):
    """One request, frozen as the line that is sent.

    Attributes:
        seq: Position in the batch, from 0.
        custom_id: The user's id.
        wire_id: The id as sent to the provider.
        bytes: Length of the line.
        response_schema: JSON schema of the answer, as text.
        line: The rendered line, UTF-8, without line end. Last in the table: SQLite reads through what stands before.
    """

    __tablename__ = "completions"
    # Unique wire ids make custom ids unique too: one is made from the other without loss.
    __table_args__ = (UniqueConstraint("batch_key", "wire_id", name="uq_completions_wire_id"),)

    batch_key: int = Field(
        sa_column=Column(BIG_KEY, ForeignKey("batches.key", ondelete="CASCADE"), primary_key=True, autoincrement=False)
    )
    seq: int = Field(primary_key=True)
    custom_id: str = Field(sa_column=Column(Text, nullable=False))
    wire_id: str = Field(sa_column=Column(Text, nullable=False))
    line: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    bytes: int
    response_schema: str | None = Field(default=None, sa_column=Column(Text))


class OutcomeRow(SQLModel, table=True):
    """What one attempt of one completion came to. Appended once, never changed.

    Attributes:
        ok: Whether there is an answer.
        cost_picodollars: US dollars times 10^12, exact; None where tokens or price are not known.
        text: The answer's text. What is large stands last: SQLite reads through all that stands before.
        raw: The provider's entry as text, of failed ones only.
    """

    __tablename__ = "outcomes"
    __table_args__ = (UniqueConstraint("batch_key", "seq", "round", name="uq_outcomes_attempt"),)

    key: int | None = Field(default=None, sa_column=Column(BIG_KEY, primary_key=True, autoincrement=True))
    batch_key: int = Field(sa_column=Column(BIG_KEY, ForeignKey("batches.key", ondelete="CASCADE"), nullable=False))
    seq: int
    round: int
    ok: bool
    finish_reason: str | None = Field(default=None, sa_column=Column(Text))
    model: str | None = Field(default=None, sa_column=Column(Text))
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_picodollars: int | None = Field(default=None, sa_column=Column(BigInteger))
    error_code: str | None = Field(default=None, sa_column=Column(Text))
    error_type: str | None = Field(default=None, sa_column=Column(Text))
    error_provider_code: str | None = Field(default=None, sa_column=Column(Text))
    error_message: str | None = Field(default=None, sa_column=Column(Text))
    error_http_status: int | None = None
    error_retryable: bool | None = None
    text: str | None = Field(default=None, sa_column=Column(Text))
    output: str | None = Field(default=None, sa_column=Column(Text))
    tool_calls: str | None = Field(default=None, sa_column=Column(Text))
    raw: str | None = Field(default=None, sa_column=Column(Text))
