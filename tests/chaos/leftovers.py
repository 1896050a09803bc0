"""What a run must not leave behind: processes, temporary files, connections, open runs."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from temporalio.client import Client

T = TypeVar("T")

ESTABLISHED, CLOSE_WAIT = "01", "08"  # proc_net_tcp(5), and the kernel's tcp_states.h


def processes_of(folder: Path, workers: Iterable[int], besides: Iterable[int]) -> list[str]:
    """Return the processes that belong to a run: by their environment, command line or place; `besides` these."""
    mark = os.fsencode(f"{folder}")
    pids = {str(pid).encode() for pid in workers}
    known = {os.getpid(), *besides}
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in known:
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            is_ours = (
                any(mark in word for word in words)
                or mark in (entry / "environ").read_bytes()
                or mark in os.fsencode((entry / "cwd").readlink())
                or (b"nightmill.documents.extraction_child" in words and not pids.isdisjoint(words))
            )
            state = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:  # it has just ended, or is another user's
            continue
        if is_ours and state != b"Z":
            found.append(f"process {entry.name}: {b' '.join(words).decode(errors='replace')[:200]}")
    return found


def files_of(folder: Path) -> list[str]:
    """Return the temporary files of a run: all in `tmp`, and files that were being stored."""
    parts = (folder / "files").rglob("*.part") if (folder / "files").exists() else ()
    return [str(path.relative_to(folder)) for path in (*(folder / "tmp").iterdir(), *parts)]


def connections_to(ports: Iterable[int]) -> list[str]:
    """Return the open connections on loopback to these ports, as `port from port`."""
    wanted = set(ports)
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        ours, theirs = int(local.rpartition(":")[2], 16), int(remote.rpartition(":")[2], 16)
        if ours in wanted and state in (ESTABLISHED, CLOSE_WAIT):
            found.append(f"connection to {ours} from {theirs}")
    return found


def errors_in(log: Path) -> Counter[str]:
    """Return what workers logged as errors, which somebody must look at, by logger and message."""
    found: Counter[str] = Counter()
    with log.open(errors="replace") as lines:
        for line in lines:
            if '"ERROR"' in line:
                record = json.loads(line)
                found[f"{record['logger']}: {record['message']}"] += 1
    return found


async def open_runs(temporal: Client) -> list[str]:
    """Return the workflow runs that have not ended."""
    return [f"{one.workflow_type} {one.id}" async for one in temporal.list_workflows("ExecutionStatus = 'Running'")]


def none_left(look: Callable[[], list[T]], patience: float = 5.0) -> list[T]:
    """Return what a look finds, once it finds nothing or after this long: what ends takes a moment to be gone."""
    deadline = time.monotonic() + patience
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found
