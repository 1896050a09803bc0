"""What slicing is made of, each part built when first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nightmill.slicing.breaker import Breaker
from nightmill.slicing.health import Canaries
from nightmill.slicing.institutions import InstitutionNames
from nightmill.slicing.isolation import open_isolation
from nightmill.slicing.jobs import SlicingJobs
from nightmill.slicing.notices import Notices
from nightmill.slicing.operators import OperatorNotices
from nightmill.slicing.originals import Originals
from nightmill.slicing.programs import ProgramRunner
from nightmill.slicing.scratch import Scratch
from nightmill.slicing.steps import SlicingSteps
from nightmill.slicing.workplace import Workshop
from nightmill.storage.breakers import BreakerRepository
from nightmill.storage.slices import SliceRepository
from nightmill.storage.slicing_attempts import AttemptRepository
from nightmill.storage.slicing_notices import NoticeRepository
from nightmill.storage.slicings import SlicingRepository

if TYPE_CHECKING:
    from nightmill.notify import Notifier
    from nightmill.settings import Settings
    from nightmill.storage.engine import Database
    from nightmill.storage.files import FileStore
    from nightmill.web.outgoing import Outgoing


@dataclass
class SlicingParts:
    """The parts of slicing. Made by `nightmill.assembly`.

    Attributes:
        settings: What they are built from.
        database: The database.
        files: Where large files live.
        outgoing: Guarded calls to addresses that users give.
        notifier: Tells people.
    """

    settings: Settings
    database: Database
    files: FileStore
    outgoing: Outgoing
    notifier: Notifier

    @cached_property
    def slicings(self) -> SlicingRepository:
        """The records of sliced documents."""
        return SlicingRepository(self.database)

    @cached_property
    def slices(self) -> SliceRepository:
        """The stored slices."""
        return SliceRepository(self.database)

    @cached_property
    def attempts(self) -> AttemptRepository:
        """The records of programs."""
        return AttemptRepository(self.database)

    @cached_property
    def sent(self) -> NoticeRepository:
        """The records of notices."""
        return NoticeRepository(self.database)

    @cached_property
    def breakers(self) -> BreakerRepository:
        """The records of breakers."""
        return BreakerRepository(self.database)

    @cached_property
    def breaker(self) -> Breaker:
        """Keeps failing slicers from being started."""
        return Breaker(self.breakers, self.settings.slicing)

    @cached_property
    def originals(self) -> Originals:
        """Keeps PDFs."""
        return Originals(
            self.files, self.settings.input_roots, self.outgoing.fetch, max_size=self.settings.slicing.max_size
        )

    @cached_property
    def scratch(self) -> Scratch:
        """Gives private folders."""
        return Scratch(self.settings.slicing.scratch)

    @cached_property
    def workshop(self) -> Workshop:
        """Gives steps their places.

        Raises:
            NotConfigured: The level of isolation that the settings ask for does not work here.
        """
        runner = ProgramRunner(open_isolation(self.settings.slicing.isolation))
        return Workshop(self.settings.slicing, runner, self.scratch)

    @cached_property
    def steps(self) -> SlicingSteps:
        """Runs programs."""
        return SlicingSteps(
            workshop=self.workshop,
            originals=self.originals,
            files=self.files,
            slicings=self.slicings,
            attempts=self.attempts,
            institutions=InstitutionNames.load(self.settings.slicing.institutions),
        )

    @cached_property
    def jobs(self) -> SlicingJobs:
        """Opens and finishes slicings."""
        return SlicingJobs(
            settings=self.settings.slicing,
            originals=self.originals,
            files=self.files,
            slicings=self.slicings,
            attempts=self.attempts,
            breaker=self.breaker,
        )

    @cached_property
    def notices(self) -> Notices:
        """Tells owners."""
        return Notices(self.slicings, self.sent, self.notifier, link=self.settings.slicing.link)

    @cached_property
    def operator_notices(self) -> OperatorNotices:
        """Tells operators."""
        return OperatorNotices(self.breakers, self.notifier)

    @cached_property
    def canaries(self) -> Canaries:
        """Tries slicers."""
        return Canaries(self.workshop, self.breaker)
