"""What recovery is made of, each part built when first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nightmill.recovery.alarms import Alarms
from nightmill.recovery.candidates import Candidates
from nightmill.recovery.closing import Closer
from nightmill.storage.candidates import CandidateReads
from nightmill.storage.document_candidates import DocumentCandidates
from nightmill.storage.repairs import RepairRepository
from nightmill.storage.slicing_candidates import SlicingCandidates

if TYPE_CHECKING:
    from nightmill.assembly import Assembly


@dataclass
class RecoveryParts:
    """The parts of recovery. Made by `nightmill.assembly`.

    Attributes:
        assembly: What they are built from.
    """

    assembly: Assembly

    @cached_property
    def repairs(self) -> RepairRepository:
        """The records of repairs."""
        return RepairRepository(self.assembly.database)

    @cached_property
    def candidates(self) -> Candidates:
        """What may be stuck."""
        database, settings = self.assembly.database, self.assembly.settings
        return Candidates(
            settings.reconciler,
            settings.batch,
            CandidateReads(database),
            DocumentCandidates(database),
            SlicingCandidates(database),
        )

    @cached_property
    def closer(self) -> Closer:
        """Writes ends that runs could not write."""
        return Closer(batches=self.assembly.batches, settler=self.assembly.settler)

    @cached_property
    def alarms(self) -> Alarms:
        """Tells operators."""
        return Alarms(self.assembly.notifier)
