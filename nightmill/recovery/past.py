"""What was done about a workflow before: which repairs are spent, and how often it was tried."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from nightmill.contracts import Action, RepairState

if TYPE_CHECKING:
    from nightmill.storage.recovery_models import RepairRow

IN_HAND = timedelta(seconds=60)
"""How long a recorded repair may still be carried out by whoever recorded it."""

_COUNTED = ("reset/", "start/", "afresh/")
"""Beginnings of the epochs that count as a try. Resets for failing tasks are one a build, and the expiry's fresh starts
one an hour: they have bounds of their own."""

_SPENT = frozenset({RepairState.ASKED, RepairState.DONE})


@dataclass(frozen=True)
class Past:
    """The repairs of one workflow.

    Attributes:
        rows: Newest first; the newest twenty will do.
    """

    rows: tuple[RepairRow, ...]

    def repair(self, epoch: str) -> RepairRow | None:
        """Return the repair that was done, or is being done, under this epoch; what failed has given its epoch back."""
        return next((row for row in self.rows if row.epoch == epoch), None)

    def is_in_hand(self, now: datetime) -> bool:
        """Whether somebody recorded a repair just now and may still be carrying it out."""
        return any(row.state is RepairState.ASKED and now - row.asked_at < IN_HAND for row in self.rows)

    def tries(self, run_id: str | None) -> tuple[RepairRow, ...]:
        """Return the repairs that count against the present run, newest first.

        They are those since something else than a repair began a run: an operator who starts one by hand begins anew,
        and so does a run that got as far as to continue as new. Such a run is no repair's `new_run_id`.

        Args:
            run_id: The present run; None: there is none.
        """
        if run_id is not None and all(run_id not in (row.run_id, row.new_run_id) for row in self.rows):
            return ()
        counted: list[RepairRow] = []
        for place, row in enumerate(self.rows):
            if row.state in _SPENT and row.epoch.startswith(_COUNTED):
                counted.append(row)
            if row.run_id is not None and all(row.run_id != older.new_run_id for older in self.rows[place + 1 :]):
                break
        return tuple(counted)

    def was_refused(self, run_id: str) -> bool:
        """Whether a reset of this run has failed: the next one may fail for the same reason, a fresh start does not."""
        return any(
            row.action is Action.RESET and row.state is RepairState.FAILED and row.run_id == run_id for row in self.rows
        )

    def begun(self, beginning: str) -> int:
        """Return how many repairs were done under epochs that begin like this."""
        return sum(row.state in _SPENT and row.epoch.startswith(beginning) for row in self.rows)

    @property
    def place(self) -> int:
        """The number of the newest repair, 0 if there is none.

        Where no run can name what a repair is for, this does: whoever knows of the same repairs asks for the same
        epoch, and once it is carried out the next one is another.
        """
        return self.rows[0].key or 0 if self.rows else 0
