"""Connections under a total deadline, and the one place that puts our own network backend into httpx."""

from __future__ import annotations

import functools
import logging
import queue
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

from nightmill.web.library import httpcore, httpx

if TYPE_CHECKING:
    from collections.abc import Mapping

# Bodies are decoded by hand with a bound (`nightmill.web.bodies`), so nothing else may be asked for.
ACCEPT_ENCODING = "gzip, identity"
USER_AGENT = "nightmill"

# One send() of more than the socket buffer would wait again and again under the same timeout; pieces keep the
# deadline exact.
_WRITE_PIECE = 64 * 1024

# httpx logs every URL with its query at INFO, and a webhook's URL is a credential. Whoever needs it sets it back.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
_allowance: ContextVar[_Allowance | None] = ContextVar("allowance", default=None)

# h11 ends a single head at 100 KiB, but takes any number of informational answers (1xx) before it. What is read
# includes the begin of the body.
MAX_HEAD = 256 * 1024
"""Bytes that are read at most before an answer's headers are complete."""


class _Allowance:
    """How many more bytes may be read."""

    def __init__(self, bytes_left: int) -> None:
        self._left = bytes_left

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise httpcore.RemoteProtocolError("too many bytes before the answer")


SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


@contextmanager
def within(left: timedelta | None, *, max_bytes: int | None = None) -> Iterator[None]:
    """End every wait on a connection in this block when `left` is over, or `max_bytes` are read; None sets no bound.

    httpx bounds each single read, so a peer that sends one byte now and then holds a thread for ever; this does not.
    """
    token = _deadline.set(None if left is None else time.monotonic() + left.total_seconds())
    bytes_token = _allowance.set(None if max_bytes is None else _Allowance(max_bytes))
    try:
        yield
    finally:
        _allowance.reset(bytes_token)
        _deadline.reset(token)


def _bounded(timeout: float | None, expired: type[Exception]) -> float | None:
    deadline = _deadline.get()
    if deadline is None:
        return timeout
    left = deadline - time.monotonic()
    if left <= 0:
        raise expired("the total time is over")
    return left if timeout is None else min(timeout, left)


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._stream.read(max_bytes, _bounded(timeout, httpcore.ReadTimeout))
        allowance = _allowance.get()
        if allowance is not None:
            allowance.take(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        for start in range(0, len(view), _WRITE_PIECE):
            piece = bytes(view[start : start + _WRITE_PIECE])
            self._stream.write(piece, _bounded(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _bounded(timeout, httpcore.ConnectTimeout)
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _DeadlineBackend(httpcore.NetworkBackend):
    def __init__(self, backend: httpcore.NetworkBackend) -> None:
        self._backend = backend

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.NetworkStream:
        left = _bounded(timeout, httpcore.ConnectTimeout)
        return _DeadlineStream(self._backend.connect_tcp(host, port, left, local_address, socket_options))


@functools.cache
def default_ssl_context() -> ssl.SSLContext:
    """Return the context with httpx's own roots, made once: loading them costs about 50 ms and 1 MB."""
    return httpx.create_ssl_context(trust_env=False)


class _Lanes(httpx.BaseTransport):
    """Connections for many threads, each used by one exchange at a time.

    A pool of httpcore that threads share closes connections in use now and then: it asks whether one is idle and, if
    so, whether it is readable, and in between another thread may have taken it and got its answer ("Bad file
    descriptor"; 2 of 6 runs of 200 requests). Here every connection has a pool of its own, and nobody else looks at it.
    """

    def __init__(
        self, *, backend: httpcore.NetworkBackend, ssl_context: ssl.SSLContext, max_connections: int, keep_alive: bool
    ) -> None:
        self._backend = backend
        self._ssl_context = ssl_context
        self._keep_alive = keep_alive
        # A forgotten download gives its lane back from the garbage collector, which may run inside of these very
        # methods: so a lock and a queue that the same thread can enter again.
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(max_connections):
            self._free.put(None)
        self._lock = threading.RLock()
        self._all: set[httpx.HTTPTransport] = set()
        self._resting: list[httpx.HTTPTransport] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            self._free.get(timeout=request.extensions.get("timeout", {}).get("pool"))
        except queue.Empty:
            raise httpx.PoolTimeout("no free connection", request=request) from None
        lane = self._take()
        try:
            response = lane.handle_request(request)
        except BaseException:
            self._give_back(lane)
            raise
        assert isinstance(response.stream, httpx.SyncByteStream)  # noqa: S101 - for the type checker
        response.stream = _LaneStream(response.stream, functools.partial(self._give_back, lane))
        return response

    def close(self) -> None:
        with self._lock:
            lanes = list(self._all)
            self._resting.clear()
        for lane in lanes:
            lane.close()

    def _take(self) -> httpx.HTTPTransport:
        with self._lock:
            if self._resting:
                return self._resting.pop()  # the last one that was used: its connection is the least likely to be stale
            lane = self._open()
            self._all.add(lane)
            return lane

    def _give_back(self, lane: httpx.HTTPTransport) -> None:
        with self._lock:
            self._resting.append(lane)
        self._free.put(None)

    def _open(self) -> httpx.HTTPTransport:
        lane = httpx.HTTPTransport(verify=self._ssl_context, trust_env=False)
        # httpx takes no network backend (encode/httpx#3749), so the pool is replaced before its first use; a test
        # fails if this seam moves.
        lane._pool = httpcore.ConnectionPool(  # noqa: SLF001
            ssl_context=self._ssl_context,
            max_connections=1,
            max_keepalive_connections=1 if self._keep_alive else 0,
            keepalive_expiry=5.0,
            http1=True,
            http2=False,
            retries=0,
            network_backend=self._backend,
        )
        return lane


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
    *,
    backend: httpcore.NetworkBackend | None = None,
    ssl_context: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: httpx.Timeout,
    max_connections: int,
    keep_alive: bool,
) -> httpx.Client:
    """Return a client over `backend` for many threads; the caller closes it.

    HTTP/1.1, no proxies, no redirects, no retries, no cookies, and nothing of the environment.
    """
    transport = _Lanes(
        backend=_DeadlineBackend(backend or httpcore.SyncBackend()),
        ssl_context=ssl_context or default_ssl_context(),
        max_connections=max_connections,
        keep_alive=keep_alive,
    )
    client = httpx.Client(
        transport=transport,
        trust_env=False,
        follow_redirects=False,
        timeout=timeout,
        headers={"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": ACCEPT_ENCODING, **(headers or {})},
    )
    # httpx would keep cookies and send them with later requests of whoever shares the client.
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return client
