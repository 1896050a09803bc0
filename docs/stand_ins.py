"""What answers in place of the web while the pages' commands are run: a site, and a mail server."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink

PAGES = ("general", "design", "library", "programming", "extending")

_PARAGRAPH = (
    "This page answers questions about {name} that are asked again and again, number {n} among them. Its answer is "
    "long enough to be taken for content, and differs from those of {name}'s other questions and of all other pages."
)


class Site:
    """Stands in for docs.python.org, and takes whatever is posted to it; a `with` block.

    Attributes:
        url: Its address, without a slash at the end.
    """

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.removeprefix("/3/faq/").removesuffix(".html")
        if name not in (*PAGES, "index"):
            self._answer(404, "text/plain", b"there is no such page")
        elif self.headers["If-None-Match"] == f'"{name}"':
            self._answer(304, "text/html", b"", name)
        else:
            self._answer(200, "text/html; charset=utf-8", _page(name).encode(), name)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self._answer(204, "text/plain", b"")

    def _answer(self, status: int, kind: str, body: bytes, tag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if status == 200:
            self.send_header("Content-Length", str(len(body)))
        if tag:
            self.send_header("ETag", f'"{tag}"')
        self.end_headers()
        if status not in (204, 304):
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _page(name: str) -> str:
    links = "".join(f'<li><a href="/3/faq/{other}.html">{other}</a></li>' for other in PAGES)
    text = "".join(f"<p>{_PARAGRAPH.format(name=name, n=n)}</p>" for n in range(1, 7))
    return f"<!doctype html><title>{name} FAQ</title><main><h1>{name} FAQ</h1>{text}</main><nav><ul>{links}</ul></nav>"


class Mailbox:
    """Takes every mail and keeps none; a `with` block.

    Attributes:
        port: Where it listens on loopback.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._controller = Controller(Sink(), hostname="127.0.0.1", port=port)

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()
