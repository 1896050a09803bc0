"""Connections under a total deadline, that say whether what comes over them answers what was asked."""

from __future__ import annotations

import functools
import logging
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

from nightmill.web.library import httpcore, httpx

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


# An informational answer, which h11 passes over. After the begin of another answer it is no answer any more.
_MARK = b"HTTP/1.1 100 Continue\r\n\r\n"


class Wire:
    """What is known of the connection of one lane.

    What a peer sends behind the end of its answer stays in h11's buffer, which nobody can look into, and would be the
    begin of the next answer. So `_MARK` is read before the first byte of that: where the buffer was empty, h11 passes
    over it and goes on to read; where it was not, there is an answer, or an error, before anything was read.

    Attributes:
        unanswered: The connection carried an exchange before, and nothing was read in this one.
    """

    def __init__(self) -> None:
        self.unanswered = False
        self._mark_due = False

    def begin_again(self) -> None:
        """Know that the connection of another exchange is used."""
        self.unanswered = self._mark_due = True

    def begin_new(self) -> None:
        """Know that the connection is a new one."""
        self.unanswered = self._mark_due = False

    def mark(self) -> bytes:
        """Return what comes before the first byte that is read, once."""
        due, self._mark_due = self._mark_due, False
        return _MARK if due else b""


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, wire: Wire) -> None:
        self._stream = stream
        self._wire = wire

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if mark := self._wire.mark():
            return mark
        data = self._stream.read(max_bytes, _bounded(timeout, httpcore.ReadTimeout))
        if data:
            self._wire.unanswered = False
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
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left), self._wire)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class DeadlineBackend(httpcore.NetworkBackend):
    """Connects as `backend` does, one connection at a time, and tells `wire` of it."""

    def __init__(self, backend: httpcore.NetworkBackend, wire: Wire) -> None:
        self._backend = backend
        self._wire = wire

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.NetworkStream:
        """See `httpcore.NetworkBackend.connect_tcp`."""
        self._wire.begin_new()
        left = _bounded(timeout, httpcore.ConnectTimeout)
        stream = self._backend.connect_tcp(host, port, left, local_address, socket_options)
        return _DeadlineStream(stream, self._wire)


@functools.cache
def default_ssl_context() -> ssl.SSLContext:
    """Return the context with httpx's own roots, made once: loading them costs about 50 ms and 1 MB."""
    return httpx.create_ssl_context(trust_env=False)
