"""`nightmill account`: the customers whose documents are synced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightmill.cli.output import JsonFlag, note, print_json, print_table, say, wants_json

if TYPE_CHECKING:
    from nightmill.contracts import SyncStatus
    from nightmill.settings import DocumentSettings
    from nightmill.storage.document_models import AccountRow

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Add accounts, and see how their documents stand.",
    epilog="\b\nExample:\n  nightmill account add acme --plan daily",
)


@app.command(epilog="\b\nExample:\n  nightmill account add acme --plan daily")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of your own, 1 to 64 characters.")],
    plan: Annotated[str, typer.Option(help="How often its documents are synced: hourly, daily, weekly, or yours.")],
    no_auto_sync: Annotated[bool, typer.Option("--no-auto-sync", help="Sync its documents on demand only.")] = False,
    handler: Annotated[
        str | None, typer.Option(help='Whom to tell of changes: {"kind": "webhook", "url": "https://…"}.')
    ] = None,
    json_: JsonFlag = None,
) -> None:
    """Add an account.

    An account that is there already gets this plan, switch and handler.
    """
    from datetime import UTC, datetime

    from nightmill.cli.runtime import json_of, stored
    from nightmill.documents.imports import read_handler

    change_handler = read_handler(json_of(handler, "--handler", dict) if handler is not None else None)
    with stored() as assembly:
        row = assembly.accounts.add(
            name, plan, auto_sync=not no_auto_sync, change_handler=change_handler, now=datetime.now(UTC)
        )
        settings = assembly.settings.documents
    trouble = plan_trouble(row, settings)
    if trouble is not None:
        note(f"nightmill: {trouble}")
    if wants_json(json_):
        print_json(_account_json(row))
    else:
        say(f"Account {row.name} is on plan {row.plan}.")


@app.command("list", epilog="\b\nExample:\n  nightmill account list")
def list_accounts(json_: JsonFlag = None) -> None:
    """List accounts, and how many of their documents stand how."""
    from nightmill.cli.runtime import stored

    with stored() as assembly:
        rows = assembly.accounts.all()
        counts = assembly.accounts.counts()
        settings = assembly.settings.documents
    if wants_json(json_):
        for row in rows:
            print_json({**_account_json(row), "documents": _counts(counts.get(row.name, {}))})
        return
    if not rows:
        note("No accounts. `nightmill account add` makes one.")
        return
    headers = ["account", "plan", "automatic", "documents", "synced", "syncing", "failed", "never", "remark"]
    table = []
    for row in rows:
        numbers = _counts(counts.get(row.name, {}))
        table.append(
            [
                row.name,
                row.plan or "",
                "yes" if row.auto_sync else "no",
                f"{sum(numbers.values()):,}",
                *(f"{numbers[name]:,}" for name in ("synced", "syncing", "failed", "never")),
                plan_trouble(row, settings) or "",
            ]
        )
    print_table(headers, table, numbers=["documents", "synced", "syncing", "failed", "never"])


def plan_trouble(row: AccountRow, settings: DocumentSettings) -> str | None:
    """Return why an account's documents are not synced by themselves although they should be; None: they are."""
    if not row.auto_sync:
        return None
    known = {name.lower(): plan for name, plan in settings.plans.items()}
    names = ", ".join(settings.plans) or "none"
    plan = known.get((row.plan or "").strip().lower())
    if plan is None:
        return f"plan {row.plan!r} of account {row.name!r} is unknown: no automatic sync; known are {names}"
    if plan.interval is None:
        return f"plan {row.plan!r} of account {row.name!r} has no interval that can be read: no automatic sync"
    return None


def _counts(found: dict[SyncStatus | None, int]) -> dict[str, int]:
    numbers = {"synced": 0, "syncing": 0, "failed": 0, "never": 0}
    return numbers | {status.value if status else "never": number for status, number in found.items()}


def _account_json(row: AccountRow) -> dict[str, Any]:
    return {
        "account": row.name,
        "plan": row.plan,
        "auto_sync": row.auto_sync,
        "change_handler": row.change_handler,
        "last_served_at": row.last_served_at,
        "created_at": row.created_at,
    }
