"""`nightmill document sync`, `sweep` and `purge`: start work on documents, watch it, and drop it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from nightmill.cli.ending import ExitCode
from nightmill.cli.output import JsonFlag, note, print_facts, print_json, say, wants_json
from nightmill.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nightmill.contracts import SweepSummary
    from nightmill.storage.documents import DocumentFilter


def register(app: typer.Typer) -> None:
    """Add the commands to `nightmill document`."""
    app.command(epilog="\b\nExample:\n  nightmill document sync --all --account acme --watch")(sync)
    app.command(epilog="\b\nExample:\n  nightmill document sweep --limit 100")(sweep)
    app.command(epilog="\b\nExample:\n  nightmill document purge --account acme")(purge)


def sync(
    document_ids: Annotated[list[str] | None, typer.Argument(metavar="[DOCUMENT_ID]...", help="Documents.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every document that the other options choose.")] = False,
    account: Annotated[str | None, typer.Option(help="Only documents of this account.")] = None,
    collection: Annotated[str | None, typer.Option(help="Only documents of this collection.")] = None,
    status: Annotated[list[str] | None, typer.Option(help="Only synced, syncing or failed ones.")] = None,
    error_code: Annotated[str | None, typer.Option(help="Only those whose last sync failed with this code.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Wait, and print what each sync came to.")] = False,
    json_: JsonFlag = None,
) -> None:
    """Sync documents now, whatever their plans say.

    A document that is being synced already is not synced twice; an attempt of it that waits goes ahead. With --watch
    the exit code is 0 if no sync failed, 3 if some did, 1 if all did.
    """
    from nightmill.cli.document import chosen_documents

    ids = document_ids or []
    chosen = chosen_documents(account, collection, status, error_code)
    is_chosen = bool(account or collection or status or error_code)
    if ids and (all_ or is_chosen):
        raise InvalidInput("DOCUMENT_ID: give ids, or options that choose documents")
    if not ids and not all_:
        raise InvalidInput("give ids of documents, or --all, alone or with --account, --collection, --status")
    raise typer.Exit(sync_documents(ids or chosen, watch=watch, as_json=wants_json(json_)))


def sync_documents(wanted: list[str] | DocumentFilter, *, watch: bool, as_json: bool) -> ExitCode:
    """Start the syncs, and with `watch` print what they came to; return the exit code."""
    from nightmill.cli.document_output import Outcomes
    from nightmill.cli.progress import bar
    from nightmill.cli.runtime import run_async
    from nightmill.client.nightmill import Nightmill

    outcomes = Outcomes(as_json=as_json)

    async def work() -> ExitCode:
        async with Nightmill.connect() as nightmill:
            repository = nightmill.assembly.documents
            ids: Iterable[str]
            if isinstance(wanted, list):
                for document_id in wanted:
                    await asyncio.to_thread(repository.get, document_id)  # a typo is told before anything is started
                ids = dict.fromkeys(wanted)
            else:
                if wanted.account is not None:
                    await asyncio.to_thread(nightmill.assembly.accounts.get, wanted.account)
                ids = repository.ids(wanted)
            total = len(wanted) if isinstance(wanted, list) else None
            with bar("syncing") as show:
                if watch:
                    show(0, total)
                    async for outcome in nightmill.documents.sync_many(ids):
                        outcomes.add(outcome)
                        show(outcomes.total, total)
                    return outcomes.finish()
                started = known = seen = 0
                async for document_id, answer in nightmill.documents.start_many(ids):
                    started, known = started + (answer == "started"), known + (answer == "already_syncing")
                    seen += 1
                    if as_json:
                        print_json({"document_id": document_id, "sync": answer})
                    show(seen, total)
        if not as_json:
            say(f"{started:,} syncs have started, {known:,} documents were being synced already.")
        return ExitCode.FINE

    try:
        return run_async(work())
    except KeyboardInterrupt:
        note("Stopped watching; syncs that have started go on.")
        return ExitCode.WAITING


def sweep(
    limit: Annotated[int | None, typer.Option(min=1, max=100_000, help="Documents at most.")] = None,
    account: Annotated[str | None, typer.Option(help="Only documents of this account.")] = None,
    json_: JsonFlag = None,
) -> None:
    """Start the syncs that are due, as the schedule does every hour.

    Returns when they are started, not when they have ended.
    """
    from nightmill.cli.progress import bar
    from nightmill.cli.runtime import run_async
    from nightmill.client.nightmill import Nightmill

    async def work() -> SweepSummary:
        async with Nightmill.connect() as nightmill:
            documents = nightmill.documents
            sweep_id = await documents.start_sweep(limit=limit, account=account)
            ended = asyncio.create_task(documents.wait_sweep(sweep_id))
            try:
                with bar("sweeping") as show:
                    while not ended.done():
                        await asyncio.wait({ended}, timeout=1)
                        if not ended.done():
                            progress = await documents.sweep_progress(sweep_id)
                            show(progress.enqueued + progress.skipped, None)
                return ended.result()
            finally:
                ended.cancel()

    try:
        summary = run_async(work())
    except KeyboardInterrupt:
        note("Stopped watching; the sweep goes on.")
        raise typer.Exit(ExitCode.WAITING) from None
    if wants_json(json_):
        print_json(summary.model_dump())
        return
    print_facts(
        [
            ("accounts", f"{summary.accounts_scanned:,}, {summary.accounts_enabled:,} with automatic sync"),
            ("of these served", f"{summary.accounts_scheduled:,}"),
            ("started", f"{summary.enqueued:,}"),
            ("being synced already", f"{summary.skipped:,}" if summary.skipped else None),
            ("left for the next sweep", "yes: a limit was reached" if summary.cap_hit else "nothing"),
        ]
    )


def purge(
    account: Annotated[str | None, typer.Option(help="Only documents of this account.")] = None,
    json_: JsonFlag = None,
) -> None:
    """Drop the syncs that sweeps have started and that have not begun.

    Delayed ones too. What has begun goes on, and so does what somebody asked for with `document sync`. What is dropped
    is due again; to keep it from being swept up again, pause the schedule.
    """
    from nightmill.cli.runtime import run_async
    from nightmill.client.nightmill import Nightmill

    async def work() -> int:
        async with Nightmill.connect() as nightmill:
            return await nightmill.documents.purge(account)

    dropped = run_async(work())
    if wants_json(json_):
        print_json({"account": account, "dropped": dropped})
    else:
        say(f"{dropped:,} syncs were dropped.")
