"""A shell that a page's commands are run in one after the other, as a reader would."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_END = re.compile(rb"\x1e(\d+)\n")


@dataclass(frozen=True)
class Ended:
    """A command that ended.

    Attributes:
        code: Its exit code; None: it did not end in time and was killed.
        output: What it printed, standard error included.
    """

    code: int | None
    output: str


@dataclass
class Staying:
    """A command in the background that stays until it is interrupted."""

    command: str
    process: int
    log: Path


class Shell:
    """A bash that keeps its folder and variables from one command to the next; a `with` block.

    What stays in it is interrupted, as by Ctrl-C, at the block's end at the latest.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], *, name: str) -> None:
        self._folder = folder
        self._files = folder / ".check" / name
        self._files.mkdir(parents=True)
        self._count = 0
        self._staying: list[Staying] = []
        self._bash = subprocess.Popen(
            [shutil.which("bash") or "bash", "--norc", "--noprofile"],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.interrupt()
        with suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)
        for pipe in (self._bash.stdin, self._bash.stdout):
            if pipe is not None:
                pipe.close()
        self._bash.wait()

    def run(self, command: str, timeout: float) -> Ended:
        """Run a command to its end."""
        return self._ask(f". {self._file(command)} </dev/null", timeout)

    def start(self, command: str, until: str, timeout: float) -> Ended | None:
        """Start a command that stays, and wait until it prints a text; None: it is up."""
        log = self._file(command).with_suffix(".log")
        script = log.with_suffix(".sh")
        started = self._ask(f"set -m; . {script} </dev/null >{log} 2>&1 & set +m; echo $!", timeout)
        staying = Staying(command, int(started.output.split()[-1]), log)
        give_up_at = time.monotonic() + timeout
        while until not in (log.read_text() if log.exists() else ""):
            if not _lives(staying.process):
                return Ended(self._ask(f"wait {staying.process}", timeout).code, log.read_text())
            if time.monotonic() > give_up_at:
                self._kill(staying)
                return Ended(None, log.read_text())
            time.sleep(0.1)
        self._staying.append(staying)
        return None

    def interrupt(self) -> list[tuple[Staying, Ended]]:
        """Interrupt what stays, the latest first, and return how each ended."""
        found = []
        while self._staying:
            staying = self._staying.pop()
            with suppress(ProcessLookupError):
                os.killpg(staying.process, signal.SIGINT)
            ended = self._ask(f"wait {staying.process}", 40)
            if ended.code is None:
                self._kill(staying)
            found.append((staying, Ended(ended.code, staying.log.read_text())))
        return found

    def _file(self, command: str) -> Path:
        self._count += 1
        path = self._files / f"{self._count}.sh"
        path.write_text(f"{command}\n")
        return path

    def _ask(self, line: str, timeout: float) -> Ended:
        """Have bash run a line, and read what it prints until its end."""
        stdin, stdout = self._bash.stdin, self._bash.stdout
        if stdin is None or stdout is None or self._bash.poll() is not None:
            return Ended(None, "the page's shell has ended")
        stdin.write(f"{line}\nprintf '\\036%d\\n' $?\n".encode())
        stdin.flush()
        give_up_at, output = time.monotonic() + timeout, b""
        while True:
            if match := _END.search(output):
                return Ended(int(match[1]), output[: match.start()].decode(errors="replace"))
            ready, _, _ = select.select([stdout], [], [], max(give_up_at - time.monotonic(), 0))
            read = os.read(stdout.fileno(), 65536) if ready else b""
            if not read:
                os.killpg(self._bash.pid, signal.SIGKILL)
                return Ended(None, output.decode(errors="replace"))
            output += read

    @staticmethod
    def _kill(staying: Staying) -> None:
        with suppress(ProcessLookupError):
            os.killpg(staying.process, signal.SIGKILL)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
