"""What a worker and the supervisor of one of its programs say to each other.

The worker sends one `Order`, then nothing, or `STOP`. The supervisor answers in lines: `progress PAGE OF`, and as the
last one `ended NAME=VALUE …`, which the end of the program's standard error follows, or `failed STAGE ERRNO` if it
could not be started.

The standard library only, and little of it: supervisors import this, and have to be there in an instant.
"""

from __future__ import annotations

import marshal

TYPE_CHECKING = False  # typing takes 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STOP = b"."
LENGTH = 8
"""Bytes that say how long an order is."""

TAG = "NIGHTMILL_JOB"
"""Environment variable that all processes of one program share and no others."""


class Order:
    """Which program is to be run, and how much it may take.

    Attributes:
        command: The program by its absolute path, and its arguments.
        environment: All of its environment.
        folder: Its working folder.
        stdout: The file for its standard output, which must not exist yet.
        sandboxed: Whether the command is bubblewrap's; it is told where to report then.
        wall, cpu, stall, grace: Seconds; `stall` may be None.
        memory, file_size, open_files, processes, disk, max_stdout, stderr_tail, max_stderr: See `Bounds`.
    """

    def __init__(
        self,
        *,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: str,
        stdout: str,
        sandboxed: bool,
        wall: float,
        cpu: float,
        stall: float | None,
        grace: float,
        memory: int,
        file_size: int,
        open_files: int,
        processes: int,
        disk: int,
        max_stdout: int,
        stderr_tail: int,
        max_stderr: int,
    ) -> None:
        self.command = list(command)
        self.environment = dict(environment)
        self.folder = folder
        self.stdout = stdout
        self.sandboxed = sandboxed
        self.wall = wall
        self.cpu = cpu
        self.stall = stall
        self.grace = grace
        self.memory = memory
        self.file_size = file_size
        self.open_files = open_files
        self.processes = processes
        self.disk = disk
        self.max_stdout = max_stdout
        self.stderr_tail = stderr_tail
        self.max_stderr = max_stderr

    def encode(self) -> bytes:
        """Return it as bytes that begin with their length."""
        # Both ends are ours and one Python, and json would take a supervisor a third of its start.
        body = marshal.dumps(vars(self))
        return len(body).to_bytes(LENGTH, "big") + body

    @classmethod
    def decode(cls, body: bytes) -> Order:
        """Return what `encode` made, without the length."""
        return cls(**marshal.loads(body))  # noqa: S302 - from the worker, which has started us


def report_line(values: Mapping[str, object]) -> bytes:
    """Return the line that tells how a program ended; None is written as nothing."""
    words = [f"{name}={'' if value is None else value}" for name, value in values.items()]
    return f"ended {' '.join(words)}\n".encode("ascii")


def read_report(line: bytes) -> dict[str, str]:
    """Return what `report_line` was given, as text."""
    words = line.decode("ascii").split(" ")[1:]
    return {name: value for name, _, value in (word.strip().partition("=") for word in words)}
