"""Answers read in pieces: bounded in time and size, decoded by hand, closed in any case."""

from __future__ import annotations

import functools
import time
import weakref
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from nightmill.errors import NightmillError
from nightmill.web.bodies import decoded
from nightmill.web.classify import Failure, Redactor, error_for_answer, error_for_transport
from nightmill.web.connection import within
from nightmill.web.library import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from nightmill.telemetry.calls import Call

_ERROR_BODY = 64 * 1024  # bytes of an error answer that are read; providers' messages are far shorter


class Download:
    """The body of a 2xx answer as an iterator of decoded pieces; also a context manager that closes the connection.

    Iterating raises `AnswerLost` when the body ends early or takes longer than the deadline, and `BodyTooLarge`. Only
    the time that we wait for the peer counts, not the time that the caller takes between two pieces. It closes itself
    at the end, at an error and when it is forgotten.

    Attributes:
        status: The status.
        headers: The answer's headers, names in lower case.
        url: The address that answered, after redirects.
        redirects: The addresses that redirected, in order.
    """

    def __init__(
        self,
        response: httpx.Response,
        *,
        deadline: timedelta,
        max_bytes: int,
        where: str,
        redact: Redactor,
        failure: Failure | None = None,
        redirects: tuple[str, ...] = (),
        call: Call | None = None,
    ) -> None:
        self.redirects = redirects
        self.status = response.status_code
        self.headers = header_dict(response)
        self.url = str(response.url)
        self._call = call
        finalizer = weakref.finalize(self, _close, response, call)
        finalizer.atexit = False
        self.close: Callable[[], object] = finalizer
        raw = _timed(response, deadline, where, failure or functools.partial(_failure, redact))
        self._pieces = decoded(raw, encoding=self.headers.get("content-encoding", ""), max_bytes=max_bytes, where=where)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except BaseException as error:
            if self._call is not None and not isinstance(error, StopIteration):
                self._call.failed(error)
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(response: httpx.Response, call: Call | None) -> None:
    try:
        response.close()
    finally:
        if call is not None:
            call.end()


def refusal(
    response: httpx.Response,
    *,
    where: str,
    redact: Redactor,
    retriable_statuses: frozenset[int],
    call: Call | None = None,
) -> NightmillError:
    """Read the begin of an answer that is no 2xx, close it, and return the error that it means."""
    body = b""
    wait = timedelta(seconds=10)  # for the provider's explanation only; without it the status still decides
    try:
        with Download(
            response, deadline=wait, max_bytes=_ERROR_BODY, where=where, redact=redact, call=call
        ) as download:
            for piece in download:
                body += piece
    except NightmillError:  # the status says enough
        pass
    return error_for_answer(
        response.status_code,
        header_dict(response),
        body,
        where=where,
        redact=redact,
        retriable_statuses=retriable_statuses,
    )


def header_dict(response: httpx.Response) -> dict[str, str]:
    """Return an answer's headers, names in lower case, repeated ones joined by a comma."""
    return {name.lower(): value for name, value in response.headers.items()}


def _failure(redact: Redactor, error: httpx.HTTPError, where: str) -> NightmillError:
    return error_for_transport(error, where=where, redact=redact)


def _timed(response: httpx.Response, budget: timedelta, where: str, failure: Failure) -> Generator[bytes, None, None]:
    """Yield the body as it came over the wire; waits in all for `budget` at most."""
    left = budget
    chunks = response.iter_raw()
    while True:
        started = time.monotonic()
        try:
            with within(left):
                chunk = next(chunks, None)
        except httpx.HTTPError as error:
            raise failure(error, where) from None
        left -= timedelta(seconds=time.monotonic() - started)
        if chunk is None:
            return
        yield chunk
