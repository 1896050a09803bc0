"""Fetch pages through the guard: bounded in time and size, every failure one of the errors that a document can have."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from nightmill.documents.links import is_home, read_link, same_site
from nightmill.documents.media import media_type_of, read_content_type
from nightmill.errors import (
    AddressRefused,
    AnswerLost,
    BodyTooLarge,
    InvalidInput,
    NightmillError,
    PageAccessDenied,
    PageBlocked,
    PageFetchFailed,
    PageNotFound,
    PageTimeout,
    PageTooLarge,
    PageUnavailable,
    PageUnsupported,
    ProviderUnavailable,
    RequestRefused,
)
from nightmill.web.bodies import PIECE, decoded
from nightmill.web.classify import LONGEST_RETRY_AFTER, parse_retry_after, trouble_of
from nightmill.web.guard import GuardedClient, guarded_client

if TYPE_CHECKING:
    import ssl

    from nightmill.settings import DocumentSettings
    from nightmill.web.download import Download
    from nightmill.web.library import httpcore, httpx
    from nightmill.web.resolver import Resolver

PAGE_PORTS = frozenset({80, 443, 8080, 8443})

_ACCEPT_PAGE = "text/html,application/xhtml+xml,text/markdown;q=0.9,text/plain;q=0.8,*/*;q=0.1"
_ACCEPT_TEXT = "text/plain,application/xml;q=0.9,text/xml;q=0.9,*/*;q=0.5"
_SUPPORTED = frozenset({"text/html", "application/xhtml+xml", "text/plain", "text/markdown", "text/x-markdown"})
_WHOLE = frozenset({200, 203})  # no other 2xx brings the page: 202 is a challenge of some firewalls, 206 a part
_GONE = frozenset({404, 410})
_DENIED = frozenset({401, 403, 407, 451})
_SLOW = frozenset({408, 504})
_GZIP_MAGIC = b"\x1f\x8b"
_KEPT = 64  # connections for the next page of a site, which comes after a second; each holds a descriptor
_SNIFFED = 8 * 1024  # bytes by which a type is recognised; a browser takes 1,445 (mimesniff.spec.whatwg.org, 2026-11)
_MAX_ETAG = 1_000  # characters; longer ones are not kept, so that what a site says does not fill our rows
_MAX_LAST_MODIFIED = 100


@dataclass(frozen=True)
class Validators:
    """What a page said of its version when it was fetched last."""

    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True)
class NotModified:
    """The page is the one that the validators are of.

    Attributes:
        etag: What to ask with next time.
        last_modified: The same.
        url: The address that answered.
        redirects: The addresses that led there.
    """

    etag: str | None
    last_modified: str | None
    url: str
    redirects: tuple[str, ...]


@dataclass(frozen=True)
class FetchedPage:
    """A text document.

    Attributes:
        url: The address that answered.
        redirects: The addresses that led there, in order.
        body: Without content encoding, in the charset that it came in.
        raw_hash: SHA-256 of `body`, in hexadecimal.
        media_type: `text/html`, `application/xhtml+xml`, `text/plain`, `text/markdown` or `text/x-markdown`.
        charset: What the header says, in lower case; the page itself may say something else.
        etag: To ask with next time.
        last_modified: The same.
    """

    url: str
    redirects: tuple[str, ...]
    body: bytes
    raw_hash: str
    media_type: str
    charset: str | None
    etag: str | None
    last_modified: str | None


@dataclass(frozen=True)
class TextAnswer:
    """What a host says to a plain GET.

    Attributes:
        status: Of the last answer.
        url: The address that answered.
        host: Its `name:port`.
        body: Of a 2xx answer, unpacked where it is a gzip file; empty for every other status.
        retry_after: How long the host asks to be left alone, at most an hour.
    """

    status: int
    url: str
    host: str | None
    body: bytes
    retry_after: timedelta | None


def open_page_client(
    settings: DocumentSettings,
    *,
    resolver: Resolver | None = None,
    connector: httpcore.NetworkBackend | None = None,
    ssl_context: ssl.SSLContext | None = None,
    max_connections: int = 1_100,
) -> GuardedClient:
    """Return the client by which pages are fetched; the caller closes it.

    Args:
        settings: Private addresses and any port only where they say so.
        resolver: See `guarded_client`.
        connector: See `guarded_client`.
        ssl_context: See `guarded_client`.
        max_connections: More than a worker's threads, of which there are 1,000 at most; made when needed.
    """
    return guarded_client(
        allow_private=settings.allow_private_addresses,
        allowed_ports=None if settings.allow_private_addresses else PAGE_PORTS,
        resolver=resolver,
        connector=connector,
        ssl_context=ssl_context,
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.fetch_timeout,
        max_connections=max_connections,
        max_kept=_KEPT,
    )


class PageFetcher:
    """Fetches pages, for many threads at once. Nothing that was answered is retried, no cookie is kept.

    Raises nothing but `PageUnavailable` and `PageRefused` and what the caller's `allowed` raises. Messages hold host
    and path, never a query or an address of our own network.
    """

    def __init__(self, client: GuardedClient, *, user_agent: str, fetch_timeout: timedelta, max_body: int) -> None:
        """Use `client`; wait `fetch_timeout` for a page with all its redirects; take `max_body` bytes of it."""
        self.user_agent = user_agent
        self._client = client
        self._timeout = fetch_timeout
        self._max_body = max_body

    def fetch(
        self, link: str, validators: Validators | None = None, *, allowed: Callable[[str], None] | None = None
    ) -> FetchedPage | NotModified:
        """Return the page, or that it is the one that `validators` are of.

        Args:
            link: Its address.
            validators: Of the last time; with none the page comes in any case.
            allowed: Called with the address before each request, redirects included; what it raises is passed on.

        Raises:
            PageNotFound: 404, 410, or a redirect to the site's home page (`redirect_to_home`).
            PageAccessDenied: 401, 403, 407, 451.
            PageBlocked: The link or a redirect leads where we do not connect to.
            PageTooLarge: It is larger than `max_body`.
            PageUnsupported: It is no text document; the reason is its media type, or `pdf`.
            PageTimeout: Connecting or reading takes too long, or 408, 504.
            PageFetchFailed: Everything else; the reason is `dns`, `connect`, `tls`, `reset`, `protocol`, `encoding`,
                `redirects`, `busy` or `status_503`.
        """
        asked = _conditions(validators)
        headers = {"User-Agent": self.user_agent, "Accept": _ACCEPT_PAGE, "Accept-Encoding": "gzip", **asked}
        with self._answer(link, headers, self._max_body, allowed) as download:
            where = _where(download.url)
            if download.status in _WHOLE or (download.status == 304 and asked):
                _refuse_home(link, download, where)
            else:
                raise _refusal(download, where)
            etag, last_modified = _validators_of(download)
            if download.status == 304:
                next(download, None)  # there is no body, but only an answer that ended lets its connection be kept
                sent = validators or Validators()
                return NotModified(
                    etag=etag or sent.etag,
                    last_modified=last_modified or sent.last_modified,
                    url=download.url,
                    redirects=download.redirects,
                )
            body, media_type, charset = self._read_page(download, where)
        return FetchedPage(
            url=download.url,
            redirects=download.redirects,
            body=body,
            raw_hash=hashlib.sha256(body).hexdigest(),
            media_type=media_type,
            charset=charset,
            etag=etag,
            last_modified=last_modified,
        )

    def fetch_text(
        self, link: str, *, max_bytes: int, cut: bool = False, allowed: Callable[[str], None] | None = None
    ) -> TextAnswer:
        """Return what a plain GET comes to, whatever the status: for robots.txt and sitemaps.

        Args:
            link: The address.
            max_bytes: Bound on the body, also after a gzip file is unpacked.
            cut: Return the first `max_bytes` of a longer body in place of `PageTooLarge`.
            allowed: See `fetch`.

        Raises:
            PageBlocked: The link or a redirect leads where we do not connect to.
            PageTooLarge: The body is larger than `max_bytes`.
            PageTimeout: It takes too long.
            PageFetchFailed: There is no answer, or none that can be read.
        """
        headers = {"User-Agent": self.user_agent, "Accept": _ACCEPT_TEXT, "Accept-Encoding": "gzip"}
        # A piece is refused as a whole when it passes the bound; what shall be cut needs room for one more.
        bound = max_bytes + PIECE if cut else max_bytes
        with self._answer(link, headers, bound, allowed) as download:
            where = _where(download.url)
            body = b""
            if 200 <= download.status < 300:
                if not cut:
                    _refuse_announced(download, max_bytes, where)
                body = _collected(download, max_bytes if cut else None)
                if body.startswith(_GZIP_MAGIC):
                    unpacked = decoded([body], encoding="gzip", max_bytes=bound, where=where)
                    body = _collected(unpacked, max_bytes if cut else None)
        return TextAnswer(download.status, download.url, _host_of(download.url), body, _retry_after(download))

    @contextmanager
    def _answer(
        self, link: str, headers: Mapping[str, str], max_bytes: int, allowed: Callable[[str], None] | None
    ) -> Iterator[Download]:
        try:
            with self._client.get(
                link,
                headers=headers,
                deadline=self._timeout,
                max_bytes=max_bytes,
                before_hop=allowed,
                failure=_failure,
            ) as download:
                yield download
        except AddressRefused as error:
            raise PageBlocked(str(error)) from None
        except BodyTooLarge as error:
            raise PageTooLarge(str(error)) from None
        except RequestRefused as error:
            raise PageFetchFailed(str(error), reason="redirects") from None
        except (ProviderUnavailable, AnswerLost) as error:  # the connection's failures are made by `_failure`
            raise PageFetchFailed(str(error), reason="encoding") from None

    def _read_page(self, download: Download, where: str) -> tuple[bytes, str, str | None]:
        announced, charset = read_content_type(download.headers.get("content-type", ""))
        _refuse_unsupported(media_type_of(announced, b"", charset), where)
        _refuse_announced(download, self._max_body, where)
        body = bytearray()
        for piece in download:
            judged = len(body) >= _SNIFFED
            body += piece
            if not judged and len(body) >= _SNIFFED:  # the rest of a large film need not come
                _refuse_unsupported(media_type_of(announced, bytes(body[:_SNIFFED]), charset), where)
        media_type = media_type_of(announced, bytes(body[:_SNIFFED]), charset) or announced or "text/plain"
        _refuse_unsupported(media_type, where)
        return bytes(body), media_type, charset


def _failure(error: httpx.HTTPError, where: str) -> PageUnavailable:
    trouble = trouble_of(error)
    if trouble.timed_out:
        return PageTimeout(f"{where}: takes too long ({trouble.word})", reason=trouble.word)
    return PageFetchFailed(f"{where}: no whole answer ({trouble.word})", reason=trouble.word)


def _refusal(download: Download, where: str) -> NightmillError:
    """Return the error that an answer without a page means."""
    status = download.status
    message, word = f"{where}: status {status}", f"status_{status}"
    if status in _GONE:
        return PageNotFound(message, http_status=status)
    if status in _DENIED:
        return PageAccessDenied(message, reason=word, http_status=status)
    kind = PageTimeout if status in _SLOW else PageFetchFailed
    pause = _retry_after(download)
    host = _host_of(download.url) if pause is not None else None
    return kind(message, reason=word, http_status=status, retry_after=pause, failed_host=host)


def _refuse_home(link: str, download: Download, where: str) -> None:
    """Refuse the home page of the link's site as the answer for a deeper page: sites that lost a page do so."""
    if not download.redirects:
        return
    try:
        asked, got = read_link(link), read_link(download.url)
    except InvalidInput:  # longer than a link may be: no home page
        return
    if is_home(got) and not is_home(asked) and same_site(asked, got):
        raise PageNotFound(f"{where}: the page redirects to the home page", reason="redirect_to_home")


def _refuse_announced(download: Download, max_bytes: int, where: str) -> None:
    length = download.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise PageTooLarge(f"{where}: the body has {int(length[:20]):,} bytes, more than {max_bytes:,}")


def _refuse_unsupported(media_type: str | None, where: str) -> None:
    if media_type is not None and media_type not in _SUPPORTED:
        raise PageUnsupported(f"{where}: no text document ({media_type})", reason=media_type)


def _collected(pieces: Iterator[bytes], cut_at: int | None) -> bytes:
    body = bytearray()  # not a list: pieces may be of one byte each
    for piece in pieces:
        body += piece
        if cut_at is not None and len(body) >= cut_at:
            del body[cut_at:]
            break
    return bytes(body)


def _conditions(validators: Validators | None) -> dict[str, str]:
    pairs = (
        ("If-None-Match", validators.etag if validators else None),
        ("If-Modified-Since", validators.last_modified if validators else None),
    )
    return {name: value for name, value in pairs if value and value.isascii() and value.isprintable()}


def _validators_of(download: Download) -> tuple[str | None, str | None]:
    """Return `ETag` and `Last-Modified` as far as they can be stored and sent back."""
    return (
        _short_header(download.headers.get("etag"), _MAX_ETAG),
        _short_header(download.headers.get("last-modified"), _MAX_LAST_MODIFIED),
    )


def _short_header(value: str | None, limit: int) -> str | None:
    return value if value and len(value) <= limit and value.isascii() and value.isprintable() else None


def _retry_after(download: Download) -> timedelta | None:
    pause = parse_retry_after(download.headers.get("retry-after"), datetime.now(UTC))
    return None if pause is None else min(pause, LONGEST_RETRY_AFTER)


def _host_of(url: str) -> str | None:
    """Return `name:port` of an address, None where it is none."""
    try:
        return read_link(url).host
    except InvalidInput:
        return None


def _where(url: str) -> str:
    """Return an address for a message: without query, on one line, short."""
    shown = re.split(r"[?#]", url, maxsplit=1)[0]
    return shown if len(shown) <= 200 else f"{shown[:199]}…"
