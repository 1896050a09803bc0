"""What all contracts have in common, and how they write durations and amounts."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer
from pydantic_core import to_json

MAX_METADATA_BYTES = 16_384
"""Metadata travels through histories and handler payloads; larger things belong behind a URL."""


class Contract(BaseModel):
    """Base of all contracts: frozen, and an unknown field is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Outcome(BaseModel):
    """Base of what activities and workflows return: frozen; unknown fields of a newer version are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def _seconds(value: Any) -> Any:
    """Read digits in a string as seconds, so that `60` and `"60"` mean the same as `"PT1M"`."""
    if isinstance(value, str) and value.replace(".", "", 1).isdigit():
        return float(value)
    return value


Duration = Annotated[timedelta, BeforeValidator(_seconds)]
"""A duration: seconds (`60`, `"60"`) or ISO 8601 (`"PT1M"`)."""


Dollars = Annotated[Decimal, PlainSerializer(lambda value: f"{value:f}", return_type=str, when_used="json")]
"""An amount that is a plain decimal string in JSON; by itself a small one would become `1E-7`."""


def _small_json(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse what neither a database nor Temporal could take later, and what is no metadata any more."""
    try:
        size = len(json.dumps(value, allow_nan=False))
        to_json(value)  # as Temporal gets it: half a character, or a great depth, passes above and not here
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"larger than {MAX_METADATA_BYTES} bytes as JSON")
    return value


Metadata = Annotated[dict[str, Any], AfterValidator(_small_json)]
"""What the host wants to remember: JSON, of `MAX_METADATA_BYTES` at most."""


def duration_text(duration: timedelta) -> str:
    """Return a duration for people: `45 s`, `5 min`, `2.5 h`."""
    seconds = round(duration.total_seconds(), 1)
    if seconds < 90:
        return f"{seconds:g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:g} h"
