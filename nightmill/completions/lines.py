"""Lines of a JSONL stream, and the problems found in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nightmill.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_NAMED = 20
"""Problems that a message names; the rest is counted. With 150 characters each it fits a failure's 2,000 to 3,000."""

HEAD = 4 * 1024
"""Bytes that are kept of a line of results over the cap, for the record."""

_MAX_PROBLEM = 150
_BOM = b"\xef\xbb\xbf"


def split_lines(chunks: Iterable[bytes], *, limit: int) -> Iterator[tuple[int, bytes | str]]:
    """Yield (number from 1, line without its end) of all lines that are not blank.

    Only line feeds end a line: `str.splitlines` would also cut at U+2028 and U+0085, which JSON strings may hold. In
    place of a line longer than `limit` bytes a text that says so is yielded; memory stays at about twice the limit.
    """
    number = 1
    held: list[bytes] = []
    size = 0
    too_long = False
    first = True
    for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            held.append(piece)
            if too_long or size + len(piece) > limit:
                yield number, _too_long(limit)
            else:
                line = b"".join(held)
                if first and line.startswith(_BOM):
                    line = line.removeprefix(_BOM)
                if line := line.strip():
                    yield number, line
            number += 1
            held.clear()
            size, too_long, first = 0, False, False
        size += len(rest)
        if size > limit:
            too_long = True
            held.clear()
        elif rest:
            held.append(rest)
    if too_long:
        yield number, _too_long(limit)
    elif line := b"".join(held).removeprefix(_BOM if first else b"").strip():
        yield number, line


def _too_long(limit: int) -> str:
    return f"the line is longer than {limit:,} bytes"


class Line(NamedTuple):
    r"""One line of results.

    Attributes:
        number: Its number, counted from 1.
        start: Offset of its first byte.
        end: Offset after its last byte, its line end not included; the next line starts at `end + 1`.
        data: Its bytes without `\n`; None where the line is longer than the cap.
        complete: Whether `\n` followed. False only for the last line, which may have been cut.
        head: The first `HEAD` bytes of a line over the cap, else None.
    """

    number: int
    start: int
    end: int
    data: bytes | None
    complete: bool = True
    head: bytes | None = None


def iter_lines(
    chunks: Iterable[bytes], *, max_line: int, first_number: int = 1, first_offset: int = 0
) -> Iterator[Line]:
    r"""Yield the lines of `chunks`, split at `\n` and nowhere else.

    `str.splitlines` and httpx also split at U+2028 and U+0085, which are legal inside a JSON string. Empty lines are
    yielded too; nothing is yielded after a last `\n`. Held in memory: one chunk and at most `max_line` bytes.

    Args:
        chunks: The bytes, cut anywhere.
        max_line: Longest line in bytes that is returned whole.
        first_number: Number of the first line, where reading goes on in the middle.
        first_offset: Offset of its first byte.
    """
    number, start = first_number, first_offset
    held: list[bytes] = []  # the pieces of the line that is not yet ended; only its head once it is over the cap
    length = 0
    over = False
    for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        if first:
            length += len(first)
            if over or length > max_line:
                held, over = [_head(held, first)], True
            else:
                held.append(first)
        if not rest:
            continue
        yield _line(number, start, length, held, over, complete=True)
        number += 1
        start += length + 1
        last = rest.pop()
        for data in rest:
            end = start + len(data)
            if end - start <= max_line:
                yield Line(number, start, end, data)
            else:
                yield Line(number, start, end, None, True, data[:HEAD])
            number += 1
            start = end + 1
        length = len(last)
        over = length > max_line
        held = [last[:HEAD] if over else last]
    if length:
        yield _line(number, start, length, held, over, complete=False)


def _line(number: int, start: int, length: int, held: list[bytes], over: bool, *, complete: bool) -> Line:
    data = b"".join(held)
    return Line(number, start, start + length, None if over else data, complete, data if over else None)


def _head(held: list[bytes], piece: bytes) -> bytes:
    return b"".join([*held, piece[:HEAD]])[:HEAD]


class Problems:
    """Collects what is wrong with an input: the first ones by name, the rest by number.

    Attributes:
        count: How many there are.
    """

    def __init__(self) -> None:
        self.count = 0
        self._named: list[str] = []

    def add(self, place: str, text: str) -> None:
        """Note a problem at a place, such as `requests.jsonl:12`."""
        self.count += 1
        if len(self._named) < MAX_NAMED:
            text = text if len(text) <= _MAX_PROBLEM else text[: _MAX_PROBLEM - 1] + "…"
            self._named.append(f"{place}: {text}")

    def raise_any(self) -> None:
        """Raise one `InvalidInput` with all of them, if there are any."""
        if self.count:
            more = self.count - len(self._named)
            raise InvalidInput("; ".join(self._named) + (f"; and {more:,} more" if more else ""))
