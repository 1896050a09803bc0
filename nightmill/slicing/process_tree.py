"""What Linux says of processes: who descends from whom, what they use, and how all of them are ended.

The standard library only, and little of it: supervisors import this, and have to be there in an instant.
"""
# pathlib takes longer to import than a supervisor to start:
# ruff: noqa: PTH110, PTH112, PTH116, PTH208

from __future__ import annotations

import contextlib
import os
import signal

TYPE_CHECKING = False  # typing takes 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

MANY = 10_000
_ROUNDS = 20
"""Looks at a tree until no process is in it that was not stopped before; a fork bomb needs three to five."""


class Process:
    """One process at one moment.

    Attributes:
        pid: Its number.
        parent: Its parent's.
        state: One letter, `Z` for one that has ended and that nobody has waited for.
        cpu: Seconds of processor time of itself and of the children that it has waited for.
        started: When it started, in ticks since the machine did; with the number it names a process for good.
        resident: Bytes of memory that it holds, with those that it shares.
    """

    __slots__ = ("cpu", "parent", "pid", "resident", "started", "state")

    def __init__(self, pid: int, fields: list[str]) -> None:
        # proc_pid_stat(5), counted from the state, which is the third.
        self.pid = pid
        self.state = fields[0]
        self.parent = int(fields[1])
        self.cpu = sum(map(int, fields[11:15])) / TICKS
        self.started = int(fields[19])
        self.resident = int(fields[21]) * PAGE


def process(pid: int) -> Process | None:
    """Return what is known of a process; None if there is none."""
    text = _read(f"/proc/{pid}/stat")
    return Process(pid, text.rpartition(b")")[2].decode("ascii").split()) if text else None


def descendants(pid: int, at_most: int = MANY) -> list[Process]:
    """Return the processes that descend from this one, parents before their children.

    One that changes its parent meanwhile may be missing; it is found the next time.

    Args:
        pid: The process.
        at_most: After so many the rest is left out.
    """
    found: list[Process] = []
    children = _children if _HAS_CHILDREN else _children_in(_table())
    seen = {pid}
    ahead = [pid]
    while ahead:
        for child in children(ahead.pop()):
            if len(found) >= at_most:
                return found
            known = None if child in seen else process(child)
            if known is not None:
                seen.add(child)
                found.append(known)
                ahead.append(child)
    return found


def tasks_of_user() -> int:
    """Return how many tasks (processes and threads) this process's user has: what RLIMIT_NPROC is compared with."""
    count = 0
    for pid in _pids():
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{pid}/task"))
    return count


def tagged(tag: str) -> list[int]:
    """Return the processes of this user that were started with this entry, `NAME=value`, in their environment."""
    entry = tag.encode()
    ended = (b"Z", b"X")
    return [
        pid
        for pid in _pids()
        if entry in _read(f"/proc/{pid}/environ").split(b"\0")
        and _read(f"/proc/{pid}/stat").rpartition(b")")[2].strip()[:1] not in ended
    ]


def unshared(pids: list[int]) -> int | None:
    """Return the bytes of memory that these processes hold, shared ones divided; None where that cannot be read."""
    total = 0
    for pid in pids:
        text = _read(f"/proc/{pid}/smaps_rollup")
        found = text.find(b"\nPss:")
        if found < 0:
            if process(pid) is None:
                continue
            return None
        total += int(text[found + 5 :].split(None, 1)[0]) * 1024
    return total


def send(number: int, pids: list[int]) -> None:
    """Send a signal to each of these that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def kill_descendants(pid: int) -> int:
    """Kill all descendants of a process, and return how many there were; call it again until it is 0.

    They are stopped first, all of them, because whoever forks faster than we look would never be caught up with.
    """
    stopped: set[tuple[int, int]] = set()
    living: list[Process] = []
    for _ in range(_ROUNDS):
        living = [one for one in _below(pid, _table()) if one.state != "Z"]
        new = [one for one in living if (one.pid, one.started) not in stopped]
        if not new:
            break
        send(signal.SIGSTOP, [one.pid for one in new])
        stopped.update((one.pid, one.started) for one in new)
    send(signal.SIGKILL, [one.pid for one in living])
    return len(living)


def kill_tagged(tag: str) -> int:
    """Kill whoever carries this entry in its environment, and return how many there were; call it until it is 0."""
    found = tagged(tag)
    send(signal.SIGSTOP, found)
    send(signal.SIGKILL, found)
    return len(found)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
    return found


def _children_in(table: list[Process]) -> Callable[[int], list[int]]:
    return lambda pid: [one.pid for one in table if one.parent == pid]


def _below(pid: int, table: list[Process]) -> list[Process]:
    """Return those of all processes that descend from one: for many, cheaper than to ask each for its children."""
    by_parent: dict[int, list[Process]] = {}
    for one in table:
        by_parent.setdefault(one.parent, []).append(one)
    found: list[Process] = []
    ahead = [pid]
    while ahead:
        children = by_parent.pop(ahead.pop(), [])
        found += children
        ahead += [one.pid for one in children]
    return found


def _table() -> list[Process]:
    return [one for one in map(process, _pids()) if one is not None]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()] if os.path.isdir("/proc") else []


def _read(path: str) -> bytes:
    """Return a file of /proc; empty if the process is gone or not ours."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts = []
        while part := os.read(file, 65_536):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(file)


_HAS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # CONFIG_PROC_CHILDREN
