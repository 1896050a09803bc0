"""What Nightmill needs of a provider, and no more. A new provider is one new file that implements `BatchProvider`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from nightmill.contracts import BatchStatus, Counts, ErrorCode

if TYPE_CHECKING:
    from nightmill.completions.neutral import NeutralRequest


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the provider takes; each number's source stands where the provider sets it, settings can override them.

    Attributes:
        max_requests: Requests in one provider batch.
        max_bytes: Bytes of one provider batch as uploaded, envelope included.
        max_request_bytes: Bytes of one rendered request.
        expires_after: The provider's own expiry of an unfinished batch.
        mixed_models: Whether one provider batch may hold several models.
    """

    max_requests: int
    max_bytes: int
    max_request_bytes: int
    expires_after: timedelta
    mixed_models: bool = False


class RequestLines(Protocol):
    """The rendered lines of one provider batch, in order; iterating again reads the same lines again."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    @property
    def total_bytes(self) -> int:
        """Sum of the lines' lengths in bytes, without line ends."""
        ...

    def __iter__(self) -> Iterator[bytes]:
        """Yield each stored line, without line end, a page at a time from storage."""
        ...


@dataclass(frozen=True, kw_only=True)
class Created:
    """A provider batch that exists."""

    provider_batch_id: str
    refs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A batch in the provider's list; it may be the one whose create answer was lost.

    Attributes:
        provider_batch_id: The provider's id.
        tag: The mark it carries; None where the provider keeps none (Anthropic).
        created_at: The provider's creation time, where it says.
        requests: Number of requests by the provider's counts, where it says.
        ended: Whether results can be read, to compare ids.
    """

    provider_batch_id: str
    tag: str | None = None
    created_at: datetime | None = None
    requests: int | None = None
    ended: bool = False


@dataclass(frozen=True, kw_only=True)
class ProviderStatus:
    """One answer to "how is it going?".

    Attributes:
        status: Normalised; an unknown word reads as in progress.
        raw: The provider's own word.
        known: False where the word is unknown, to be logged once.
        counts: Normalised counts; all None where the provider does not say.
        reason: The provider's explanation of a failure, one line, at most 1,000 characters.
        over_quota: The provider failed the batch for lack of quota: submit it again later.
        refs: What is needed to fetch results and clean up (file ids, result URL); small, stored in the row.
    """

    status: BatchStatus
    raw: str | None
    known: bool = True
    counts: Counts = field(default_factory=Counts)
    reason: str | None = None
    over_quota: bool = False
    refs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ResultSource:
    """One file or listing of results: entries as JSON lines (a line feed between them), streamed.

    Attributes:
        name: Short and stable within the provider batch: `output`, `errors`, `results`.
        chunks: The bytes, cut anywhere. Iterating may raise `TransientError`.
    """

    name: str
    chunks: Iterator[bytes]


@dataclass(slots=True)
class Usage:
    """Tokens of one completion as the provider bills them.

    `cached` is contained in `input`, except for Anthropic, where it comes on top; `output` contains `reasoning`.
    """

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    cache_write: int = 0


@dataclass(slots=True)
class EntryError:
    """Why the provider did not answer one request."""

    code: ErrorCode
    message: str
    provider_type: str | None = None
    provider_code: str | None = None
    http_status: int | None = None
    retryable: bool = False


@dataclass(slots=True)
class Entry:
    """One line of results, read.

    Attributes:
        wire_id: The id it answers, as sent to the provider; None where the entry has none.
        error: Set when the request failed.
        text: The answer's text, all parts joined by newline.
        tool_calls: The answer's tool calls as a JSON array, or None.
        output: Structured output that is no text (embeddings) as JSON, or None.
        finish_reason: The provider's word for why it stopped.
        usage: Tokens, None where the provider does not say.
        model: The model that answered, where the provider says.
    """

    wire_id: str | None
    error: EntryError | None = None
    text: str | None = None
    tool_calls: str | None = None
    output: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    model: str | None = None


class MalformedEntry(ValueError):
    """A line of results that cannot be read; `wire_id` is set where at least that could be found."""

    def __init__(self, message: str, wire_id: str | None = None) -> None:
        super().__init__(message)
        self.wire_id = wire_id


class BatchProvider(Protocol):
    """One provider's batch API, bound to one key. Every method may be called from any thread.

    Network methods raise `nightmill.errors`: `ProviderUnreachable`, `AnswerLost`, `ProviderUnavailable`, `RateLimited`
    (transient), `AccessDenied`, `NotFound`, `RequestRefused` (permanent). They never retry by themselves.
    """

    name: str
    limits: Limits
    endpoints: Sequence[str]
    """Endpoints that a batch can be for, the default first; empty where the provider has no such choice."""
    keeps_tags: bool
    """Whether `find` can tell our batches by their tag."""
    entries_decide: bool
    """Whether the entries of a batch that ended tell if it was canceled or expired, not its status (Anthropic)."""
    batch_multiplier: str
    """Price of a batch token relative to an ordinary one, as a decimal string."""
    cached_is_extra: bool
    """Whether cached tokens come on top of the input tokens."""

    def check_model(self, model: str) -> None:
        """Raise `InvalidInput` for a model that is known not to be batchable."""
        ...

    def is_wire_id(self, custom_id: str) -> bool:
        """Whether the provider takes this id as it is."""
        ...

    def render(self, request: NeutralRequest, *, model: str, endpoint: str, wire_id: str) -> bytes:
        """Return the request as the one JSON line that is stored and sent, without line end.

        Raises:
            InvalidInput: The request cannot be expressed for this provider.
        """
        ...

    def upload(self, lines: RequestLines, *, tag: str) -> str | None:
        """Upload the requests as a file and return its id; None where the create call carries the requests.

        Streams; memory is flat in the number of lines. A second call uploads a second file: look with `find_upload`.
        """
        ...

    def find_upload(self, *, tag: str) -> str | None:
        """Return the id of the file that an earlier `upload` with this tag made, if the provider can tell."""
        ...

    def create(self, lines: RequestLines, *, tag: str, file_id: str | None, model: str, endpoint: str) -> Created:
        """Create the provider batch. Not idempotent: after `AnswerLost` use `find`, never call it again blindly."""
        ...

    def listed(self, *, since: datetime) -> Iterator[Candidate]:
        """Yield the provider's batches, ours or not, newest first, down to those created then; a few older ones follow.

        Streams page by page, each asked for when the one before is used up. What is created meanwhile may be left out.
        """
        ...

    def find(self, *, tag: str, since: datetime) -> list[Candidate]:
        """Return the provider's batches created since then that carry the tag, or, without tags, all of them."""
        ...

    def status(self, provider_batch_id: str) -> ProviderStatus:
        """Ask how the provider batch is doing."""
        ...

    def cancel(self, provider_batch_id: str) -> ProviderStatus | None:
        """Ask the provider to cancel and return the status that its answer tells, if it tells one.

        A batch that has ended already is no error.
        """
        ...

    def results(self, provider_batch_id: str, refs: Mapping[str, Any]) -> Iterator[ResultSource]:
        """Yield what results there are, also of a canceled, expired or failed batch; nothing where there are none."""
        ...

    def read_entry(self, line: bytes) -> Entry:
        """Read one line of `results`.

        Raises:
            MalformedEntry: It cannot be read.
        """
        ...

    def clean_up(self, provider_batch_id: str | None, refs: Mapping[str, Any], *, file_id: str | None) -> None:
        """Delete the files that we uploaded. What is gone already is no error."""
        ...

    def check_access(self) -> None:
        """Make one free call that needs the key; raise `AccessDenied` where it is not accepted."""
        ...

    def close(self) -> None:
        """Close all connections; the provider cannot be used afterwards."""
        ...
