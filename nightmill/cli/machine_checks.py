"""What `nightmill doctor` looks at on this machine: space, memory, descriptors, clock, and Temporal's program."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from nightmill.cli.checks import LITTLE_SPACE, Finding, State
from nightmill.cli.output import size_of
from nightmill.cli.stack import temporal_program
from nightmill.errors import NotConfigured

if TYPE_CHECKING:
    from nightmill.assembly import Assembly
    from nightmill.settings import Settings

CLOCK_TOLERANCE = timedelta(seconds=30)
"""Signed webhooks are refused when five minutes off; thirty seconds are no accident any more."""

RELEASED = datetime(2026, 1, 1, tzinfo=UTC)

FEW_DESCRIPTORS = 1_024
"""A worker holds some hundred: connections to the database, to Temporal and to sites, and the pipes of programs."""

LITTLE_MEMORY = 500_000_000
"""A worker takes about 300 MB; the programs of slicing come on top."""

_MEMORY = Path("/proc/meminfo")


def examine_machine(assembly: Assembly) -> Iterator[Finding]:
    """Yield the findings about the machine."""
    yield temporal_program_found()
    yield _space(assembly.settings)
    yield _descriptors()
    if _MEMORY.exists():
        yield memory(_MEMORY.read_text())
    yield _clock(assembly)


def temporal_program_found() -> Finding:
    """Return where `nightmill dev` has its server from."""
    try:
        found = temporal_program()
    except NotConfigured as error:
        return Finding("temporal program", State.WARN, str(error), "needed by `nightmill dev` only")
    if found is None:
        return Finding("temporal program", State.OK, "not installed; `nightmill dev` downloads it by the Temporal SDK")
    return Finding("temporal program", State.OK, f"{found[0]}, from {found[1]}; used by `nightmill dev` only")


def _space(settings: Settings) -> Finding:
    places = {Path.cwd()}
    if "://" not in settings.storage_url:
        places.add(Path(settings.storage_url).absolute())
    if settings.database_url.startswith("sqlite:///"):
        places.add(Path(settings.database_url.removeprefix("sqlite:///")).absolute().parent)
    there = {next(p for p in (place, *place.parents) if p.exists()) for place in places}
    least, place = min((shutil.disk_usage(p).free, p) for p in there)
    if least < LITTLE_SPACE:
        return Finding("disk space", State.WARN, f"{size_of(least)} left at {place}", "make room: results take space")
    return Finding("disk space", State.OK, f"{size_of(least)} left")


def _descriptors() -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and limit < FEW_DESCRIPTORS:
        fix = "`ulimit -n 4096` in this shell, LimitNOFILE=4096 for systemd, `ulimits` for containers"
        return Finding("open files", State.WARN, f"a process may have {limit} open at once", fix)
    return Finding("open files", State.OK, "no limit" if limit == resource.RLIM_INFINITY else f"up to {limit:,}")


def memory(told: str) -> Finding:
    """Return whether memory is left; `told` is what Linux says in `/proc/meminfo`."""
    lines = (line.split() for line in told.splitlines())
    found = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) > 1 and words[1].isdigit()}
    free = found.get("MemAvailable")
    if free is None:
        return Finding("memory", State.OK, "the system does not say how much is left")
    if free < LITTLE_MEMORY:
        fix = "stop something, take a larger machine, or lower NIGHTMILL_SLICING__CONCURRENCY"
        return Finding("memory", State.WARN, f"{size_of(free)} left", fix)
    return Finding("memory", State.OK, f"{size_of(free)} left")


def _clock(assembly: Assembly) -> Finding:
    now = datetime.now(UTC)
    if now < RELEASED:
        return Finding("clock", State.FAIL, f"it says {now:%Y-%m-%d}", "set the clock")
    if not assembly.settings.database_url.startswith("postgresql"):
        return Finding("clock", State.OK, f"{now:%Y-%m-%d %H:%M:%S} UTC")
    from sqlalchemy import text

    try:
        with assembly.database.reading() as session:
            there = session.connection().execute(text("SELECT now()")).scalar_one()
    except Exception:  # noqa: BLE001 - that the database is away has been said already
        return Finding("clock", State.OK, f"{now:%Y-%m-%d %H:%M:%S} UTC, not compared with the database's")
    off = abs(there - now)
    if off > CLOCK_TOLERANCE:
        return Finding("clock", State.WARN, f"{off.total_seconds():.0f} s off the database's", "synchronize the clocks")
    return Finding("clock", State.OK, f"{off.total_seconds():.1f} s off the database's")
