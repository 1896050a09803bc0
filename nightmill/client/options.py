"""What calls take by name besides what they cannot do without, so that editors and type checkers know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypedDict

from nightmill.contracts import CompletionHandler

Delay = timedelta | float | str
"""A duration; a number is seconds, a text is seconds (`60`) or ISO 8601 (`PT1M`)."""


class BatchOptions(TypedDict, total=False):
    """Options of a batch: the fields of `nightmill.contracts.BatchInput`; None, where it may stand, is the default.

    Attributes:
        endpoint: OpenAI only: `/v1/responses` (default), `/v1/chat/completions` or `/v1/embeddings`.
        completion_handler: Whom to tell at the end; see docs/handlers.md.
        metadata: Travels to the handler, never to the provider; at most 16 KiB as JSON.
        poll_schedule: Delays between status polls, the last one repeats; default 1, 2, 5, 10, 30 minutes.
        max_age: How long after submission a provider batch may stay unresolved; default 26 h, Gemini 50 h.
        retry_rounds: How often completions that failed with a retriable error are sent again; 0 to 10, default 0.
        budget: Highest estimated cost in US dollars that is submitted.
        account: Name of the key to use: `NIGHTMILL_ACCOUNTS__<NAME>__<PROVIDER>__API_KEY`.
    """

    endpoint: str | None
    completion_handler: CompletionHandler | Mapping[str, Any] | None
    metadata: Mapping[str, Any]
    poll_schedule: Sequence[Delay] | None
    max_age: Delay | None
    retry_rounds: int | None
    budget: Decimal | float | str | None
    account: str | None


class DocumentOptions(TypedDict, total=False):
    """Options of a new document: those of `Documents.add`; None, where it may stand, is the default.

    Attributes:
        document_id: An id of your own for a page that is new; default a new UUIDv7.
        name: Shown until the page says a title.
        interval: Time between syncs, in place of the plan's.
        change_handler: Whom to tell of changes, in place of the account's.
        sync: Sync it now; the default.
    """

    document_id: str | None
    name: str | None
    interval: Delay | None
    change_handler: Mapping[str, Any] | None
    sync: bool


class SlicingOptions(TypedDict, total=False):
    """Options of a slicing: those of `Slicings.slice`; None, where it may stand, is the default.

    Attributes:
        profile: The slicer profile; default `gazette`.
        notify: Who is told when it has ended: one or several of `mailto:…`, `https://…`, `channel:NAME`.
        metadata: Yours; kept with the document, at most 16 KiB as JSON.
    """

    profile: str
    notify: str | Sequence[str]
    metadata: Mapping[str, Any] | None
