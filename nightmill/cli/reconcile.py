"""`nightmill reconcile` and `nightmill repairs`: find what is stuck and repair it now, and see what was repaired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nightmill.cli.ending import ExitCode
from nightmill.cli.output import (
    JsonFlag,
    ago,
    length_of,
    note,
    one_line,
    print_json,
    print_table,
    say,
    screen,
    style_of,
    wants_json,
)

if TYPE_CHECKING:
    from datetime import datetime

    from nightmill.assembly import Assembly
    from nightmill.contracts import ReconcileSummary, RepairView
    from nightmill.storage.recovery_models import RepairRow

MEANINGS = {
    "healthy": "works, waits for its turn, or is about to go on by itself",
    "tasks_fail": "its code fails in the version that runs now",
    "tasks_failed_elsewhere": "its code failed in another version; this one tries it next",
    "long_back_off": "a step waits long before it is tried again",
    "overdue": "runs, and what was due has not been done",
    "still_overdue": "was asked to go on, and has not",
    "no_worker": "nobody listens to its task queue; goes on by itself once a worker does",
    "waits_for_operator": "waits for somebody: see what needs attention",
    "paused": "somebody paused it",
    "failed": "its workflow failed",
    "timed_out": "its workflow timed out",
    "terminated": "somebody terminated its workflow",
    "invalid_input": "its input could not be used, and nothing was submitted",
    "canceled": "was canceled, and ended before its work was put in order",
    "completed": "its workflow has completed, and what it was to store is missing",
    "not_found": "has no workflow: never started, deleted, or past Temporal's retention",
    "too_old": "has waited too long to be submitted",
    "past_deadline": "is past its max age, and nobody drives it",
    "left_to_expiry": "is past its max age: the expiry sweep ends it",
    "out_of_tries": "was repaired as often as it may be: needs attention",
    "too_early": "was repaired just now; the next repair waits longer",
    "being_repaired": "another reconciler is at it",
    "unknown": "could not be looked at; the next run tries again",
}
"""What each finding means to an operator."""

_WAIT_FOR_SOMEBODY = frozenset({"no_worker", "waits_for_operator", "out_of_tries"})


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="\b\nExample:\n  nightmill reconcile --dry-run")(reconcile)
    app.command(epilog="\b\nExample:\n  nightmill repairs --batch 0198f2a4-77aa-7c11-9d3e-6f0d2c1b5a90")(repairs)


def reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what would be done.")] = False,
    expiry: Annotated[
        bool, typer.Option("--expiry", help="End batches past their max age that nobody drives, instead.")
    ] = False,
    timeout: Annotated[str | None, typer.Option(help="Stop waiting after this long: seconds, 10m, PT10M.")] = None,
    json_: JsonFlag = None,
) -> None:
    """Find what is stuck and repair it now, as the schedule does every 5 minutes.

    A worker does it; Ctrl-C ends the waiting only. The exit code is 0 if all is well or was repaired, 3 if a repair
    failed or something waits for somebody, 4 if it goes on, 5 if no worker takes it.
    """
    from nightmill.cli.progress import bar
    from nightmill.cli.runtime import duration_of, run_async
    from nightmill.client.nightmill import Nightmill

    limit = None if timeout is None else duration_of(timeout, "--timeout")

    async def work() -> ReconcileSummary:
        async with Nightmill.connect() as nightmill:
            with bar("looking at what is late") as show:
                return await nightmill.recovery.reconcile(
                    dry_run=dry_run,
                    expiry=expiry,
                    timeout=limit,
                    on_progress=lambda so_far: show(so_far.candidates, None),
                )

    try:
        summary = run_async(work())
    except TimeoutError:
        note(f"Not done within {timeout}. It goes on, and is waited for again.")
        raise typer.Exit(ExitCode.WAITING) from None
    except KeyboardInterrupt:
        note("Stopped waiting; it goes on.")
        raise typer.Exit(ExitCode.WAITING) from None
    if wants_json(json_):
        print_json(summary.model_dump())
    else:
        print_reconciled(summary)
    raise typer.Exit(ExitCode.PARTIAL if waits_for_somebody(summary) else ExitCode.FINE)


def waits_for_somebody(summary: ReconcileSummary) -> bool:
    """Return whether something is left that the next run will not mend by itself."""
    from nightmill.contracts import MOST_REPAIRS_SHOWN, Action, Finding, RepairState

    # A queue without a worker on which nothing waits is nobody's trouble: many slice nothing.
    if summary.failed or _WAIT_FOR_SOMEBODY & summary.findings.keys():
        return True
    if any(repair.action is Action.GIVE_UP or repair.state is RepairState.FAILED for repair in summary.repairs):
        return True
    # Tasks that fail and are not repaired were reset for this version already: only another one helps.
    repaired = sum(repair.finding is Finding.TASKS_FAIL for repair in summary.repairs)
    is_whole = len(summary.repairs) < MOST_REPAIRS_SHOWN
    return is_whole and summary.findings.get(Finding.TASKS_FAIL, 0) > repaired


def print_reconciled(summary: ReconcileSummary) -> None:
    """Print what a reconciler or an expiry sweep found and did, for people."""
    from nightmill.contracts import MOST_REPAIRS_SHOWN

    if summary.findings:
        print_table(
            ["found", "count", "meaning"],
            [
                [finding.value, f"{count:,}", MEANINGS[finding.value]]
                for finding, count in sorted(summary.findings.items(), key=lambda item: (-item[1], item[0]))
            ],
            numbers=["count"],
        )
    for repair in summary.repairs:
        _print_repair(repair)
    if len(summary.repairs) >= MOST_REPAIRS_SHOWN:
        say("… and more" if summary.dry_run else "… and more: `nightmill repairs` shows all of them")
    if summary.repairs:
        say("")
    for queue in summary.queues_without_worker:
        say(f"No worker listens to task queue {queue}; what is due there waits for one.")
    say(_told(summary))


def _told(summary: ReconcileSummary) -> str:
    if not summary.candidates and not summary.failed:
        return "Nothing is stuck."
    parts = [
        f"{summary.candidates:,} looked at in {length_of(summary.duration)}",
        f"{summary.repaired:,} would be repaired" if summary.dry_run else f"{summary.repaired:,} repaired",
    ]
    if summary.failed:
        parts.append(f"{summary.failed:,} failed (tried again by the next run)")
    if summary.go_on:
        parts.append("the rest is left to the next run")
    return ", ".join(parts) + "."


def repairs(
    batch: Annotated[str | None, typer.Option(help="Only this batch's, and those of its provider batches.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 50,
    json_: JsonFlag = None,
) -> None:
    """Show what was repaired, newest first."""
    from nightmill.cli.runtime import stored

    with stored() as assembly:
        if batch is not None:
            assembly.batches.get(batch)
            found = repairs_of_batch(assembly, batch, limit=limit)
        else:
            found = assembly.recovery.repairs.newest(limit=limit)
    if wants_json(json_):
        for row in found:
            print_json(row.model_dump())
    elif found:
        for row in found:
            _print_repair(row, asked_at=row.asked_at)
    else:
        note("Nothing was repaired." if batch is None else f"Batch {batch} was never repaired.")


def repairs_of_batch(assembly: Assembly, batch_id: str, *, limit: int) -> list[RepairRow]:
    """Return a batch's repairs and those of its provider batches with workflows of their own, newest first."""
    from nightmill import ids
    from nightmill.contracts import Subject

    own = assembly.recovery.repairs.newest(limit=limit, subject=Subject.BATCH, subject_id=batch_id)
    parts = [ids.part_workflow_id(batch_id, part.round, part.part) for part in assembly.batches.parts(batch_id)]
    of_parts = [row for rows in assembly.recovery.repairs.past(parts).values() for row in rows]
    return sorted([*own, *of_parts], key=lambda row: row.key or 0, reverse=True)[:limit]


def told_of_repairs(repairs: list[RepairRow]) -> str | None:
    """Return what became of a batch's repairs, given newest first, in a line; None where there were none."""
    from nightmill.contracts import Action, RepairState

    done = [row for row in repairs if row.state is RepairState.DONE and row.action is not Action.GIVE_UP]
    if repairs and repairs[0].state is RepairState.FAILED:
        return f"not, it failed {ago(repairs[0].ended_at)}: {repairs[0].error}"
    if not done:
        return None
    last = done[0]
    often = "once" if len(done) == 1 else f"{len(done)} times, last"
    return f"{often} {ago(last.ended_at)}: {last.action} ({last.finding})"


def _print_repair(repair: RepairView | RepairRow, *, asked_at: datetime | None = None) -> None:
    from rich.text import Text

    state = "would" if repair.state is None else repair.state.value
    named = getattr(repair, "subject_id", None) or getattr(repair, "id", "")
    when = f"{ago(asked_at):<12}" if asked_at is not None else ""
    line = Text.assemble(
        when,
        (f"{state:<6} ", style_of(state)),
        f"{repair.action.value:<14} {repair.subject.value} {one_line(str(named))}  ",
        (repair.finding.value, "dim"),
    )
    screen().print(line, soft_wrap=True)
    for text in (repair.reason, getattr(repair, "error", None)):
        if text:
            screen().print(Text(f"{'':<{len(when)}}       {one_line(text)}", style="dim"), soft_wrap=True)
