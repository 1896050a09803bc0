"""Slicer profiles: the built-in ones, and those that the settings add or put in their place."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from nightmill.contracts import SlicingTerms
from nightmill.errors import InvalidInput
from nightmill.ids import programs_queue
from nightmill.settings.slicing import SlicerSettings, SlicingSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

_SLICER = ("{python}", "-m", "nightmill.slicer")

BUILT_IN: Mapping[str, SlicerSettings] = {
    "gazette": SlicerSettings(command=(*_SLICER, "--profile", "auto"), fan_out=True),
    "gazette-honduras": SlicerSettings(command=(*_SLICER, "--profile", "honduras"), fan_out=True),
    "gazette-nicaragua": SlicerSettings(command=(*_SLICER, "--profile", "nicaragua"), fan_out=True),
    "outline": SlicerSettings(command=(*_SLICER, "--mode", "outline")),
}
"""Profiles that need no setting; a profile of the same name in the settings takes one's place."""

_AROUND_A_PROGRAM = timedelta(seconds=20)
"""What an activity needs besides its program: fetching the PDF, storing the slices, ending the processes."""

_ACTIVITY_AT_LEAST = timedelta(seconds=5)


@dataclass(frozen=True)
class SlicerProfile:
    """One profile.

    Attributes:
        name: Its name.
        settings: What it may take.
    """

    name: str
    settings: SlicerSettings

    @property
    def is_built_in(self) -> bool:
        """Whether its slicer is ours, whose right answer to the canary is known."""
        return self.settings.command[: len(_SLICER)] == _SLICER

    @property
    def command(self) -> tuple[str, ...]:
        """The slicer's command."""
        return _with_python(self.settings.command)

    @property
    def metadata_command(self) -> tuple[str, ...]:
        """The metadata program's command; empty where there is none."""
        return _with_python(self.settings.metadata_command)

    def wall(self, timeout: timedelta) -> timedelta:
        """Return how long a program may run in an activity with this timeout."""
        if self.settings.wall is not None:
            return min(self.settings.wall, timeout)
        return max(timeout - _AROUND_A_PROGRAM, timeout * 0.8)

    def terms(self, settings: SlicingSettings) -> SlicingTerms:
        """Return what a workflow has to know of it."""
        given = self.settings
        return SlicingTerms(
            job_timeout=given.job_timeout,
            slicing_timeout=max(given.slicing_timeout, _ACTIVITY_AT_LEAST),
            metadata_timeout=max(given.metadata_timeout, _ACTIVITY_AT_LEAST) if given.metadata_command else None,
            heartbeat_timeout=settings.heartbeat_timeout,
            programs_queue=programs_queue(settings.task_queue),
        )


def find_profile(settings: SlicingSettings, name: str) -> SlicerProfile:
    """Return a profile.

    Raises:
        InvalidInput: There is none of this name; the message names those that there are.
    """
    found = settings.profiles.get(name) or BUILT_IN.get(name)
    if found is None:
        known = ", ".join(profile_names(settings))
        raise InvalidInput(f"slicer profile {name[:80]!r}: known are {known}; NIGHTMILL_SLICING__PROFILES adds others")
    return SlicerProfile(name, found)


def profile_names(settings: SlicingSettings) -> list[str]:
    """Return the names of all profiles."""
    return sorted({*BUILT_IN, *settings.profiles})


def _with_python(command: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.replace("{python}", sys.executable) for part in command)
