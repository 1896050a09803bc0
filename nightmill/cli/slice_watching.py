"""Watch slicings to their end: bars on a terminal, lines elsewhere, and nothing stops when the watching does."""

from __future__ import annotations

import asyncio
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from nightmill.cli.ending import ExitCode
from nightmill.cli.output import note, print_json, shortened
from nightmill.cli.progress import bars
from nightmill.cli.slice_output import exit_code_of, id_of, print_summaries, summary_json
from nightmill.cli.waiting import LOOKS_EVERY, over_outages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.progress import TaskID

    from nightmill.client.nightmill import Nightmill
    from nightmill.client.slicings import Slicings
    from nightmill.contracts import SlicingProgress, SlicingSummary

SHOWN_AT_ONCE = 6
"""Slicings that have a bar, and are asked, at once; more would scroll."""

WAITED_AT_ONCE = 50
"""Slicings whose end is waited for at once; those after them are asked in turn."""

_ANSWERS_WITHIN = timedelta(seconds=5)


@dataclass(frozen=True)
class Watched:
    """A slicing that is watched."""

    sha256: str
    profile: str
    name: str = field(compare=False)


class Display(Protocol):
    """Shows how slicings stand."""

    def show(self, watched: Watched, progress: SlicingProgress) -> None:
        """Show how far one is."""

    def ended(self, watched: Watched, summary: SlicingSummary) -> None:
        """Show that one has ended."""


def watch_slicings(watched: Sequence[Watched], *, timeout: timedelta | None, as_json: bool) -> ExitCode:
    """Connect, wait for the ends, print what came of them, and return the exit code."""
    from nightmill.cli.runtime import run_async
    from nightmill.client.nightmill import Nightmill

    async def work() -> ExitCode:
        async with Nightmill.connect() as nightmill:
            return await watch_and_tell(nightmill, watched, timeout=timeout, as_json=as_json)

    try:
        return run_async(work())
    except KeyboardInterrupt:
        return stopped_watching(watched)


def stopped_watching(watched: Sequence[Watched]) -> ExitCode:
    """Say that the slicings go on and how to watch them again."""
    note(f"Stopped watching; {_these(watched)}. {_again(watched)}")
    return ExitCode.WAITING


async def watch_and_tell(
    nightmill: Nightmill,
    watched: Sequence[Watched],
    *,
    timeout: timedelta | None,
    as_json: bool,
    refused: int = 0,
) -> ExitCode:
    """Wait for the ends, at most so long, print what came of them, and return the exit code.

    Args:
        nightmill: The connection.
        watched: The slicings.
        timeout: How long to watch.
        as_json: Whether to print a line of JSON as each ends, or a table at the end of all.
        refused: How many others could not even be started, for the exit code.
    """
    slicings = nightmill.slicings
    ended: dict[Watched, SlicingSummary] = {}
    over = {each: asyncio.Event() for each in watched}
    with _display(len(watched), as_json=as_json) as display:
        looking = asyncio.create_task(_look(slicings, over, ended, display))
        try:
            async with asyncio.timeout(timeout.total_seconds() if timeout else None):
                await _wait_all(slicings, over, ended, display, as_json=as_json)
        except TimeoutError:
            pass
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
    if ended and not as_json:
        print_summaries([ended[each] for each in watched if each in ended])
    rest = [each for each in watched if each not in ended]
    if rest:
        note(f"The time is over; {_these(rest)}. {_again(rest)}")
        return ExitCode.WAITING
    return exit_code_of(list(ended.values()), refused=refused)


async def _wait_all(
    slicings: Slicings,
    over: Mapping[Watched, asyncio.Event],
    ended: dict[Watched, SlicingSummary],
    display: Display,
    *,
    as_json: bool,
) -> None:
    free = asyncio.Semaphore(WAITED_AT_ONCE)

    async def wait(each: Watched) -> None:
        async with free:
            summary = await _wait_or(over[each], slicings, each)
        ended[each] = summary
        display.ended(each, summary)
        if as_json:
            print_json(summary_json(summary))

    tasks = [asyncio.create_task(wait(each)) for each in over]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait_or(over: asyncio.Event, slicings: Slicings, watched: Watched) -> SlicingSummary:
    """Wait until the workflow has ended, or only the slicing: telling those who asked may take half an hour more."""
    ended = asyncio.create_task(over_outages(lambda: slicings.wait(watched.sha256, watched.profile)))
    seen = asyncio.create_task(over.wait())
    try:
        await asyncio.wait({ended, seen}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            return ended.result()
        return await slicings.summary(watched.sha256, watched.profile)
    finally:
        ended.cancel()
        seen.cancel()
        await asyncio.gather(ended, seen, return_exceptions=True)


async def _look(
    slicings: Slicings,
    over: Mapping[Watched, asyncio.Event],
    ended: Mapping[Watched, SlicingSummary],
    display: Display,
) -> None:
    """Ask the first ones that go on how far they are, again and again, and say which are over."""
    from nightmill.errors import NightmillError

    told = False
    while True:
        for each in [each for each in over if each not in ended][:SHOWN_AT_ONCE]:
            try:
                async with asyncio.timeout(_ANSWERS_WITHIN.total_seconds()):
                    progress = await slicings.progress(each.sha256, each.profile)
            except (NightmillError, TimeoutError) as error:
                if each not in ended and not told:
                    told = True
                    why = str(error) or "no answer"
                    note(f"nightmill: how far it is cannot be shown ({why}): does a slicing worker run?")
                continue
            if progress.status.is_terminal:
                over[each].set()
            elif each not in ended:
                display.show(each, progress)
        await asyncio.sleep(LOOKS_EVERY.total_seconds())


@contextmanager
def _display(total: int, *, as_json: bool) -> Iterator[Display]:
    """Give what shows progress: bars on a terminal; else lines on standard error, none beside JSON."""
    if not sys.stderr.isatty():
        yield _Lines(silent=as_json)
        return
    with bars(before=["name"], after=["pages", "times"], counted=False) as progress:
        yield _Bars(progress, total)


class _Lines:
    """A line whenever a slicing comes to another phase, or ends."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._last: dict[Watched, str] = {}

    def show(self, watched: Watched, progress: SlicingProgress) -> None:
        what = _what(progress)
        if self._silent or self._last.get(watched) == what:
            return
        self._last[watched] = what
        pages = f", {progress.of:,} pages" if progress.of else ""
        note(f"{watched.name}: {what}{pages}")

    def ended(self, watched: Watched, summary: SlicingSummary) -> None:
        if not self._silent:
            note(f"{watched.name}: {summary.status.value}")


class _Bars:
    """A bar for each of the first slicings that go on, and one for all of them where they are several."""

    def __init__(self, progress: Any, total: int) -> None:
        self._progress = progress
        self._bars: dict[Watched, TaskID] = {}
        self._pages: dict[tuple[Watched, str, int], int] = {}
        self._done = 0
        self._all: TaskID | None = None
        if total > 1:
            self._all = progress.add_task("ended", total=total, name="all", pages=f"0/{total:,}", times="")
        self._total = total

    def show(self, watched: Watched, progress: SlicingProgress) -> None:
        if watched not in self._bars:
            self._bars[watched] = self._progress.add_task(
                "", total=None, name=shortened(watched.name, 32), pages="", times=""
            )
        # Between two reports of a program the workflow knows less than its heartbeat has told before.
        step = (watched, progress.phase, progress.attempt)
        page = self._pages[step] = max(self._pages.get(step, 0), min(progress.page, progress.of or progress.page))
        self._progress.update(
            self._bars[watched],
            description=_what(progress),
            total=progress.of or None,
            completed=page,
            pages=f"{page:,}/{progress.of:,} pages" if progress.of else "",
            times=_times(progress),
        )

    def ended(self, watched: Watched, summary: SlicingSummary) -> None:
        del summary
        self._done += 1
        if watched in self._bars:
            self._progress.remove_task(self._bars.pop(watched))
        if self._all is not None:
            self._progress.update(self._all, completed=self._done, pages=f"{self._done:,}/{self._total:,}")


def _what(progress: SlicingProgress) -> str:
    """Return what is being done, in a word or two."""
    if progress.status.value == "waiting":
        return f"waiting: {shortened(progress.message, 60)}" if progress.message else "waiting"
    if progress.status.value == "queued":
        return "queued"
    again = f", attempt {progress.attempt}" if progress.attempt > 1 else ""
    return f"{_PHASES.get(progress.phase, progress.phase)}{again}"


_PHASES = {"inspect": "opening", "pages": "reading", "slice": "slicing", "metadata": "finding number and date"}


def _times(progress: SlicingProgress) -> str:
    """Return how long it has been sliced, and how long that takes by the estimate, until that is over."""
    from nightmill.contracts import duration_text

    if progress.started_at is None:
        return ""
    elapsed = max(timedelta(0), datetime.now(UTC) - progress.started_at)
    text = duration_text(timedelta(seconds=int(elapsed.total_seconds())))
    if progress.estimate is None or elapsed > progress.estimate:
        return text
    return f"{text} of about {duration_text(timedelta(seconds=max(1, round(progress.estimate.total_seconds()))))}"


def _these(watched: Sequence[Watched]) -> str:
    return f"{watched[0].name} goes on" if len(watched) == 1 else f"{len(watched):,} slicings go on"


def _again(watched: Sequence[Watched]) -> str:
    names = " ".join(id_of(each.sha256, each.profile) for each in watched[:3])
    return f"Watch {'it' if len(watched) == 1 else 'them'} again: nightmill slice watch {names}" + (
        " …" if len(watched) > 3 else ""
    )
