"""Bars on standard error that vanish at the end; nothing where there is no terminal."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nightmill.cli.output import progress_screen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.progress import Progress

    Show = Callable[[int, int | None], None]


@contextmanager
def bar(what: str) -> Iterator[Show]:
    """Give a function that shows how many of how many are done; None of how many: not known."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    with bars() as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def bars(*, before: Sequence[str] = (), after: Sequence[str] = (), counted: bool = True) -> Progress:
    """Return what shows bars while it is entered; only for a terminal.

    Args:
        before: Fields of each task that stand before its description.
        after: Fields that stand at the end of the line.
        counted: Whether to show how many are done, and since when.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    def fields(names: Sequence[str]) -> list[TextColumn]:
        return [TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in names]

    return Progress(
        SpinnerColumn(),
        *fields(before),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        *((MofNCompleteColumn(), TimeElapsedColumn()) if counted else ()),
        *fields(after),
        console=progress_screen(),
        transient=True,
    )
