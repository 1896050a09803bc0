"""One supervisor as its worker sees it: started, listened to, and told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from nightmill.slicing import orders, process_tree
from nightmill.slicing.faults import ProgramMissing

logger = logging.getLogger(__name__)

SLACK = 15.0
"""Seconds that a supervisor has for its last steps; killing takes at most ten of them, and is mostly done in one."""

_ROOT = Path(__file__).parents[2]
_START = "import sys; sys.path.append(sys.argv[1]); from nightmill.slicing.supervisor import main; main()"


class Supervised:
    """One supervisor, and what it says."""

    def __init__(self, order: orders.Order, tag: str, on_progress: Callable[[int, int], None] | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._grace = order.grace
        self._latest = order.wall + order.grace + SLACK
        self._tag = tag
        self._on_progress = on_progress
        self._heard = bytearray()
        self._last_line: bytes | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._link, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _START, str(_ROOT)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
                    start_new_session=True,
                )
        except OSError as error:
            self._link.close()
            raise ProgramMissing(f"no supervisor can be started: {error.strerror}") from error
        self._link.settimeout(SLACK)  # the socket holds an order of any usual size
        with contextlib.suppress(OSError):  # ended already: its silence is heard below
            self._link.sendall(order.encode())
        self._link.setblocking(False)
        self._loop.add_reader(self._link, self._hear)

    async def ended(self) -> tuple[bytes, bytes] | None:
        """Return the supervisor's last line, and the end of the program's standard error; None if it said nothing."""
        await asyncio.wait({self._over}, timeout=self._latest)
        return None if self._last_line is None else (self._last_line, bytes(self._heard))

    async def close(self) -> None:
        """End the program if it still runs, and return when nothing is left of it. Cancellations wait for that, too."""
        canceled = not self._over.done() and await self._stop()
        self._loop.remove_reader(self._link)
        self._link.close()
        regular = self._last_line is not None
        if not regular:
            self._process.kill()
        deadline = self._loop.time() + SLACK
        while self._process.poll() is None or (not regular and process_tree.kill_tagged(self._tag)):
            if self._loop.time() > deadline:
                logger.warning("a program's processes cannot be ended", extra={"supervisor_pid": self._process.pid})
                break
            canceled = await _uninterrupted(asyncio.sleep(0.005)) or canceled
        if canceled:
            raise asyncio.CancelledError

    async def _stop(self) -> bool:
        with contextlib.suppress(OSError):  # it is ending by itself
            self._link.send(orders.STOP)
        canceled = False
        deadline = self._loop.time() + self._grace + SLACK
        while not self._over.done() and (left := deadline - self._loop.time()) > 0:
            canceled = await _uninterrupted(asyncio.wait({self._over}, timeout=left)) or canceled
        return canceled

    def _hear(self) -> None:
        try:
            heard = self._link.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        self._heard += heard
        # If `on_progress` raises, the loop logs it, and the rest is looked at when there is more to hear, or the end.
        while self._last_line is None and (end := self._heard.find(b"\n")) >= 0:
            line = bytes(self._heard[:end])
            del self._heard[: end + 1]
            if not line.startswith(b"progress "):
                self._last_line = line
            elif self._on_progress is not None:
                _, page, of = line.split()
                self._on_progress(int(page), int(of))
        if not heard:
            self._loop.remove_reader(self._link)
            if not self._over.done():
                self._over.set_result(None)


async def _uninterrupted(waiting: Awaitable[object]) -> bool:
    """Wait, or be canceled; return which."""
    try:
        await waiting
    except asyncio.CancelledError:
        return True
    return False
