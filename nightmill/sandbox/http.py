"""HTTP as the sandbox needs it: requests whose bodies stream in, replies whose bodies stream out."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson

CHUNK = 256 * 1024
STALE_AFTER = 120.0  # seconds without a byte before a connection's thread gives up


class Dropped(Exception):
    """Close this connection without another byte.

    Attributes:
        reset: Whether to send a reset instead of an orderly end.
    """

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__("connection dropped on purpose")
        self.reset = reset


class BadBody(ValueError):
    """The request's body is not what its headers promise."""


class Body:
    """A request's body, read once, by its length or in chunks."""

    def __init__(self, source: BinaryIO, length: int | None, *, chunked: bool) -> None:
        self._source = source
        self._left = length or 0
        self._chunked = chunked
        self._open = chunked or self._left > 0
        self.received = 0

    def chunks(self) -> Iterator[bytes]:
        """Yield what is left of the body.

        Raises:
            BadBody: The client stopped too early, or broke the chunked framing.
        """
        while self._open:
            if self._chunked and not self._left:
                self._next_chunk()
                continue
            data = self._source.read1(min(self._left, CHUNK))  # type: ignore[attr-defined]
            if not data:
                raise BadBody("the body ended too early")
            self._left -= len(data)
            self.received += len(data)
            if not self._left:
                if self._chunked:
                    self._source.readline()
                else:
                    self._open = False
            yield data

    def _next_chunk(self) -> None:
        size = self._source.readline(1024).split(b";")[0].strip()
        try:
            self._left = int(size, 16)
        except ValueError:
            raise BadBody("bad chunk size") from None
        if not self._left:
            while self._source.readline(8192).strip():
                pass
            self._open = False

    def read(self) -> bytes:
        """Return what is left of the body at once; for small JSON bodies."""
        return b"".join(self.chunks())

    def drain(self) -> None:
        """Read and forget what is left, so that the connection can be used again."""
        for _ in self.chunks():
            pass


@dataclass
class Request:
    """One HTTP request. Header names are in lower case; `path` is unquoted and has no query."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Body
    origin: str

    def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            BadBody: It is not JSON.
        """
        try:
            return orjson.loads(self.body.read())
        except orjson.JSONDecodeError as error:
            raise BadBody(f"We could not parse the JSON body of your request: {error}") from None


@dataclass
class Reply:
    """One HTTP answer; an iterable body is sent in chunks as it is made."""

    status: int = 200
    body: bytes | Iterable[bytes] = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def json_reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    """Return an answer with a JSON body."""
    return Reply(status, orjson.dumps(value), headers=headers or {})


Handle = Callable[[Request], Reply]


class Server(ThreadingHTTPServer):
    """Serves each connection on a thread of its own; `handle_call` answers every request."""

    daemon_threads = True
    # a test may open hundreds of connections at once; the default of 5 makes them wait a second
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], handle_call: Handle) -> None:
        self.handle_call = handle_call
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a client goes away, which is everyday business in kill tests; show everything else."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def server_bind(self) -> None:
        """Bind without looking up the host's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the connection's thread, and remember the connection."""
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that is done."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self, patience: float = 2.0) -> None:
        """End every connection, and wait up to `patience` seconds for their threads to notice."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + patience
        while self._open and time.monotonic() < deadline:
            time.sleep(0.005)


class Connection(BaseHTTPRequestHandler):
    """One client's connection, kept open between requests."""

    protocol_version = "HTTP/1.1"
    server_version = "nightmill-sandbox"
    disable_nagle_algorithm = True  # headers and body are separate writes; without it each answer waits 40 ms
    wbufsize = CHUNK
    timeout = STALE_AFTER
    server: Server

    def handle_one_request(self) -> None:
        """Serve one request, whatever its method."""
        self.close_connection = True
        self.raw_requestline = self.rfile.readline(65_537)
        if not self.raw_requestline or not self.parse_request():
            return
        request = self._request()
        try:
            reply = self.server.handle_call(request)
            request.body.drain()
            self._send(reply)
        except Dropped as drop:
            self._drop(reset=drop.reset)
        except BadBody:
            self.close_connection = True

    def handle_expect_100(self) -> bool:
        """Ask for the body at once; the base class leaves its answer in the write buffer."""
        answered = super().handle_expect_100()
        self.wfile.flush()
        return answered

    def _request(self) -> Request:
        headers = {name.lower(): value for name, value in self.headers.items()}
        target = urlsplit(self.path)
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        length = headers.get("content-length", "")
        body = Body(self.rfile, int(length) if length.isdigit() else None, chunked=chunked)  # type: ignore[arg-type]
        query = dict(parse_qsl(target.query, keep_blank_values=True))
        host = headers.get("host") or f"{self.server.server_name}:{self.server.server_port}"
        return Request(self.command, unquote(target.path), query, headers, body, f"http://{host}")

    def _send(self, reply: Reply) -> None:
        self.send_response_only(reply.status)
        self.send_header("Date", self.date_time_string())
        self.send_header("Content-Type", reply.content_type)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if isinstance(reply.body, bytes):
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
        else:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for data in reply.body:
                if data:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                if len(data) < CHUNK // 8:
                    self.wfile.flush()  # small pieces are small on purpose
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _drop(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:
            # lingering for zero seconds makes the kernel send a reset and forget what is still unsent
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class names it)
        """Write nothing to stderr; `/_sandbox/log` has it all."""


def blocks(pieces: Iterable[bytes], size: int = CHUNK // 4) -> Iterator[bytes]:
    """Join small pieces into larger ones, for fewer system calls."""
    waiting: list[bytes] = []
    held = 0
    for piece in pieces:
        waiting.append(piece)
        held += len(piece)
        if held >= size:
            yield b"".join(waiting)
            waiting, held = [], 0
    if waiting:
        yield b"".join(waiting)
