"""Documents to add, as users list them: objects, lines of JSON, or CSV; what cannot be used is named by its line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError

from nightmill.contracts import CompletionHandler, Duration
from nightmill.documents.links import read_link
from nightmill.errors import AccountNotFound, InvalidInput
from nightmill.storage.accounts import check_name
from nightmill.storage.documents import NewDocument

REQUIRED = ("account", "collection", "url")
FIELDS = (*REQUIRED, "name", "interval", "change_handler")

LONGEST_LINE = 1_000_000
"""Characters of a line at most, so that a file without line ends is not read into memory."""

MOST_NAMED = 20
"""How many lines that cannot be used a message names."""

_HANDLER: TypeAdapter[CompletionHandler] = TypeAdapter(CompletionHandler)
_DURATION: TypeAdapter[timedelta] = TypeAdapter(Duration)

Line = tuple[int, Mapping[str, Any] | str]
"""A line's number and its values, or why it cannot be read."""


def read_handler(value: object) -> CompletionHandler | None:
    """Return whom to tell of changes; None for None.

    Raises:
        InvalidInput: It is no handler.
    """
    if value is None:
        return None
    try:
        return _HANDLER.validate_python(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        raise InvalidInput(f"change_handler: {'.'.join(map(str, found['loc']))}: {found['msg']}") from None


def read_interval(value: object) -> timedelta | None:
    """Return the time between syncs; None for None and blank text: as the account's plan says.

    Raises:
        InvalidInput: It is no duration, or none of time.
    """
    if value is None or value == "":
        return None
    try:
        found = _DURATION.validate_python(value)
    except ValidationError:
        found = timedelta(0)
    if found <= timedelta(0):
        raise InvalidInput(f"interval {str(value)[:40]!r}: give seconds or ISO 8601, such as PT12H")
    return found


def read_document(values: Mapping[str, Any]) -> NewDocument:
    """Return the document that an object describes: `account`, `collection`, `url` and perhaps `name`, `interval`.

    Raises:
        InvalidInput: A field is missing, unknown, or cannot be used.
    """
    unknown = [str(name)[:40] for name in values if name not in FIELDS]
    if unknown:
        raise InvalidInput(f"{', '.join(unknown)}: no such field; known are {', '.join(FIELDS)}")
    for field_name in REQUIRED:
        if not isinstance(values.get(field_name), str) or not values[field_name].strip():
            raise InvalidInput(f"{field_name}: missing, or no text")
    name = values.get("name")
    if name is not None and not isinstance(name, str):
        raise InvalidInput("name: no text")
    return NewDocument(
        account=check_name("account", values["account"]),
        collection=check_name("collection", values["collection"]),
        link=read_link(values["url"]),
        name=name or None,
        interval=read_interval(values.get("interval")),
        change_handler=read_handler(values.get("change_handler")),
    )


@dataclass
class DocumentReader:
    """Yields the documents of some lines, and remembers which lines cannot be used.

    Attributes:
        lines: The lines.
        find_account: Raises `AccountNotFound` for a name that no account has.
        source: What the lines are from, for messages.
        bad: The first lines that cannot be used, as messages.
        bad_lines: How many there are.
    """

    lines: Iterable[Line]
    find_account: Callable[[str], object]
    source: str
    bad: list[str] = field(default_factory=list)
    bad_lines: int = 0
    _accounts: dict[str, AccountNotFound | None] = field(default_factory=dict, repr=False)

    def __iter__(self) -> Iterator[NewDocument]:
        """Yield each document that can be used."""
        for number, values in self.lines:
            if isinstance(values, str):
                self._refuse(number, values)
                continue
            try:
                document = read_document(values)
                self._check_account(document.account)
            except (InvalidInput, AccountNotFound) as error:
                self._refuse(number, str(error))
            else:
                yield document

    def message(self) -> str:
        """Return one line that names the lines that cannot be used."""
        more = self.bad_lines - len(self.bad)
        return "; ".join(self.bad) + (f"; and {more:,} more" if more else "")

    def _refuse(self, number: int, why: str) -> None:
        self.bad_lines += 1
        if len(self.bad) < MOST_NAMED:
            self.bad.append(f"{self.source}:{number}: {why}")

    def _check_account(self, name: str) -> None:
        if name not in self._accounts:
            try:
                self.find_account(name)
                self._accounts[name] = None
            except AccountNotFound as error:
                self._accounts[name] = error
        missing = self._accounts[name]
        if missing is not None:
            raise missing


def numbered(rows: Iterable[Mapping[str, Any]]) -> Iterator[Line]:
    """Yield objects with their places, 1 first."""
    yield from enumerate(rows, 1)


def json_lines(lines: Iterable[str]) -> Iterator[Line]:
    """Yield the objects of JSON lines; blank lines are left out."""
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST_LINE:
            yield number, "the line is too long"
        elif line.strip():
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"no JSON: {str(error)[:100]}"
            else:
                yield number, values if isinstance(values, dict) else "no JSON object"


def csv_lines(lines: Iterable[str]) -> Iterator[Line]:
    """Yield the rows of CSV whose first line names the columns; blank cells are as if they were not there."""
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield reader.line_num, f"no CSV: {error}"
            continue
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip().lower() for cell in cells]
            missing = [name for name in REQUIRED if name not in header]
            if missing:
                yield reader.line_num, f"the first line names no column {', '.join(missing)}"
                return
        elif len(cells) != len(header):
            yield reader.line_num, f"{len(cells)} cells in place of {len(header)}"
        else:
            yield reader.line_num, {name: cell for name, cell in zip(header, cells, strict=True) if cell.strip()}
