"""Connections under a total deadline, and the one place that puts our own network backend into httpx."""

from __future__ import annotations

import functools
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

if TYPE_CHECKING:
    from collections.abc import Mapping

# Bodies are decoded by hand with a bound (`nightmill.web.bodies`), so nothing else may be asked for.
ACCEPT_ENCODING = "gzip, identity"
USER_AGENT = "nightmill"

# One send() of more than the socket buffer would wait again and again under the same timeout; pieces keep the
# deadline exact.
_WRITE_PIECE = 64 * 1024

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


@contextmanager
def within(left: timedelta | None) -> Iterator[None]:
    """End every wait on a connection in this block when `left` is over; None sets no bound.

    httpx bounds each single read, so a peer that sends one byte now and then holds a thread for ever; this does not.
    """
    token = _deadline.set(None if left is None else time.monotonic() + left.total_seconds())
    try:
        yield
    finally:
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
        return self._stream.read(max_bytes, _bounded(timeout, httpcore.ReadTimeout))

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


def open_client(
    *,
    backend: httpcore.NetworkBackend | None = None,
    ssl_context: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: httpx.Timeout,
    max_connections: int,
    max_keepalive: int,
) -> httpx.Client:
    """Return a client over `backend` for many threads; the caller closes it.

    HTTP/1.1, no proxies, no redirects, no retries, no cookies, and nothing of the environment.
    """
    ssl_context = ssl_context or default_ssl_context()
    transport = httpx.HTTPTransport(verify=ssl_context, trust_env=False)
    # httpx takes no network backend (encode/httpx#3749), so the pool is replaced before its first use; a test fails
    # if this seam moves.
    transport._pool = httpcore.ConnectionPool(  # noqa: SLF001
        ssl_context=ssl_context,
        max_connections=max_connections,
        max_keepalive_connections=max_keepalive,
        keepalive_expiry=5.0,
        http1=True,
        http2=False,
        retries=0,
        network_backend=_DeadlineBackend(backend or httpcore.SyncBackend()),
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
