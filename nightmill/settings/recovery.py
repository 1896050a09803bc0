"""The settings of recovery."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from nightmill.contracts import Duration
from nightmill.settings.base import Section


class ReconcilerSettings(Section):
    """How what is stuck is found and repaired."""

    schedules: bool = Field(
        default=True, description="let the worker make the schedules of the reconciler, the expiry sweep and the audit"
    )
    interval: Duration = Field(
        default=timedelta(minutes=5), ge=timedelta(seconds=1), description="between two runs of the reconciler"
    )
    grace: Duration = Field(
        default=timedelta(minutes=5),
        ge=timedelta(0),
        description="what is late by less than this is not looked at",
    )
    spacing: tuple[Duration, ...] = Field(
        default=(timedelta(0), timedelta(minutes=10), timedelta(hours=1)),
        description="JSON list: pause before each repair of one batch that starts a new run; after as many it needs "
        "attention",
    )
    per_tick: int = Field(
        default=10_000, ge=1, description="candidates of one kind that a run looks at; the next one goes on with more"
    )
    expiry_interval: Duration = Field(
        default=timedelta(hours=1), ge=timedelta(seconds=1), description="between two runs of the expiry sweep"
    )
    expiry_margin: Duration = Field(
        default=timedelta(hours=1),
        ge=timedelta(0),
        description="how long past its max age a batch is left to its own workflow",
    )
