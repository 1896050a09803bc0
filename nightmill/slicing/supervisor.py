"""The process between a worker and one program: bounds the program, tells of it, and ends it with all its offspring.

It is started by `nightmill.slicing.programs`, which it talks to over its standard input, a socket (see
`nightmill.slicing.orders`). All that the program starts belongs to it, however it is started: orphans become its
children. Its clocks run whatever the worker does, and when the socket ends, so does the program, at once: a worker
that is killed leaves nothing behind. Linux only.

The standard library only, and little of it: it has to be there in an instant.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from nightmill.slicing import launching, orders, process_tree
from nightmill.slicing.streams import Log, Output
from nightmill.slicing.usage import Usage

TELL = 0.1
"""Seconds between two lines of progress to the worker; the newest one counts."""

KILL_AGAIN = 0.01
GIVE_UP = 10.0
"""Seconds after which a process that even SIGKILL does not end is left to the system: one that waits for a device."""

_RUNNING, _TERMINATING, _KILLING = range(3)


class Supervisor:
    """Runs one program to its end."""

    def __init__(self, order: orders.Order, link: int) -> None:
        self._order = order
        self._link = link
        self._unsent = b""
        self._told_at = 0.0
        self._phase = _RUNNING
        self._stopped: str | None = None
        self._phase_ends = 0.0
        self._status: int | None = None
        self._gone = False
        self._usage = Usage(order)
        self._worker_lost = False

    def run(self) -> None:
        """Start the program, watch it, end it, and report.

        Raises:
            NotStarted: The program could not be started, or the file for its output not be made.
        """
        order = self._order
        wake = _children_wake_us()
        launching.adopt_orphans()
        try:
            file = os.open(order.stdout, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise launching.NotStarted("folder", error.errno or 0) from None
        pipes = [os.pipe() for _ in range(3)]
        for ours, _ in pipes:
            os.set_blocking(ours, False)
        (stdout, to_stdout), (stderr, to_stderr), (status, to_status) = pipes
        self._started = time.monotonic()
        self._program = launching.start(order, to_stdout, to_stderr, to_status)
        for _, theirs in pipes:
            os.close(theirs)
        self._output = Output(stdout, file, order.max_stdout)
        self._log = Log(stderr, order.stderr_tail, order.max_stderr)
        self._progressed = self._started
        while not self._gone:
            self._turn(wake)
        self._drain()
        self._report(_exec_failed(status) if order.sandboxed else False)

    def _turn(self, wake: int) -> None:
        """Wait until something happens or is due, and see to it."""
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        if not self._worker_lost:
            poll.register(self._link, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        for pipe in (self._output.pipe, self._log.pipe):
            if pipe is not None:
                poll.register(pipe, select.POLLIN)
        ready = {number for number, _ in poll.poll(max(0.0, self._next_due() - time.monotonic()) * 1000)}
        if wake in ready:
            _empty(wake)
        if not self._worker_lost and self._link in ready:
            self._hear()
        self._read()
        self._reap()
        now = time.monotonic()
        if self._phase == _RUNNING:
            self._check_clocks(now)
        elif self._phase == _TERMINATING and now >= self._phase_ends:
            self._kill(None)
        if self._phase == _KILLING:
            self._kill_all()
            self._reap()
            self._gone = self._gone or now >= self._phase_ends
        elif now >= self._usage.next_look and (over := self._usage.look(now)):
            (self._terminate if over == "cpu" else self._kill)(over)
        self._tell(now)

    def _next_due(self) -> float:
        if self._phase == _KILLING:
            return time.monotonic() + KILL_AGAIN
        if self._phase == _TERMINATING:
            return min(self._phase_ends, self._usage.next_look)
        due = [self._usage.next_look, self._started + self._order.wall]
        if self._order.stall is not None:
            due.append(self._progressed + self._order.stall)
        if self._log.news and not self._unsent:
            due.append(self._told_at + TELL)
        return min(due)

    def _hear(self) -> None:
        try:
            heard = os.read(self._link, 16)
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        if heard:
            self._terminate("worker")
        else:
            self._worker_lost = True
            self._kill("worker")

    def _read(self) -> None:
        try:
            self._output.read()
        except OSError:  # the disk is full
            self._kill("disk")
        if self._output.flooded:
            self._kill("stdout")
        told = self._log.told
        self._log.read()
        if self._log.flooded:
            self._kill("stderr")
        if self._log.told > told:
            self._progressed = time.monotonic()

    def _check_clocks(self, now: float) -> None:
        if now - self._started >= self._order.wall:
            self._terminate("wall")
        elif self._order.stall is not None and now - self._progressed >= self._order.stall:
            self._terminate("stall")

    def _reap(self) -> None:
        """Wait for whoever has ended; orphans are our children, so that nobody is left when there are no children."""
        try:
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid == self._program:
                    self._duration = time.monotonic() - self._started
                    self._kill(None)
                    self._kill_all()  # while its number, which is its group's, is still its own
                _, status, usage = os.wait4(ended.si_pid, 0)
                self._usage.add_ended(usage)
                if ended.si_pid == self._program:
                    self._status = status
        except ChildProcessError:
            self._gone = True

    def _kill_all(self) -> None:
        if self._status is None:
            # All of a group at once, which no fork gets past; so does all of a sandbox, with its init, which this ends.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._program, signal.SIGKILL)
        process_tree.kill_descendants(os.getpid())

    def _terminate(self, reason: str) -> None:
        """Ask the program to end; it is killed if it does not within its grace."""
        if self._phase != _RUNNING:
            return
        self._stopped = reason
        self._phase = _TERMINATING
        self._phase_ends = time.monotonic() + self._order.grace
        # bubblewrap itself would end at once, and the program with it.
        asked = [
            one.pid
            for one in process_tree.descendants(os.getpid())
            if not (self._order.sandboxed and one.pid == self._program)
        ]
        process_tree.send(signal.SIGTERM, asked)
        process_tree.send(signal.SIGCONT, asked)

    def _kill(self, reason: str | None) -> None:
        """Kill all there is, from now on until nothing is left."""
        if self._phase == _RUNNING:
            self._stopped = reason
        if self._phase != _KILLING:
            self._phase = _KILLING
            self._phase_ends = time.monotonic() + GIVE_UP

    def _tell(self, now: float) -> None:
        """Send what the worker takes without waiting; lines of progress that it does not take are not kept."""
        if self._log.news and not self._unsent and now >= self._told_at + TELL and self._log.progress:
            self._unsent = b"progress %d %d\n" % self._log.progress
            self._log.news = False
            self._told_at = now
        if self._unsent and not self._worker_lost:
            with contextlib.suppress(BlockingIOError, OSError):
                self._unsent = self._unsent[os.write(self._link, self._unsent) :]

    def _drain(self) -> None:
        """Take what is still in the pipes; nobody is left who could write more, or it would be no end."""
        deadline = time.monotonic() + 2
        with contextlib.suppress(OSError):
            while self._output.read() and not self._output.flooded and time.monotonic() < deadline:
                pass
        while self._log.read() and not self._log.flooded and time.monotonic() < deadline:
            pass
        if self._stopped is None and (self._output.flooded or self._log.flooded):
            self._stopped = "stdout" if self._output.flooded else "stderr"

    def _report(self, exec_failed: bool) -> None:
        if self._worker_lost:
            return
        status = self._status
        ended_by = None if status is None or not os.WIFSIGNALED(status) else os.WTERMSIG(status)
        if ended_by == signal.SIGXCPU and self._stopped is None:
            self._stopped = "cpu"
        tail = self._log.tail()
        if self._log.news and self._log.progress:
            self._unsent += b"progress %d %d\n" % self._log.progress
        line = orders.report_line(
            {
                "exit": os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
                "signal": ended_by,
                "stopped": self._stopped,
                "stdout": self._output.size,
                "stderr": self._log.size,
                "tail": len(tail),
                "duration": f"{self._duration if status is not None else time.monotonic() - self._started:.6f}",
                "cpu": f"{self._usage.cpu:.6f}",
                "memory": self._usage.memory,
                "left": len(process_tree.descendants(os.getpid())),
                "exec_failed": int(exec_failed),
            }
        )
        _say(self._link, self._unsent + line + tail)


def _children_wake_us() -> int:
    """Return a descriptor that can be read when a child has ended."""
    wake, waking = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(waking, False)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return wake


def _empty(pipe: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(pipe, 4096):
            pass


def _exec_failed(status: int) -> bool:
    """Return whether bubblewrap could not run the program: it reports exit codes only of those that ran."""
    try:
        return b'"exit-code"' not in os.read(status, 65_536)
    except BlockingIOError:
        return True


def main() -> None:
    """Take an order, and carry it out."""
    while os.open(os.devnull, os.O_RDWR) <= launching.STATUS:
        pass  # keeps the numbers up to there for the program
    link = os.dup(0)
    with contextlib.suppress(OSError):
        # Allowed to root, whom no RLIMIT_NPROC protects: nothing that a program starts keeps us from the processor.
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    order = orders.Order.decode(_receive(link, int.from_bytes(_receive(link, orders.LENGTH), "big")))
    os.set_blocking(link, False)
    try:
        Supervisor(order, link).run()
    except launching.NotStarted as error:
        _say(link, f"failed {error.stage} {error.number}\n".encode("ascii"))
    os._exit(0)


def _receive(link: int, size: int) -> bytes:
    """Return this many bytes; end if the worker does before."""
    parts = b""
    while len(parts) < size:
        part = os.read(link, size - len(parts))
        if not part:
            os._exit(0)
        parts += part
    return parts


def _say(link: int, data: bytes) -> None:
    """Send all of it, however long the worker takes to read it."""
    os.set_blocking(link, True)
    with contextlib.suppress(OSError):  # the worker is gone, and so is the program
        while data:
            data = data[os.write(link, data) :]
