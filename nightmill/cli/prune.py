"""`nightmill prune` and `nightmill batch delete`: the only commands that delete batches and their results."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightmill.cli.ending import ExitCode
from nightmill.cli.output import JsonFlag, note, one_line, print_json, print_table, say, size_of, wants_json
from nightmill.errors import InvalidInput

if TYPE_CHECKING:
    from nightmill.retention.model import Pile, Tally
    from nightmill.storage.models import BatchRow

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where there is no terminal.")]

_SORTS = {
    "requests": "their requests, with results",
    "result files": "their files, as the providers gave them",
    "slicings": "PDFs, with slices and files",
    "attempts": "programs' records of earlier runs",
    "notices": "messages' records of earlier runs",
    "transitions": "openings and closings of breakers",
    "texts": "earlier texts",
    "hosts": "hosts that nobody asks",
    "sweeps": "sweeps' records",
    "files": "files that belong to nothing",
}
"""What a word of a pile means to a person."""


def register(app: typer.Typer, batches: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="\b\nExample:\n  nightmill prune --older-than 90d --dry-run")(prune)
    batches.command(epilog="\b\nExample:\n  nightmill batch delete 0198f2a4-77aa-7c11-9d3e-6f0d2c1b5a90 --yes")(delete)


def prune(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="What ended longer ago goes: 90d, P90D, or seconds.")
    ],
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these: batches, documents, slicings, repairs; or files, which go on demand only. With commas."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    yes: Yes = False,
    json_: JsonFlag = None,
) -> None:
    """Delete what has ended long ago: batches, slicings, histories, repairs; with `--only files`, files of nothing.

    What is open, needs attention or is to be told to somebody stays. It can be interrupted and run again at any time;
    nothing runs it by itself.
    """
    from nightmill.cli.progress import bar
    from nightmill.cli.runtime import duration_of, stored
    from nightmill.client.retention import kinds_of, pruner_of

    age = duration_of(older_than, "--older-than")
    words = None if only is None else [word.strip() for each in only for word in each.split(",") if word.strip()]
    kinds, now, as_json = kinds_of(words), datetime.now(UTC), wants_json(json_)
    if not (dry_run or yes or _can_ask()):
        chosen = f" --only {','.join(words)}" if words else ""
        command = f"nightmill prune --older-than {older_than}{chosen}"
        raise InvalidInput(f"nobody can be asked here: `{command} --yes` deletes, --dry-run shows what would go")
    with stored() as assembly:
        pruner, total = pruner_of(assembly), None
        if dry_run or not yes:
            going = pruner.count(age, now=now, kinds=kinds)
            if dry_run or going.is_empty:
                _print(going, dry_run=True, as_json=as_json)
                return
            _show(going, as_json=as_json)
            _insist("Delete all this?")
            total = sum(pile.number for pile in going.piles.values())
        try:
            with bar("deleting") as show:
                done: dict[str, int] = {}

                def tell(pile: Pile) -> None:
                    done[pile.what] = pile.number
                    show(sum(done.values()), total)

                gone = pruner.prune(age, now=now, kinds=kinds, tell=tell)
        except KeyboardInterrupt:
            note("Interrupted. What was deleted is deleted; the same command goes on with the rest.")
            raise typer.Exit(ExitCode.PARTIAL) from None
    _print(gone, dry_run=False, as_json=as_json)


def delete(
    batch_id: Annotated[str, typer.Argument(metavar="BATCH_ID", help="The batch.")],
    yes: Yes = False,
    json_: JsonFlag = None,
) -> None:
    """Delete an ended batch's requests, results and files.

    `batch show` still says what had become of it, and its id stays taken: what is submitted again under it is refused.
    """
    from nightmill.cli.runtime import stored
    from nightmill.client.retention import pruner_of

    with stored() as assembly:
        deleter = pruner_of(assembly).deleter
        deleter.rows.check(batch_id)
        row = assembly.batches.get(batch_id)
        if not yes and row.deleted_at is None:
            _ask(row)
        deleter.delete(batch_id)
        row = assembly.batches.get(batch_id)
    if wants_json(json_):
        print_json({"batch_id": row.id, "status": row.status, "total": row.requests, "deleted_at": row.deleted_at})
        return
    say(f"Batch {row.id} is deleted: {row.requests:,} requests with their results and files.")
    note(
        f"Temporal keeps its history for its own retention. Now: temporal workflow delete --workflow-id batch/{row.id}"
    )


def _ask(row: BatchRow) -> None:
    if not _can_ask():
        raise InvalidInput(f"nobody can be asked here: `nightmill batch delete {row.id} --yes` deletes")
    what = f"batch {row.id} ({row.provider} {row.model}, {row.requests:,} requests, {row.status})"
    _insist(one_line(f"Delete {what} with its results?"))


def _insist(question: str) -> None:
    """Return if the answer is yes; end the command otherwise."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        note("Nothing was deleted.")
        raise typer.Exit(ExitCode.FAILED)


def _can_ask() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _show(going: Tally, *, as_json: bool) -> None:
    """Show to whoever is asked what would go; on standard error where the output is for JSON alone."""
    if not as_json:
        _print(going, dry_run=True, as_json=False)
        return
    for pile in going.piles.values():
        if pile.number:
            size = "" if pile.bytes is None else size_of(pile.bytes)
            cells = (pile.kind.value, f"{pile.number:,}", size, _SORTS.get(pile.what, pile.what))
            note("  ".join(cell for cell in cells if cell))


def _print(tally: Tally, *, dry_run: bool, as_json: bool) -> None:
    piles = [pile for pile in tally.piles.values() if pile.number]
    if as_json:
        rows: list[dict[str, Any]] = [
            {"kind": pile.kind, "what": pile.what, "number": pile.number, "bytes": pile.bytes} for pile in piles
        ]
        print_json({"before": tally.before, "dry_run": dry_run, "deleted": rows})
    elif piles:
        print_table(
            ["kind", "number", "size", "what goes" if dry_run else "what went"],
            [
                [
                    pile.kind.value,
                    f"{pile.number:,}",
                    "" if pile.bytes is None else size_of(pile.bytes),
                    _SORTS.get(pile.what, pile.what),
                ]
                for pile in piles
            ],
            numbers=["number", "size"],
        )
    else:
        note(f"Nothing ended before {tally.before:%Y-%m-%d %H:%M} UTC that may go.")
