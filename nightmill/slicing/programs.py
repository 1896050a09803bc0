"""Runs other programs for slicing: never for longer than they may, and never with anything left of them.

    worker -> supervisor (its own session; adopts orphans) -> [bubblewrap ->] program -> whatever that starts

The supervisor keeps the bounds, and ends with its socket to the worker: see `nightmill.slicing.supervisor`. Linux only.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, cast

from nightmill.slicing import orders
from nightmill.slicing.faults import DiskFull, OutputNotWritable, ProgramMissing
from nightmill.slicing.isolation import Isolation
from nightmill.slicing.supervised import Supervised

logger = logging.getLogger(__name__)

Stopped = Literal["wall", "cpu", "stall", "memory", "processes", "disk", "stdout", "stderr", "supervisor"]
"""Why we ended a program; `supervisor`: somebody killed its supervisor."""

STDERR_FLOOD = 64
"""How many times the kept end of standard error a program may write there in all."""

DISK_FACTOR = 4
"""How many times the size of its largest file a program may have on disk, and we keep of it."""

_AS_SIGNAL = 128  # and the signal's number: what bubblewrap and shells end with
PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where programs are looked for, and what they get as their PATH, unless a profile says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much a program may take.

    Attributes:
        wall: From its start to its end.
        cpu: Processor time of all its processes together.
        stall: Between two lines of progress; None for a program that tells of none.
        grace: Between SIGTERM and SIGKILL.
        memory: Bytes: of address space of each process, of resident memory of all of them together, and of the files
            that they keep in memory alone.
        file_size: Bytes of each file that it writes.
        open_files: Files that a process has open at once.
        processes: Processes that it has at once, as counted ten times a second.
        stdout: Bytes of its standard output.
        stderr_tail: Bytes kept of the end of its standard error; 64 times as many may come.
        disk: Bytes on disk of all that is in its folder, and of files that it has open and no folder shows; None: four
            times `file_size`.
    """

    wall: timedelta
    cpu: timedelta
    stall: timedelta | None
    memory: int
    file_size: int
    open_files: int
    processes: int
    stdout: int
    stderr_tail: int
    grace: timedelta
    disk: int | None = None


@dataclass(frozen=True, kw_only=True)
class Program:
    """What is run.

    Attributes:
        command: The program, by its path or by a name on its PATH, and its arguments; never a shell's line.
        readable: Files and folders that it may read in the sandbox, besides the system's programs, the worker's Python
            and itself.
        folder: Its working folder and HOME, the only one that it may write to in the sandbox; `tmp` in it is its
            TMPDIR. Its parent must be as private: the standard output goes there, where the program cannot change it.
        environment: Its environment variables, besides PATH, LANG and those that name its folder.
        bounds: How much it may take.
    """

    command: tuple[str, ...]
    readable: tuple[Path, ...] = ()
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    bounds: Bounds


@dataclass(frozen=True, kw_only=True)
class ProgramRun:
    """How a program ended.

    Attributes:
        exit_code: What it ended with; None if a signal ended it.
        signal: The signal that ended it, ours or another's. In the sandbox an exit code of 128 and a signal's number
            is read as that signal, for bubblewrap reports signals so.
        stopped: Why we ended it; None if we did not.
        stdout: The file of its standard output, in the parent of its folder.
        stdout_bytes: How much came; over the bound if that is why it was ended, and the file then holds the beginning.
        stderr_tail: The end of its standard error without the lines of progress. It is text for people: what is no
            UTF-8 is replaced, and control characters other than line ends and tabs are shown as pictures of themselves.
        stderr_bytes: How much came.
        duration: From its start to its end.
        cpu: Processor time of all its processes together. A process that lets its children's ends be ignored hides
            their time; the wall clock bounds it still.
        peak_memory: Bytes that all its processes held together at most, as seen ten times a second.
        started_at: When it started.
    """

    exit_code: int | None
    signal: int | None
    stopped: Stopped | None
    stdout: Path
    stdout_bytes: int
    stderr_tail: str
    stderr_bytes: int
    duration: timedelta
    cpu: timedelta
    peak_memory: int
    started_at: datetime


class ProgramRunner:
    """Runs programs at one level of isolation, any number of them at once."""

    def __init__(self, isolation: Isolation) -> None:
        """Start nothing yet.

        Args:
            isolation: The level, as `open_isolation` found that it works.
        """
        self._isolation = isolation

    async def run(self, program: Program, on_progress: Callable[[int, int], None] | None = None) -> ProgramRun:
        """Run a program to its end, and return how it ended; none of its processes is left then.

        If the caller is canceled, the program is ended first, however often it is canceled.

        Args:
            program: What is run.
            on_progress: Gets the newest page and total, ten times a second at most. It must not raise.

        Raises:
            ProgramMissing: It is not there, or cannot be executed.
            OutputNotWritable: Its folder, or the file beside it, cannot be written.
            DiskFull: There is no room for them.
        """
        tag = f"{orders.TAG}={secrets.token_hex(16)}"
        order = self._order(program, tag)
        started_at = datetime.now(UTC)
        supervised = Supervised(order, tag, on_progress)
        try:
            said = await supervised.ended()
        finally:
            await supervised.close()
        return _run_of(program, order, said, started_at)

    def _order(self, program: Program, tag: str) -> orders.Order:
        bounds, folder = program.bounds, Path(os.path.abspath(program.folder))  # noqa: PTH100 - links stay
        temporary = folder / "tmp"
        try:
            temporary.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _unusable(str(folder), error.errno or 0) from error
        name, _, value = tag.partition("=")
        environment = {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "OMP_THREAD_LIMIT": "1",
            **program.environment,
            "HOME": str(folder),
            "TMPDIR": str(temporary),
            name: value,
        }
        command = [_executable(program.command[0], environment["PATH"]), *program.command[1:]]
        for path in program.readable:
            if not os.path.lexists(path):
                raise ProgramMissing(f"{path}, which {program.command[0]} may read, is not there")
        return orders.Order(
            command=self._isolation.wrap(command, folder=folder, readable=program.readable),
            environment=environment,
            folder=str(folder),
            stdout=str(folder.with_name(f"{folder.name}-{secrets.token_hex(4)}.stdout")),
            sandboxed=self._isolation.level == "sandbox",
            wall=bounds.wall.total_seconds(),
            cpu=bounds.cpu.total_seconds(),
            stall=None if bounds.stall is None else bounds.stall.total_seconds(),
            grace=bounds.grace.total_seconds(),
            memory=bounds.memory,
            file_size=bounds.file_size,
            open_files=bounds.open_files,
            processes=bounds.processes,
            disk=DISK_FACTOR * bounds.file_size if bounds.disk is None else bounds.disk,
            max_stdout=bounds.stdout,
            stderr_tail=bounds.stderr_tail,
            max_stderr=STDERR_FLOOD * bounds.stderr_tail,
        )


def _executable(name: str, path: str) -> str:
    found = shutil.which(name, path=path)
    if found is None:
        raise ProgramMissing(f"{name} is not there, or may not be executed")
    return os.path.abspath(found)  # noqa: PTH100 - a virtual environment's Python is known by its link


def _unusable(folder: str, number: int) -> OutputNotWritable | DiskFull:
    if number in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"the disk of {folder} is full")
    return OutputNotWritable(f"the folder for the program's files cannot be written: {folder}: {os.strerror(number)}")


def _run_of(
    program: Program, order: orders.Order, said: tuple[bytes, bytes] | None, started_at: datetime
) -> ProgramRun:
    """Return what a supervisor's last words mean.

    Raises:
        ProgramMissing, OutputNotWritable, DiskFull: See `ProgramRunner.run`.
    """
    if said is None:  # it was killed; what it knew is lost
        return ProgramRun(
            exit_code=None,
            signal=None,
            stopped="supervisor",
            stdout=Path(order.stdout),
            stdout_bytes=0,
            stderr_tail="",
            stderr_bytes=0,
            duration=datetime.now(UTC) - started_at,
            cpu=timedelta(0),
            peak_memory=0,
            started_at=started_at,
        )
    line, tail = said
    if line.startswith(b"failed "):
        _, stage, number = line.decode("ascii").split()
        if stage == "folder":
            raise _unusable(order.folder, int(number))
        raise ProgramMissing(f"{program.command[0]} cannot be executed: {os.strerror(int(number))}")
    report = orders.read_report(line)
    text = readable(tail[: int(report["tail"])])
    exit_code, ended_by = _number(report["exit"]), _number(report["signal"])
    stopped = cast("Stopped | None", report["stopped"] or None)
    if int(report["left"]):
        logger.warning("a program's processes cannot be ended", extra={"left": int(report["left"])})
    if order.sandboxed and exit_code is not None:
        if int(report["exec_failed"]) and stopped is None:
            reason = (text.strip().splitlines() or ["it said nothing"])[-1].removeprefix("bwrap: ")
            raise ProgramMissing(f"{program.command[0]} cannot be executed in the sandbox: {reason[:500]}")
        if _AS_SIGNAL < exit_code <= _AS_SIGNAL + signal.SIGRTMAX:
            ended_by = exit_code - _AS_SIGNAL
            exit_code = None
    if ended_by == signal.SIGXCPU and stopped is None:
        stopped = "cpu"
    return ProgramRun(
        exit_code=exit_code,
        signal=ended_by,
        stopped=stopped,
        stdout=Path(order.stdout),
        stdout_bytes=int(report["stdout"]),
        stderr_tail=text,
        stderr_bytes=int(report["stderr"]),
        duration=timedelta(seconds=float(report["duration"])),
        cpu=timedelta(seconds=float(report["cpu"])),
        peak_memory=int(report["memory"]),
        started_at=started_at,
    )


def _number(text: str) -> int | None:
    return int(text) if text else None


def readable(data: bytes) -> str:
    """Return a program's words as text that does nothing to a terminal, a log or a database."""
    return data.decode("utf-8", errors="replace").replace("\r\n", "\n").translate(_HARMLESS)


_HARMLESS = (
    {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}  # pictures of themselves
    | {0x7F: 0x2421}
    | dict.fromkeys([*range(0x80, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)
)
