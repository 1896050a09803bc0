"""One budget per host, over all workers and accounts: one request at a time, with a pause, and nobody holds a slot.

Whoever is not granted the turn gets a place in the host's line, a time to come back at. The line is nothing but the
time where it ends: a place whose holder died passes unused, and a line from which nobody comes any more is forgotten.
The urgent have a line of their own, which the other one does not hold up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, update
from sqlmodel import SQLModel, select

from nightmill.storage.accounts import UPSERT
from nightmill.storage.document_models import HostRow

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

LONGEST_RETRY_AFTER = timedelta(hours=1)
"""What `Retry-After` may ask for at most."""

LONGEST_WAIT = timedelta(hours=1)
"""After which who waits asks again: the line may be gone, or a wrong clock may have made it."""

_LEAST, _PLACES = timedelta(minutes=1), 10  # longer than both is long, for a free host and for a place past due
_NEWEST_SHARE = 0.3  # of the moving average: a host that turns slow is noticed after some requests
_FIRST_GUESS = 1.0  # seconds that a request takes, of a host that was never asked
_SHORTEST, _LONGEST = timedelta(seconds=0.2), timedelta(seconds=5)  # waits of those whose turn is past due


@dataclass(frozen=True)
class Turn:
    """Whether a request may be sent to a host.

    Attributes:
        granted: It may, and `HostRepository.release` must follow.
        wait: If not: when to ask again.
        ticket: And the place in the line to ask with then; None for those who stand in no line.
    """

    granted: bool
    wait: timedelta = timedelta(0)
    ticket: datetime | None = None


@dataclass(frozen=True)
class StoredRobots:
    """What a host's robots.txt was.

    Attributes:
        status: The answer's status; None: there never was one.
        body: The file; None where there is none.
        crawl_delay: Seconds between requests that it asks for.
        checked_at: When it was asked for last.
        fetched_at: When there was an answer last.
    """

    status: int | None
    body: str | None
    crawl_delay: float | None
    checked_at: datetime | None
    fetched_at: datetime | None


@dataclass
class _Line:
    """What of a host's row says whose turn it is; see `HostRow`."""

    free_at: datetime | None
    lease: str | None
    leased_until: datetime | None
    line_ends_at: datetime | None
    urgent_ends_at: datetime | None
    crawl_delay: float | None
    seconds: float | None
    failures: int


# The columns, not the row: its robots.txt may be half a megabyte, and every turn reads and writes the line twice.
_HOSTS: Any = SQLModel.metadata.tables["hosts"]
_HAS_ITS_NAME = _HOSTS.c.host == bindparam("its_host")
_COLUMNS = [_HOSTS.c[field.name] for field in fields(_Line)]
_READ = select(*_COLUMNS).where(_HAS_ITS_NAME).with_for_update()
_WRITE = update(_HOSTS).where(_HAS_ITS_NAME).values({column: bindparam(column.name) for column in _COLUMNS})


@dataclass(frozen=True)
class HostRepository:
    """Gives turns at hosts. Any thread may use it; several workers share it by the database."""

    database: Database

    def acquire(
        self,
        host: str,
        *,
        lease: str,
        ticket: datetime | None,
        urgent: bool,
        delay: timedelta,
        lease_for: timedelta,
        now: datetime,
        lines_up: bool = True,
    ) -> Turn:
        """Ask for the turn at a host. Asking again with a lease that holds the turn keeps it.

        Args:
            host: `host:port`.
            lease: Names the request, uniquely.
            ticket: The place in the line that an earlier call gave.
            urgent: Go before the line, as soon as the host is free and nobody urgent is before us.
            delay: Pause between requests, unless robots.txt asks for a longer one.
            lease_for: When the request is given up for lost, so that a killed worker does not block the host.
            now: The present.
            lines_up: Take a place in the line; without one the turn is granted whenever the host is free.
        """
        with self._locked(host) as line:
            pause, average = _pause(line, delay), timedelta(seconds=line.seconds or _FIRST_GUESS)
            _mend(line, now, lease_for=lease_for, pause=pause, average=average)
            ends_at = line.urgent_ends_at if urgent else line.line_ends_at
            is_busy = line.lease not in (None, lease) and line.leased_until is not None and line.leased_until > now
            free_at = max(line.free_at or now, now)
            is_free = not is_busy and (free_at <= now or line.lease == lease)
            soon = max(free_at - now, min(max(average, _SHORTEST), _LONGEST) if is_busy else timedelta(0))
            if ticket is not None and (ends_at is None or ticket >= ends_at):
                ticket = None  # of another line
            if ticket is not None:
                if ticket > now:
                    return Turn(False, min(ticket - now, LONGEST_WAIT), ticket)
                if not is_free:
                    if soon <= pause + _LONGEST and now - ticket <= _long(pause + average):
                        return Turn(False, soon, ticket)
                    # `Retry-After` stops everybody, or the urgent took our turns: line up again, lest all come at once.
                    ticket = None
            in_line = lines_up and ticket is None and ends_at is not None and ends_at > now
            if is_free and not in_line:
                line.lease, line.leased_until = lease, now + lease_for
                return Turn(True)
            if not lines_up:
                return Turn(False, soon)
            if urgent:
                ticket = max(ends_at or now, now + soon)
                line.urgent_ends_at = ticket + pause + average
            else:
                ticket = max(ends_at or now, free_at, now + average + pause if is_busy else now)
                line.line_ends_at = ticket + pause + average
            return Turn(False, min(ticket - now, LONGEST_WAIT), ticket)

    def release(
        self,
        host: str,
        lease: str,
        *,
        seconds: float,
        delay: timedelta,
        failed: bool,
        retry_after: timedelta | None,
        now: datetime,
    ) -> None:
        """Give the turn back; the pause begins. One that lapsed and belongs to somebody else by now stays theirs.

        Args:
            host: `host:port`.
            lease: The request.
            seconds: What it took.
            delay: See `acquire`.
            failed: Whether the host failed it.
            retry_after: How long the host asks everybody to stay away; an hour counts at most.
            now: The present.
        """
        asked = min(max(retry_after or timedelta(0), timedelta(0)), LONGEST_RETRY_AFTER)
        with self._locked(host) as line:
            if line.lease == lease:
                line.lease = line.leased_until = None
            before = seconds if line.seconds is None else line.seconds
            line.seconds = before + _NEWEST_SHARE * (seconds - before)
            line.failures = line.failures + 1 if failed else 0
            free_at = now + max(_pause(line, delay), asked)
            line.free_at = max(line.free_at or free_at, free_at)

    def robots(self, host: str) -> StoredRobots | None:
        """Return what is known of the host's robots.txt; None where it was never asked for."""
        with self.database.reading() as session:
            row = session.get(HostRow, host)
        if row is None or row.robots_checked_at is None:
            return None
        return StoredRobots(
            row.robots_status, row.robots, row.crawl_delay, row.robots_checked_at, row.robots_fetched_at
        )

    def store_robots(
        self, host: str, *, status: int, body: str | None, crawl_delay: float | None, now: datetime
    ) -> None:
        """Store the host's robots.txt, None where there is none, and the pause that it asks for."""
        self._store(
            host,
            robots_status=status,
            robots=body,
            crawl_delay=crawl_delay,
            robots_checked_at=now,
            robots_fetched_at=now,
        )

    def robots_failed(self, host: str, now: datetime) -> None:
        """Store that robots.txt could not be had; what was known of it stays."""
        self._store(host, robots_checked_at=now)

    @contextmanager
    def _locked(self, host: str) -> Iterator[_Line]:
        """Hold the host's row, made if there is none; what the block changes in its line is stored."""
        with self.database.transaction() as session:
            connection = session.connection()
            found = connection.execute(_READ, {"its_host": host}).first()
            if found is None:
                insert = UPSERT[self.database.dialect](HostRow).values(host=host, failures=0)
                connection.execute(insert.on_conflict_do_nothing())
                found = connection.execute(_READ, {"its_host": host}).one()
            line = _Line(*found)
            yield line
            if astuple(line) != tuple(found):
                connection.execute(_WRITE, {"its_host": host, **asdict(line)})

    def _store(self, host: str, **columns: Any) -> None:
        """Write columns of the host's row, made if there is none."""
        insert = UPSERT[self.database.dialect](HostRow).values(host=host, failures=0, **columns)
        with self.database.transaction() as session:
            session.connection().execute(insert.on_conflict_do_update(index_elements=["host"], set_=columns))


def _mend(line: _Line, now: datetime, *, lease_for: timedelta, pause: timedelta, average: timedelta) -> None:
    """Forget lines that nobody comes from, and bring back times that a worker with a wrong clock put far ahead."""
    if line.leased_until is not None:
        line.leased_until = min(line.leased_until, now + lease_for)
    if line.free_at is not None:
        line.free_at = min(line.free_at, now + max(LONGEST_RETRY_AFTER, pause))
        idle_since = max(line.free_at, line.leased_until) if line.leased_until else line.free_at
        if now - idle_since > _long(pause + average):
            line.line_ends_at = line.urgent_ends_at = None


def _long(place: timedelta) -> timedelta:
    return max(_LEAST, _PLACES * place)


def _pause(line: _Line, delay: timedelta) -> timedelta:
    return max(delay, timedelta(seconds=line.crawl_delay or 0))
