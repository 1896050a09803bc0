"""One array taken out of a JSON document while it streams by, so that a large document never stands in memory.

Gemini sends all results of an inline batch inside the batch object, and xAI a page of them inside an object.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from nightmill.errors import ProviderUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_REST_BYTES = 8 * 1024 * 1024
"""Bound on what is not in the array: a status and its counts, a few KB."""

# A whole string, a bracket, or a quote whose string goes on in the next chunk.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]|"', re.DOTALL)
_STRING_END = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_QUOTE = 0x22


class ArraySplitter:
    """Cuts a document into the elements of one array and the rest; follows brackets and strings, parses nothing.

    The first array of one of the names that is not empty is taken; other ones of these names are left out, because
    Gemini sends the same results in two places.

    Attributes:
        elements: How many elements have gone by.
    """

    def __init__(self, *names: str) -> None:
        self.elements = 0
        self._names = {b'"%b"' % name.encode() for name in names}
        self._rest = bytearray()
        self._carry = b""
        self._depth = 0
        self._string = False
        self._named = False  # the last token was one of the names
        self._array: int | None = None  # depth of the array's elements while inside it
        self._taken = False  # an array with elements has ended

    def split(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the elements, each on one line with a line feed after it; the bytes are cut anywhere.

        Raises:
            ProviderUnavailable: The rest is larger than `MAX_REST_BYTES`.
        """
        for chunk in chunks:
            if out := self._feed(self._carry + chunk if self._carry else chunk):
                yield out

    def rest(self) -> dict[str, Any]:
        """Return the document without the elements; to be called after the last chunk.

        Raises:
            ProviderUnavailable: It was no JSON object.
        """
        try:
            found = msgspec.json.decode(bytes(self._rest + self._carry))
        except (ValueError, RecursionError) as error:
            raise ProviderUnavailable(f"the answer is no JSON object: {str(error)[:200]}") from None
        if not isinstance(found, dict):
            raise ProviderUnavailable("the answer is no JSON object")
        return found

    def _feed(self, chunk: bytes) -> bytes:
        self._carry = b""
        out: list[bytes] = []
        start = at = 0  # what lies before `start` has been given away
        if self._string:
            end = _STRING_END.match(chunk)
            self._string = end is None
            at = end.end() if end else len(chunk)
        for match in _TOKEN.finditer(chunk, at):
            token = match[0]
            if token == b'"':  # the string goes on in the next chunk
                if self._array is None:
                    self._add_rest(chunk[start : match.start()])
                    return self._hold(chunk[match.start() :], out)
                self._string = True
                break
            if token[0] == _QUOTE:
                self._named = self._array is None and token in self._names
                continue
            if token in b"{[":
                self._depth += 1
                if self._named and token == b"[":
                    self._add_rest(chunk[start : match.end()])
                    self._array = self._depth
                elif self._array is not None and self._depth == self._array + 1:
                    start = match.start()  # leaves out the comma before the element
            else:
                self._depth -= 1
                if self._array is not None and self._depth == self._array:
                    self._emit(chunk[start : match.end()], out, last=True)
                    start = match.end()
                elif self._array is not None and self._depth < self._array:
                    self._taken = self.elements > 0
                    self._array, start = None, match.start()
            self._named = False
        return self._keep(chunk, start, out)

    def _keep(self, chunk: bytes, start: int, out: list[bytes]) -> bytes:
        """Give away what is left of the chunk, but for a backslash whose other half has not come yet."""
        end = len(chunk)
        if self._string and (len(chunk) - len(chunk.rstrip(b"\\"))) % 2:
            end -= 1
            self._carry = chunk[end:]
        if self._array is None:
            self._add_rest(chunk[start:end])
        elif self._depth > self._array:
            self._emit(chunk[start:end], out)
        return b"".join(out)

    def _hold(self, string: bytes, out: list[bytes]) -> bytes:
        if len(string) > MAX_REST_BYTES:
            raise ProviderUnavailable(f"the answer has a text of more than {MAX_REST_BYTES:,} bytes")
        self._carry = string
        return b"".join(out)

    def _emit(self, piece: bytes, out: list[bytes], *, last: bool = False) -> None:
        if self._taken:
            return
        # Google prints prettily; in JSON a line feed can only stand between tokens.
        out.append(piece.replace(b"\n", b" ") if b"\n" in piece else piece)
        if last:
            out.append(b"\n")
            self.elements += 1

    def _add_rest(self, piece: bytes) -> None:
        self._rest += piece
        if len(self._rest) > MAX_REST_BYTES:
            raise ProviderUnavailable(f"the answer has more than {MAX_REST_BYTES:,} bytes besides its results")
