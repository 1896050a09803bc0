"""Connections for many threads, kept for a moment, and the one place that puts our own network backend into httpx."""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING

from nightmill.web.connection import DeadlineBackend, Wire, default_ssl_context
from nightmill.web.library import httpcore, httpx

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

# Bodies are decoded by hand with a bound (`nightmill.web.bodies`), so nothing else may be asked for.
STANDARD_HEADERS = {
    "User-Agent": "nightmill",
    "Accept": "*/*",
    "Accept-Encoding": "gzip, identity",
    "Connection": "keep-alive",
}
"""What every request says unless it says otherwise."""

_IDLE = 5.0  # seconds that a connection is kept for the next request
_AGE = 60.0  # seconds after which it is not kept any more, so that a name that moves is followed
_RESENT = frozenset({"GET"})  # what may be sent twice

_Origin = tuple[str, bytes, int | None]


class Lanes(httpx.BaseTransport):
    """Connections for many threads, each used by one exchange at a time.

    A pool of httpcore that threads share closes connections in use now and then: it asks whether one is idle and, if
    so, whether it is readable, and in between another thread may have taken it and got its answer ("Bad file
    descriptor"; 2 of 6 runs of 200 requests). Here every connection has a pool of its own, and nobody else looks at it.

    A connection whose answer was read to its end is kept for the next request to the same origin, the one that was used
    last first, as it is the least likely to be stale. The rest are closed after five seconds, the oldest sooner where
    there are too many; nobody watches the clock, so that what is kept last is closed when the next request comes.
    """

    def __init__(
        self,
        *,
        backend: httpcore.NetworkBackend | None,
        ssl_context: ssl.SSLContext | None,
        max_connections: int,
        max_kept: int,
        wary: bool,
    ) -> None:
        """Make connections when they are needed.

        Args:
            backend: Connects; the system's sockets where there is none.
            ssl_context: Other roots than the usual ones.
            max_connections: In use at once.
            max_kept: Kept for later.
            wary: The peers are not ours to choose: nothing but a GET goes over a connection that was kept; it is sent
                once more over a new one if nothing came back, or what came was not the answer to it.
        """
        self._backend = backend or httpcore.SyncBackend()
        self._ssl_context = ssl_context or default_ssl_context()
        self._max_kept = max_kept
        self._wary = wary
        # A forgotten download gives its lane back from the garbage collector, which may run inside of these very
        # methods: so it waits for no lock, and the queues are such as the same thread can enter again.
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(max_connections):
            self._free.put(None)
        self._returned: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._all: set[_Lane] = set()
        self._kept: list[_Lane] = []  # the oldest first
        self._empty: list[_Lane] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer; its body is not yet read, and its connection is not free until it is closed."""
        try:
            self._free.get(timeout=request.extensions.get("timeout", {}).get("pool"))
        except queue.Empty:
            raise httpx.PoolTimeout("no free connection", request=request) from None
        lane = self._take(self._origin_to_keep(request))
        try:
            response = lane.exchange(request, wary=self._wary)
        except BaseException:
            self._give_back(lane)
            raise
        assert isinstance(response.stream, httpx.SyncByteStream)  # noqa: S101 - for the type checker
        response.stream = _LaneStream(response.stream, functools.partial(self._give_back, lane))
        return response

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            self._closed = True
            lanes = list(self._all)
            self._kept.clear()
        for lane in lanes:
            lane.close()

    def _origin_to_keep(self, request: httpx.Request) -> _Origin | None:
        """Return whose connection may be used and kept for this request; None if it has one of its own."""
        if not self._max_kept or (self._wary and request.method not in _RESENT):
            return None
        return request.url.scheme, request.url.raw_host, request.url.port

    def _take(self, origin: _Origin | None) -> _Lane:
        with self._lock:
            self._sort()
            if origin is not None:
                for lane in reversed(self._kept):
                    if lane.origin == origin:
                        self._kept.remove(lane)
                        return lane
            if self._empty:
                lane = self._empty.pop()
            else:
                lane = _Lane(self._backend, self._ssl_context)
                self._all.add(lane)
            lane.origin = origin
            return lane

    def _give_back(self, lane: _Lane) -> None:
        lane.returned_at = time.monotonic()
        self._returned.put(lane)
        # Who holds the lock looks again after it let go, or is this very thread.
        while not self._returned.empty() and self._lock.acquire(blocking=False):
            try:
                self._sort()
            finally:
                self._lock.release()
        self._free.put(None)

    def _sort(self) -> None:
        """Keep what was returned or close it, and close what was kept for too long."""
        while not self._returned.empty():
            lane = self._returned.get()
            if lane.origin is not None and lane.may_be_kept and not self._closed:
                self._kept.append(lane)
            else:
                lane.close()
                self._empty.append(lane)
        now = time.monotonic()
        while self._kept and (len(self._kept) > self._max_kept or now - self._kept[0].returned_at > _IDLE):
            stale = self._kept.pop(0)
            stale.close()
            self._empty.append(stale)


class _Lane:
    """One connection at a time.

    Attributes:
        origin: Whose connection it is; None if it is not to be kept.
        returned_at: When its last exchange ended, by the monotonic clock.
    """

    def __init__(self, backend: httpcore.NetworkBackend, ssl_context: ssl.SSLContext) -> None:
        self.origin: _Origin | None = None
        self.returned_at = 0.0
        self._opened_at = 0.0
        self._wire = Wire()
        self._transport = httpx.HTTPTransport(verify=ssl_context, trust_env=False)
        # httpx takes no network backend (encode/httpx#3749), so the pool is replaced before its first use; a test
        # fails if this seam moves.
        self._pool = self._transport._pool = httpcore.ConnectionPool(  # noqa: SLF001
            ssl_context=ssl_context,
            max_connections=1,
            max_keepalive_connections=1,
            keepalive_expiry=_IDLE,
            http1=True,
            http2=False,
            retries=0,
            network_backend=DeadlineBackend(backend, self._wire),
        )

    @property
    def may_be_kept(self) -> bool:
        """Whether the peer left the connection open, and it is not too old."""
        return bool(self._pool.connections) and self.returned_at - self._opened_at <= _AGE

    def exchange(self, request: httpx.Request, *, wary: bool) -> httpx.Response:
        if not self._pool.connections:
            self._opened_at = time.monotonic()
        elif wary:
            self._wire.begin_again()
        try:
            response = self._transport.handle_request(request)
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            if not self._wire.unanswered:
                raise
        else:
            if not self._wire.unanswered:
                return response
            response.close()
        self.close()
        self._opened_at = time.monotonic()
        return self._transport.handle_request(request)

    def close(self) -> None:
        self._transport.close()


class _LaneStream(httpx.SyncByteStream):
    """A body that gives its lane back when it is closed, once."""

    def __init__(self, stream: httpx.SyncByteStream, give_back: Callable[[], None]) -> None:
        self._stream = stream
        self._give_back: Callable[[], None] | None = give_back
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        with self._lock:
            give_back, self._give_back = self._give_back, None
        try:
            self._stream.close()
        finally:
            if give_back is not None:
                give_back()


def open_client(
    *, ssl_context: ssl.SSLContext | None, headers: Mapping[str, str], timeout: httpx.Timeout, max_connections: int
) -> httpx.Client:
    """Return a client for many threads, for peers that we chose; the caller closes it.

    HTTP/1.1, no proxies, no redirects, no retries, no cookies, and nothing of the environment.
    """
    client = httpx.Client(
        transport=Lanes(
            backend=None,
            ssl_context=ssl_context,
            max_connections=max_connections,
            max_kept=max_connections,
            wary=False,
        ),
        trust_env=False,
        follow_redirects=False,
        timeout=timeout,
        headers={**STANDARD_HEADERS, **headers},
    )
    # httpx would keep cookies and send them with later requests of whoever shares the client.
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return client
