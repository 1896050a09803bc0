"""A scripted HTTP server on loopback that counts connections and keeps what it was sent, to the byte."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Received:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Script = Callable[["Received", socket.socket], None]


def answer(
    body: bytes = b"{}",
    *,
    status: str = "200 OK",
    headers: dict[str, str] | None = None,
    length: int | None = None,
    close: bool = False,
) -> Script:
    """Answer with this; `length` announces another length than the body has."""

    def script(_: Received, peer: socket.socket) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        peer.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        if close:
            peer.close()

    return script


def json_answer(value: object, *, status: str = "200 OK", headers: dict[str, str] | None = None) -> Script:
    return answer(json.dumps(value).encode(), status=status, headers=headers)


@dataclass
class Loopback:
    port: int
    script: Script = field(default_factory=answer)
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"


@contextmanager
def loopback(script: Script | None = None, *, tls: ssl.SSLContext | None = None) -> Iterator[Loopback]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Loopback(listener.getsockname()[1], scheme="https" if tls else "http")
    if script:
        server.script = script
    peers: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(peer: socket.socket) -> None:
        with suppress(OSError):
            if tls:
                peer = tls.wrap_socket(peer, server_side=True)
                peers.append(peer)
            while (request := _read(peer)) is not None:
                server.received.append(request)
                server.script(request, peer)
        peer.close()

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            server.connections += 1
            peers.append(peer)
            thread = threading.Thread(target=serve, args=(peer,), daemon=True)
            threads.append(thread)
            thread.start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield server
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for peer in peers:
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
            peer.close()
        for thread in [accepting, *threads]:
            thread.join(timeout=5)


def _read(peer: socket.socket) -> Received | None:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = peer.recv(65536)
        if not chunk:
            return None
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    pieces, held = [body], len(body)
    while held < int(headers.get("content-length", 0)):
        chunk = peer.recv(1024 * 1024)
        if not chunk:
            return None
        pieces.append(chunk)
        held += len(chunk)
    return Received(method, target, headers, b"".join(pieces))
