"""Workers without their imports, which are nine tenths of what a start costs: a process that has them forks.

A forked worker is a process of its own with its own environment, signals and log; only what Python has loaded is there
before it begins. Tests that are about the start itself use `python -m worker`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parent.parent


class ForkedWorker:
    """A worker process, to be asked and ended as a `subprocess.Popen`."""

    def __init__(self, connection: socket.socket) -> None:
        self.returncode: int | None = None
        self._connection = connection
        self._answers = connection.makefile("rb", buffering=0)
        self.pid = self._read()

    def poll(self) -> int | None:
        """Return the exit code, or minus the signal; None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once the process has ended."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("worker", timeout or 0)
            self.returncode = self._read()
            self._answers.close()
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read(self) -> int:
        line = self._answers.readline()
        assert line, "the process that forks workers has ended"
        return int(line)


class Forker:
    """The process that forks workers. It and they end with this one, however this one ends."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forks", str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)

    def start(self, environment: Mapping[str, str], log: Path) -> ForkedWorker:
        """Start a worker with exactly this environment, that appends what it says to `log`."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"."], [theirs.fileno()])
        order = json.dumps({"environment": dict(environment), "log": str(log)}).encode()
        ours.sendall(len(order).to_bytes(4) + order)
        return ForkedWorker(ours)

    def close(self) -> None:
        self._control.close()
        self._process.wait(10)


def serve(control: socket.socket) -> None:
    """Fork a worker for each connection, and tell there its id and later its exit code; ends with `control`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for name in ("worker", "workflows.batch_completion", "activities.batches"):
        importlib.import_module(name)
    assert threading.active_count() == 1, "a thread would not survive the fork"
    gc.freeze()  # the collector would otherwise write to pages that the children share
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    children: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            _report(children)
        if control in ready:
            mark, given, _, _ = socket.recv_fds(control, 1, 1)
            if not mark:
                break
            connection = socket.socket(fileno=given[0])
            order = _order(connection)
            pid = os.fork()
            if pid == 0:
                for inherited in (control, woken, wake, connection, *children.values()):
                    inherited.close()
                _become_worker(order["environment"], Path(order["log"]))
            children[pid] = connection
            connection.sendall(b"%d\n" % pid)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _order(connection: socket.socket) -> Any:
    with connection.makefile("rb") as given:
        return json.loads(given.read(int.from_bytes(given.read(4))))


def _report(children: dict[int, socket.socket]) -> None:
    """Tell of every child that has ended; one signal may stand for several."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with children.pop(pid) as connection, suppress(BrokenPipeError):  # who no longer listens is not told
            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _become_worker(environment: dict[str, str], log: Path) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with log.open("ab") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        os.environ.clear()
        os.environ.update(environment)
        importlib.reload(sys.modules["nightmill.failpoints"])  # what is armed is read when it is imported
        sys.modules["worker"].main([])
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
