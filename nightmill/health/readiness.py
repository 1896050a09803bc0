"""Looks at what a worker needs, shared by all who ask at once, and bounded, so that asking costs next to nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from nightmill.errors import NightmillError

logger = logging.getLogger("nightmill.health")

FRESH = 2.0
"""Seconds for which a look is told again. Probes come every few seconds: however many ask, each thing is looked at once
in this time."""

PATIENCE = 2.0
"""Seconds that a look may take before whoever asks is told that there is no answer."""


class Phase(StrEnum):
    """How far a worker is."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"


@dataclass(frozen=True)
class Look:
    """What a look found.

    Attributes:
        ok: Whether it is well.
        reason: If not, a word or two: no address, and nothing else that the log alone should hold.
    """

    ok: bool
    reason: str | None = None


NO_ANSWER = Look(ok=False, reason="no answer")


@dataclass
class Check:
    """One thing that a worker needs.

    Attributes:
        name: Its name in the answer.
        ask: Returns when it is well, and raises when it is not. It is never called again before it has ended.
    """

    name: str
    ask: Callable[[], Awaitable[None]]
    _seen: Look | None = field(default=None, repr=False)
    _seen_at: float = field(default=0.0, repr=False)
    _asking: asyncio.Task[tuple[Look, str]] | None = field(default=None, repr=False)
    _asked_at: float = field(default=0.0, repr=False)
    _ended_at: float = field(default=0.0, repr=False)
    _said: Look = field(default=Look(ok=True), repr=False)

    async def look(self) -> Look:
        """Return what was found less than `FRESH` seconds ago, or look again.

        Who asks while a look is under way gets its answer, and `NO_ANSWER` once it has taken `PATIENCE`. One that hangs
        stays the only one: there is one connection or thread that waits, not one for each probe. One that ended when
        nobody waited for it any more counts from its end.
        """
        if self._asking is not None and self._asking.done() and time.monotonic() - self._ended_at >= FRESH:
            self._asking = None
        if self._asking is None and self._seen is not None and time.monotonic() - self._seen_at < FRESH:
            return self._seen
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
            self._asked_at = time.monotonic()
        asking = self._asking
        left = self._asked_at + PATIENCE - time.monotonic()
        done, _ = await asyncio.wait({asking}, timeout=max(0.0, left))
        if not done:
            self._tell(NO_ANSWER, f"it has taken {PATIENCE:.0f} s so far")
            return NO_ANSWER
        found, detail = asking.result()
        if self._asking is asking:
            self._asking, self._seen, self._seen_at = None, found, self._ended_at
            self._tell(found, detail)
        return found

    async def _ask(self) -> tuple[Look, str]:
        try:
            await self.ask()
        except NightmillError as error:
            return Look(ok=False, reason=error.code), str(error)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the answer is that it is not well
            return Look(ok=False, reason=type(error).__name__), str(error)
        finally:
            self._ended_at = time.monotonic()
        return Look(ok=True), ""

    def _tell(self, found: Look, detail: str) -> None:
        """Write a line when it changes: the answer has a word only, and somebody must be able to find out more."""
        if found == self._said:
            return
        if found.ok:
            logger.info("ready again", extra={"check": self.name})
        else:
            logger.warning("not ready", extra={"check": self.name, "reason": found.reason, "detail": detail[:500]})
        self._said = found


@dataclass
class Health:
    """What a worker says of itself.

    Attributes:
        version: The release, None where it is not installed as a package.
        build: The build of its workflows.
        phase: How far it is; whoever runs the worker sets it.
        checks: What it needs; they are looked at while it is running.
    """

    version: str | None
    build: str
    phase: Phase = Phase.STARTING
    checks: list[Check] = field(default_factory=list)
    started_at: float = field(default_factory=time.monotonic)

    def alive(self) -> dict[str, object]:
        """Return what a process says that can say anything: that its event loop turns is what is proved."""
        uptime = round(time.monotonic() - self.started_at, 1)
        return {"status": "ok", "version": self.version, "build": self.build, "uptime": uptime}

    async def ready(self) -> tuple[bool, dict[str, object]]:
        """Return whether the worker can work, and what it needs, by name."""
        if self.phase is not Phase.RUNNING:
            return False, {"status": self.phase.value, "checks": {}}
        looks = await asyncio.gather(*(check.look() for check in self.checks))
        found = {
            check.name: {"ok": True} if look.ok else {"ok": False, "reason": look.reason}
            for check, look in zip(self.checks, looks, strict=True)
        }
        if self.phase is not Phase.RUNNING:  # a signal came meanwhile
            return False, {"status": self.phase.value, "checks": found}
        well = all(look.ok for look in looks)
        return well, {"status": "ready" if well else "not ready", "checks": found}
