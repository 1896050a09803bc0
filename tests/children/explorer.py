"""Tries to get out of the sandbox: `explorer.py PORT UDP_PORT SECRET HOST_PID [all]`; prints what it got as JSON.

Without `all` it leaves out what would do harm where there is no sandbox.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


def listing(path: str) -> list[str]:
    return sorted(entry.name for entry in Path(path).iterdir())


def write(path: str) -> str:
    Path(path).write_text("was here")
    return "written"


def connect(host: str, port: int) -> str:
    socket.create_connection((host, port), timeout=1).close()
    return "connected"


def send(port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.sendto(b"out", ("127.0.0.1", port))
    return "sent"


def unshare(flags: int) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")
    return "unshared"


def mount() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None):
        raise OSError(ctypes.get_errno(), "mount")
    return "mounted"


def kill(pid: int) -> str:
    os.kill(pid, 0)
    return "found"


def capabilities() -> str | None:
    lines = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    return None if int(lines["CapEff"], 16) == 0 and int(lines["CapBnd"], 16) == 0 else lines["CapEff"]


def main(port: int, udp_port: int, secret: str, host_pid: int) -> dict[str, object]:
    beside = Path(secret)
    root = "root"
    harmless: dict[str, Callable[[], object]] = {
        "read the secret": beside.read_text,
        "read the secret through its init": lambda: Path(f"/proc/1/{root}{secret}").read_text(),
        "read the secret through the worker": lambda: Path(
            "/proc", str(host_pid), "root", secret.lstrip("/")
        ).read_text(),
        "list the secret's folder": lambda: [name for name in listing(str(beside.parent)) if "secret" in name],
        "read the users": lambda: Path("/etc/passwd").read_text(),
        "read the host's name": lambda: None if socket.gethostname() == "slicer" else socket.gethostname(),
        "reach the worker's loopback": lambda: connect("127.0.0.1", port),
        "send a datagram": lambda: send(udp_port),
        "find the worker": lambda: kill(host_pid),
        "see other processes": lambda: [name for name in listing("/proc") if name.isdigit()][2:],
        "write beside its folder": lambda: write(str(beside.with_name("written"))),
        "write where its output goes": lambda: write("../output"),
    }
    harmful: dict[str, Callable[[], object]] = {
        "read the password file": lambda: Path("/etc/shadow").read_text(),
        "resolve a name": lambda: socket.getaddrinfo("example.org", 443),
        "reach an address": lambda: connect("192.0.2.1", 80),
        "reach a further address": lambda: connect("2001:db8::1", 80),
        "write to the system": lambda: write("/usr/written"),
        "write to its program": lambda: write(__file__),
        "write to the root": lambda: write("/written"),
        "write to devices": lambda: write("/dev/written"),
        "have further users": lambda: unshare(CLONE_NEWUSER),
        "have further networks": lambda: unshare(CLONE_NEWNET),
        "mount": mount,
        "have capabilities": capabilities,
    }
    got: dict[str, object] = {}
    for name, attempt in (harmless | harmful if "all" in sys.argv else harmless).items():
        try:
            got[name] = attempt()
        except OSError:
            got[name] = None
    try:
        init = Path("/proc/1/environ").read_text().split("\0")
    except OSError:
        init = []
    return {
        "got": {name: value for name, value in got.items() if value},
        "environment": sorted(os.environ),
        "init's environment": init,
        "can write": [write("inside"), write(f"{os.environ['TMPDIR']}/inside")],
    }


if __name__ == "__main__":
    found = main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    os.write(1, json.dumps(found).encode())
