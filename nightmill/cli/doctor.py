"""`nightmill doctor`: is everything there that batches, documents and slicing need?"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from nightmill.cli.output import one_line, print_json, screen, style_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="\b\nExample:\n  nightmill doctor --json")(doctor)


def doctor(
    json_: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Check that all is there that batches, documents and slicing need.

    Temporal, the database, the file storage, the providers' keys, the slicers' sandbox, and the machine. Exit code 0
    if nothing fails, 5 if Temporal or the database does not answer, 1 for everything else.
    """
    from rich.text import Text

    from nightmill.cli.checks import State, examine
    from nightmill.cli.ending import ExitCode

    code = ExitCode.FINE
    for finding in examine():
        if finding.state is State.FAIL:
            worse = ExitCode.UNREACHABLE if finding.unreachable else ExitCode.FAILED
            code = max(code, worse)
        if json_:
            print_json(finding.as_json())
            continue
        line = Text.assemble(
            (f"{finding.state.value:<5}", style_of(finding.state.value)),
            f"{finding.name:<20} {one_line(finding.message)}",
        )
        screen().print(line, soft_wrap=not sys.stdout.isatty())
        if finding.fix:
            screen().print(Text(f"      → {one_line(finding.fix)}", style="dim"), soft_wrap=not sys.stdout.isatty())
    raise typer.Exit(code)
