"""What a program and all its offspring use together, held against its bounds.

The standard library only, and little of it: supervisors import this, and have to be there in an instant.
"""
# pathlib takes longer to import than a supervisor to start:
# ruff: noqa: PTH115, PTH116, PTH208

from __future__ import annotations

import contextlib
import os
import stat
import time

from nightmill.slicing import process_tree

TYPE_CHECKING = False  # typing takes 5 ms to import
if TYPE_CHECKING:
    import resource

    from nightmill.slicing.orders import Order

LOOK = 0.1
"""Seconds between looks at what the processes use; a look takes a quarter of a millisecond. At 2 GB a second, which
two processors can fill, a program is 200 MB over its bound before it is seen."""

DISK_LOOK = 1.0
"""Seconds between looks at what is in the folder, and at least twenty times as long as a look takes."""


class Usage:
    """What the descendants of this process use.

    Attributes:
        cpu: Seconds of processor time.
        memory: Bytes that they held at most, together.
        next_look: When to look next.
    """

    def __init__(self, order: Order) -> None:
        self.cpu = 0.0
        self.memory = 0
        self.next_look = 0.0
        self._next_disk_look = time.monotonic() + DISK_LOOK
        self._ended_cpu = 0.0
        self._order = order
        # bubblewrap is two processes more.
        self._processes = order.processes + (2 if order.sandboxed else 0)

    def add_ended(self, usage: resource.struct_rusage) -> None:
        """Count a child that has been waited for; what it has waited for itself is in there."""
        self._ended_cpu += usage.ru_utime + usage.ru_stime
        self.cpu = max(self.cpu, self._ended_cpu)
        self.memory = max(self.memory, usage.ru_maxrss * 1024)

    def look(self, now: float) -> str | None:
        """Look at the processes and, now and then, at the disk; return which bound they are over."""
        self.next_look = now + LOOK
        # Ended ones that nobody waited for count, too: a bomb may be made of them.
        found = process_tree.descendants(os.getpid(), at_most=2 * self._processes)
        living = [one for one in found if one.state != "Z"]
        # Those that have ended are in the times of their parents, or in ours.
        self.cpu = max(self.cpu, self._ended_cpu + sum(one.cpu for one in living))
        memory = self._memory_of(living)
        self.memory = max(self.memory, memory)
        if memory > self._order.memory:
            return "memory"
        if len(living) > self._processes or len(found) == 2 * self._processes:
            return "processes"
        if self.cpu >= self._order.cpu:
            return "cpu"
        return self._look_at_files(now, living) if now >= self._next_disk_look else None

    def _look_at_files(self, now: float, living: list[process_tree.Process]) -> str | None:
        in_memory, on_disk = _without_name([one.pid for one in living])
        used = on_disk + _disk_use(self._order.folder, self._order.disk)
        self._next_disk_look = now + max(DISK_LOOK, 20 * (time.monotonic() - now))
        self.memory = max(self.memory, in_memory)
        if in_memory > self._order.memory:
            return "memory"
        return "disk" if used > self._order.disk else None

    def _memory_of(self, living: list[process_tree.Process]) -> int:
        resident = sum(one.resident for one in living)
        if resident <= self._order.memory:
            return resident
        # Shared pages count for each process in it; a dearer look divides them.
        divided = process_tree.unshared([one.pid for one in living])
        return resident if divided is None else divided


def _disk_use(folder: str, bound: int) -> int:
    """Return the bytes on disk of all in a folder, or a number over the bound as soon as they are over it.

    Each entry counts as 512 bytes at least, so that a flood of empty files ends, too.
    """
    total = 0
    ahead = [folder]
    while ahead and total <= bound:
        try:
            with os.scandir(ahead.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        total += max(512, entry.stat(follow_symlinks=False).st_blocks * 512)
                        if entry.is_dir(follow_symlinks=False):
                            ahead.append(entry.path)
                    if total > bound:
                        break
        except PermissionError:  # made by the program, and closed by it: nobody knows how much is in there
            return bound + 1
        except OSError:  # gone since
            continue
    return total


def _without_name(pids: list[int]) -> tuple[int, int]:
    """Return the bytes in files that these processes have open and no folder shows: in memory, and on disk."""
    in_memory = on_disk = 0
    seen: set[tuple[int, int]] = set()
    for pid in pids:
        numbers: list[str] = []
        with contextlib.suppress(OSError):  # gone since
            numbers = os.listdir(f"/proc/{pid}/fd")
        for number in numbers:
            path = f"/proc/{pid}/fd/{number}"
            with contextlib.suppress(OSError):
                found = os.stat(path)
                file = found.st_dev, found.st_ino
                if found.st_nlink or not stat.S_ISREG(found.st_mode) or file in seen:
                    continue
                seen.add(file)
                # memfd_create(2) makes files that are memory, which no process needs to map.
                if os.readlink(path).startswith("/memfd:"):
                    in_memory += found.st_blocks * 512
                else:
                    on_disk += found.st_blocks * 512
    return in_memory, on_disk
