"""Takes a program's output apart without holding more of it than one part at a time.

A JSON library that is given all of it can be made to need fifty times its bytes (`[{},{},…`), and says nothing of a
name that is given twice. So the outermost object is taken apart here, by its brackets and strings alone, and each part
is read by the library when its turn comes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic_core import from_json

from nightmill.slicing.faults import EmptyOutput, InvalidJson, InvalidResult

MAX_DEPTH = 64
"""Brackets within brackets; a result needs five, and a library that follows them has a stack."""

MAX_PARTS = 1_000_000
"""Brackets, commas and strings: about a second's work, and twice what 10,000 slices need."""

MAX_PARTS_OF_ONE = 100_000
"""The same within one value, which becomes objects in memory: 10 MB at most."""

_LONG = 1_000  # bytes from which on it pays to remember where a value ends

_BLANK = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(rb'[^\s,:"\[\]{}]++')
_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},"]', re.DOTALL)
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
_PLACE = re.compile(r"^(.*) at line (\d+) column (\d+)$", re.DOTALL)
_BOM = b"\xef\xbb\xbf"
_KINDS = (
    (re.compile(rb"\["), "a list"),
    (re.compile(rb'"'), "a string"),
    (re.compile(rb"(?:true|false|null)\b"), "a word"),
    (re.compile(rb"-?\d"), "a number"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """Where a value is in the output.

    Attributes:
        start: Offset of its first byte.
        end: Offset behind its last byte.
        parts: Brackets, commas and strings in it.
    """

    start: int
    end: int
    parts: int = 0

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.end - self.start


class JsonOutput:
    """A program's whole output, which has to be one JSON object."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._long: dict[int, Part] = {}  # ends that were found on the way to another one

    def members(self) -> dict[str, Part]:
        """Return where the object's values are, by their names.

        Raises:
            EmptyOutput: There is nothing but white space.
            InvalidJson: It is not JSON, or there is text before or after it.
            InvalidResult: It is JSON and not an object, or a name is given twice.
        """
        start = self._after_blank(len(_BOM) if self._text.startswith(_BOM) else 0)
        if start == len(self._text):
            raise EmptyOutput("the program ended well and printed nothing")
        if not self._text.startswith(b"{", start):
            raise self._other(start)
        whole = self._value(start)
        after = self._after_blank(whole.end)
        if after < len(self._text):
            raise self._wrong(after, "text after the JSON object")
        members, repeated = self.members_of(whole)
        if repeated:
            raise InvalidResult(f"`{shown(repeated[0])}` is given twice")
        return members

    def members_of(self, part: Part) -> tuple[dict[str, Part], list[str]]:
        """Return where an object's values are, and the names that are given twice; the last one counts.

        Raises:
            InvalidJson: It is not an object.
        """
        found: dict[str, Part] = {}
        repeated = []
        for key, value in self._elements(part, "{", "}"):
            if key in found:
                repeated.append(key)
            found[key] = value
        return found, repeated

    def items_of(self, part: Part) -> Iterator[Part]:
        """Yield where a list's values are.

        Raises:
            InvalidJson: It is not a list.
        """
        for _, value in self._elements(part, "[", "]"):
            yield value

    def is_a(self, part: Part, bracket: bytes) -> bool:
        """Return whether a value begins with this bracket."""
        return self._text.startswith(bracket, part.start)

    def read(self, part: Part) -> Any:
        r"""Return a value. Its strings may hold halves of surrogate pairs (`\ud800`), as JSON allows.

        Raises:
            InvalidJson: It is not JSON; NaN and infinite numbers are not.
            InvalidResult: It has too many parts.
        """
        if part.parts > MAX_PARTS_OF_ONE:
            raise InvalidResult(f"a value of more than {MAX_PARTS_OF_ONE:,} parts at offset {part.start:,}")
        text = self._text[part.start : part.end]
        try:
            return from_json(text, allow_inf_nan=False)
        except ValueError as error:
            if _HALF_PAIR.search(text):
                return self._read_half_pairs(part, text)
            raise self._wrong_at(part, text, str(error)) from None

    def _elements(self, part: Part, opening: str, closing: str) -> Iterator[tuple[str, Part]]:
        """Yield where the values of an object or list are, with their names; in a list these are empty."""
        if not self._text.startswith(opening.encode(), part.start):
            raise self._wrong(part.start, f"`{opening}` is due")
        position = self._after_blank(part.start + 1)
        if position == part.end - 1 and self._text.startswith(closing.encode(), position):
            return
        while True:
            name, position = self._name(position) if opening == "{" else ("", position)
            value = self._value(position)
            yield name, value
            position = self._after_blank(value.end)
            if position == part.end - 1 and self._text.startswith(closing.encode(), position):
                return
            if not self._text.startswith(b",", position):
                raise self._wrong(position, f"a comma or `{closing}` is due")
            position = self._after_blank(position + 1)

    def _name(self, start: int) -> tuple[str, int]:
        """Return a member's name, and where its value begins."""
        if (name := _STRING.match(self._text, start)) is None:
            raise self._wrong(start, "a name in quotation marks is due")
        colon = self._after_blank(name.end())
        if not self._text.startswith(b":", colon):
            raise self._wrong(colon, "a colon is due")
        return str(self.read(Part(start, name.end()))), self._after_blank(colon + 1)

    def _value(self, start: int) -> Part:
        """Return where the value that begins here ends, by its brackets and strings; what is in it may be wrong."""
        if self._text.startswith(b'"', start):
            if (string := _STRING.match(self._text, start)) is None:
                raise self._wrong(start, "a string without an end")
            return Part(start, string.end())
        if not self._text.startswith((b"{", b"["), start):
            if (scalar := _SCALAR.match(self._text, start)) is None:
                raise self._wrong(start, "a value is due")
            return Part(start, scalar.end())
        return self._bracketed(start)

    def _bracketed(self, start: int) -> Part:
        if (known := self._long.get(start)) is not None:
            return known
        opened: list[tuple[int, int]] = []
        for parts, mark in enumerate(_MARK.finditer(self._text, start), 1):
            kind = mark[0]
            if kind in {b"{", b"["}:
                opened.append((mark.start(), parts))
                if len(opened) > MAX_DEPTH:
                    raise self._wrong(mark.start(), f"brackets are nested deeper than {MAX_DEPTH}")
            elif kind in {b"}", b"]"}:
                first, before = opened.pop()
                found = Part(first, mark.end(), parts - before)
                if found.size >= _LONG:
                    self._long[first] = found
                if not opened:
                    return found
            elif kind == b'"':
                raise self._wrong(mark.start(), "a string without an end")
            if parts > MAX_PARTS:
                raise self._wrong(mark.start(), f"more than {MAX_PARTS:,} parts")
        raise self._wrong(len(self._text), f"the JSON that begins at offset {start:,} has no end")

    def _wrong(self, offset: int, what: str) -> InvalidJson:
        """Return an error that says where it is wrong."""
        line = self._text.count(b"\n", 0, offset) + 1
        if offset >= len(self._text):
            return InvalidJson(f"{what} at the end of the output (offset {offset:,}, line {line:,})")
        excerpt = shown(self._text[offset : offset + 60].decode(errors="replace"))
        return InvalidJson(f"{what} at offset {offset:,}, line {line:,}: {excerpt}")

    def _after_blank(self, position: int) -> int:
        found = _BLANK.match(self._text, position)
        return found.end() if found else position

    def _other(self, start: int) -> InvalidJson | InvalidResult:
        kind = next((kind for sign, kind in _KINDS if sign.match(self._text, start)), None)
        if kind is None:
            return self._wrong(start, "text before the JSON object")
        value = self._value(start)
        if (after := self._after_blank(value.end)) < len(self._text):
            return self._wrong(after, "text after a JSON value, where one object alone is due")
        return InvalidResult(f"the output is {kind}, where one object is due")

    def _read_half_pairs(self, part: Part, text: bytes) -> Any:
        try:
            return json.loads(text.decode(), parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            raise self._wrong_at(part, text, f"{error.msg} at line {error.lineno} column {error.colno}") from None
        except ValueError as error:
            raise self._wrong_at(part, text, str(error)) from None

    def _wrong_at(self, part: Part, text: bytes, message: str) -> InvalidJson:
        """Turn the place that a library names, within one value, into one in the output."""
        offset = 0
        if found := _PLACE.match(message):
            message = found[1]
            for _ in range(int(found[2]) - 1):
                offset = text.find(b"\n", offset) + 1
            offset += max(int(found[3]) - 1, 0)
        return self._wrong(part.start + min(offset, max(len(text) - 1, 0)), f"not JSON ({message})")


def shown(text: str, limit: int = 60) -> str:
    """Return the beginning of any text, fit for a message: on one line, without control characters."""
    return "".join(c if c.isprintable() else "\N{MIDDLE DOT}" for c in " ".join(text[: 4 * limit].split()))[:limit]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
