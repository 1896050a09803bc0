"""How much of its time a job has used: the time in which programs ran for it."""

from __future__ import annotations

from datetime import datetime, timedelta


class JobClock:
    """Runs from a program's start to its end; stands while the job is in a queue or waits for the breaker.

    Attributes:
        limit: The job's time.
        started_at: When it ran first.
    """

    def __init__(self) -> None:
        self.limit = timedelta(0)
        self.started_at: datetime | None = None
        self._running_since: datetime | None = None
        self._spent = timedelta(0)

    @property
    def runs(self) -> bool:
        """Whether time is being used."""
        return self._running_since is not None

    def start(self, now: datetime) -> None:
        """Use time from now on; starting a clock that runs changes nothing."""
        if self._running_since is None:
            self._running_since = now
            self.started_at = self.started_at or now

    def pause(self, now: datetime) -> None:
        """Use no more time from now on; pausing a clock that stands changes nothing."""
        if self._running_since is not None:
            self._spent += now - self._running_since
            self._running_since = None

    def left(self, now: datetime) -> timedelta:
        """Return what is left of the limit, zero at least."""
        running = now - self._running_since if self._running_since is not None else timedelta(0)
        return max(self.limit - self._spent - running, timedelta(0))
