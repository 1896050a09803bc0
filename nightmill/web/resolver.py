"""Name lookups that end: a name server that never answers holds neither the caller nor the lookups of others."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import timedelta

from nightmill.web.library import httpcore


class NameUnresolved(httpcore.ConnectError):
    """A name has no address, or none can be asked for."""


class NameStalled(httpcore.ConnectTimeout):
    """A name server does not answer in time."""


Lookup = Callable[[str], Sequence[str]]
"""From a host name to its addresses as text; may block and may raise `OSError`."""


def system_lookup(host: str) -> list[str]:
    """Ask the operating system, in its order of preference."""
    answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [
        f"{where[0]}%{where[3]}" if len(where) == 4 and where[3] and "%" not in str(where[0]) else str(where[0])
        for *_, where in answers
    ]


class Resolver:
    """Looks names up, each in a thread of its own, and stops waiting after a while.

    The system's lookup cannot be interrupted: a dead name server holds a thread for tens of seconds. With a pool of six
    threads, twelve such names made every other host unreachable. So: a daemon thread for each name, never two for one
    name, and a bound on all of them.
    """

    def __init__(
        self,
        lookup: Lookup = system_lookup,
        *,
        lifetime: timedelta = timedelta(seconds=3),
        max_running: int = 128,
    ) -> None:
        """Use `lookup`, wait for it `lifetime` at most, and let at most `max_running` lookups run."""
        self._lookup = lookup
        self._lifetime = lifetime.total_seconds()
        self._max_running = max_running
        self._running: dict[str, Future[Sequence[str]]] = {}
        self._lock = threading.Lock()

    def addresses(self, host: str, timeout: float | None) -> Sequence[str]:
        """Return the addresses of `host`, at least one.

        Raises:
            NameUnresolved: There is none, or too many lookups are running.
            NameStalled: The answer takes too long.
        """
        answer = self._start(host)
        try:
            found = answer.result(self._lifetime if timeout is None else min(timeout, self._lifetime))
        except TimeoutError:
            raise NameStalled(f"the name {host} is not resolved in time") from None
        except (OSError, UnicodeError) as error:
            raise NameUnresolved(f"the name {host} does not resolve") from error
        if not found:
            raise NameUnresolved(f"the name {host} has no address")
        return found

    def _start(self, host: str) -> Future[Sequence[str]]:
        with self._lock:
            running = self._running.get(host)
            if running is not None:
                return running
            if len(self._running) >= self._max_running:
                raise NameUnresolved("too many names are being looked up")
            answer = self._running[host] = Future()
        threading.Thread(target=self._run, args=(host, answer), name=f"lookup {host[:80]}", daemon=True).start()
        return answer

    def _run(self, host: str, answer: Future[Sequence[str]]) -> None:
        try:
            found = self._lookup(host)
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the answer
            self._forget(host)
            answer.set_exception(error)
        else:
            self._forget(host)
            answer.set_result(found)

    def _forget(self, host: str) -> None:
        with self._lock:
            del self._running[host]
