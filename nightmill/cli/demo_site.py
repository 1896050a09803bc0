"""A small web site on loopback for the demonstration: pages with a clock in their footers, and a robots.txt."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ARTICLES = (
    "opening hours", "prices", "ferries", "parking", "guided tours", "lost property", "the lighthouse", "weather",
    "school classes", "the café", "how to find us",
)  # fmt: skip

ROBOTS = "User-agent: *\nDisallow: /staff\n"

_PARAGRAPHS = (
    "The harbour's office answers questions about {name} every day, and what it answers most often is written here.",
    "A ticket costs {price} euros for adults, half of that for children, and nothing for those who live in the town.",
    "Whoever asks about {name} in winter is told that the piers are closed when the wind is stronger than force eight.",
    "Groups of more than ten people write to the office a week before, so that somebody can meet them at the gate.",
    "All of this holds until the next season; what changes then is announced on this page and at the harbour's gate.",
)


class DemoSite:
    """Serves a front page and eleven articles while its `with` block runs; each has an ETag and answers 304.

    Attributes:
        answers: How often each path was answered with each status.
    """

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self._prices: dict[str, int] = {}
        self._clocks: dict[str, str] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, name="demo-site", daemon=True)

    def __enter__(self) -> DemoSite:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, path: str) -> str:
        """Return the address of a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    @property
    def paths(self) -> list[str]:
        """The pages that may be read, the front page first."""
        return ["/", *(_path(name) for name in ARTICLES)]

    def raise_price(self, path: str) -> None:
        """Change a page's text by one number."""
        self._prices[path] = self._prices.get(path, 12) + 1

    def turn_clock(self, path: str) -> None:
        """Change a page's footer, and nothing that it says."""
        self._clocks[path] = "13:00"

    def answered(self, status: int) -> int:
        """Return how many pages were answered with a status, robots.txt aside."""
        return sum(count for (path, given), count in self.answers.items() if given == status and path in self.paths)

    def _answer(self, path: str) -> tuple[int, str, str]:
        """Return status, content type and body."""
        if path == "/robots.txt":
            return 200, "text/plain", ROBOTS
        if path == "/sitemap.xml":
            entries = "".join(f"<url><loc>{self.url(each)}</loc></url>" for each in self.paths)
            space = "http://www.sitemaps.org/schemas/sitemap/0.9"
            return 200, "application/xml", f'<?xml version="1.0"?><urlset xmlns="{space}">{entries}</urlset>'
        if path == "/":
            return 200, "text/html; charset=utf-8", self._page(path, "The harbour")
        for name in ARTICLES:
            if path == _path(name):
                return 200, "text/html; charset=utf-8", self._page(path, name)
        return 404, "text/html; charset=utf-8", "<title>Not found</title><h1>Not found</h1>"

    def _page(self, path: str, name: str) -> str:
        links = "".join(f'<li><a href="{_path(each)}">{each}</a></li>' for each in ARTICLES)
        price = self._prices.get(path, 12)
        text = "".join(f"<p>{paragraph.format(name=name, price=price)}</p>" for paragraph in _PARAGRAPHS)
        return (
            f'<!doctype html><html lang="en"><head><title>{name.capitalize()}</title></head><body>'
            f'<nav><ul><li><a href="/">The harbour</a></li>{links}<li><a href="/staff">Staff only</a></li></ul></nav>'
            f"<main><article><h1>{name.capitalize()}</h1>{text}</article></main>"
            f"<footer>It is {self._clocks.get(path, '12:00')} at the harbour.</footer></body></html>"
        )

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                status, kind, body = site._answer(path)
                data = body.encode()
                tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
                if status == 200 and self.headers.get("if-none-match") == tag:
                    status, data = 304, b""
                with site._lock:
                    site.answers[path, status] += 1
                self.send_response(status)
                self.send_header("etag", tag)
                if status != 304:
                    self.send_header("content-type", kind)
                    self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
                """Say nothing: the site counts."""

        return Handler


def _path(name: str) -> str:
    return f"/{name.replace(' ', '-').replace('é', 'e')}"
