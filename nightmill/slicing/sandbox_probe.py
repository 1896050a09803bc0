"""Looks around inside of the sandbox, and prints `sealed`, or what should not be possible and is.

`python sandbox_probe.py PORT SECRET_FILE WORKER_PID`. The standard library only: it runs without anything else.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path

GIVEN = {"PATH", "PWD", "LC_CTYPE"}
"""The environment that it is given, and what bubblewrap and Python add to it."""


def main() -> int:
    """Try everything, and return 0 if nothing worked."""
    port, secret, worker = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    found = [
        *_files(secret, worker),
        *_network(port),
        *_environment(),
        *_writing(),
    ]
    print("; ".join(found) or "sealed")  # noqa: T201 - that is its answer
    return 1 if found else 0


def _files(secret: str, worker: str) -> list[str]:
    paths = {
        secret: "a foreign file",
        "/etc/shadow": "/etc/shadow",
        "/etc/passwd": "/etc/passwd",
        f"/proc/{worker}/root": "the worker's process",
    }
    found = [f"{name} is visible inside" for path, name in paths.items() if os.path.lexists(path)]
    # Its own init, and itself.
    if len([entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]) > 2:
        found.append("other processes are visible inside")
    return found


def _network(port: int) -> list[str]:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return ["the machine's loopback can be reached from inside"]
    if len(Path("/proc/net/route").read_text().splitlines()) > 1:
        return ["a network can be reached from inside"]
    return []


def _environment() -> list[str]:
    names = set(os.environ)
    for pid in ("1", "self"):
        with contextlib.suppress(OSError):
            entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            names |= {entry.partition(b"=")[0].decode(errors="replace") for entry in entries if entry}
    return [f"the worker's environment ({name}) is visible inside" for name in sorted(names - GIVEN)[:1]]


def _writing() -> list[str]:
    found = []
    for folder in ("/", "/usr", "/etc", "/dev"):
        with contextlib.suppress(OSError):
            place = Path(folder, "nightmill-probe")
            place.mkdir()
            place.rmdir()  # what calls itself bubblewrap may run this on the machine itself
            found.append(f"{folder} can be written to inside")
    try:
        Path("written").write_text("x")
    except OSError as error:
        found.append(f"its own folder cannot be written to: {error.strerror}")
    return found


if __name__ == "__main__":
    sys.exit(main())
