"""Reads what a slicer prints: all of it has to be right, or it is refused; an entry that is bad is kept and flagged."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from nightmill.contracts import EntryProblem
from nightmill.slicing.dates import read_date
from nightmill.slicing.entries import Draft, Entry, as_shown, bounded, is_whole, read_entry, unreadable
from nightmill.slicing.faults import InvalidResult, OutputFlood
from nightmill.slicing.institutions import InstitutionNames
from nightmill.slicing.json_output import JsonOutput, Part, shown
from nightmill.slicing.rules import with_rules
from nightmill.slicing.slicer_result import MAX_LINE, FileCheck, SlicerResult, with_checks
from nightmill.slicing.stored_results import new_slices, read_stored_result, write_result

MAX_OUTPUT = 64 * 1024 * 1024
"""Bytes that are read at most. They are in memory once, and once more as the texts of the entries."""

MAX_ENTRIES = 10_000
"""Slices of one document; the largest gazettes have some hundred."""

MAX_ENTRY = 24 * 1024 * 1024
r"""Bytes of one entry: a text of 2,000,000 characters, were all of them written as `\ud83d\ude00`."""

MAX_LINES = 100
"""Lines that are kept of what the slicer itself reports."""

MAX_NUMBER = 64
MAX_EXTRAS = 64 * 1024
_SHOWN_RANGES = 8
_KNOWN = frozenset({"page_count", "gazette", "files", "errors", "flags", "covers"})


def read_result(
    stdout: Path, *, folder: Path, page_count: int, institutions: InstitutionNames | None = None
) -> SlicerResult:
    """Return a slicer's result from its standard output.

    Args:
        stdout: A file that the slicer cannot write to any more.
        folder: Its output folder; every `path` has to lie there.
        page_count: Pages of the document, as found without the slicer, which may not lose any.
        institutions: Names to look for in the texts.

    Raises:
        EmptyOutput: It printed nothing.
        InvalidJson: What it printed is not JSON.
        InvalidResult: It is JSON of another shape, or of other pages.
        UnsafePath: It names a file that is not in its folder.
        OutputFlood: It printed too much.
        OSError: The output or the folder cannot be read.
    """
    with stdout.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_OUTPUT:
            raise OutputFlood(f"the result has {size:,} bytes, at most {MAX_OUTPUT:,} are read")
        output = JsonOutput(file.read(size))  # a bound in its place would be allocated whole
    members = output.members()
    _check_pages(_value(output, members, "page_count"), page_count)
    number, issued_on, flags = _gazette(_value(output, members, "gazette"))
    drafts = _drafts(output, members, folder=folder, page_count=page_count)
    extras = bounded({name: output.read(part) for name, part in members.items() if name not in _KNOWN}, MAX_EXTRAS)
    flags += _lines("flags", _value(output, members, "flags"))
    if drafts and _value(output, members, "covers") is not False:
        flags += _uncovered(drafts, page_count)
    return SlicerResult(
        page_count=page_count,
        number=number,
        issued_on=issued_on,
        entries=tuple(
            with_rules(entry, number=number, issued_on=issued_on, institutions=institutions)
            for entry in _in_order(_with_shared_files(drafts))
        ),
        errors=tuple(_lines("errors", _value(output, members, "errors"))),
        flags=tuple(flags),
        extras={"left_out": f"more than {MAX_EXTRAS:,} bytes"} if extras is None else extras,
    )


def _value(output: JsonOutput, members: Mapping[str, Part], name: str) -> Any:
    return output.read(members[name]) if name in members and name != "files" else None


def _check_pages(given: Any, page_count: int) -> None:
    if not is_whole(given) or given < 0:
        raise InvalidResult(f"`page_count` is {as_shown(given)}, where a number of pages is due")
    if given != page_count:
        raise InvalidResult(f"`page_count` is {given}, and the document has {page_count:,} pages")


def _gazette(given: Any) -> tuple[str | None, date | None, list[str]]:
    """Return number and date, and what is to be seen about them; a document that is no gazette has neither."""
    if given is None:
        return None, None, []
    if not isinstance(given, dict):
        raise InvalidResult(f"`gazette` is {as_shown(given)}, where an object is due")
    number, printed = given.get("number"), given.get("date")
    flags = []
    if not isinstance(number, str) or not (number := " ".join(shown(number, MAX_NUMBER).split())):
        flags.append("the gazette's number was not found")
        number = None
    issued_on = read_date(printed) if isinstance(printed, str) else None
    if issued_on is None:
        blank = printed is None or printed == ""
        flags.append("the gazette's date was not found" if blank else f"no date: {as_shown(printed)}")
    return number, issued_on, flags


def _lines(name: str, given: Any) -> list[str]:
    """Return what a list holds, a line each."""
    if given is None:
        return []
    if not isinstance(given, list):
        raise InvalidResult(f"`{name}` is {as_shown(given)}, where a list is due")
    lines = [shown(one if isinstance(one, str) else json.dumps(one), MAX_LINE) for one in given[:MAX_LINES]]
    more = [f"and {len(given) - MAX_LINES:,} more"] if len(given) > MAX_LINES else []
    return [line for line in lines if line] + more


def _drafts(output: JsonOutput, members: Mapping[str, Part], *, folder: Path, page_count: int) -> list[Draft]:
    if (files := members.get("files")) is None:
        raise InvalidResult("`files` is missing")
    if not output.is_a(files, b"["):
        raise InvalidResult(f"`files` is {as_shown(output.read(files))}, where a list is due")
    drafts = []
    for number, part in enumerate(output.items_of(files)):
        if number == MAX_ENTRIES:
            raise InvalidResult(f"`files` has more than {MAX_ENTRIES:,} entries")
        drafts.append(_draft(output, part, folder=folder, page_count=page_count))
    return drafts


def _draft(output: JsonOutput, part: Part, *, folder: Path, page_count: int) -> Draft:
    if part.size > MAX_ENTRY:
        return unreadable(f"{part.size:,} bytes, of which at most {MAX_ENTRY:,} are read")
    if not output.is_a(part, b"{"):
        return unreadable(f"{as_shown(output.read(part))}, where an object is due")
    members, repeated = output.members_of(part)
    given = {name: output.read(value) for name, value in members.items()}
    draft = read_entry(given, folder=folder, page_count=page_count)
    if not repeated:
        return draft
    said = f"`{shown(repeated[0])}` is given twice; the last one counts"
    return replace(draft, entry=draft.entry.flagged(EntryProblem.INVALID, said))


def _with_shared_files(drafts: Sequence[Draft]) -> list[Draft]:
    """Flag slices of other pages that have one file: the last one written is in it."""
    pages: defaultdict[str | None, set[tuple[int, int]]] = defaultdict(set)
    for draft in drafts:
        pages[draft.entry.path].add((draft.entry.start_page, draft.entry.end_page))
    shared = {path for path, ranges in pages.items() if path is not None and len(ranges) > 1}
    return [
        replace(draft, entry=draft.entry.flagged(EntryProblem.INVALID, "its file is also that of other pages"))
        if draft.entry.path in shared
        else draft
        for draft in drafts
    ]


def _in_order(drafts: Sequence[Draft]) -> list[Entry]:
    """Return the entries, numbered from 0; one without a place of its own stands behind the one that it followed."""
    placed = []
    before = -1
    for draft in drafts:
        before = before if draft.position is None else draft.position
        placed.append((before, draft))
    placed.sort(key=lambda one: one[0])  # stable: the order of the list decides
    entries = []
    before, due = -1, 0
    for number, (_, draft) in enumerate(placed):
        entry = replace(draft.entry, position=number)
        if draft.position is None:
            said = f"`position` is {draft.said}, where a number from 0 on is due"
            entry = entry.flagged(EntryProblem.POSITION_INVALID, said)
            due += 1  # it may be the one that is missing
        else:
            if draft.position == before:
                entry = entry.flagged(EntryProblem.POSITION_INVALID, f"position {before} is taken")
            elif draft.position > due:
                said = f"position {draft.position} where {due} is due"
                entry = entry.flagged(EntryProblem.POSITION_INVALID, said)
            before, due = draft.position, draft.position + 1
        entries.append(entry)
    return entries


def _uncovered(drafts: Sequence[Draft], page_count: int) -> list[str]:
    """Return a line for people, who count from 1, about pages that are in no slice."""
    covered = bytearray(page_count)
    for draft in drafts:
        if draft.covers:
            start, end = draft.entry.start_page, draft.entry.end_page + 1
            covered[start:end] = b"\1" * (end - start)
    ranges = []
    start = covered.find(0)
    while start >= 0:
        end = covered.find(1, start)
        end = page_count if end < 0 else end
        ranges.append(f"{start + 1}" if end == start + 1 else f"{start + 1}-{end}")
        start = covered.find(0, end)
    if not ranges:
        return []
    if len(ranges) == 1 and "-" not in ranges[0]:
        return [f"page {ranges[0]} belongs to no slice"]
    more = f" and {len(ranges) - _SHOWN_RANGES} more ranges" if len(ranges) > _SHOWN_RANGES else ""
    return [f"pages {', '.join(ranges[:_SHOWN_RANGES])}{more} belong to no slice"]


__all__ = [
    "FileCheck",
    "SlicerResult",
    "new_slices",
    "read_result",
    "read_stored_result",
    "with_checks",
    "write_result",
]
