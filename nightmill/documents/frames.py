"""Messages between the worker and the processes that read pages: lengths, a JSON header, and a body of bytes."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

_LENGTHS = struct.Struct("!II")

MAX_HEADER = 16 * 1024 * 1024
"""Bytes; 200,000 characters of content take six each at most in JSON."""

MAX_BODY = 256 * 1024 * 1024


class ConnectionEnded(Exception):
    """The other side is gone, or says what no side of ours says."""


def send(link: socket.socket, header: dict[str, Any], body: bytes = b"", *, deadline: float | None = None) -> None:
    """Send a message.

    Args:
        link: The connection.
        header: Anything that JSON can hold.
        body: Bytes that come with it.
        deadline: By `time.monotonic`; None waits for ever.

    Raises:
        ConnectionEnded: The other side is gone.
        TimeoutError: The deadline has passed; half of the message may be sent.
    """
    head = json.dumps(header).encode()
    _limit(link, deadline)
    try:
        link.sendall(_LENGTHS.pack(len(head), len(body)) + head)
        _limit(link, deadline)
        link.sendall(body)
    except TimeoutError:
        raise
    except OSError as error:
        raise ConnectionEnded("the other side is gone") from error


def receive(link: socket.socket, *, deadline: float | None = None) -> tuple[dict[str, Any], bytes]:
    """Return header and body of the next message.

    Raises:
        ConnectionEnded: The other side is gone, or sent what is no message.
        TimeoutError: The deadline has passed.
    """
    head_length, body_length = _LENGTHS.unpack(_exactly(link, _LENGTHS.size, deadline))
    if head_length > MAX_HEADER or body_length > MAX_BODY:
        raise ConnectionEnded("a message longer than any of ours")
    try:
        header = json.loads(_exactly(link, head_length, deadline))
    except (ValueError, RecursionError) as error:
        raise ConnectionEnded("no message of ours") from error
    if not isinstance(header, dict):
        raise ConnectionEnded("no message of ours")
    return header, _exactly(link, body_length, deadline)


def _exactly(link: socket.socket, length: int, deadline: float | None) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        _limit(link, deadline)
        try:
            part = link.recv(min(length - len(parts), 1024 * 1024))
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionEnded("the other side is gone") from error
        if not part:
            raise ConnectionEnded("the other side is gone")
        parts += part
    return bytes(parts)


def _limit(link: socket.socket, deadline: float | None) -> None:
    if deadline is None:
        link.settimeout(None)
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    link.settimeout(left)
