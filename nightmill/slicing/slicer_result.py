"""What a slicer found, once nothing of it has to be believed any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from nightmill.contracts import EntryProblem
from nightmill.slicing.dates import in_words
from nightmill.slicing.entries import Entry
from nightmill.slicing.json_output import shown

MAX_REASONS = 10
MAX_LINE = 500
"""Characters of one."""


@dataclass(frozen=True, kw_only=True)
class SlicerResult:
    """What a slicer found, validated.

    Attributes:
        page_count: Pages of the document.
        number: The gazette's number, as printed.
        issued_on: Its date.
        entries: The slices, in order.
        errors: What the slicer says that went wrong.
        flags: What the slicer, or our own look at its result, finds that a person should see.
        extras: What else the slicer says, such as its name and version.
    """

    page_count: int
    number: str | None = None
    issued_on: date | None = None
    entries: tuple[Entry, ...] = ()
    errors: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def flagged(self) -> int:
        """How many slices have a problem."""
        return sum(entry.problem is not None for entry in self.entries)

    @property
    def description(self) -> str | None:
        """A line about the document; None where neither number nor date is known."""
        number = f"La Gaceta No. {self.number}" if self.number else "La Gaceta"
        day = f" del {in_words(self.issued_on)}" if self.issued_on else ""
        return f"{number}{day}" if self.number or day else None

    def reasons(self) -> tuple[str, ...]:
        """Return why a person has to look at it, at most ten lines; none: nobody has to."""
        lines = [
            *([] if self.entries else ["no slices were found"]),
            *([f"{self.flagged} of {len(self.entries)} slices are flagged"] if self.flagged else []),
            *(f"slice {e.position + 1} ({e.title[:60]}): {e.problem}"[:MAX_LINE] for e in self.entries if e.problem),
            *(f"the slicer reports: {line}"[:MAX_LINE] for line in self.errors),
            *self.flags,
        ]
        if len(lines) <= MAX_REASONS:
            return tuple(lines)
        return (*lines[: MAX_REASONS - 1], f"and {len(lines) - MAX_REASONS + 1} more")


@dataclass(frozen=True)
class FileCheck:
    """What a look at a slice's file came to.

    Attributes:
        pages: Its pages; None for one that cannot be opened.
        message: Why it cannot.
    """

    pages: int | None = None
    message: str | None = None


def with_checks(result: SlicerResult, checks: Mapping[str, FileCheck]) -> SlicerResult:
    """Return the result with those entries flagged whose files are not what they say; their files are kept.

    Args:
        result: The result.
        checks: By path; a file that is not among them was not looked at, and is flagged.
    """
    return replace(result, entries=tuple(_checked(entry, checks) for entry in result.entries))


def _checked(entry: Entry, checks: Mapping[str, FileCheck]) -> Entry:
    if entry.path is None:
        return entry
    check = checks.get(entry.path, FileCheck(message="it was not looked at"))
    due = entry.end_page - entry.start_page + 1
    if check.pages is None:
        said = f"{shown(entry.path, 100)}: {shown(check.message or 'it cannot be opened', 200)}"
        return entry.flagged(EntryProblem.NOT_A_PDF, said)
    if check.pages != due:
        said = f"{shown(entry.path, 100)} has {check.pages:,} pages, where {due:,} are due"
        return entry.flagged(EntryProblem.PAGE_COUNT_DIFFERS, said)
    return entry
