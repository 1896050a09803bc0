"""`nightmill replay`: would this version of the code go on with the workflows that run?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightmill.cli.ending import ExitCode
from nightmill.cli.output import JsonFlag, one_line, print_json, say, screen, style_of, wants_json
from nightmill.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nightmill.recovery.rehearsed import Rehearsed


def register(app: typer.Typer) -> None:
    """Add the command."""
    examples = "nightmill replay --running\n  nightmill replay batch-history.json"
    app.command(epilog=f"\b\nExample:\n  {examples}")(replay)


def replay(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Histories, from `temporal workflow show --output json`."),
    ] = None,
    running: Annotated[
        bool, typer.Option("--running", help="Replay whatever runs on Nightmill's task queues.")
    ] = False,
    json_: JsonFlag = None,
) -> None:
    """Replay workflows with the code that is installed here, before it is deployed.

    It only reads: nothing is started, answered or written. The exit code is 1 if this version could not go on with one
    of them, 3 if one was too long to be replayed, 5 if Temporal does not answer.
    """
    from nightmill.cli.runtime import run_async

    if running is bool(files):
        raise InvalidInput("nothing to replay: name files, or give --running" if not files else "files, or --running")
    as_json = wants_json(json_)
    counts = run_async(_count(_of_running() if running else _of_files(files or []), as_json=as_json))
    if not as_json:
        say(_told(counts))
    if counts[False]:
        raise typer.Exit(ExitCode.FAILED)
    raise typer.Exit(ExitCode.PARTIAL if counts[None] else ExitCode.FINE)


async def _count(found: AsyncIterator[Rehearsed], *, as_json: bool) -> dict[bool | None, int]:
    from nightmill.cli.progress import bar

    counts: dict[bool | None, int] = {True: 0, False: 0, None: 0}
    with bar("replaying") as show:
        async for each in found:
            counts[each.replays] += 1
            show(sum(counts.values()), None)
            if as_json:
                print_json(vars(each))
            elif not each.replays:
                _print(each)
    return counts


async def _of_running() -> AsyncIterator[Rehearsed]:
    from temporalio.service import RPCError

    from nightmill.client.connection import connect, is_away
    from nightmill.errors import NotConfigured, TemporalUnreachable
    from nightmill.settings import load_settings
    from worker import rehearsal

    settings = load_settings()
    client = await connect(settings)
    queues = [settings.worker.task_queue, settings.slicing.task_queue]
    try:
        async for each in rehearsal(client.data_converter, client.namespace).running(client, queues):
            yield each
    except RPCError as error:
        kind = TemporalUnreachable if is_away(error) else NotConfigured
        raise kind(f"the running workflows cannot be read: Temporal answered {error.message!r}") from error


async def _of_files(files: list[Path]) -> AsyncIterator[Rehearsed]:
    from nightmill.client.converter import data_converter
    from nightmill.settings import load_settings
    from worker import rehearsal

    settings = load_settings()
    rehearsed = rehearsal(data_converter(settings.encryption_key, settings.encryption_old_keys))
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{file}: {error}") from None
        yield await rehearsed.stored(str(file), text)


def _print(each: Rehearsed) -> None:
    from rich.text import Text

    word = "fails" if each.replays is False else "skipped"
    line = Text.assemble(
        (f"{word:<8}", style_of("fail" if word == "fails" else "warn")), f"{each.type} {each.workflow_id}"
    )
    screen().print(line, soft_wrap=not sys.stdout.isatty())
    if each.reason:
        screen().print(Text(f"        {one_line(each.reason)}", style="dim"), soft_wrap=not sys.stdout.isatty())


def _told(counts: dict[bool | None, int]) -> str:
    total = sum(counts.values())
    if not total:
        return "Nothing runs."
    parts = [f"{total:,} replayed" if total != counts[True] else f"{total:,} replayed, this version goes on with all"]
    if counts[False]:
        parts.append(f"{counts[False]:,} would fail with this version")
    if counts[None]:
        parts.append(f"{counts[None]:,} too long to be replayed")
    return ", ".join(parts) + "."
