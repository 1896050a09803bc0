"""What is counted of providers' events."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

from opentelemetry import metrics

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter


class EventOutcome(StrEnum):
    """What came of an event."""

    ACCEPTED = "accepted"
    """The workflow that polls the batch was told."""
    ENDED = "ended"
    """The batch's results are stored already."""
    STOPPED = "stopped"
    """No workflow polls the batch; the reconciler starts it again."""
    UNKNOWN = "unknown"
    """It is about no batch of ours, or about something else."""
    REFUSED = "refused"
    """It was not signed by the provider, too large, or cannot be read."""
    UNAVAILABLE = "unavailable"
    """Temporal or the database did not answer; the provider sends it again."""


@cache
def _events() -> Counter:
    return metrics.get_meter("nightmill").create_counter(
        "nightmill.events", unit="{event}", description="events of providers, by what came of them"
    )


def record_event(provider: str, outcome: EventOutcome) -> None:
    """Count an event."""
    _events().add(1, {"provider": provider, "outcome": outcome.value})
