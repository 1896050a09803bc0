"""What a program and all its offspring use together, held against its bounds.

The standard library only, and little of it: supervisors import this, and have to be there in an instant.
"""

from __future__ import annotations

import contextlib
import os
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
        if now >= self._next_disk_look:
            used = _disk_use(self._order.folder, self._order.disk)
            self._next_disk_look = now + max(DISK_LOOK, 20 * (time.monotonic() - now))
            return "disk" if used > self._order.disk else None
        return None

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
        except OSError:  # gone since, or closed to us
            continue
    return total
