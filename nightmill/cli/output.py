"""What commands print: JSON lines for programs, tables for people, and progress that vanishes."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import Console

JsonFlag = Annotated[
    bool | None,
    typer.Option("--json/--no-json", help="One JSON object per line; the default where the output is no terminal."),
]

NARROWEST = 20
"""Characters that the last column of a table is wrapped to at most, before the table is no table any more."""

# C0 and C1 without the line feed: what a provider or a file wrote must not steer the terminal.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def wants_json(flag: bool | None) -> bool:
    """Return whether to print JSON: as asked, or else where the output is no terminal."""
    return not sys.stdout.isatty() if flag is None else flag


def print_json(values: Mapping[str, Any]) -> None:
    """Print one JSON object as a line: decimals as strings, times as RFC 3339 in UTC."""
    sys.stdout.write(json.dumps(values, default=plain, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """Return a value as JSON takes it: decimals as strings, times as RFC 3339 in UTC, durations as seconds."""
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, Decimal):
        return f"{value:f}"  # str() would write small amounts as 1E-7
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)


def rfc3339(when: datetime) -> str:
    """Return a time as `2026-11-22T03:57:37Z`."""
    return when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def one_line(text: str) -> str:
    """Return text without line ends and control characters."""
    return _CONTROL.sub("", " ".join(text.split("\n"))).rstrip()


def shortened(text: str | None, length: int = 60) -> str:
    """Return a text on one line, cut to a length."""
    text = one_line(text or "")
    return text if len(text) <= length else f"{text[: length - 1]}…"


def say(text: str) -> None:
    """Print a line for people."""
    sys.stdout.write(one_line(text) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print a line for people that is not the command's result, on standard error."""
    sys.stderr.write(one_line(text) + "\n")
    sys.stderr.flush()


@cache
def screen() -> Console:
    """Return standard output as a terminal; obeys `NO_COLOR`. Where it is none, lines are as long as they are."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def progress_screen() -> Console:
    """Return standard error as a terminal, for progress."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()) -> None:
    """Print a table, or where it does not fit, each row as names and values; no cell is cut, so ids can be copied.

    Args:
        headers: Titles of the columns.
        rows: Their texts, without markup. Only the last column is wrapped.
        numbers: Titles of the columns that are aligned to the right.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        justify: Literal["right", "left"] = "right" if header in numbers else "left"
        table.add_column(header, justify=justify, overflow="fold", no_wrap=header != headers[-1])
    for row in rows:
        table.add_row(*(Text(one_line(cell), style=style_of(cell)) for cell in row))
    last = max((len(row[-1]) for row in rows), default=0)
    full = screen().measure(table, options=screen().options.update_width(10_000)).maximum
    if full - max(0, last - NARROWEST) <= screen().width:
        screen().print(table)
        return
    for row in rows:
        print_facts(zip(headers, row, strict=True))
        screen().print()


def print_facts(facts: Iterable[tuple[str, str | None]]) -> None:
    """Print names and values below each other, without those that have no value."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value:
            table.add_row(name, Text(one_line(value), style=style_of(value)))
    screen().print(table)


_STYLES = {
    "ended": "green",
    "delivered": "green",
    "ok": "green",
    "synced": "green",
    "sliced": "green",
    "closed": "green",
    "updated": "green",
    "right": "green",
    "done": "green",
    "failed": "red",
    "open": "red",
    "fail": "red",
    "wrong": "red",
    "missing": "red",
    "expired": "yellow",
    "canceled": "yellow",
    "canceling": "yellow",
    "warn": "yellow",
    "paused": "yellow",
    "needs_review": "yellow",
    "waiting": "yellow",
    "held_open": "yellow",
    "half_open": "yellow",
    "in_progress": "cyan",
    "syncing": "cyan",
    "slicing": "cyan",
    "submitted": "cyan",
    "asked": "cyan",
    "would": "cyan",
}


def style_of(word: str) -> str:
    """Return the colour of a status word; none for any other text."""
    return _STYLES.get(word, "")


def ago(when: datetime | None) -> str:
    """Return how long ago something was, or how far ahead: `3 min ago`, `in 40 s`."""
    if when is None:
        return ""
    seconds = (datetime.now(UTC) - when).total_seconds()
    text = length_of(timedelta(seconds=abs(seconds)))
    return f"{text} ago" if seconds >= 0 else f"in {text}"


def length_of(time: timedelta) -> str:
    """Return a duration in its largest unit: `40 s`, `3 min`, `26 h`, `5 d`."""
    seconds = int(time.total_seconds())
    for limit, size, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds // size} {unit}"
    return f"{seconds // 86_400} d"


def size_of(count: int) -> str:
    """Return a number of bytes as `12.3 MB`."""
    if count < 1_000:
        return f"{count} bytes"
    unit, size = next((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if count >= s)
    return f"{count / size:.1f} {unit}"
