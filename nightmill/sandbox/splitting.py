"""Cuts one long array out of a JSON body on disk, so that a body of 256 MB never becomes Python objects at once."""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import orjson

from nightmill.sandbox.http import BadBody, Request

STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
TOKEN = re.compile(STRING + rb"|[{}\[\]:,]", re.DOTALL)
INNER = re.compile(STRING + rb"|[{}\[\]]", re.DOTALL)

KeyPath = tuple[str, ...]


class BodyTooLarge(ValueError):
    """The body has more bytes than the provider takes."""


def receive_body(request: Request, path: Path, limit: int) -> int:
    """Write a request's body to a file and return its size.

    Raises:
        BodyTooLarge: It has more than `limit` bytes; the rest is read and forgotten.
    """
    size = 0
    with path.open("wb") as file:
        for data in request.body.chunks():
            size += len(data)
            if size <= limit:
                file.write(data)
    if size > limit:
        path.unlink()
        raise BodyTooLarge(f"{size} bytes are more than {limit}")
    return size


def split(path: Path, lines: Path, wanted: Collection[KeyPath]) -> dict[str, Any]:
    """Write each element of an array to a line of its own, and return the rest of the object around it.

    Args:
        path: A file with one JSON object.
        lines: Where the elements go.
        wanted: Paths of keys; the first that leads to an array counts. In what is returned, that array is empty.

    Raises:
        BadBody: The file is not a JSON object.
    """
    if not path.stat().st_size:
        raise BadBody("The body is empty.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        start = _find_array(text, wanted)
        if start is None:
            rest, end = text[:], 0
            lines.touch()
        else:
            end = start
            with lines.open("wb") as out:
                for begin, end in _elements(text, start):
                    if element := text[begin:end].strip():
                        out.write(element.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n")
            rest = text[:start] + text[end:]
    try:
        value = orjson.loads(rest)
    except orjson.JSONDecodeError as error:
        raise BadBody(f"The body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadBody("The body must be an object.")
    return value


def _find_array(text: mmap.mmap, wanted: Collection[KeyPath]) -> int | None:
    """Return the offset just behind the wanted array's opening bracket."""
    keys: list[str] = []
    in_object: list[bool] = []
    key_is_next = False
    for token in TOKEN.finditer(text):
        mark = token[0]
        if mark == b"{":
            in_object.append(True)
            keys.append("")
            key_is_next = True
        elif mark == b"[":
            if tuple(keys) in wanted:
                return token.end()
            in_object.append(False)
            keys.append("[]")
            key_is_next = False
        elif mark in b"}]":
            if not keys:
                return None
            keys.pop()
            in_object.pop()
        elif mark == b",":
            key_is_next = bool(in_object) and in_object[-1]
        elif mark != b":" and key_is_next:
            keys[-1] = mark[1:-1].decode(errors="replace")
            key_is_next = False
    return None


def _elements(text: mmap.mmap, start: int) -> Iterator[tuple[int, int]]:
    """Yield where each object of the array begins and ends; the last pair is empty and ends before the bracket."""
    depth = 0
    begin = start
    for token in INNER.finditer(text, start):
        mark = token[0]
        if mark in (b"{", b"["):
            if not depth:
                begin = token.start()
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
            if depth < 0:
                yield token.start(), token.start()
                return
            if not depth:
                yield begin, token.end()
    raise BadBody("The body is not valid JSON: an array does not end.")
