"""What the sandbox remembers: files, batches and the requests in them."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

from nightmill.sandbox.profile import Profile


class Phase(StrEnum):
    """Where a batch is; each provider's module has its own words for it."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the batch never changes again."""
        return self in TERMINAL


TERMINAL = frozenset({Phase.COMPLETED, Phase.FAILED, Phase.EXPIRED, Phase.CANCELLED})


class Outcome(IntEnum):
    """What becomes of one request."""

    SUCCEEDED = 0
    FAILED = 1
    EXPIRED = 2
    CANCELLED = 3


class Lines:
    """The requests of a batch: a JSONL file on disk and where each line starts.

    Eight bytes of memory a request, whatever its size. Blank lines do not count.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.starts = array("Q")
        self.numbers = array("L")

    def scan(self) -> Iterator[tuple[int, bytes]]:
        """Yield each line with its number in the file (the first is 1), noting where it starts."""
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self.starts.append(offset)
                    self.numbers.append(number)
                    yield number, line
                offset += len(line)

    def read(self, order: Iterator[int] | range) -> Iterator[tuple[int, bytes]]:
        """Yield (index, line) for the wanted indexes, in the order wanted."""
        with self.path.open("rb") as file:
            for index in order:
                file.seek(self.starts[index])
                yield index, file.readline()

    def __len__(self) -> int:
        return len(self.starts)


@dataclass
class StoredFile:
    """A file that a client uploaded, or one that a batch produced (`batch_id` set, `path` unset)."""

    id: str
    provider: str
    filename: str
    purpose: str
    created_at: float
    path: Path | None = None
    size: int | None = None
    sha256: str = ""
    mime_type: str = "application/jsonl"
    expires_at: float | None = None
    batch_id: str | None = None
    part: str = "output"
    deleted: bool = False


@dataclass
class Batch:
    """One provider batch.

    Attributes:
        tag: Whatever the provider lets a client mark a batch with: the first metadata value, the name, the
            display name.
        ids_sha: SHA-256 of the sorted custom ids joined by newline.
        outcomes: One byte a request, an `Outcome`.
        done: How many requests, in input order, were finished when the batch ended early; None otherwise.
        since: When each phase began.
        errors: Why validation failed, in OpenAI's shape; the other providers use the message.
        ready: The order of its results, once it has ended and a page of them was asked for.
        hidden_until: Before this time the batch can be neither read nor listed.
    """

    id: str
    provider: str
    created_at: float
    profile: Profile
    lines: Lines
    endpoint: str = ""
    model: str = ""
    tag: str | None = None
    metadata: dict[str, Any] | None = None
    input_file_id: str | None = None
    key_hash: str = ""
    window: float = 86_400.0
    ids_sha: str = ""
    salt: str = ""
    outcomes: bytearray = field(default_factory=bytearray)
    phase: Phase = Phase.VALIDATING
    since: dict[Phase, float] = field(default_factory=dict)
    done: int | None = None
    polls: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    ready: list[int] | None = None
    hidden_until: float = 0.0
    deleted: bool = False
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def expires_at(self) -> float:
        """When an unfinished batch expires."""
        after = self.profile.expires_after
        return self.created_at + (self.window if after is None else after)

    @property
    def reason(self) -> str:
        """The first of the batch's errors, in words."""
        return str(self.errors[0]["message"]) if self.errors else ""

    def outcome(self, index: int) -> Outcome:
        """What became of a request, given how the batch ended."""
        if self.done is not None and index >= self.done:
            return Outcome.EXPIRED if self.phase is Phase.EXPIRED else Outcome.CANCELLED
        return Outcome(self.outcomes[index])

    def count(self, outcome: Outcome, upto: int | None = None) -> int:
        """Count the requests with this outcome among the first `upto` (None: all that the batch reached)."""
        end = len(self.outcomes)
        reached = end if self.done is None else self.done
        counted = self.outcomes.count(outcome, 0, reached if upto is None else min(upto, reached))
        if upto is None and reached < end:
            unreached = Outcome.EXPIRED if self.phase is Phase.EXPIRED else Outcome.CANCELLED
            counted += (end - reached) if outcome is unreached else 0
        return counted

    def digest(self, custom_id: str) -> bytes:
        """Sixteen bytes that depend on nothing but the seed, the set of requests and this request's id."""
        return hashlib.blake2b(f"{self.salt}\n{custom_id}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def ids_sha(custom_ids: list[str]) -> str:
    """Return the fingerprint by which a set of custom ids is known in the control API."""
    return hashlib.sha256("\n".join(sorted(custom_ids)).encode("utf-8", "surrogatepass")).hexdigest()
