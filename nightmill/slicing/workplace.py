"""Where one step of a slicing works: a private folder, the PDF in it, and programs that run there under supervision."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from nightmill.contracts import SlicerBeat
from nightmill.slicing.inspection import check_source
from nightmill.slicing.outcome import fault_of
from nightmill.slicing.programs import Bounds, Program, ProgramRun, ProgramRunner
from nightmill.threads import in_thread

if TYPE_CHECKING:
    from nightmill.settings.slicing import SlicingSettings
    from nightmill.slicing.faults import SlicingFault
    from nightmill.slicing.profiles import SlicerProfile
    from nightmill.slicing.scratch import Scratch

logger = logging.getLogger(__name__)

Tell = Callable[[SlicerBeat], None]
"""Takes progress; called on the event loop, often."""

SPACE_FACTOR = 6
"""Room that slicing a PDF takes, in its own size: besides the PDF, parts that repeat its fonts. A report of 2,415 pages
and 6.5 MB makes 32 MB in 121 parts (measured)."""

SPACE_AT_LEAST = 64 * 1024 * 1024

LOOK = Bounds(
    wall=timedelta(seconds=60), cpu=timedelta(seconds=60), stall=None, memory=1536 * 1024 * 1024,
    file_size=1024**3, open_files=256, processes=64, stdout=8 * 1024 * 1024, stderr_tail=64 * 1024,
    grace=timedelta(seconds=1),
)  # fmt: skip
"""For our own looks at PDFs, which take a fraction of a second for ordinary ones."""

_NAMES = {"inspect": "the look at the PDF", "check": "the look at the slices", "metadata": "the metadata program"}

Ended = Callable[[str, Sequence[str], ProgramRun, "SlicingFault | None", int, int], None]
"""Keeps what is to be known of a program: step, command, how it ended, what was wrong, pages, bytes of the PDF."""


@dataclass
class Workplace:
    """One step's private folder. Made by `Workshop.open`.

    Attributes:
        home: The folder; programs may only read it.
        folder: The one folder in it that programs write to.
        pdf: The PDF.
        size: Its bytes.
        beat: The step's progress so far; `tell` changes it.
    """

    home: Path
    folder: Path
    pdf: Path
    size: int
    beat: SlicerBeat
    profile: SlicerProfile
    _workshop: Workshop = field(repr=False)
    _tell: Tell = field(repr=False)
    _ended: Ended = field(repr=False)

    @property
    def output(self) -> Path:
        """The slicer's output folder."""
        return self.folder / "output"

    def tell(self, phase: str, page: int | None = None, of: int | None = None) -> None:
        """Show progress."""
        changes = {"phase": phase, "page": self.beat.page if page is None else page}
        changes["of"] = self.beat.of if of is None else of
        self.beat = self.beat.model_copy(update=changes)
        self._tell(self.beat)

    def bounds(self, timeout: timedelta) -> Bounds:
        """Return what the profile's programs may take in an activity with this timeout."""
        given, slicing = self.profile.settings, self._workshop.settings
        return Bounds(
            wall=self.profile.wall(timeout),
            cpu=given.cpu,
            stall=given.stall,
            memory=given.memory,
            file_size=given.file_size,
            open_files=given.open_files,
            processes=given.processes,
            stdout=slicing.max_stdout,
            stderr_tail=slicing.stderr_tail,
            grace=slicing.grace,
        )

    async def run(
        self, step: str, command: Sequence[str], bounds: Bounds, *, readable: Sequence[Path] = (), pages: int = 0
    ) -> ProgramRun:
        """Run a program to its end; it has said something and ended well.

        Raises:
            SlicingFault: It did not.
        """
        self.tell("starting")
        program = Program(
            command=tuple(command),
            readable=(self.pdf, *readable, *self.profile.settings.read_paths),
            folder=self.folder,
            environment=self.profile.settings.environment,
            bounds=bounds,
        )
        self.tell("running")
        run = await self._workshop.runner.run(program, lambda page, of: self.tell("running", page, of))
        fault = fault_of(run, bounds, _NAMES.get(step, "the slicer"))
        await in_thread(self._ended, step, command, run, fault, pages, self.size)
        if fault is not None:
            raise fault
        return run


@dataclass(frozen=True)
class Workshop:
    """Gives steps their places.

    Attributes:
        settings: How PDFs are sliced.
        runner: Runs programs.
        scratch: Gives folders.
    """

    settings: SlicingSettings
    runner: ProgramRunner
    scratch: Scratch

    @asynccontextmanager
    async def open(
        self, step: str, profile: SlicerProfile, bring: Callable[[Path], None], *, size: int, attempt: int,
        tell: Tell, ended: Ended, first_page: int = 0,
    ) -> AsyncIterator[Workplace]:  # fmt: skip
        """Give a place with the PDF in it; it is removed in the end, whatever happens.

        Args:
            step: `inspect`, `pages`, `slice`, `metadata` or `canary`.
            profile: Whose programs run there.
            bring: Writes the PDF to a path.
            size: About how many bytes that has.
            attempt: Which attempt this is.
            tell: Takes progress.
            ended: Keeps what is to be known of programs that ended.
            first_page: The first page that is worked on.

        Raises:
            SlicingFault: There is no room, or the PDF is none.
        """
        beat = SlicerBeat(
            step=step, phase="fetching", attempt=attempt, first_page=first_page, started_at=datetime.now(UTC)
        )
        tell(beat)
        with ExitStack() as stack:
            await in_thread(self.scratch.check_space, max(size * SPACE_FACTOR, SPACE_AT_LEAST))
            home = await in_thread(stack.enter_context, self.scratch.folder())
            try:
                folder, pdf = home / "work", home / "document.pdf"
                folder.mkdir(mode=0o700)
                (folder / "output").mkdir(mode=0o700)
                await in_thread(bring, pdf)
                found = await in_thread(check_source, pdf, self.settings.max_size)
                yield Workplace(home, folder, pdf, found, beat, profile, self, tell, ended)
            finally:
                await in_thread(stack.close)
