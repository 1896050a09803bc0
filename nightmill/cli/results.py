"""How completions are written: JSON lines, a table for people, or a file of another format."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, cast

from nightmill.cli.output import note, one_line, screen, style_of
from nightmill.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nightmill.completions.export import Format
    from nightmill.storage.results import Result

FORMATS = ("jsonl", "csv", "parquet")


def check(format_: str, output: Path | None) -> None:
    """Make sure that the format is known, and that the file can be made.

    Raises:
        InvalidInput: It is not, or it cannot.
    """
    if format_ not in FORMATS:
        raise InvalidInput(f"--format: {format_[:40]!r} is unknown; choose one of {', '.join(FORMATS)}")
    if output is None and format_ == "parquet":
        raise InvalidInput("--output: parquet needs a file to be written to")
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise InvalidInput(f"--output: {output}: no file can be made there")


def export(found: Iterator[Result], format_: str, output: Path | None) -> None:
    """Write the results in a format, to a file or to standard output.

    Raises:
        NotConfigured: The extra for the format is not installed.
    """
    from nightmill.completions.export import export as write

    kind = cast("Format", format_)  # `check` has seen to it
    if output is None:
        write(found, kind, sys.stdout.buffer)
        sys.stdout.flush()
        return
    count = write(found, kind, output)
    note(f"{count:,} completions written to {output}")


def print_lines(found: Iterator[Result]) -> None:
    """Print one JSON object a line."""
    for result in found:
        sys.stdout.buffer.write(result.to_json() + b"\n")
    sys.stdout.buffer.flush()


def print_answers(found: Iterator[Result]) -> None:
    """Print one line a completion, cut to the width of the terminal."""
    from rich.text import Text

    width = screen().width
    for result in found:
        if result.error is not None:
            answer = f"{result.error.code}: {result.error.message}"
        elif result.text is not None:
            answer = result.text
        else:
            answer = "" if result.output is None else json.dumps(result.output, ensure_ascii=False)
        line = Text(one_line(result.custom_id)[:40].ljust(16) + " ")
        line.append(f"{result.status:<10}", style=style_of("ended" if result.status == "completed" else result.status))
        line.append(one_line(answer[: 4 * width]))
        line.truncate(width, overflow="ellipsis")
        screen().print(line, soft_wrap=True)
