"""`nightmill doctor`: is everything there that batches, documents and slicing need?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from nightmill.cli.output import one_line, print_json, screen, style_of

if TYPE_CHECKING:
    from nightmill.cli.checks import Finding


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="\b\nExample:\n  nightmill doctor --only temporal,database --json")(doctor)


def doctor(
    json_: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    only: Annotated[str, typer.Option(help="Groups of checks to look at, separated by commas; default: all.")] = "",
) -> None:
    """Check that all is there that batches, documents and slicing need, and say what mends it.

    Settings, the database, the file storage, Temporal, the providers' keys, ports and telemetry, notifications, the
    slicers' sandbox, recovery, and the machine. Takes 20 s at most. Exit code 0 if nothing fails, 5 if Temporal or
    the database does not answer, 1 for everything else.
    """
    from nightmill.cli.checks import State, examine
    from nightmill.cli.ending import ExitCode

    code, group, findings = ExitCode.FINE, "", []
    for finding in examine({name.strip() for name in only.split(",") if name.strip()}):
        findings.append(finding)
        if finding.state is State.FAIL:
            worse = ExitCode.UNREACHABLE if finding.unreachable else ExitCode.FAILED
            code = max(code, worse)
        if json_:
            print_json(finding.as_json())
            continue
        if finding.group != group:
            group = finding.group
            _print(f"{group}", "bold")
        _show(finding)
    if not json_:
        failing, warned = (sum(each.state is state for each in findings) for state in (State.FAIL, State.WARN))
        need = failing + warned
        detail = f": {failing} fail, {warned} warn" if need else ""
        _print(f"{need} of {len(findings)} checks need you{detail}", "bold")
    raise typer.Exit(code)


def _show(finding: Finding) -> None:
    from rich.text import Text

    line = Text.assemble(
        "  ",
        (f"{finding.state.value:<5}", style_of(finding.state.value)),
        f"{finding.name:<21} {one_line(finding.message)}",
    )
    screen().print(line, soft_wrap=not sys.stdout.isatty())
    if finding.fix:
        _print(f"        → {one_line(finding.fix)}", "dim")


def _print(text: str, style: str) -> None:
    from rich.text import Text

    screen().print(Text(text, style=style), soft_wrap=not sys.stdout.isatty())
