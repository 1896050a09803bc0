"""Tells whoever started the slicer how far it is, in lines of JSON on standard error."""

from __future__ import annotations

import json
import sys
import time
from typing import IO

_AT_MOST_EVERY = 0.05
"""Seconds: twenty lines a second are plenty to show, and a page of text takes less than that."""


class Progress:
    """Writes `{"page": 12, "of": 80}`: pages that are done, and of how many."""

    def __init__(self, total: int, stream: IO[str] | None = None) -> None:
        """Say that nothing is done yet.

        Args:
            total: How many pages there are to do.
            stream: Where to write; standard error without it.
        """
        self._total = total
        self._done = 0
        self._stream = sys.stderr if stream is None else stream
        self._last = 0.0
        self._write()

    def page(self, done: int) -> None:
        """Say that `done` pages are done; left out where the last line is younger than a twentieth of a second."""
        self._done = done
        if done >= self._total or time.monotonic() - self._last >= _AT_MOST_EVERY:
            self._write()

    def beat(self) -> None:
        """Say the same as before: something is being done that is not counted in pages, a file written, say."""
        if time.monotonic() - self._last >= 1:
            self._write()

    def _write(self) -> None:
        self._last = time.monotonic()
        print(json.dumps({"page": self._done, "of": self._total}), file=self._stream, flush=True)
