"""The client that the provider adapters share: one origin, bounded in time and size, errors already classified."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import orjson

from nightmill.errors import BodyTooLarge, ForeignHost, NotConfigured, ProviderUnavailable, RequestRefused
from nightmill.telemetry.calls import Call
from nightmill.web.classify import (
    RETRIABLE_STATUSES,
    Redactor,
    error_for_transport,
    unreadable_answer,
)
from nightmill.web.connection import within
from nightmill.web.download import Download, refusal
from nightmill.web.lanes import open_client
from nightmill.web.library import httpx
from nightmill.web.uploads import exactly, multipart

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping

    from nightmill.errors import NightmillError


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long one exchange may wait.

    Attributes:
        connect: To make a connection, TLS included.
        read: For the next bytes of an answer.
        write: For the peer to take the next bytes of a request.
        pool: For a free connection of the pool.
        total: For a whole exchange of JSON, from connecting to the last byte.
        upload_answer: For the answer once a body has been uploaded; the provider may validate it first.
    """

    connect: timedelta = timedelta(seconds=10)
    read: timedelta = timedelta(seconds=30)
    write: timedelta = timedelta(seconds=30)
    pool: timedelta = timedelta(seconds=10)
    total: timedelta = timedelta(seconds=60)
    upload_answer: timedelta = timedelta(minutes=2)


@dataclass(frozen=True)
class JsonAnswer:
    """A 2xx answer.

    Attributes:
        status: 200 to 299.
        headers: The answer's headers, names in lower case.
        body: The JSON object; empty for a 204.
    """

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]


class HttpClient:
    """HTTP with one provider under one key, for many threads at once. Nothing is retried and no redirect is followed.

    Paths are appended to the base URL. A whole URL is taken only if it has the base URL's scheme, host and port,
    because every request carries the key. All methods raise `nightmill.errors`: `ProviderUnreachable`, `AnswerLost`,
    `ProviderUnavailable`, `RateLimited`, `AccessDenied`, `NotFound`, `RequestRefused`, and `ForeignHost` for a URL
    elsewhere. Messages hold method and path, never a query, a header or a key.
    """

    def __init__(
        self,
        base_url: str,
        *,
        auth_headers: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
        retriable_statuses: frozenset[int] = RETRIABLE_STATUSES,
        max_connections: int = 20,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Open the client; connections are made when needed.

        Args:
            base_url: `http` or `https`, perhaps with a path, without query.
            auth_headers: Headers that hold the key; their values never appear in a message.
            headers: Other headers of every request.
            timeouts: How long to wait.
            retriable_statuses: Statuses that mean "later" (`ProviderUnavailable`).
            max_connections: Connections at once; a request that finds none free waits `timeouts.pool`.
            ssl_context: Other roots than the usual ones.

        Raises:
            NotConfigured: The URL or a header cannot be used.
        """
        self._timeouts = timeouts or Timeouts()
        self._retriable = retriable_statuses
        self._base = _base_url(base_url)
        self._redact = Redactor(frozenset(_secret_of(value) for value in auth_headers.values()))
        self._client = open_client(
            ssl_context=ssl_context,
            headers=_checked({**(headers or {}), **auth_headers}),
            timeout=self._waits(self._timeouts.read),
            max_connections=max_connections,
        )

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request_json(
        self,
        method: str,
        path_or_url: str,
        *,
        params: Mapping[str, str | int] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: timedelta | None = None,
        blank_ok: bool = False,
        max_bytes: int = 64 * 1024 * 1024,
    ) -> JsonAnswer:
        """Exchange JSON.

        Args:
            method: `GET`, `POST`, …
            path_or_url: A path that begins with one `/`, or a URL of the configured origin.
            params: Query.
            json: Body; None sends none.
            headers: Further headers.
            timeout: For the whole exchange, in place of `Timeouts.total`.
            blank_ok: Take a blank answer as `{}` (Google's start of an upload has only headers).
            max_bytes: Bound on the decoded answer.

        Raises:
            ProviderUnavailable: The answer is blank, no JSON object, or larger than `max_bytes`.
        """
        url, where = self._target(method, path_or_url)
        content = None if json is None else orjson.dumps(json)
        more = {"Accept": "application/json", **({} if json is None else {"Content-Type": "application/json"})}
        total = timeout or self._timeouts.total
        request = self._build(method, url, where, params=params, headers={**more, **(headers or {})}, content=content)
        request.extensions["timeout"] = self._waits(timeout or self._timeouts.read).as_dict()
        return self._exchange(request, where, sending=total, answering=total, blank_ok=blank_ok, max_bytes=max_bytes)

    def stream_upload(
        self,
        method: str,
        url: str,
        *,
        content: Iterable[bytes],
        length: int,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | int] | None = None,
        timeout: timedelta | None = None,
        blank_ok: bool = False,
        max_bytes: int = 64 * 1024 * 1024,
    ) -> JsonAnswer:
        """Send a body of exactly `length` bytes as it comes and return the answer.

        Args:
            method: `POST`, `PUT`, …
            url: As `request_json` takes it.
            content: The body, cut anywhere; what it raises is passed on and the request then has no effect.
            length: Its length in bytes.
            headers: Further headers, such as `Content-Type`.
            params: Query.
            timeout: For the answer once the body is sent, in place of `Timeouts.upload_answer`.
            blank_ok: Take a blank answer as `{}`.
            max_bytes: Bound on the decoded answer.

        Raises:
            ValueError: The content is not as long as announced.
        """
        target, where = self._target(method, url)
        sized = {"Accept": "application/json", **(headers or {}), "Content-Length": str(length)}
        body = exactly(content, length)
        request = self._build(method, target, where, params=params, headers=sized, content=body)
        wait = timeout or self._timeouts.upload_answer
        request.extensions["timeout"] = self._waits(wait).as_dict()
        return self._exchange(request, where, sending=None, answering=wait, blank_ok=blank_ok, max_bytes=max_bytes)

    def upload_multipart(
        self,
        url: str,
        *,
        fields: Mapping[str, str],
        file_name: str,
        content_type: str,
        content: Iterable[bytes],
        length: int,
        headers: Mapping[str, str] | None = None,
        timeout: timedelta | None = None,
    ) -> JsonAnswer:
        """POST a form of `fields` and, last, one file in the field `file`. See `stream_upload`."""
        kind, body, total = multipart(
            fields=fields, file_name=file_name, content_type=content_type, content=content, length=length
        )
        return self.stream_upload(
            "POST", url, content=body, length=total, headers={**(headers or {}), "Content-Type": kind}, timeout=timeout
        )

    def download(
        self,
        method: str,
        url: str,
        *,
        deadline: timedelta,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | int] | None = None,
    ) -> Download:
        """Ask for a large body; the answer's status is judged before this returns.

        Args:
            method: `GET`, `POST`, …
            url: As `request_json` takes it.
            deadline: For all waiting on the provider, from connecting to the last byte.
            max_bytes: Bound on the decoded body.
            headers: Further headers.
            params: Query.
        """
        target, where = self._target(method, url)
        request = self._build(method, target, where, params=params, headers=headers, content=None)
        started = time.monotonic()
        response, call = self._send(request, where, sending=deadline)
        left = deadline - timedelta(seconds=time.monotonic() - started)
        return Download(response, deadline=left, max_bytes=max_bytes, where=where, redact=self._redact, call=call)

    def _exchange(
        self,
        request: httpx.Request,
        where: str,
        *,
        sending: timedelta | None,
        answering: timedelta,
        blank_ok: bool,
        max_bytes: int,
    ) -> JsonAnswer:
        started = time.monotonic()
        response, call = self._send(request, where, sending=sending)
        left = answering - timedelta(seconds=time.monotonic() - started) if sending else answering
        try:
            with Download(
                response, deadline=left, max_bytes=max_bytes, where=where, redact=self._redact, call=call
            ) as download:
                body = b"".join(download)
        except BodyTooLarge as error:  # it was a 2xx: whatever was asked for has happened
            raise ProviderUnavailable(str(error), http_status=response.status_code) from None
        status, headers = download.status, download.headers
        if not body.strip() and (blank_ok or status == 204):
            return JsonAnswer(status, headers, {})
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise unreadable_answer(status, headers, body, where=where, redact=self._redact)
        return JsonAnswer(status, headers, value)

    def _send(self, request: httpx.Request, where: str, *, sending: timedelta | None) -> tuple[httpx.Response, Call]:
        """Return a 2xx answer whose body is not yet read; the caller closes it."""
        path = where.partition(" ")[2]  # without what looks like a key
        call = Call(request.method, _origin(request.url), path=path, measured=True)
        try:
            with within(sending):
                response = self._client.send(request, stream=True)
        except BaseException as error:
            failure = self._failure(error, where)
            call.failed(failure or error)
            if failure is None:  # what the content of an upload raised
                raise
            raise failure from None
        call.answered(response.status_code)
        if 200 <= response.status_code < 300:
            return response, call
        raise refusal(response, where=where, redact=self._redact, retriable_statuses=self._retriable, call=call)

    def _failure(self, error: BaseException, where: str) -> NightmillError | None:
        """Return what it means that nothing was answered; None where the exchange is not to blame."""
        if isinstance(error, httpx.HTTPError):
            return error_for_transport(error, where=where, redact=self._redact)
        if isinstance(error, httpx.InvalidURL):  # httpx reads where any redirect leads, followed or not: `mailto:x`
            return RequestRefused(f"{where}: redirects to something that is no address")
        return None

    def _build(
        self,
        method: str,
        url: httpx.URL,
        where: str,
        *,
        params: Mapping[str, str | int] | None,
        headers: Mapping[str, str] | None,
        content: bytes | Iterable[bytes] | None,
    ) -> httpx.Request:
        try:
            return self._client.build_request(
                method, url, params=dict(params) if params else None, headers=_checked(headers or {}), content=content
            )
        except NotConfigured as error:
            raise RequestRefused(f"{where}: {error}") from None

    def _target(self, method: str, path_or_url: str) -> tuple[httpx.URL, str]:
        """Return the URL to ask, and method and path for messages.

        Raises:
            ForeignHost: It is not of the configured origin.
        """
        whole = path_or_url.lower().startswith(("http://", "https://"))
        if not whole and (not path_or_url.startswith("/") or path_or_url.startswith("//")):
            raise ForeignHost(f"{method}: neither a path nor an http(s) address: {self._redact(path_or_url, 60)!r}")
        try:
            url = httpx.URL(path_or_url if whole else f"{str(self._base).rstrip('/')}{path_or_url}")
        except httpx.InvalidURL:
            raise ForeignHost(f"{method}: not a valid address: {self._redact(path_or_url, 60)!r}") from None
        if _origin(url) != _origin(self._base) or url.userinfo:
            theirs = f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")
            raise ForeignHost(
                f"{method}: the key is for {self._base.scheme}://{self._base.netloc.decode()} and does not travel to "
                f"{self._redact(theirs, 200)}"
            )
        return url, self._redact(f"{method} {url.path}", 200)

    def _waits(self, read: timedelta) -> httpx.Timeout:
        waits = self._timeouts
        return httpx.Timeout(
            connect=waits.connect.total_seconds(),
            read=read.total_seconds(),
            write=waits.write.total_seconds(),
            pool=waits.pool.total_seconds(),
        )


def _base_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise NotConfigured("the base URL is not a valid address") from None
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.query or url.fragment:
        raise NotConfigured("the base URL must be http(s)://host[:port][/path], without user, query or fragment")
    return url


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _secret_of(value: str) -> str:
    """Return the key in a header's value: `Bearer x` holds `x`."""
    return value.rsplit(" ", 1)[-1]


def _checked(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers if HTTP can express them; h11 would quote the value, so a key, in its error."""
    for name, value in headers.items():
        if not value.isascii() or not value.isprintable() or value != value.strip():
            raise NotConfigured(
                f"the value of header {name!r} has a line end, a space at its end or a non-ASCII character"
            )
    return headers
