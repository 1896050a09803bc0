"""A bar on standard error that vanishes at the end; nothing where there is no terminal."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nightmill.cli.output import progress_screen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Show = Callable[[int, int | None], None]


@contextmanager
def bar(what: str) -> Iterator[Show]:
    """Give a function that shows how many of how many are done; None of how many: not known."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=progress_screen(), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
