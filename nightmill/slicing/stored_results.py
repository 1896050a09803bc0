"""Validated results in the file storage: a line of JSON for the document, then one for each slice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from datetime import date
from typing import Any

import msgspec

from nightmill.slicing.entries import Entry
from nightmill.slicing.faults import StorageFailed
from nightmill.slicing.slicer_result import SlicerResult
from nightmill.storage.slices import NewSlice

VERSION = 1


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    page_count: int
    number: str | None
    issued_on: date | None
    errors: tuple[str, ...]
    flags: tuple[str, ...]
    extras: dict[str, Any]
    entries: int


def write_result(result: SlicerResult) -> Iterator[bytes]:
    """Yield the lines of a result, each with its line end."""
    header = _Header(
        version=VERSION,
        page_count=result.page_count,
        number=result.number,
        issued_on=result.issued_on,
        errors=result.errors,
        flags=result.flags,
        extras=result.extras,
        entries=len(result.entries),
    )
    yield msgspec.json.encode(header) + b"\n"
    encoder = msgspec.json.Encoder()
    for entry in result.entries:
        yield encoder.encode(entry) + b"\n"


def read_stored_result(chunks: Iterable[bytes]) -> tuple[SlicerResult, Iterator[Entry]]:
    """Return a result without its slices, and these one by one, from chunks of any size.

    Raises:
        StorageFailed: It was not stored like this, or a part of it is missing; what the slices are read from says so
            when it comes to that.
    """
    lines = _lines(chunks)
    try:
        header = msgspec.json.decode(next(lines, b""), type=_Header)
    except msgspec.MsgspecError as error:
        raise StorageFailed(f"the stored result cannot be read: {error}") from error
    if header.version != VERSION:
        raise StorageFailed(f"the stored result is of version {header.version}, this is version {VERSION}")
    result = SlicerResult(
        page_count=header.page_count,
        number=header.number,
        issued_on=header.issued_on,
        errors=header.errors,
        flags=header.flags,
        extras=header.extras,
    )
    return result, _entries(lines, header.entries)


def new_slices(entries: Iterable[Entry]) -> Iterator[NewSlice]:
    """Yield what the database stores of each slice."""
    names = [one.name for one in fields(NewSlice)]
    for entry in entries:
        yield NewSlice(**{name: getattr(entry, name) for name in names})


def _entries(lines: Iterator[bytes], count: int) -> Iterator[Entry]:
    decoder = msgspec.json.Decoder(Entry)
    read = 0
    for read, line in enumerate(lines, 1):
        try:
            yield decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise StorageFailed(f"slice {read} of the stored result cannot be read: {error}") from error
    if read != count:
        raise StorageFailed(f"the stored result has {read} slices, where {count} are due")


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines, the last one also without its end; a line is put together once, however many chunks it comes in."""
    pieces: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        pieces.append(first)
        for other in others:
            yield b"".join(pieces)
            pieces = [other]
    if rest := b"".join(pieces):
        yield rest
