"""Institutions by all their names, found in texts."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from nightmill.errors import NotConfigured

MAX_NAMES = 100_000
"""Rows of a table; each costs about a kilobyte of memory."""

MAX_NAME = 500
"""Characters of a name."""

_MARKS = re.compile("[\u0300-\u036f]+")
_WORD = re.compile(r"[^\W_]+")
_PIECE = re.compile(r"(?s:.{1,10000})\S{0,1000}+")  # words of a thousand letters may be parted
_HEADERS = frozenset({"name", "nombre", "institution", "institucion"})


@dataclass(slots=True)
class _Step:
    """What may follow a word: the names' next words, and the names that end here."""

    words: dict[str, _Step] = field(default_factory=dict)
    ends: list[_Name] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Name:
    """One name of an institution, folded; `before` and `after` are characters around its first and last word."""

    folded: str
    before: int
    after: int
    official: str


class InstitutionNames:
    """Official names, each with other names by which texts call the institution."""

    def __init__(self, names: Iterable[tuple[str, str]] = ()) -> None:
        """Take pairs of an official name and a name, which may be the same.

        Raises:
            ValueError: A name has neither letter nor digit.
        """
        self._first = _Step()
        for official, name in names:
            self._add(official, name)

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Read a CSV file in UTF-8: the official name, then any other names; a row for each other name will do, too.

        A first row of `name,…` is a header. Without a file there are no names.

        Raises:
            NotConfigured: The file cannot be read; the message names the line.
        """
        if path is None:
            return cls()
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                return cls(_pairs(path, csv.reader(file, strict=True)))
        except OSError as error:
            raise _unusable(path, f"it cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise _unusable(path, f"it is not UTF-8 (at byte {error.start:,} of a part of it)") from error

    def found_in(self, text: str) -> list[str]:
        """Return the official names of those that a text names, in order of their first place.

        Names are found as whole words, whatever the case, accents and white space, also at the very start and end.
        The time goes with the length of the text, not with the number of names.
        """
        if not self._first.words:
            return []
        folded = fold(text)
        official: dict[str, None] = {}
        for word in _WORD.finditer(folded):  # a list of them would be many times the text
            step = self._first.words.get(word[0])
            following: re.Match[str] | None = word
            while step is not None and following is not None:
                for name in step.ends:
                    beginning = word.start() - name.before
                    if beginning >= 0 and folded.startswith(name.folded, beginning):
                        official[name.official] = None
                following = _WORD.search(folded, following.end()) if step.words else None
                step = step.words.get(following[0]) if following is not None else None
        return list(official)

    def _add(self, official: str, name: str) -> None:
        folded = fold(name)
        words = list(_WORD.finditer(folded))
        if not words:
            raise ValueError(f"{name[:80]!r} has neither letter nor digit")
        step = self._first
        for word in words:
            step = step.words.setdefault(word[0], _Step())
        known = _Name(folded, words[0].start(), len(folded) - words[-1].end(), official)
        if known not in step.ends:
            step.ends.append(known)


def fold(text: str) -> str:
    """Return a text without case, accents and forms of letters; all white space is single blanks."""
    # In pieces: lists of words, and letters that become eighteen, take many times the room of all of it.
    pieces = (_folded(piece[0]) for piece in _PIECE.finditer(text))
    return " ".join(piece for piece in pieces if piece)


def _folded(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text)
    return " ".join(_MARKS.sub("", decomposed).casefold().split())


def _pairs(path: Path, rows: Iterable[list[str]]) -> Iterable[tuple[str, str]]:
    line = 0
    try:
        for line, row in enumerate(rows, 1):
            cells = [" ".join(cell.split()) for cell in row]
            if not any(cells) or (line == 1 and fold(cells[0]) in _HEADERS):
                continue
            yield from _names_of(path, line, cells)
    except csv.Error as error:
        raise _unusable(path, f"row {line + 1}: {error}") from error


def _names_of(path: Path, line: int, cells: list[str]) -> Iterable[tuple[str, str]]:
    if line > MAX_NAMES:
        raise _unusable(path, f"it has more than {MAX_NAMES:,} rows")
    official = cells[0]
    if not official:
        raise _unusable(path, f"row {line}: the official name, the first of the row, is missing")
    for name in filter(None, cells):
        if len(name) > MAX_NAME:
            raise _unusable(path, f"row {line}: a name of more than {MAX_NAME} characters")
        if not _WORD.search(fold(name)):
            raise _unusable(path, f"row {line}: {name[:80]!r} has neither letter nor digit")
        yield official, name


def _unusable(path: Path, what: str) -> NotConfigured:
    return NotConfigured(f"NIGHTMILL_SLICING__INSTITUTIONS: {path}: {what}")
