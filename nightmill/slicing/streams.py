"""Reads what a supervised program writes: a bounded file of its output, the end of its log, its progress.

The standard library only, and little of it: supervisors import this, and have to be there in an instant.
"""

from __future__ import annotations

import os

CHUNK = 65_536
"""Bytes read at once: what a pipe holds by default."""

MAX_LINE = 4_096
"""Bytes of a line that may tell of progress; a longer one is log, and not kept for its end."""

MAX_PAGES = 10_000_000
"""Pages that a line of progress may speak of."""


class Output:
    """Standard output, copied to a file up to a bound.

    Attributes:
        size: Bytes that came.
        flooded: Whether more came than the bound.
    """

    def __init__(self, pipe: int, file: int, bound: int) -> None:
        self.pipe: int | None = pipe
        self.size = 0
        self.flooded = False
        self._file = file
        self._bound = bound

    def read(self) -> bool:
        """Take what is there, at most a chunk; return whether there was anything.

        Raises:
            OSError: The file cannot be written.
        """
        data = _take(self)
        kept = data[: max(0, self._bound - self.size)]
        self.size += len(data)
        self.flooded = self.size > self._bound
        while kept:
            kept = kept[os.write(self._file, kept) :]
        return bool(data)


class Log:
    """Standard error: its end is kept, without the lines of progress.

    Attributes:
        size: Bytes that came.
        flooded: Whether more came than the bound.
        progress: The newest page and total; None until there is one.
        told: How many lines of progress came.
        news: Whether one came since this was last set to False.
    """

    def __init__(self, pipe: int, tail: int, bound: int) -> None:
        self.pipe: int | None = pipe
        self.size = 0
        self.flooded = False
        self.progress: tuple[int, int] | None = None
        self.told = 0
        self.news = False
        self._tail = tail
        self._bound = bound
        self._kept = bytearray()
        self._line = b""
        self._in_long_line = False

    def read(self) -> bool:
        """Take what is there, at most a chunk; return whether there was anything."""
        data = _take(self)
        self.size += len(data)
        self.flooded = self.size > self._bound
        *lines, rest = (self._line + data).split(b"\n") if b'"page"' in self._line + data else _rough(self._line + data)
        for line in lines:
            self._end_line(line)
        self._line = rest
        if len(rest) > MAX_LINE:
            self._keep(rest)
            self._line = b""
            self._in_long_line = True
        return bool(data)

    def tail(self) -> bytes:
        """Return the end of it; call it when all has been read."""
        self._keep(self._line)
        self._line = b""
        return bytes(self._kept[-self._tail :]) if self._tail else b""

    def _end_line(self, line: bytes) -> None:
        found = None if self._in_long_line else _progress(line)
        self._in_long_line = False
        if found is None:
            self._keep(line + b"\n")
        else:
            self.progress = found
            self.told += 1
            self.news = True

    def _keep(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > 2 * self._tail + CHUNK:
            del self._kept[: len(self._kept) - self._tail]


def _rough(data: bytes) -> list[bytes]:
    """Return whole lines in one piece, and what comes behind the last of them: no progress is among them."""
    lines, end, rest = data.rpartition(b"\n")
    return [lines, rest] if end else [rest]


def _progress(line: bytes) -> tuple[int, int] | None:
    line = line.strip()
    if not (line.startswith(b"{") and b'"page"' in line and len(line) <= MAX_LINE):
        return None
    import json  # takes 12 ms, and programs that do not tell of progress do without

    try:
        told = json.loads(line)
        page, of = told["page"], told["of"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if type(page) is not int or type(of) is not int or not 0 <= page <= of <= MAX_PAGES:
        return None
    return page, of


def _take(stream: Output | Log) -> bytes:
    if stream.pipe is None:
        return b""
    try:
        data = os.read(stream.pipe, CHUNK)
    except BlockingIOError:
        return b""
    if not data:
        os.close(stream.pipe)
        stream.pipe = None
    return data
