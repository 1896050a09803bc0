"""`nightmill batch`: look at batches and steer them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from nightmill.cli.ending import ExitCode
from nightmill.cli.output import (
    JsonFlag,
    ago,
    note,
    print_facts,
    print_json,
    print_table,
    say,
    shortened,
    wants_json,
)
from nightmill.cli.reconcile import repairs_of_batch, told_of_repairs
from nightmill.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nightmill.client.nightmill import Nightmill
    from nightmill.contracts import BatchSummary
    from nightmill.storage.models import BatchRow, ProviderBatchRow

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Submit batches, look at them and steer them.",
    epilog="\b\nExample:\n  nightmill batch list --status in_progress",
)

BatchId = Annotated[str, typer.Argument(metavar="BATCH_ID", help="The batch.")]


@app.command("list", epilog="\b\nExample:\n  nightmill batch list --provider openai --status in_progress --limit 20")
def list_batches(
    status: Annotated[
        list[str] | None, typer.Option(help="Only batches of this status; may be given several times.")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Only batches of this provider.")] = None,
    account: Annotated[str | None, typer.Option(help="Only batches of this account.")] = None,
    needs_attention: Annotated[bool, typer.Option("--needs-attention", help="Only what waits for somebody.")] = False,
    deleted: Annotated[bool, typer.Option("--deleted", help="Only what was deleted, which is left out else.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 50,
    json_: JsonFlag = None,
) -> None:
    """List batches, newest first."""
    from nightmill.cli.runtime import stored
    from nightmill.contracts import BatchStatus

    known = [word.value for word in BatchStatus]
    for word in status or ():
        if word not in known:
            raise InvalidInput(f"--status: no status {word[:40]!r}; known are {', '.join(known)}")
    with stored() as assembly:
        rows = assembly.batches.newest(
            status=[BatchStatus(word) for word in status or ()],
            provider=provider,
            account=account,
            needs_attention=needs_attention,
            deleted=deleted,
            limit=limit,
        )
    if wants_json(json_):
        for row in rows:
            print_json(_listed(row))
    elif rows:
        print_table(
            ["batch", "status", "provider", "model", "requests", "created", "attention"],
            [
                [
                    row.id,
                    row.status.value,
                    row.provider,
                    row.model,
                    f"{row.requests:,}",
                    ago(row.created_at),
                    shortened(row.needs_attention),
                ]
                for row in rows
            ],
            numbers=["requests"],
        )
    else:
        note("No batches. `nightmill batch submit` makes one.")


def _listed(row: BatchRow) -> dict[str, Any]:
    return {
        "batch_id": row.id,
        "status": row.status,
        "provider": row.provider,
        "model": row.model,
        "account": row.account,
        "total": row.requests,
        "needs_attention": row.needs_attention,
        "retry_of": row.retry_of,
        "created_at": row.created_at,
        "submitted_at": row.submitted_at,
        "ended_at": row.ended_at,
        "next_poll_at": row.next_poll_at,
        "deleted_at": row.deleted_at,
    }


@app.command(epilog="\b\nExample:\n  nightmill batch show 0198f2a4-77aa-7c11-9d3e-6f0d2c1b5a90")
def show(batch_id: BatchId, json_: JsonFlag = None) -> None:
    """Show how a batch stands."""
    from nightmill.cli.runtime import stored

    with stored() as assembly:
        row = assembly.batches.get(batch_id)
        summary = assembly.outcomes.summarize(batch_id)
        parts = assembly.batches.parts(batch_id)
        repairs = repairs_of_batch(assembly, batch_id, limit=100)
    if wants_json(json_):
        print_json({**summary_json(summary), **_facts_json(row), "provider_batches": [_part_json(p) for p in parts]})
        return
    print_summary(summary, row, repaired=told_of_repairs(repairs))
    if parts:
        print_table(
            ["provider batch", "round", "status", "requests", "submitted", "polls", "reason"],
            [
                [
                    part.provider_batch_id or "not created yet",
                    f"{part.round}",
                    part.status.value,
                    f"{part.requests:,}",
                    ago(part.submitted_at),
                    f"{part.polls}",
                    shortened(part.provider_error),
                ]
                for part in parts
            ],
            numbers=["round", "requests", "polls"],
        )


def summary_json(summary: BatchSummary) -> dict[str, Any]:
    """Return the summary in the shape that programs rely on."""
    values = summary.model_dump()
    values["cost"] = None if summary.cost is None else f"{summary.cost:f}"
    return values


def _facts_json(row: BatchRow) -> dict[str, Any]:
    return {
        "provider": row.provider,
        "model": row.model,
        "account": row.account,
        "endpoint": row.endpoint or None,
        "needs_attention": row.needs_attention,
        "retry_of": row.retry_of,
        "created_at": row.created_at,
        "submitted_at": row.submitted_at,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "next_poll_at": row.next_poll_at,
        "results_fetched_at": row.results_fetched_at,
        "handler_dispatched_at": row.handler_dispatched_at,
        "deleted_at": row.deleted_at,
    }


def _part_json(part: ProviderBatchRow) -> dict[str, Any]:
    return {
        "provider_batch_id": part.provider_batch_id,
        "round": part.round,
        "part": part.part,
        "status": part.status,
        "provider_status": part.provider_status,
        "requests": part.requests,
        "counts": part.counts,
        "polls": part.polls,
        "submitted_at": part.submitted_at,
        "next_poll_at": part.next_poll_at,
        "settled_at": part.settled_at,
        "reason": part.provider_error,
    }


def print_summary(summary: BatchSummary, row: BatchRow, *, repaired: str | None = None) -> None:
    """Print a summary for people; `repaired` says what recovery did."""
    failed = ", ".join(f"{count:,} {code}" for code, count in sorted(summary.failed_by_code.items()))
    tokens = summary.tokens
    if summary.cost is None:
        cost = "not known" if tokens.input or tokens.output else None
    else:
        cost = f"${summary.cost:f}" + ("" if summary.cost_complete else " or more: not every price is known")
    if row.completion_handler is None:
        handler = None
    else:
        handler = f"{row.completion_handler.get('kind')}, " + (
            f"told {ago(row.handler_dispatched_at)}" if row.handler_dispatched_at else "not told yet"
        )
    print_facts(
        [
            ("batch", summary.batch_id),
            ("status", summary.status.value),
            ("", "not one request was completed" if summary.all_failed else None),
            ("deleted", f"{ago(row.deleted_at)}; requests, results and files are gone" if row.deleted_at else None),
            ("reason", summary.reason),
            ("needs attention", row.needs_attention),
            ("provider", f"{row.provider}, {row.model}" + (f", account {row.account}" if row.account else "")),
            ("endpoint", row.endpoint),
            ("completed", f"{summary.completed:,} of {summary.total:,}"),
            ("failed", failed),
            ("tokens", f"{tokens.input:,} in, {tokens.output:,} out" if tokens.input or tokens.output else None),
            ("cost", cost),
            ("created", ago(row.created_at)),
            ("submitted", ago(row.submitted_at)),
            ("next poll", ago(row.next_poll_at) if not summary.status.is_terminal else None),
            ("ended", ago(row.ended_at)),
            ("handler", handler),
            ("repaired", repaired),
            ("retry of", row.retry_of),
        ]
    )


@app.command(
    epilog="\b\nExample:\n  nightmill batch results 0198f2a4-77aa-7c11-9d3e-6f0d2c1b5a90 --format csv --output a.csv"
)
def results(
    batch_id: BatchId,
    format_: Annotated[str, typer.Option("--format", help="jsonl, csv or parquet.")] = "jsonl",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed.")] = False,
    completed: Annotated[bool, typer.Option("--completed", help="Only what has an answer.")] = False,
    json_: JsonFlag = None,
) -> None:
    """Print or export the completions.

    They come in the order of the requests, also while the batch is running. Without --output: a table of ids and
    answers on a terminal, JSON lines elsewhere.
    """
    from nightmill.cli import results as writing
    from nightmill.cli.runtime import stored

    if failed and completed:
        raise InvalidInput("--failed, --completed: give one of the two")
    wanted = "failed" if failed else "completed" if completed else None
    writing.check(format_, output)
    with stored() as assembly:
        assembly.batches.get(batch_id)
        found = (r for r in assembly.outcomes.results(batch_id) if wanted is None or r.status == wanted)
        if output is not None or format_ != "jsonl":
            writing.export(found, format_, output)
        elif wants_json(json_):
            writing.print_lines(found)
        else:
            writing.print_answers(found)


@app.command(epilog="\b\nExample:\n  nightmill batch watch 0198f2a4-77aa-7c11-9d3e-6f0d2c1b5a90 --timeout 2h")
def watch(
    batch_id: BatchId,
    timeout: Annotated[str | None, typer.Option(help="Stop watching after this long: seconds, 2h, PT2H.")] = None,
    json_: JsonFlag = None,
) -> None:
    """Wait for the end of a batch.

    Prints the summary. Ctrl-C ends the watching only. The exit code is 0 if all requests are completed, 3 if some are,
    1 if none is, 4 if the batch goes on.
    """
    from nightmill.cli.watching import watch_batch

    raise typer.Exit(watch_batch(batch_id, timeout=timeout, as_json=wants_json(json_)))


@app.command(epilog="\b\nExample:\n  nightmill batch cancel 0198f2a4-77aa-7c11-9d3e-6f0d2c1b5a90")
def cancel(batch_id: BatchId, json_: JsonFlag = None) -> None:
    """Cancel a batch at its provider.

    What is finished already is kept and delivered.
    """
    status = _steer(lambda nightmill: nightmill.cancel(batch_id))
    _tell({"batch_id": batch_id, "status": status}, f"Batch {batch_id} is {status}.", json_)


@app.command(epilog="\b\nExample:\n  nightmill batch poll 0198f2a4-77aa-7c11-9d3e-6f0d2c1b5a90")
def poll(batch_id: BatchId, json_: JsonFlag = None) -> None:
    """Ask the provider now.

    Whatever the schedule says; also ends the wait for an operator.
    """
    _steer(lambda nightmill: nightmill.poll_now(batch_id))
    _tell({"batch_id": batch_id, "polling": True}, f"Batch {batch_id} asks its provider now.", json_)


@app.command(epilog="\b\nExample:\n  nightmill batch redispatch 0198f2a4-77aa-7c11-9d3e-6f0d2c1b5a90")
def redispatch(batch_id: BatchId, json_: JsonFlag = None) -> None:
    """Call a failed completion handler again."""
    state = _steer(lambda nightmill: nightmill.redispatch(batch_id))
    _tell({"batch_id": batch_id, "handler": state}, f"Batch {batch_id}: the handler is {state}.", json_)


@app.command("retry-failed", epilog="\b\nExample:\n  nightmill batch retry-failed 0198f2a4-77aa-7c11-9d3e-6f0d2c1b5a90")
def retry_failed(
    batch_id: BatchId,
    only_retriable: Annotated[
        bool, typer.Option("--only-retriable", help="Leave out what would fail in the same way again.")
    ] = False,
    json_: JsonFlag = None,
) -> None:
    """Make a new batch of what failed."""
    new = _steer(lambda nightmill: nightmill.retry_failed(batch_id, only_retriable=only_retriable))
    _tell({"batch_id": new, "status": "pending", "retry_of": batch_id}, f"Batch {new} retries {batch_id}.", json_)


def _steer(act: Callable[[Nightmill], Awaitable[T]]) -> T:
    """Connect and do one thing."""
    from nightmill.cli.runtime import run_async
    from nightmill.client.nightmill import Nightmill

    async def work() -> T:
        async with Nightmill.connect() as nightmill:
            return await act(nightmill)

    return run_async(work())


def _tell(values: dict[str, Any], text: str, json_: bool | None) -> None:
    if wants_json(json_):
        print_json(values)
    else:
        say(text)


def exit_code_of_summary(summary: BatchSummary) -> ExitCode:
    """Return 0 where everything is completed, 3 where a part is, 1 otherwise; 4 for a batch that goes on."""
    if not summary.status.is_terminal:
        return ExitCode.WAITING
    if summary.partial:
        return ExitCode.PARTIAL
    return ExitCode.FINE if summary.completed == summary.total else ExitCode.FAILED
