"""Manners towards sites: one request at a time per host, over all workers, with a pause, and what robots.txt allows.

Nobody holds a thread for long while waiting for a turn: after a moment the caller gets `HostBusy`, which says when to
come back, and keeps its place in the line by a ticket.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from nightmill.documents.links import read_link
from nightmill.documents.robots import RobotsRules, fetch_robots
from nightmill.errors import HostBusy, InvalidInput, PageAccessDenied, PageBlocked, PageFetchFailed, PageUnavailable

if TYPE_CHECKING:
    from nightmill.documents.fetching import PageFetcher
    from nightmill.settings import DocumentSettings
    from nightmill.storage.hosts import HostRepository, StoredRobots

SHORT = timedelta(seconds=2)
"""A wait that is sat out; for a longer one the worker's slot is given back."""

ROBOTS_AGE = timedelta(hours=24)
"""How long a robots.txt is believed: RFC 9309, section 2.4."""

ROBOTS_LAST_RESORT = timedelta(days=7)
"""How long the last one is believed while the site's server fails to give a new one."""

ROBOTS_ASKED_AGAIN = timedelta(minutes=10)
"""How long it is not asked for again then: each question costs a turn at the host, which pages could have had."""

_REMEMBERED = 512  # parsed robots.txt a process
_REMEMBERED_CHARACTERS = 2_000_000  # of all of them; parsed, each takes up to 52 bytes (measured with `Disallow: /0…`)
_LOOKED_UP_AGAIN = 60.0  # seconds after which another worker's newer robots.txt is noticed


def now() -> datetime:
    """Return the present."""
    return datetime.now(UTC)


@dataclass
class Visit:
    """The turns at hosts that one fetch holds: its own, and those of hosts that redirects lead to.

    Attributes:
        robots_fetched: Whether a robots.txt had to be fetched, which is a request like any other.
    """

    hosts: HostRepository
    robots: RobotsKeeper
    settings: DocumentSettings
    stack: ExitStack
    held: dict[str, _Turn] = field(default_factory=dict)

    def allow(self, url: str) -> None:
        """Take the turn at the URL's host, and make sure that its robots.txt allows the URL.

        Raises:
            HostBusy: It is not our turn for a while.
            PageAccessDenied: robots.txt disallows it.
            PageFetchFailed: robots.txt cannot be had.
            PageBlocked: The URL cannot be connected to.
        """
        try:
            host = read_link(url).host
        except InvalidInput as error:
            raise PageBlocked(str(error)) from None
        if host not in self.held:
            # A redirect: who is on the way does not stand in line again.
            self.enter(host, ticket=None, urgent=True, lines_up=False)
        rules, fetched = self.robots.rules(url, host)
        if not rules.allows(url):
            raise PageAccessDenied(f"{host}: robots.txt disallows this page", reason="robots")
        if fetched:
            pause = max(self.settings.host_delay, timedelta(seconds=rules.crawl_delay or 0))
            if pause > SHORT:
                raise HostBusy(f"{host}: robots.txt was just fetched", retry_after=pause)
            time.sleep(pause.total_seconds())

    def enter(self, host: str, *, ticket: datetime | None, urgent: bool, lines_up: bool = True) -> None:
        """Take the turn at a host and hold it until the visit ends.

        Raises:
            HostBusy: It is not our turn for a while.
        """
        turn = _turn(self.hosts, self.settings, host, ticket=ticket, urgent=urgent, lines_up=lines_up)
        self.held[host] = self.stack.enter_context(turn)

    def failed(self, error: PageUnavailable) -> None:
        """Note what a failed fetch says of its host; a `Retry-After` holds for everybody."""
        host = error.failed_host or next(iter(self.held))
        turn = self.held.get(host)
        if turn is not None:
            turn.failed = True
            turn.retry_after = error.retry_after


@dataclass
class _Turn:
    failed: bool = False
    retry_after: timedelta | None = None


class Politeness:
    """Gives turns at hosts; any thread may use it."""

    def __init__(self, hosts: HostRepository, robots: RobotsKeeper, settings: DocumentSettings) -> None:
        self._hosts = hosts
        self._robots = robots
        self._settings = settings

    @contextmanager
    def visit(self, host: str, *, ticket: datetime | None, urgent: bool) -> Iterator[Visit]:
        """Take the turn at a host for the time of the block.

        Args:
            host: `host:port`.
            ticket: Place in the line that an earlier `HostBusy` gave.
            urgent: Go before the line.

        Raises:
            HostBusy: It is not our turn for a while; `retry_after` says how long, `ticket` is the place in the line.
        """
        with ExitStack() as stack:
            visit = Visit(self._hosts, self._robots, self._settings, stack)
            visit.enter(host, ticket=ticket, urgent=urgent)
            yield visit


@contextmanager
def _turn(
    hosts: HostRepository,
    settings: DocumentSettings,
    host: str,
    *,
    ticket: datetime | None,
    urgent: bool,
    lines_up: bool,
) -> Iterator[_Turn]:
    lease = uuid.uuid4().hex
    patience = time.monotonic() + SHORT.total_seconds()
    while True:
        turn = hosts.acquire(
            host,
            lease=lease,
            ticket=ticket,
            urgent=urgent,
            lines_up=lines_up,
            delay=settings.host_delay,
            # Long enough for robots.txt, the page and the pause between; a killed worker's turn lapses after it.
            lease_for=2 * settings.fetch_timeout + SHORT,
            now=now(),
        )
        if turn.granted:
            break
        ticket = turn.ticket
        if time.monotonic() + turn.wait.total_seconds() > patience:
            raise HostBusy(f"{host}: others are before us", retry_after=turn.wait, ticket=ticket)
        time.sleep(max(turn.wait.total_seconds(), 0.01))
    state, started = _Turn(), time.monotonic()
    try:
        yield state
    finally:
        hosts.release(
            host,
            lease,
            seconds=time.monotonic() - started,
            delay=settings.host_delay,
            failed=state.failed,
            retry_after=state.retry_after,
            now=now(),
        )


class RobotsKeeper:
    """Keeps each host's robots.txt for a day, in the database for all workers, parsed in memory for this one."""

    def __init__(self, hosts: HostRepository, fetcher: PageFetcher, settings: DocumentSettings) -> None:
        self._hosts = hosts
        self._fetcher = fetcher
        self._agent = settings.user_agent
        self._longest_delay = settings.longest_crawl_delay.total_seconds()
        self._parsed: OrderedDict[str, tuple[float, RobotsRules, int]] = OrderedDict()
        self._lock = threading.Lock()

    def rules(self, url: str, host: str, *, clock: Callable[[], float] = time.monotonic) -> tuple[RobotsRules, bool]:
        """Return the rules for a URL's host, and whether they had to be fetched.

        Raises:
            PageFetchFailed: There are none, and the site fails to say so.
            PageBlocked: The host is not connected to.
        """
        with self._lock:
            remembered = self._parsed.get(host)
            if remembered is not None and clock() - remembered[0] < _LOOKED_UP_AGAIN:
                self._parsed.move_to_end(host)
                return remembered[1], False
        stored = self._hosts.robots(host)
        if stored is not None and _is_believed(stored):
            return self._remember(host, stored.body, clock()), False
        try:
            answer = fetch_robots(self._fetcher, url)
        except PageFetchFailed:
            self._hosts.robots_failed(host, now())
            if stored is None or stored.fetched_at is None or now() - stored.fetched_at > ROBOTS_LAST_RESORT:
                raise
            return self._remember(host, stored.body, clock()), True
        rules = self._remember(host, answer.body, clock())
        self._hosts.store_robots(host, status=answer.status, body=answer.body, crawl_delay=rules.crawl_delay, now=now())
        return rules, True

    def _remember(self, host: str, body: str | None, at: float) -> RobotsRules:
        rules = RobotsRules.read(body, self._agent)
        rules.crawl_delay = min(rules.crawl_delay or 0.0, self._longest_delay) or None
        with self._lock:
            self._parsed[host] = (at, rules, len(body or ""))
            self._parsed.move_to_end(host)
            size = sum(length for _, _, length in self._parsed.values())
            while len(self._parsed) > _REMEMBERED or (size > _REMEMBERED_CHARACTERS and len(self._parsed) > 1):
                _, (_, _, length) = self._parsed.popitem(last=False)
                size -= length
        return rules


def _is_believed(stored: StoredRobots) -> bool:
    """Whether a robots.txt is young enough, or the last one of a site that has just failed to give a new one."""
    if stored.fetched_at is None:
        return False
    age, asked = now() - stored.fetched_at, now() - (stored.checked_at or stored.fetched_at)
    return age < ROBOTS_AGE or (age <= ROBOTS_LAST_RESORT and asked < ROBOTS_ASKED_AGAIN)
