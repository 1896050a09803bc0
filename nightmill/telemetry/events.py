"""What is counted of providers' events."""

from __future__ import annotations

from enum import StrEnum

from nightmill.telemetry import instruments, metrics


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


def record_event(provider: str, outcome: EventOutcome) -> None:
    """Count an event."""
    labels = {"provider": provider, "outcome": outcome.value}
    instruments.of_this_process().add(metrics.EVENTS, 1, labels)
