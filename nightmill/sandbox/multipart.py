"""Reads `multipart/form-data` as it comes in: fields into memory, the file onto disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

from nightmill.sandbox.http import BadBody, Request

MAX_FIELD = 64 * 1024
MAX_HEADER = 16 * 1024


class TooLarge(ValueError):
    """The file is over the limit; what came of it is gone."""


@dataclass
class Upload:
    """What a form held."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    size: int = 0
    sha256: str = ""


def read_form(request: Request, path: Path, limit: int) -> Upload:
    """Read a form, writing the content of its part `file` to `path`.

    Raises:
        BadBody: It is not a form, or it ends in the middle.
        TooLarge: The file has more than `limit` bytes.
    """
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise BadBody("Content-Type must be multipart/form-data with a boundary")
    reader = _Reader(request.body.chunks(), b"\r\n--" + boundary.encode())
    upload = Upload()
    for _ in reader.until_boundary():
        pass  # a preamble is allowed, and nobody sends one
    while not reader.at_end():
        _read_part(reader, upload, path, limit)
    return upload


def _read_part(reader: _Reader, upload: Upload, path: Path, limit: int) -> None:
    disposition = Message()
    for line in reader.header():
        header, _, words = line.partition(":")
        disposition[header.strip().lower()] = words.strip()
    name = disposition.get_param("name", header="content-disposition")
    filename = disposition.get_filename()
    if name != "file":
        value = b"".join(reader.until_boundary())
        if len(value) > MAX_FIELD:
            raise BadBody(f"the field {name} is too long")
        upload.fields[str(name)] = value.decode(errors="replace")
        return
    upload.filename = filename or "upload"
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for data in reader.until_boundary():
            upload.size += len(data)
            if upload.size > limit:
                raise TooLarge(f"File is too large. Maximum allowed size is {limit} bytes.")
            digest.update(data)
            file.write(data)
    upload.sha256 = digest.hexdigest()


class _Reader:
    """Finds boundaries in a stream of pieces, holding back no more than a boundary's length."""

    def __init__(self, pieces: Iterator[bytes], boundary: bytes) -> None:
        self._pieces = pieces
        self._boundary = boundary
        self._held = b"\r\n"  # so that the first boundary looks like all others

    def _more(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            raise BadBody("the form ended without its last boundary")
        self._held = self._held + piece if self._held else piece

    def until_boundary(self) -> Iterator[bytes]:
        keep = len(self._boundary) - 1
        while (found := self._held.find(self._boundary)) < 0:
            if len(self._held) > keep:
                yield self._held[:-keep]
                self._held = self._held[-keep:]
            self._more()
        yield self._held[:found]
        self._held = self._held[found + len(self._boundary) :]

    def at_end(self) -> bool:
        while len(self._held) < 2:
            self._more()
        mark, self._held = self._held[:2], self._held[2:]
        return mark == b"--"

    def header(self) -> list[str]:
        while (found := self._held.find(b"\r\n\r\n")) < 0:
            if len(self._held) > MAX_HEADER:
                raise BadBody("a part's header is too long")
            self._more()
        lines = self._held[:found].decode(errors="replace").split("\r\n")
        self._held = self._held[found + 4 :]
        return lines
