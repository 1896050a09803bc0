"""Requests to addresses that users name: pages, request files, webhooks. None of them reaches into our own network.

The name is looked up once, every answer is judged, and the connection goes to the very address that was judged, so a
name that changes its mind in between (rebinding) gains nothing. A connection that is kept stays with that address. TLS
still checks the name. Redirects are followed here, each hop under the same rules.
"""

from __future__ import annotations

import functools
import re
import time
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote

from nightmill.errors import AddressRefused, RequestRefused
from nightmill.telemetry.calls import Call
from nightmill.web.addresses import refusal_reason
from nightmill.web.classify import RETRIABLE_STATUSES, Redactor, error_for_transport
from nightmill.web.connection import MAX_HEAD, SocketOption, within
from nightmill.web.download import Download, refusal
from nightmill.web.lanes import STANDARD_HEADERS, Lanes
from nightmill.web.library import httpcore, httpx
from nightmill.web.resolver import Resolver

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping

    from nightmill.errors import NightmillError
    from nightmill.web.classify import Failure

WEB_PORTS = frozenset({80, 443})

_MAX_URL = 8_000  # characters; a redirect can make a URL grow
_MAX_TRIED = 4  # addresses of one name; more only make a dead host take longer
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# What may follow a redirect to another origin; everything else could be a credential.
_HARMLESS = frozenset({"accept", "accept-language", "user-agent", "if-none-match", "if-modified-since"})

_refused = functools.partial(refusal, retriable_statuses=RETRIABLE_STATUSES)


class GuardedBackend(httpcore.NetworkBackend):
    """Connects to public addresses only, and to the address that was judged."""

    def __init__(
        self,
        *,
        allow_private: bool,
        allowed_ports: frozenset[int] | None,
        resolver: Resolver,
        connector: httpcore.NetworkBackend,
    ) -> None:
        self._allow_private = allow_private
        self._allowed_ports = allowed_ports
        self._resolver = resolver
        self._connector = connector

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect, or raise `AddressRefused` without having sent a packet.

        The message names no address: what our own name server says of an inner name is not the user's to know.
        """
        if self._allowed_ports is not None and port not in self._allowed_ports:
            raise AddressRefused(f"{host}: port {port} is not connected to")
        end = None if timeout is None else time.monotonic() + timeout
        addresses = [host] if _is_literal(host) else self._resolver.addresses(host, timeout)
        for address in addresses:
            reason = refusal_reason(address, allow_private=self._allow_private)
            if reason:
                raise AddressRefused(f"{host}: not a public address ({reason})")
        tried = list(dict.fromkeys(addresses))[:_MAX_TRIED]
        for left, address in zip(range(len(tried), 0, -1), tried, strict=True):
            share = None if end is None else max(end - time.monotonic(), 0.001) / left
            try:
                return self._connector.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if left == 1:
                    raise
        raise AssertionError("there is at least one address")


class GuardedClient:
    """HTTP to addresses that users name, for many threads at once. No answer is retried, no cookie is kept.

    All methods raise `AddressRefused` for a target that is not connected to, and the errors of `HttpClient`.

    Attributes:
        allow_private: Whether private networks and loopback may be connected to.
    """

    def __init__(self, lanes: Lanes, *, timeout: httpx.Timeout, allow_private: bool) -> None:
        # No client of httpx: for each request it would merge settings, look for cookies and read where a redirect
        # leads, and all that is done here or not at all.
        self._lanes = lanes
        self._timeout = timeout.as_dict()
        self.allow_private = allow_private

    def close(self) -> None:
        """Close all connections."""
        self._lanes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fetch(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        deadline: timedelta = timedelta(seconds=30),
        max_bytes: int = 10 * 1024 * 1024,
        max_redirects: int = 5,
    ) -> Download:
        """GET, following redirects; the last answer is 2xx, or 304 where `headers` made the request conditional.

        Args:
            url: `http` or `https`, without user and password.
            headers: Sent on the first hop; to another origin only those that hold no credential.
            deadline: For all waiting, from the first lookup to the last byte.
            max_bytes: Bound on the decoded body.
            max_redirects: Redirects that are followed.
        """
        last = self._last_answer(
            url, headers=headers, deadline=deadline, max_redirects=max_redirects, before_hop=None, failure=_failure
        )
        if not (200 <= last.response.status_code < 300 or last.response.status_code == 304):
            raise _refused(last.response, where=last.where, redact=Redactor(), call=last.call)
        return last.download(max_bytes, _failure)

    def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        deadline: timedelta,
        max_bytes: int,
        max_redirects: int = 5,
        before_hop: Callable[[str], None] | None = None,
        failure: Failure,
    ) -> Download:
        """GET, following redirects, and return the last answer, whatever its status.

        Args:
            url: See `fetch`.
            headers: See `fetch`.
            deadline: For all waiting on peers; what `before_hop` takes is not counted.
            max_bytes: Bound on the decoded body.
            max_redirects: Redirects that are followed; `RequestRefused` for more, and for one to no address.
            before_hop: Called with the address before each request; what it raises is passed on.
            failure: Makes the error of an exchange that failed.
        """
        last = self._last_answer(
            url,
            headers=headers,
            deadline=deadline,
            max_redirects=max_redirects,
            before_hop=before_hop,
            failure=failure,
        )
        return last.download(max_bytes, failure)

    def post(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes,
        deadline: timedelta = timedelta(seconds=30),
    ) -> int:
        """POST and return the 2xx status; the answer's body is not read and no redirect is followed.

        The receiver is told our trace, if there is one, so that what it does is seen beside what made us call it.

        Paths and queries of webhooks often hold a token: messages name scheme and host only, and nothing of the rest
        that the peer echoes.
        """
        target = checked_url(url)
        rest = target.raw_path.decode("ascii")
        parts = {part for text in (rest, unquote(rest)) for part in re.split("[/?&=]", text) if len(part) >= 4}
        redact = Redactor(frozenset({rest, *parts}))
        where = _shown(f"POST {target.scheme}://{target.netloc.decode()}")
        call = _call("POST", target)
        response = self._send(
            self._request("POST", target, {**headers, **call.trace_headers()}, content),
            where,
            lambda error, where: error_for_transport(error, where=where, redact=redact),
            within_seconds=time.monotonic() + deadline.total_seconds(),
            call=call,
        )
        if not 200 <= response.status_code < 300:
            raise _refused(response, where=where, redact=redact, call=call)
        response.close()
        call.end()
        return response.status_code

    def _last_answer(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None,
        deadline: timedelta,
        max_redirects: int,
        before_hop: Callable[[str], None] | None,
        failure: Failure,
    ) -> _Answer:
        target, sent = checked_url(url), dict(headers or {})
        passed: list[str] = []
        ends = time.monotonic() + deadline.total_seconds()
        while True:
            if before_hop is not None:
                asked = time.monotonic()
                before_hop(str(target))
                ends += time.monotonic() - asked
            where = _shown(f"GET {target.scheme}://{target.netloc.decode()}{target.path}")
            call = _call("GET", target)
            request = self._request("GET", target, sent)
            response = self._send(request, where, failure, within_seconds=ends, call=call)
            left = timedelta(seconds=ends - time.monotonic())
            if response.status_code not in _REDIRECTS or "location" not in response.headers:
                return _Answer(response, where, left, tuple(passed), call)
            response.close()
            call.end()
            passed.append(str(target))
            if len(passed) > max_redirects:
                raise RequestRefused(f"{where}: more than {max_redirects} redirects")
            following = _following(target, response.headers["location"], where)
            if _origin(following) != _origin(target):
                sent = {name: value for name, value in sent.items() if name.lower() in _HARMLESS}
            target = following

    def _request(
        self, method: str, target: httpx.URL, headers: Mapping[str, str], content: bytes | None = None
    ) -> httpx.Request:
        given = {name.lower() for name in headers}
        standard = {name: value for name, value in STANDARD_HEADERS.items() if name.lower() not in given}
        timeout = {"timeout": self._timeout}
        return httpx.Request(method, target, headers={**standard, **headers}, content=content, extensions=timeout)

    def _send(
        self, request: httpx.Request, where: str, failure: Failure, *, within_seconds: float, call: Call
    ) -> httpx.Response:
        try:
            with within(timedelta(seconds=within_seconds - time.monotonic()), max_bytes=MAX_HEAD):
                response = self._lanes.handle_request(request)
        except AddressRefused as error:
            call.failed(error)
            raise AddressRefused(f"{where}: {error}") from None
        except httpx.HTTPError as error:
            ours = failure(error, where)
            call.failed(ours)
            raise ours from None
        except BaseException as error:
            call.failed(error)
            raise
        call.answered(response.status_code)
        response.request = request
        return response


@dataclass(frozen=True)
class _Answer:
    """The answer after the last redirect, its body not yet read."""

    response: httpx.Response
    where: str
    left: timedelta
    redirects: tuple[str, ...]
    call: Call

    def download(self, max_bytes: int, failure: Failure) -> Download:
        return Download(
            self.response,
            deadline=self.left,
            max_bytes=max_bytes,
            where=self.where,
            redact=Redactor(),
            failure=failure,
            redirects=self.redirects,
            call=self.call,
        )


def guarded_client(
    *,
    allow_private: bool,
    allowed_ports: frozenset[int] | None = WEB_PORTS,
    resolver: Resolver | None = None,
    connector: httpcore.NetworkBackend | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout: timedelta = timedelta(seconds=10),
    read_timeout: timedelta = timedelta(seconds=30),
    max_connections: int = 100,
    max_kept: int = 0,
) -> GuardedClient:
    """Open a guarded client; the caller closes it.

    Args:
        allow_private: Let private networks and loopback pass, for self-hosted targets; metadata services never.
        allowed_ports: Ports that are connected to; None allows all.
        resolver: Looks names up.
        connector: Makes the connection to the judged address.
        ssl_context: Other roots than the usual ones.
        connect_timeout: To look a name up and connect.
        read_timeout: For the next bytes of an answer.
        max_connections: Connections at once. A request holds its place while its name is looked up: keep it above the
            number of threads, or names that stall keep everybody out.
        max_kept: Connections that are kept for a few seconds, for the next GET to the same origin. They stay with the
            address that was judged, whatever the name says by then.
    """
    backend = GuardedBackend(
        allow_private=allow_private,
        allowed_ports=allowed_ports,
        resolver=resolver or Resolver(),
        connector=connector or httpcore.SyncBackend(),
    )
    lanes = Lanes(
        backend=backend, ssl_context=ssl_context, max_connections=max_connections, max_kept=max_kept, wary=True
    )
    timeout = httpx.Timeout(
        connect=connect_timeout.total_seconds(), read=read_timeout.total_seconds(), write=30, pool=10
    )
    return GuardedClient(lanes, timeout=timeout, allow_private=allow_private)


def checked_url(text: str) -> httpx.URL:
    """Return a URL that is http(s), names a host, holds no user or password and is not overlong.

    Raises:
        AddressRefused: It is not; the message does not quote it.
    """
    try:
        url = httpx.URL(text[: _MAX_URL + 1])
    except httpx.InvalidURL:
        raise AddressRefused("not a valid address") from None
    if len(text) > _MAX_URL:
        raise AddressRefused(f"the address is longer than {_MAX_URL:,} characters")
    try:
        host = url.host
    except UnicodeError:  # `xn--` and something that it cannot be
        raise AddressRefused("not a valid address") from None
    if url.scheme not in {"http", "https"} or not host:
        raise AddressRefused("only http:// and https:// addresses with a host are connected to")
    if url.userinfo:
        raise AddressRefused(f"{_shown(host)}: an address must not hold a user or a password")
    return url


def _following(current: httpx.URL, location: str, where: str) -> httpx.URL:
    try:
        following = str(current.join(location))
    except httpx.InvalidURL:
        raise RequestRefused(f"{where}: redirects to something that is no address") from None
    if len(following) > _MAX_URL:
        raise RequestRefused(f"{where}: redirects to an address of more than {_MAX_URL:,} characters")
    try:
        return checked_url(following)
    except AddressRefused as error:
        raise AddressRefused(f"{where}: redirects: {error}") from None


def _failure(error: httpx.HTTPError, where: str) -> NightmillError:
    return error_for_transport(error, where=where, redact=Redactor())


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _call(method: str, url: httpx.URL) -> Call:
    port = url.port or (443 if url.scheme == "https" else 80)
    return Call(
        method, (url.scheme, url.host, port), path=None, measured=False
    )  # whose page it is, is not ours to tell


def _shown(text: str) -> str:
    return Redactor()(text, 200)


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
