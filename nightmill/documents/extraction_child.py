"""The process that reads pages: `python -m nightmill.documents.extraction_child PARENT_PID SECONDS`.

It is started and killed by `nightmill.documents.extractor`, which it talks to over its standard input, a socket. It
gets pages from anywhere and trusts none: it has no environment of ours, opens no files to write, has bounds of memory
and processor time, and dies with the worker.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nightmill.documents import frames
from nightmill.documents.anchors import links_of
from nightmill.documents.reading import read_page
from nightmill.errors import PageRefused

MEMORY = 1536 * 1024 * 1024
"""Bytes of address space. Of 3 MiB of HTML made to hurt, the worst that was found takes 0.65 GiB."""

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG: prctl(2)
_WARM_UP = b"<!doctype html><title>t</title><main><h1>Title</h1><p>" + b"A sentence of some words. " * 20


def main() -> None:
    """Say hello, then answer one request after the other until the worker is gone."""
    parent, seconds = int(sys.argv[1]), float(sys.argv[2])
    link = socket.socket(fileno=os.dup(0))
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable()  # libraries log what is in the pages
    _read({"media_type": "text/html", "url": "http://localhost/", "max_content": 100}, _WARM_UP)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    _bound()
    frames.send(link, {"hello": os.getpid()})
    while True:
        try:
            asked, body = frames.receive(link)
        except frames.ConnectionEnded:
            return
        _bound_processor_time(seconds)
        answer = _answer(asked, body)
        del body
        frames.send(link, {**answer, "memory": _resident()})


def _answer(asked: dict[str, Any], body: bytes) -> dict[str, Any]:
    work: Callable[[dict[str, Any], bytes], Any] = {"read": _read, "links": _links}[asked["work"]]
    try:
        return {"done": work(asked, body)}
    except PageRefused as error:
        return {"refused": type(error).__name__, "message": str(error), "reason": error.reason}
    except MemoryError:
        return {"broken": "MemoryError", "where": []}
    except Exception as error:  # noqa: BLE001 - whatever a library makes of a page, the next page is read
        frames_of = traceback.extract_tb(error.__traceback__)[-5:]
        return {"broken": type(error).__name__, "where": [f"{Path(f.filename).name}:{f.lineno}" for f in frames_of]}


def _read(asked: dict[str, Any], body: bytes) -> dict[str, Any]:
    reading = read_page(
        body,
        media_type=asked["media_type"],
        charset=asked.get("charset"),
        url=asked["url"],
        max_content=asked["max_content"],
    )
    return asdict(reading)


def _links(asked: dict[str, Any], body: bytes) -> list[str]:
    return list(links_of(body, asked["url"], asked.get("charset")))


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked to be told
        os._exit(0)


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _bound_processor_time(seconds: float) -> None:
    """Bound the work that begins now, for a worker that was stopped cannot end it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 2, hard))


def _resident() -> int:
    """Return the bytes of memory that this process holds."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
