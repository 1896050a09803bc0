"""Processes of a stack: started together, watched, stopped in reverse order, and never left behind.

Each runs below a small shell that stops it when our end of a pipe closes, which the system does for us even if we are
killed. Each has a session of its own, so that Ctrl-C reaches us alone and the order of stopping is ours.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from nightmill.errors import PermanentError

# stdin is the pipe, to which nothing is written. The watcher ends the program when the pipe closes, and is ended with
# it, lest it signals another process that got the same number.
_GUARD = """
exec 3<&0
"$@" </dev/null 3<&- & program=$!
(trap '' TERM; read -r _ <&3; kill -TERM $program 2>/dev/null) & watcher=$!
exec 3<&- 2>/dev/null
wait $program
code=$?
kill -KILL $watcher
wait $watcher
exit $code
"""

_TAIL_LINES = 3


class PartEnded(PermanentError):
    """A part of the stack ended by itself."""

    code = "part_ended"


@dataclass(frozen=True)
class Part:
    """One process to be.

    Attributes:
        name: What people call it.
        command: Program and arguments.
        environment: The whole environment.
        log: File that its output is appended to; None: our own standard error.
        patience: How long it may take to stop.
        working_folder: Where it runs; None: where we do.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    log: Path | None = None
    patience: timedelta = timedelta(seconds=10)
    working_folder: Path | None = None


class RunningPart:
    """One process that was started."""

    def __init__(self, part: Part) -> None:
        self.part = part
        out = part.log.open("ab") if part.log else None
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "sh", *part.command],
                stdin=subprocess.PIPE,
                stdout=out or 2,
                stderr=out or 2,
                env=dict(part.environment),
                cwd=part.working_folder,
                start_new_session=True,
            )
        finally:
            if out:
                out.close()

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def check(self) -> None:
        """Make sure that it runs.

        Raises:
            PartEnded: It does not; the message has the last lines of its log.
        """
        code = self.exit_code
        if code is None:
            return
        how = f"by signal {signal.Signals(code - 128).name}" if code > 128 else f"with exit code {code}"
        tail = ""
        if self.part.log and self.part.log.exists():
            with self.part.log.open(errors="replace") as log:
                tail = " / ".join(line.strip() for line in deque(log, _TAIL_LINES) if line.strip())
            tail = f": {tail[-500:]} (all of it: {self.part.log})" if tail else f" (log: {self.part.log})"
        raise PartEnded(f"{self.part.name} ended {how}{tail}")

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the program."""
        if self._process.stdin:
            with suppress(OSError):
                self._process.stdin.close()

    def stop(self) -> None:
        """Stop it, by force after its patience."""
        self.ask_to_stop()
        try:
            self._process.wait(self.part.patience.total_seconds())
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once with SIGKILL, as a power cut would."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.ask_to_stop()


class Supervisor:
    """The parts that run; a `with` block that stops them all at its end, the last one first."""

    def __init__(self) -> None:
        self.running: list[RunningPart] = []

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, part: Part) -> RunningPart:
        """Start a part."""
        if part.log:
            part.log.parent.mkdir(parents=True, exist_ok=True)
        running = RunningPart(part)
        self.running.append(running)
        return running

    def check(self) -> None:
        """Make sure that every part runs.

        Raises:
            PartEnded: One does not.
        """
        for running in self.running:
            running.check()

    def stop(self) -> None:
        """Stop all parts."""
        while self.running:
            self.running.pop().stop()
