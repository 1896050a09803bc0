"""A door to a Temporal server that refuses some calls, as servers do that ask who calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAUTHENTICATED = 7, 8, 12, 16
"""gRPC's statuses: grpc.io/docs/guides/status-codes (read 2026-11)."""

_DATA, _HEADERS, _SETTINGS = 0x0, 0x1, 0x4
_ACK, _END_STREAM, _END_HEADERS = 0x1, 0x1, 0x4
_NO_TABLE = b"\x00\x01\x00\x00\x00\x00"
"""Setting 1, SETTINGS_HEADER_TABLE_SIZE, is 0: no header refers to an earlier one, each path is there as it is."""

_PREFACE = 24

# HPACK's codes of characters in headers, which are in order within each length: RFC 7541, appendix B.
_CODES = {
    character: f"{first + number:0{bits}b}"
    for bits, first, characters in (
        (5, 0b00000, "012aceiost"),
        (6, 0b010100, " %-./3456789=A_bdfghlmnpru"),
        (7, 0b1011100, ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    )
    for number, character in enumerate(characters)
}


@dataclass
class Gate:
    """Passes HTTP/2 on to a server, except the calls that it refuses itself.

    Attributes:
        target: The server, HOST:PORT.
        refused: The statuses of the calls that are refused, by the end of their path; it may be changed at any time.
        heard: Those of them that were called, in order.
    """

    target: str
    refused: dict[str, int] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Give the address."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            while self._writers:
                await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self.target.split(":")
        there, back = await asyncio.open_connection(host, int(port))
        both = {writer, back}
        self._writers |= both
        ways = (self._pass(reader, back, writer, await reader.readexactly(_PREFACE)), self._pass(there, writer))
        await asyncio.gather(*ways)
        self._writers -= both

    async def _pass(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        answers: asyncio.StreamWriter | None = None,
        preface: bytes = b"",
    ) -> None:
        """Pass frames on; where there is somebody to answer, those of refused calls end here."""
        with suppress(OSError, asyncio.IncompleteReadError):
            sink.write(preface)
            await self._pass_frames(source, sink, answers)
        sink.transport.abort()

    async def _pass_frames(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: asyncio.StreamWriter | None
    ) -> None:
        mine: set[int] = set()
        while True:
            head = await source.readexactly(9)
            size, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
            stream, body = int.from_bytes(head[5:9]), await source.readexactly(size)
            if kind == _SETTINGS and not flags & _ACK:
                body += _NO_TABLE
            if answers is not None and kind == _HEADERS and (status := self._status(body)) is not None:
                mine.add(stream)
                answers.write(_refusal(stream, status))
                await answers.drain()
            if stream not in mine or kind not in (_DATA, _HEADERS):
                sink.write(len(body).to_bytes(3) + head[3:] + body)
                await sink.drain()

    def _status(self, headers: bytes) -> int | None:
        bits = "".join(f"{byte:08b}" for byte in headers)
        for name, status in self.refused.items():
            if "".join(_CODES[character] for character in name) in bits:
                self.heard.append(name)
                return status
        return None


def _refusal(stream: int, status: int) -> bytes:
    """Return an answer that is a status and nothing else."""
    body = b"\x88"  # :status 200, of the static table
    told: Mapping[str, str] = {
        "content-type": "application/grpc",
        "grpc-status": str(status),
        "grpc-message": "Request unauthorized.",
    }
    for name, value in told.items():
        body += b"\x00" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))
    return len(body).to_bytes(3) + bytes([_HEADERS, _END_STREAM | _END_HEADERS]) + stream.to_bytes(4) + body
