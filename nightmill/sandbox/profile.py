"""How the sandbox's batches behave when nothing goes wrong on purpose."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DAY = 86_400.0


@dataclass(frozen=True)
class Profile:
    """Times and shares of every batch created while it is in force.

    A batch keeps the profile it was created under. Times are seconds of the wall clock, shares are 0..1.

    Attributes:
        validating_for: How long a batch stays `validating` (xAI: counts all zero; Gemini: pending).
        finish_after: How long it then stays in progress; None means until its expiry.
        polls_to_finish: If set, `finish_after` does not count: the N-th status read finds the batch ended. For clients
            whose clock skips.
        finalizing_for: How long it stays `finalizing` before it is completed.
        cancelling_for: How long it stays `cancelling`; 0 makes the cancel answer itself final. Gemini and xAI
            always do so.
        expires_after: Age at which an unfinished batch expires; None means the provider's own window (24 h,
            Gemini 48 h).
        fail_share: Share of requests that end with an error of their own.
        fail_ids: Custom ids that always end with an error.
        failure: Which error: `server_error`, `rate_limit`, `invalid_request` or `mixed` (all three, by request).
        expire_share: Share of requests that are never reached, so that the batch ends expired.
        partial_share: Share of requests that are done when a batch is canceled or expires; None: as far as its
            time went.
        shuffle: Whether results come in an order other than that of the requests.
        answer_chars: Pads every text answer to this length.
        rejected_keys: API keys answered with 401.
        forbidden_keys: API keys answered with 403.
        max_requests: Replaces every provider's limit of requests a batch.
        max_bytes: Replaces every provider's limit of bytes a file or body.
        inline_max_bytes: Replaces Gemini's limit of an inline body.
        page_size: Entries in a page when the client asks for none; None means the provider's own.
        events_url: Where OpenAI and Gemini tell that a batch has ended, before `/openai` and `/google`; None: nowhere.
        events_secret: What they sign that with, `whsec_…`.
    """

    validating_for: float = 0.0
    finish_after: float | None = 2.0
    polls_to_finish: int | None = None
    finalizing_for: float = 0.0
    cancelling_for: float = 0.0
    expires_after: float | None = None
    fail_share: float = 0.0
    fail_ids: tuple[str, ...] = ()
    failure: str = "mixed"
    expire_share: float = 0.0
    partial_share: float | None = None
    shuffle: bool = True
    answer_chars: int | None = None
    rejected_keys: tuple[str, ...] = ("invalid",)
    forbidden_keys: tuple[str, ...] = ("forbidden",)
    max_requests: int | None = None
    max_bytes: int | None = None
    inline_max_bytes: int | None = None
    page_size: int | None = None
    events_url: str | None = None
    events_secret: str | None = None

    def __post_init__(self) -> None:
        for name in ("fail_ids", "rejected_keys", "forbidden_keys"):  # JSON has lists only
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("fail_share", "expire_share", "partial_share"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} is {share!r}; a share is between 0 and 1")
        if self.events_url is not None and not self.events_secret:
            raise ValueError("events_url is set: an event is signed, so set events_secret as well")
        if self.failure not in FAILURES:
            raise ValueError(f"failure is {self.failure!r}; choose one of {', '.join(FAILURES)}")

    def merged(self, changes: Mapping[str, Any]) -> Profile:
        """Return this profile with some fields changed.

        Raises:
            ValueError: A name is not a field, or a value is out of range.
        """
        unknown = changes.keys() - {field.name for field in dataclasses.fields(self)}
        if unknown:
            raise ValueError(f"no such profile field: {', '.join(sorted(unknown))}")
        return dataclasses.replace(self, **changes)


FAILURES = ("mixed", "server_error", "rate_limit", "invalid_request")
