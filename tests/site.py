"""A web site on loopback for tests: real HTTP, changed while it runs, and as hostile as a test asks.

    with Site({"/a": Page("<p>Hello"), "/old": redirect("/a")}) as site:
        fetch(site.url("/a"))
        site.pages["/a"] = Page("<p>Changed")
        site.answers["/a"] = [failure(503, retry_after=1)]  # given first, one a request
        assert [visit.status for visit in site.visits("/a")] == [200]

A site is one host; for more hosts, start more sites, each on a port of its own or at an address such as 127.0.0.2.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape

HTML = "text/html; charset=utf-8"
DRIPS = 10


class Break(StrEnum):
    """How a connection ends before its time."""

    RESET = "reset"
    """By a TCP reset, without a word of answer."""
    MIDWAY = "midway"
    """By a TCP reset after half of the body."""
    TRUNCATED = "truncated"
    """In order, after half of the body that `Content-Length` announces."""


@dataclass(frozen=True)
class Page:
    """What is answered at a path.

    Attributes:
        body: the page; a file is read anew for each request.
        content_type: as sent; name a charset that the body is not in, and it is wrong.
        headers: sent as well. Whoever gives `content-encoding` gives a body that is encoded, or is not.
        etag: made from the body (True), not sent (False), or this one, quotes included.
        modified: sent as `Last-Modified`; None sends none.
        gzip: compress for those who accept it.
        delay: seconds before the answer begins.
        drip: seconds that the body takes, in ten pieces; the headers are sent at once.
    """

    body: bytes | str | Path = b""
    status: int = 200
    content_type: str = HTML
    headers: Mapping[str, str] = field(default_factory=dict)
    etag: bool | str = True
    modified: datetime | None = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    gzip: bool = True
    delay: float = 0.0
    drip: float = 0.0
    breaks: Break | None = None

    def read(self) -> bytes:
        """Return the body's bytes."""
        if isinstance(self.body, Path):
            return self.body.read_bytes()
        return self.body.encode() if isinstance(self.body, str) else self.body


def redirect(location: str, status: int = 301) -> Page:
    """Return a redirect; `location` may be relative, and may lead to another host or back."""
    return Page("<p>Moved.", status, headers={"location": location}, etag=False, modified=None)


def failure(status: int, *, retry_after: float | str | None = None, body: str = "") -> Page:
    """Return a failure; `retry_after` is in seconds, or a date as HTTP writes it."""
    headers = {} if retry_after is None else {"retry-after": f"{retry_after}"}
    text = body or f"<!doctype html><title>{status}</title><h1>{HTTPStatus(status).phrase}</h1>"
    return Page(text, status, headers=headers, etag=False, modified=None)


def robots(text: str) -> Page:
    """Return a robots.txt."""
    return Page(text, content_type="text/plain")


def sitemap(urls: Iterable[str] | Mapping[str, str]) -> Page:
    """Return a sitemap of these URLs, or of URLs and what each has as its `lastmod`."""
    return _sitemap("urlset", "url", urls)


def sitemap_index(urls: Iterable[str] | Mapping[str, str]) -> Page:
    """Return an index of sitemaps."""
    return _sitemap("sitemapindex", "sitemap", urls)


def _sitemap(outer: str, inner: str, urls: Iterable[str] | Mapping[str, str]) -> Page:
    dates = urls if isinstance(urls, Mapping) else dict.fromkeys(urls, "")
    entries = [
        f"<{inner}><loc>{escape(url)}</loc>{f'<lastmod>{escape(date)}</lastmod>' if date else ''}</{inner}>"
        for url, date in dates.items()
    ]
    text = f'<{outer} xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{"".join(entries)}</{outer}>'
    return Page(f'<?xml version="1.0" encoding="UTF-8"?>\n{text}', content_type="application/xml")


def gz_file(page: Page) -> Page:
    """Return the page as a file that is compressed itself, as `sitemap.xml.gz` is: no `Content-Encoding`."""
    return Page(gzip.compress(page.read()), content_type="application/gzip", gzip=False)


def folder_pages(folder: Path, under: str = "/") -> dict[str, Page]:
    """Return the HTML files of a folder as pages, each read when it is asked for."""
    found = sorted(path for path in folder.rglob("*.html") if path.is_file())
    return {
        under + quote(path.relative_to(folder).as_posix()): Page(
            path, content_type="text/html", modified=datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
        )
        for path in found
    }


@dataclass
class Visit:
    """One request that a site got.

    Attributes:
        at: when it came, by `time.monotonic()`.
        path: as it was asked for, with its query.
        headers: by their names in lower case.
        status: what was answered; 0 until it is, and where nothing ever is.
    """

    at: float
    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    answered: bool = field(default=False, repr=False)


class Site:
    """A web server at `address`, from the start of the block to its end.

    Attributes:
        pages: by path, as `/a` or, for a query of its own, `/a?b=1`. What is missing is answered by 404.
        answers: by path, what to answer first, one a request.
        log: every request, in the order in which they came.
        in_flight: requests that are being answered, by path.
        most_in_flight: how many were at once, by path.
        most_at_once: how many were at once, all paths together.
    """

    def __init__(self, pages: Mapping[str, Page | str] | None = None, *, address: str = "127.0.0.1") -> None:
        self.pages = {path: page if isinstance(page, Page) else Page(page) for path, page in (pages or {}).items()}
        self.answers: dict[str, list[Page]] = {}
        self.log: list[Visit] = []
        self.in_flight: Counter[str] = Counter()
        self.most_in_flight: Counter[str] = Counter()
        self.most_at_once = 0
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(address, self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="site", daemon=True)

    def __enter__(self) -> Site:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()
        if self._server.errors:
            raise ExceptionGroup("the site failed to answer", self._server.errors)

    @property
    def host(self) -> str:
        """Address and port."""
        address, port = self._server.server_address[:2]
        return f"{address!s}:{port}"

    def url(self, path: str = "/") -> str:
        """Return the URL of a path."""
        return f"http://{self.host}{path}"

    def visits(self, path: str) -> list[Visit]:
        """Return the requests for a path."""
        return [visit for visit in self.log if visit.path == path]

    def answer_to(self, path: str) -> Page:
        """Return what is next for a path."""
        bare = path.partition("?")[0]
        with self._lock:
            for name in (path, bare, unquote(bare)):
                if first := self.answers.get(name):
                    return first.pop(0)
                if page := self.pages.get(name):
                    return page
        return failure(404)

    @contextmanager
    def visited(self, visit: Visit) -> Iterator[None]:
        """Log a request, and count it while it is answered."""
        with self._lock:
            self.log.append(visit)
            self.in_flight[visit.path] += 1
            self.most_in_flight[visit.path] = max(self.most_in_flight[visit.path], self.in_flight[visit.path])
            self.most_at_once = max(self.most_at_once, self.in_flight.total())
        try:
            yield
        finally:
            self.answered(visit)

    def answered(self, visit: Visit) -> None:
        """Count a request no longer: called before its last bytes are sent, for then its client may send another."""
        with self._lock:
            self.in_flight[visit.path] -= not visit.answered
            visit.answered = True


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them
    request_queue_size = 128

    def __init__(self, address: str, site: Site) -> None:
        self.site = site
        self.errors: list[Exception] = []
        self._open: set[socket.socket] = set()
        super().__init__((address, 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End the connections that wait for a further request."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep what failed here; that a client goes away is its right."""
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, ConnectionError):
            self.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def version_string(self) -> str:
        return "site"

    def _answer(self) -> None:
        site = self.server.site
        headers = {name.lower(): value for name, value in self.headers.items()}
        visit = Visit(time.monotonic(), self.command, self.path, headers)
        with site.visited(visit):
            page = site.answer_to(self.path)
            if page.delay and site.closing.wait(page.delay):
                self.close_connection = True
            elif page.breaks is Break.RESET:
                self._reset()
            else:
                self._send(page, visit)

    def _send(self, page: Page, visit: Visit) -> None:
        body = page.read()
        headers = {"content-type": page.content_type, **page.headers}
        etag = page.etag if isinstance(page.etag, str) else f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if page.gzip:
            headers["vary"] = "accept-encoding"
            if _takes_gzip(visit.headers.get("accept-encoding", "")) and page.status != 304:
                # What is compressed is not the same to the byte, hence a weak tag, as nginx makes it.
                etag = etag if etag.startswith("W/") else f"W/{etag}"
                headers["content-encoding"] = "gzip"
        validators = {"etag": etag} if page.etag else {}
        if page.modified:
            validators["last-modified"] = format_datetime(page.modified.astimezone(UTC), usegmt=True)
        status = 304 if page.status == 200 and _is_current(visit.headers, validators) else page.status
        if status in (204, 304):
            headers = {name: value for name, value in headers.items() if name in ("vary", "location", "cache-control")}
            body = b""
        elif headers.get("content-encoding") == "gzip" and page.gzip:
            body = gzip.compress(body, mtime=0)
        visit.status = status
        self.send_response(status)
        for name, value in (headers | validators).items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("content-length", str(len(body)))
        if self.command == "HEAD" or not body:
            self.server.site.answered(visit)
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(body, page, visit)

    def _send_body(self, body: bytes, page: Page, visit: Visit) -> None:
        if page.breaks:
            body = body[: len(body) // 2]
            self.close_connection = True
        size = -(-len(body) // DRIPS) if page.drip else len(body)
        for start in range(0, len(body), size or 1):
            if page.drip and self.server.site.closing.wait(page.drip / DRIPS):
                self.close_connection = True
                return
            if start + size >= len(body):
                self.server.site.answered(visit)
            self.wfile.write(body[start : start + size])
        if page.breaks is Break.MIDWAY:
            self._reset()

    def _reset(self) -> None:
        """Close by a reset: with a linger time of zero nothing is sent but that."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        # Closed here, for what closes it later would end it in order first.
        os.close(self.connection.detach())


def _takes_gzip(accepted: str) -> bool:
    for entry in accepted.split(","):
        name, _, weight = entry.strip().lower().partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _is_current(asked: Mapping[str, str], validators: Mapping[str, str]) -> bool:
    """Tell whether what the client has is what we have; a tag goes before a date (RFC 9110, 13.2.2)."""
    if "if-none-match" in asked:
        known = {tag.strip().removeprefix("W/") for tag in asked["if-none-match"].split(",")}
        return "etag" in validators and not known.isdisjoint({"*", validators["etag"].removeprefix("W/")})
    if "if-modified-since" in asked and "last-modified" in validators:
        try:
            since = parsedate_to_datetime(asked["if-modified-since"])
        except ValueError:
            return False  # a date that is none is as if it were not there
        return parsedate_to_datetime(validators["last-modified"]) <= since
    return False
