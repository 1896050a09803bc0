"""Reads which provider batch an event is about. What became of the batch is not read: only a poll tells."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from nightmill.errors import InvalidInput

_TYPE = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_BATCH_ID = re.compile(r"[A-Za-z0-9_.:~-]{1,300}")  # as long as its column; NUL and half surrogates no database takes


@dataclass(frozen=True)
class ProviderEvent:
    """One event.

    Attributes:
        type: The provider's word, such as `batch.completed`; "" where it gave none that can be shown.
        provider_batch_id: The batch that has ended, as its row names it; None: the event is about something else.
    """

    type: str
    provider_batch_id: str | None


def read_event(body: bytes) -> ProviderEvent:
    """Return what a verified body tells.

    Any `batch.…` counts: providers have different words for how batches end, and more may come. The id is `data.id`, as
    both document it, or `data.name`, as Gemini names batches elsewhere; a name's `batches/` may be left out.

    Raises:
        InvalidInput: It is no JSON object, or a batch's event without a batch.
    """
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):  # the latter: thousands of brackets
        raise InvalidInput("event: no JSON") from None
    if not isinstance(told, dict):
        raise InvalidInput("event: give a JSON object")
    type_ = told.get("type")
    if not isinstance(type_, str) or not _TYPE.fullmatch(type_):
        return ProviderEvent("", None)
    if not type_.startswith("batch."):
        return ProviderEvent(type_, None)
    return ProviderEvent(type_, _batch_in(told.get("data")))


def _batch_in(data: Any) -> str:
    for field in ("id", "name"):
        value = data.get(field) if isinstance(data, dict) else None
        if isinstance(value, str) and _BATCH_ID.fullmatch(found := value.removeprefix("batches/")):
            return found
    raise InvalidInput("event: data.id names no batch")
