"""Reads pages in processes that can be killed: whatever a page does to its reader, it does to that page's sync only.

A few processes are kept, one request at a time each. They are started when they are needed, ended after some hundred
pages or when they hold too much memory, and killed when a page takes too long.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from nightmill import errors
from nightmill.contracts import MAX_CONTENT, MAX_NAME
from nightmill.documents import frames
from nightmill.documents.reading import Reading, source_type_of
from nightmill.errors import ExtractorUnavailable, PageRefused, PageTooLarge

logger = logging.getLogger(__name__)

START_TIMEOUT = 60.0
"""Seconds for a process to be ready: one or two CPU seconds of imports, on a machine that may be busy."""

MAX_PAGES = 1_000
"""Pages that a process reads before it is replaced: a start for each of them costs a thousandth of a start more."""

MAX_MEMORY = 512 * 1024 * 1024
"""Bytes that a process may hold between two pages; 47 MB at the start, 77 MB after 250 pages of documentation, and
370 MB after a page of half a million elements, which do not come back."""

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
_ROOT = Path(__file__).parents[2]
_REFUSALS: Mapping[str, type[PageRefused]] = {
    name: found
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, PageRefused) and found is not PageRefused
}


@dataclass(eq=False)
class _Child:
    process: subprocess.Popen[bytes]
    link: socket.socket
    pages: int = 0
    memory: int = 0

    def end(self) -> int | None:
        """Kill the process, and return how it ended, or would have."""
        ended = self.process.poll()
        if ended is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait()
        self.link.close()
        if self.process.stderr is not None:
            self.process.stderr.close()
        return ended


class Extractor:
    """Reads pages for many threads at once. Close it, or its processes live until this one ends.

    Processes are started by a thread of its own: the kernel ends them with the thread that started them, which must
    therefore be there as long as the extractor.
    """

    def __init__(self, processes: int, timeout: timedelta, max_html: int) -> None:
        """Start nothing yet.

        Args:
            processes: How many pages are read at once; more wait for their turn.
            timeout: For one page, from when a process begins with it.
            max_html: Bytes of HTML at most.
        """
        self._timeout = timeout.total_seconds()
        self._max_html = max_html
        self._places: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(processes):
            self._places.put(None)
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="extractor")
        self._lock = threading.Lock()
        self._children: set[_Child] = set()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, body: bytes, *, media_type: str, charset: str | None, url: str) -> Reading:
        """Return what a page says.

        Args:
            body: The page, without content encoding.
            media_type: Of the page, in lower case, without parameters.
            charset: As the header says, if it does.
            url: Where the page was found.

        Raises:
            PageEmpty: There is no content.
            PageNotFound: The page says that there is no such page.
            PageAccessDenied: The page asks to log in, or to prove that one is a person.
            PageTooLarge: Too much HTML (`html`), or reading it takes too long (`extraction_time`), too much memory
                (`extraction_memory`) or breaks the reader (`extraction_crash`).
            ExtractorUnavailable: No process can be started.
        """
        asked = {"work": "read", "media_type": media_type, "charset": charset, "url": url, "max_content": MAX_CONTENT}
        found = self._ask(asked, body, is_html=source_type_of(media_type) == "html")
        reading = Reading(**found)
        return replace(reading, title=reading.title[:MAX_NAME].rstrip()) if reading.title else reading

    def links(self, body: bytes, *, url: str, charset: str | None) -> list[str]:
        """Return the links of an HTML page; see `nightmill.documents.anchors.links_of`.

        Raises:
            PageTooLarge: See `read`.
            ExtractorUnavailable: See `read`.
        """
        found = self._ask({"work": "links", "charset": charset, "url": url}, body, is_html=True)
        return [str(link) for link in found]

    def close(self) -> None:
        """End all processes; what they are reading is lost."""
        with self._lock:
            self._closed = True
            children = list(self._children)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                child.process.kill()
        self._starter.shutdown(wait=True)
        for child in children:
            child.process.wait()
            self._retire(child)

    def _ask(self, asked: dict[str, Any], body: bytes, *, is_html: bool) -> Any:
        if is_html and len(body) > self._max_html:
            raise PageTooLarge(f"{len(body):,} bytes of HTML, at most {self._max_html:,} are read", reason="html")
        # A process that ends without a word may have been ended by somebody else, so the page gets a second chance.
        answer = self._answer(asked, body) or self._answer(asked, body)
        if answer is None:
            raise PageTooLarge("the page breaks what reads it", reason="extraction_crash")
        if "done" in answer:
            return answer["done"]
        if answer.get("refused") in _REFUSALS:
            raise _REFUSALS[answer["refused"]](str(answer["message"]), reason=answer["reason"])
        broken = str(answer.get("broken"))
        if broken == "MemoryError":
            raise PageTooLarge("reading the page takes too much memory", reason="extraction_memory")
        logger.warning("reading a page failed", extra={"exception_class": broken, "where": answer.get("where")})
        raise PageTooLarge(f"the page breaks what reads it ({broken})", reason="extraction_crash")

    def _answer(self, asked: dict[str, Any], body: bytes) -> dict[str, Any] | None:
        """Return what a process answers; None if it ended instead."""
        child = self._places.get()
        kept: _Child | None = None
        try:
            if child is None or child.process.poll() is not None:
                if child is not None:
                    self._retire(child)
                child = self._started()
            deadline = time.monotonic() + self._timeout
            frames.send(child.link, asked, body, deadline=deadline)
            answer, _ = frames.receive(child.link, deadline=deadline)
            child.pages += 1
            if answer["memory"] < MAX_MEMORY and child.pages < MAX_PAGES and answer.get("broken") != "MemoryError":
                kept = child
        except TimeoutError as error:
            raise _took_too_long(self._timeout) from error
        except frames.ConnectionEnded:
            self._refuse_if_closed()
            if child is not None and _ended_by(child) == signal.SIGXCPU:
                raise _took_too_long(self._timeout) from None
            return None
        else:
            return answer
        finally:
            if kept is None and child is not None:
                self._retire(child)
            self._places.put(kept)

    def _started(self) -> _Child:
        self._refuse_if_closed()
        try:
            child = self._starter.submit(self._start).result()
        except RuntimeError as error:  # closed since
            raise ExtractorUnavailable("the extractor is closed") from error
        with self._lock:
            self._children.add(child)
            closed = self._closed
        if closed:
            self._retire(child)
            raise ExtractorUnavailable("the extractor is closed")
        return child

    def _start(self) -> _Child:
        ours, theirs = socket.socketpair()
        # `-P` keeps the working directory off the path; our own place is on it, installed or not.
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {"PYTHONPATH": str(_ROOT)}
        command = [sys.executable, "-P", "-s", "-m", "nightmill.documents.extraction_child"]
        try:
            with theirs:
                process = subprocess.Popen(
                    [*command, str(os.getpid()), str(self._timeout)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    cwd="/",
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise ExtractorUnavailable(f"the program that reads pages cannot be started: {error.strerror}") from error
        child = _Child(process, ours)
        try:
            frames.receive(ours, deadline=time.monotonic() + START_TIMEOUT)
        except (TimeoutError, frames.ConnectionEnded) as error:
            raise ExtractorUnavailable(f"the program that reads pages does not start: {_last_words(child)}") from error
        return child

    def _retire(self, child: _Child) -> None:
        child.end()
        with self._lock:
            self._children.discard(child)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ExtractorUnavailable("the extractor is closed")


def _took_too_long(seconds: float) -> PageTooLarge:
    return PageTooLarge(f"reading the page takes more than {seconds:g} s", reason="extraction_time")


def _ended_by(child: _Child) -> int:
    """Return the signal that ended a process which has closed its side of the link."""
    try:
        return -child.process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return 0


def _last_words(child: _Child) -> str:
    """Return the last line that a process wrote before it read any page."""
    child.process.kill()
    _, written = child.process.communicate()
    child.end()
    lines = written.decode(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else f"it ended with {child.process.returncode}"
