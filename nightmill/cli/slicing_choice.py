"""How slicers are isolated where everything runs on one machine: as well as that machine can, and never in silence.

A worker by itself refuses to start where the sandbox is missing. `nightmill dev` and the demonstration are there to be
tried, anywhere: they fall back, and say so.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightmill.settings import Settings


@dataclass(frozen=True)
class SlicingChoice:
    """How a worker is to be started.

    Attributes:
        line: The choice and its reason, for people.
        serves: Whether PDFs are sliced at all.
        variables: What the worker's environment gets.
    """

    line: str
    serves: bool = True
    variables: Mapping[str, str] = field(default_factory=dict)


def choose_isolation(settings: Settings) -> SlicingChoice:
    """Return the sandbox where it works, else the level `process`, unless the settings name one; starts the sandbox."""
    from nightmill.slicing.isolation import probe_sandbox

    wanted = settings.slicing.isolation
    if settings.slicing.task_queue not in queues_of(settings):
        return SlicingChoice("not served, as NIGHTMILL_WORKER__QUEUES says", serves=False)
    if sys.platform != "linux":
        others = ",".join(sorted(queues_of(settings) - {settings.slicing.task_queue}))
        return SlicingChoice(
            "not served: programs are supervised on Linux only",
            serves=False,
            variables={"NIGHTMILL_WORKER__QUEUES": others},
        )
    if "isolation" in settings.slicing.model_fields_set:
        return SlicingChoice(f"{wanted}, as NIGHTMILL_SLICING__ISOLATION says")
    reason = probe_sandbox()
    if reason is None:
        return SlicingChoice("sandbox: no network, a read-only view of the machine")
    return SlicingChoice(
        f"process, WITHOUT A SANDBOX: {reason}. Slice only PDFs that you trust; `nightmill doctor` says what to do",
        variables={"NIGHTMILL_SLICING__ISOLATION": "process"},
    )


def queues_of(settings: Settings) -> frozenset[str]:
    """Return the task queues that a worker with these settings serves."""
    if settings.worker.queues is not None:
        return frozenset(settings.worker.queues)
    return frozenset({settings.worker.task_queue, settings.slicing.task_queue})


def polled(settings: Settings, choice: SlicingChoice) -> list[str]:
    """Return the task queues whose activities such a worker asks for, once it is ready."""
    from nightmill.ids import programs_queue

    found = sorted(queues_of(settings) - {settings.slicing.task_queue})
    return (
        [*found, settings.slicing.task_queue, programs_queue(settings.slicing.task_queue)] if choice.serves else found
    )
