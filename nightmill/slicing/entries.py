"""Reads one entry of `files` in a slicer's result: what can be used of it, and what is wrong with it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from nightmill.contracts import EntryProblem
from nightmill.slicing.json_output import shown
from nightmill.slicing.output_files import inside, open_inside
from nightmill.storage.columns import storable
from nightmill.storage.slicing_models import MAX_FULL_TEXT

MAX_WORD = 255
"""Characters of a name, tag or subject, and of a file's name on most file systems."""

MAX_NAME = 500
"""Characters of an issuer or institution."""

MAX_INSTITUTIONS = 200
MAX_PROBLEM = 500
MAX_DETAILS = 16 * 1024
"""Bytes, as JSON, of what else a slicer says of a slice."""

MAX_NUMBER = 2**53
"""Larger whole numbers are kept as text: not every reader of JSON has them."""

_FIELDS = frozenset(
    {"name", "path", "start_page", "end_page", "position", "full_text", "short_description", "description", "tag"}
    | {"issuer", "materia", "institutions"}
)
_PDF = b"%PDF-"
_BEGINNING = 1_024  # bytes in which readers look for it: ISO 32000-1, Annex H, note 13


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One slice, as it is stored.

    Attributes:
        position: Its place, from 0 and without gaps.
        name: A section's fixed name; empty for an act.
        issue_id: An act's identifier; empty for a section.
        start_page: Its first page, from 0. Where the slicer names a page that the document does not have, the nearest
            that it has; the problem says so.
        end_page: Its last page, included.
        full_text: Its text.
        short_description: A line about it.
        description: More about it.
        tags: Words to find it by; `Gaceta` is always among them.
        issuer: Who issued it; empty where nobody is named.
        materia: Its subject.
        institutions: Institutions that it names.
        path: Its file in the slicer's output folder; None where that is missing.
        file_key: Key of its PDF in the file storage, once it is there.
        file_size: Bytes of that.
        file_sha256: Its content.
        details: What else the slicer says of it.
        problem: What is wrong with it, as `EntryProblem: message`.
    """

    position: int
    name: str = ""
    issue_id: str = ""
    start_page: int = 0
    end_page: int = 0
    full_text: str = ""
    short_description: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    issuer: str = ""
    materia: str = ""
    institutions: tuple[str, ...] = ()
    path: str | None = None
    file_key: str | None = None
    file_size: int | None = None
    file_sha256: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def title(self) -> str:
        """What people call it."""
        return self.name or self.issue_id or "without a name"

    def flagged(self, problem: EntryProblem, message: str) -> Entry:
        """Return it with one more problem; the first one stands first."""
        return replace(self, problem=joined(self.problem, problem, message))


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An entry before its place among the others is known.

    Attributes:
        entry: What could be read; `issue_id` has its name, and `tags` its kind.
        position: The place that it says it has; None if that is not one.
        said: The same for people.
        covers: Whether its pages are known, so that they belong to it.
    """

    entry: Entry
    position: int | None
    said: str
    covers: bool


def read_entry(given: Mapping[str, Any], *, folder: Path, page_count: int) -> Draft:
    """Return what can be used of an entry.

    Raises:
        UnsafePath: It names a file that lies elsewhere, or is a link.
    """
    reading = _Reading(given)
    name = reading.due("name", MAX_WORD)
    start, end, covers = reading.pages(page_count)
    entry = Entry(
        position=0,
        issue_id=name,
        start_page=start,
        end_page=end,
        full_text=reading.due("full_text", MAX_FULL_TEXT, may_be_blank=True),
        short_description=reading.text("short_description", MAX_FULL_TEXT),
        description=reading.text("description", MAX_FULL_TEXT),
        tags=tuple(filter(None, [reading.text("tag", MAX_WORD).strip()])),
        issuer=reading.text("issuer", MAX_NAME).strip(),
        materia=reading.text("materia", MAX_WORD).strip(),
        institutions=reading.names("institutions"),
        path=reading.file(folder),
        details=reading.details(),
    )
    position = given.get("position")
    return Draft(
        entry=replace(entry, problem=reading.problem),
        position=position if is_whole(position) and position >= 0 else None,
        said=as_shown(position) if "position" in given else "missing",
        covers=covers,
    )


def unreadable(message: str) -> Draft:
    """Return the draft of an entry that says nothing."""
    problem = joined(None, EntryProblem.INVALID, message)
    return Draft(entry=Entry(position=0, problem=problem), position=None, said="missing", covers=False)


def is_whole(value: Any) -> TypeGuard[int]:
    """Return whether a value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def as_shown(value: Any) -> str:
    """Return a value of JSON for a message."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return f'"{shown(value, 40)}"'
    return str(value)[:40]


def _is_utf8(text: str) -> bool:
    try:
        text.encode()  # ten times as fast as to search for halves of surrogate pairs
    except UnicodeEncodeError:
        return False
    return True


def joined(before: str | None, problem: EntryProblem, message: str) -> str:
    """Return the line of a further problem behind that of earlier ones."""
    line = f"{problem}: {message}"
    return (f"{before}; {line}" if before else line)[:MAX_PROBLEM]


class _Reading:
    """Reads fields, and keeps what is wrong with them."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self.problem: str | None = None

    def flag(self, problem: EntryProblem, message: str) -> None:
        self.problem = joined(self.problem, problem, message)

    def due(self, name: str, limit: int, *, may_be_blank: bool = False) -> str:
        """Return a text that has to be there."""
        value = self._given.get(name)
        if isinstance(value, str):
            text = self._storable(name, value, limit)
            if text.strip() or may_be_blank:
                return text if may_be_blank else " ".join(text.split())
            self.flag(EntryProblem.TEXT_MISSING, f"`{name}` is blank")
            return ""
        said = as_shown(value) if name in self._given else "missing"
        self.flag(EntryProblem.TEXT_MISSING, f"`{name}` is {said}, where text is due")
        return ""

    def text(self, name: str, limit: int) -> str:
        """Return a text that may be missing."""
        value = self._given.get(name)
        if isinstance(value, str):
            return self._storable(name, value, limit)
        if value is not None:
            self.flag(EntryProblem.INVALID, f"`{name}` is {as_shown(value)}, where text is due")
        return ""

    def names(self, name: str) -> tuple[str, ...]:
        """Return a list of names, each once."""
        value = self._given.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.flag(EntryProblem.INVALID, f"`{name}` is {as_shown(value)}, where a list is due")
            return ()
        found: dict[str, None] = {}
        for one in value:
            if not isinstance(one, str):
                self.flag(EntryProblem.INVALID, f"`{name}` holds {as_shown(one)}, where text is due")
                break
            found[" ".join(self._storable(name, one, MAX_NAME).split())] = None
            if len(found) > MAX_INSTITUTIONS:
                self.flag(EntryProblem.INVALID, f"`{name}` holds more than {MAX_INSTITUTIONS}")
                break
        return tuple(one for one in found if one)[:MAX_INSTITUTIONS]

    def pages(self, page_count: int) -> tuple[int, int, bool]:
        """Return first and last page, within the document, and whether they are as given."""
        start, end = self._given.get("start_page"), self._given.get("end_page")
        if is_whole(start) and is_whole(end) and 0 <= start <= end < page_count:
            return start, end, True
        said = f"pages {as_shown(start)} to {as_shown(end)} (from 0) of {page_count:,}"
        if is_whole(start) and is_whole(end):
            self.flag(EntryProblem.PAGES_OUT_OF_RANGE, said)
        else:
            self.flag(EntryProblem.INVALID, said)
        known = [min(max(page, 0), max(page_count - 1, 0)) for page in (start, end) if is_whole(page)]
        return min(known, default=0), max(known, default=0), False

    def file(self, folder: Path) -> str | None:
        """Return the path of the entry's file, if there is one that begins like a PDF.

        Raises:
            UnsafePath: The path leads elsewhere.
        """
        path = self._given.get("path")
        if path is not None and not isinstance(path, str):
            self.flag(EntryProblem.INVALID, f"`path` is {as_shown(path)}, where text is due")
            return None
        if not path:
            self.flag(EntryProblem.FILE_MISSING, "no `path` is given")
            return None
        if not _is_utf8(path):
            self.flag(EntryProblem.FILE_MISSING, f"{shown(path, 100)}: a name that is no text")
            return None
        try:
            file = os.fdopen(open_inside(folder, path), "rb")
        except OSError as error:
            self.flag(EntryProblem.FILE_MISSING, f"{shown(path, 100)}: {error.strerror}")
            return None
        with file:
            beginning = file.read(_BEGINNING)
        if _PDF not in beginning:
            self.flag(EntryProblem.NOT_A_PDF, f"{shown(path, 100)} {'is no PDF' if beginning else 'is empty'}")
            return None
        return "/".join(inside(path))

    def details(self) -> dict[str, Any]:
        """Return what else there is."""
        more = {name: value for name, value in self._given.items() if name not in _FIELDS}
        kept = bounded(more, MAX_DETAILS)
        return {"left_out": f"more than {MAX_DETAILS:,} bytes"} if kept is None else kept

    def _storable(self, name: str, value: str, limit: int) -> str:
        text = value
        if not _is_utf8(value):
            self.flag(EntryProblem.INVALID, f"`{name}` holds characters that are none; they are U+FFFD now")
            text = storable(value)
        elif "\0" in value:
            text = storable(value)
        if len(text) > limit:
            self.flag(EntryProblem.INVALID, f"`{name}` has {len(text):,} characters; {limit:,} are kept")
        return text[:limit]


def bounded(value: dict[str, Any], limit: int) -> dict[str, Any] | None:
    """Return an object that can be stored and read again anywhere; None if it has more than about `limit` bytes."""
    left = [limit]
    kept = _bounded(value, left)
    return kept if left[0] >= 0 else None


def _bounded(value: Any, left: list[int]) -> Any:
    left[0] -= 4
    if left[0] < 0 or value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        left[0] -= 2 * len(value)
        return storable(value)
    if isinstance(value, list):
        return [_bounded(one, left) for one in value if left[0] >= 0]
    if isinstance(value, dict):
        return {_bounded(name, left): _bounded(one, left) for name, one in value.items() if left[0] >= 0}
    if isinstance(value, float):
        return value if math.isfinite(value) else None  # 1e400 is infinite once it is read
    return value if -MAX_NUMBER <= value <= MAX_NUMBER else str(value)
