"""What this process takes of its machine, where the system tells (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

_STATM = Path("/proc/self/statm")
_DESCRIPTORS = Path("/proc/self/fd")


def resident_memory() -> int | None:
    """Return the bytes of memory that the process holds now; None where the system does not tell."""
    try:
        # The second number: resident pages (man 5 proc_pid_statm).
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def open_descriptors() -> int | None:
    """Return how many files, sockets and pipes the process has open; None where the system does not tell."""
    try:
        return sum(1 for _ in _DESCRIPTORS.iterdir()) - 1  # the listing itself takes one
    except OSError:
        return None
