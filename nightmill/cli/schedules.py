"""`nightmill schedules`: what runs by itself, when, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightmill.cli.output import JsonFlag, ago, length_of, print_json, print_table, say, wants_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nightmill.client.recovery import Recovery
    from nightmill.client.schedule_looks import ScheduleLook

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="See what runs by itself, and make its schedules.",
    epilog="\b\nExample:\n  nightmill schedules list",
)


@app.command("list", epilog="\b\nExample:\n  nightmill schedules list --json")
def list_schedules(json_: JsonFlag = None) -> None:
    """Show each schedule: when it runs, what became of its last run, and why it is paused."""
    found = _ask(lambda recovery: recovery.schedules())
    if wants_json(json_):
        for look in found:
            print_json(look_json(look))
        return
    print_table(
        ["schedule", "every", "next in", "last run", "what"],
        [
            [
                look.id,
                length_of(look.every) if look.every else "",
                ago(look.next_at).removeprefix("in ") if look.state == "on" else look.state.value,
                _last_of(look),
                f"paused: {look.note or 'no reason given'}" if look.state == "paused" else look.what,
            ]
            for look in found
        ],
    )


@app.command(epilog="\b\nExample:\n  nightmill schedules apply nightmill-reconciler")
def apply(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="SCHEDULE", help="Which; default all that the settings ask for.")
    ] = None,
    json_: JsonFlag = None,
) -> None:
    """Make schedules, or bring them up to date.

    As workers do when they start; for where they may not. What somebody has paused stays paused.
    """

    async def work(recovery: Recovery) -> list[ScheduleLook]:
        applied = await recovery.apply_schedules(names or ())
        return [look for look in await recovery.schedules() if look.id in applied]

    for look in _ask(work):
        if wants_json(json_):
            print_json(look_json(look))
        elif look.state == "paused":
            say(f"{look.id} is up to date, and stays paused: {look.note or 'no reason given'}")
        else:
            say(f"{look.id} is up to date, and runs next {ago(look.next_at)}.")


def look_json(look: ScheduleLook) -> dict[str, Any]:
    """Return how a schedule stands in the shape that programs rely on."""
    return {
        "schedule": look.id,
        "what": look.what,
        "state": look.state,
        "every": look.every,
        "next_at": look.next_at,
        "last_at": look.last_at,
        "last_run": look.last_run,
        "last_result": look.last_result,
        "skipped": look.skipped,
        "note": look.note,
    }


def _last_of(look: ScheduleLook) -> str:
    if look.last_at is None:
        return ""
    result = "ok" if look.last_result == "completed" else (look.last_result or "forgotten").replace("_", " ")
    return f"{result} {ago(look.last_at)}"


def _ask(what: Callable[[Recovery], Awaitable[list[ScheduleLook]]]) -> list[ScheduleLook]:
    """Ask Temporal something; the database is not needed, so that an operator without it can make schedules."""
    from nightmill.assembly import assembled
    from nightmill.cli.runtime import run_async
    from nightmill.client.connection import connect
    from nightmill.client.recovery import Recovery
    from nightmill.settings import load_settings

    async def work() -> list[ScheduleLook]:
        settings = load_settings()
        with assembled(settings) as assembly:
            return await what(Recovery(await connect(settings), assembly))

    return run_async(work())
