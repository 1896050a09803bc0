"""`nightmill db`: the database's schema."""

from __future__ import annotations

from typing import Annotated

import typer

from nightmill.cli.output import JsonFlag, print_json, say, wants_json

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make the database, and bring it up to date.",
    epilog="\b\nExample:\n  nightmill db upgrade",
)


@app.command(epilog="\b\nExample:\n  nightmill db upgrade")
def upgrade(json_: Annotated[bool | None, typer.Option("--json/--no-json", help="Print JSON.")] = False) -> None:
    """Bring the database to the version that this program needs; doing it again changes nothing."""
    from nightmill.assembly import assembled
    from nightmill.settings import load_settings
    from nightmill.storage import schema

    with assembled(load_settings()) as assembly:
        before = schema.current_revision(assembly.database)
        schema.upgrade(assembly.database)
        after = schema.head_revision()
    if json_:
        print_json({"before": before, "version": after})
    elif before == after:
        say(f"The database has version {after} already.")
    else:
        say(f"The database has version {after} now; it was {f'of version {before}' if before else 'empty'}.")


@app.command(epilog="\b\nExample:\n  nightmill db current --json")
def current(json_: JsonFlag = None) -> None:
    """Show the version that the database has, and the one that this program needs."""
    from nightmill.assembly import assembled
    from nightmill.settings import load_settings
    from nightmill.storage import schema

    with assembled(load_settings()) as assembly:
        has, needs = schema.current_revision(assembly.database), schema.head_revision()
    if wants_json(json_):
        print_json({"version": has, "needed": needs})
    else:
        say(f"The database {f'has version {has}' if has else 'is empty'}; this program needs {needs}.")
