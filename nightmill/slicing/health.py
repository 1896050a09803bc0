"""A slicer's health: the canary, a small document whose right answer is known, sliced like any other."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nightmill.contracts import CanaryOutcome, CanaryTurn
from nightmill.ids import programs_queue
from nightmill.slicing.canary import canary_pdf, judge
from nightmill.slicing.faults import SlicingFault
from nightmill.slicing.inspection import inspection_command, read_inspection
from nightmill.slicing.profiles import SlicerProfile, find_profile
from nightmill.slicing.results import read_result
from nightmill.slicing.workplace import LOOK, Tell, Workshop
from nightmill.telemetry.redaction import redacted, without_secrets
from nightmill.threads import in_thread

if TYPE_CHECKING:
    from nightmill.slicing.breaker import Breaker
    from nightmill.slicing.programs import ProgramRun

logger = logging.getLogger(__name__)

LONGEST = timedelta(minutes=3)
"""How long a canary's activity may take: it has twelve pages."""

LEASE = LONGEST + timedelta(minutes=2)
"""After this a canary is given up for lost."""

_MAX_MESSAGE = 1_000


@dataclass(frozen=True)
class Canaries:
    """Slices canaries.

    Attributes:
        workshop: Gives places to work.
        breaker: Says when.
    """

    workshop: Workshop
    breaker: Breaker

    def turn(self, profile: str, token: str, *, hurry: bool, now: datetime) -> CanaryTurn:
        """Return whether the canary may be sliced now, or when.

        Raises:
            InvalidInput: There is no such profile.
        """
        settings = self.workshop.settings
        find_profile(settings, profile)
        begun = self.breaker.begin_probe(profile, token, now, LEASE, hurry=hurry)
        return CanaryTurn(
            token=token if begun else None,
            at=None if begun else self.breaker.due(profile, now),
            programs_queue=programs_queue(settings.task_queue),
            timeout=LONGEST,
            heartbeat_timeout=settings.heartbeat_timeout,
        )

    async def slice(self, profile: str, tell: Tell) -> CanaryOutcome:
        """Return whether the profile's slicer gives the right answer; a fault of it is a wrong one.

        Raises:
            InvalidInput: There is no such profile.
        """
        began = time.monotonic()
        found = find_profile(self.workshop.settings, profile)
        try:
            wrong = await self._wrong(found, tell)
        except SlicingFault as error:
            wrong = str(error)
        return CanaryOutcome(
            profile=profile,
            passed=wrong is None,
            message=None if wrong is None else wrong[:_MAX_MESSAGE],
            duration=timedelta(seconds=round(time.monotonic() - began, 3)),
        )

    async def _wrong(self, profile: SlicerProfile, tell: Tell) -> str | None:
        own = profile.settings.canary
        pdf = canary_pdf() if own is None else own
        bring = partial(shutil.copyfile, pdf)
        async with self.workshop.open(
            "canary", profile, bring, size=0, attempt=1, tell=tell, ended=_unrecorded
        ) as place:
            look = await place.run(
                "inspect", inspection_command(place.pdf, place.folder, max_pages=self.workshop.settings.max_pages), LOOK
            )
            pages = read_inspection(look.stdout, max_pages=self.workshop.settings.max_pages).page_count
            arguments = (str(place.pdf), str(place.output), "canary")
            run = await place.run("slice", (*profile.command, *arguments), place.bounds(LONGEST))
            return await in_thread(_judge, run.stdout, place.output, pages, exact=profile.is_built_in and own is None)


def _judge(stdout: Path, folder: Path, pages: int, *, exact: bool) -> str | None:
    """Return what is wrong with the answer; of a slicer of others, or a canary of theirs, only what anybody can see."""
    result = read_result(stdout, folder=folder, page_count=pages)
    flagged = next((entry.problem for entry in result.entries if entry.problem is not None), None)
    if flagged is not None or not exact:
        return flagged
    return judge(json.loads(stdout.read_bytes()), exact=True)


def _unrecorded(
    step: str, command: Sequence[str], run: ProgramRun, fault: SlicingFault | None, pages: int, size: int
) -> None:
    """Log a program that ended; a canary has no document whose record it could go into."""
    logger.info(
        "canary program",
        extra={
            "step": step,
            "command": redacted(command),
            "exit_code": run.exit_code,
            "signal": run.signal,
            "reason": None if fault is None else str(fault),
            "duration_ms": round(run.duration / timedelta(milliseconds=1)),
            "peak_memory": run.peak_memory,
            "stderr": without_secrets(run.stderr_tail[-2_000:]) if fault is not None else None,
        },
    )
    del pages, size
