"""Watch a batch to its end: progress on a terminal, silence elsewhere, and nothing stops when the watching does."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from nightmill.cli.batch import exit_code_of_summary, print_summary, summary_json
from nightmill.cli.ending import ExitCode
from nightmill.cli.output import ago, note, print_json
from nightmill.cli.progress import bars
from nightmill.cli.waiting import LOOKS_EVERY, over_outages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nightmill.client.nightmill import Nightmill
    from nightmill.contracts import BatchSummary
    from nightmill.storage.models import BatchRow


@dataclass(frozen=True)
class State:
    """How a batch stands, as the database has it.

    Attributes:
        row: The batch.
        done: Requests with an outcome, at the provider or stored already, whichever is more.
    """

    row: BatchRow
    done: int


def watch_batch(batch_id: str, *, timeout: str | None, as_json: bool) -> ExitCode:
    """Connect, wait for the end, print the summary, and return the exit code."""
    from nightmill.cli.runtime import duration_of, run_async
    from nightmill.client.nightmill import Nightmill

    limit = duration_of(timeout, "--timeout") if timeout is not None else None

    async def work() -> ExitCode:
        async with Nightmill.connect() as nightmill:
            await asyncio.to_thread(nightmill.assembly.batches.get, batch_id)
            return await watch_and_tell(nightmill, batch_id, timeout=limit, as_json=as_json)

    try:
        return run_async(work())
    except KeyboardInterrupt:
        return stopped_watching(batch_id)


def stopped_watching(batch_id: str) -> ExitCode:
    """Say that the batch goes on and how to watch it again."""
    note(f"Stopped watching; batch {batch_id} goes on. Watch it again: nightmill batch watch {batch_id}")
    return ExitCode.WAITING


async def watch_and_tell(nightmill: Nightmill, batch_id: str, *, timeout: timedelta | None, as_json: bool) -> ExitCode:
    """Wait for the end, at most so long, print the summary, and return the exit code."""
    try:
        summary = await _watch(nightmill, batch_id, timeout)
    except TimeoutError:
        summary = await nightmill.summary(batch_id)
        if as_json:
            print_json(summary_json(summary))
        note(f"Batch {batch_id} is still {summary.status}. Watch it again: nightmill batch watch {batch_id}")
        return ExitCode.WAITING
    if as_json:
        print_json(summary_json(summary))
    else:
        print_summary(summary, await asyncio.to_thread(nightmill.assembly.batches.get, batch_id))
    return exit_code_of_summary(summary)


async def _watch(nightmill: Nightmill, batch_id: str, timeout: timedelta | None) -> BatchSummary:
    ended = asyncio.create_task(over_outages(lambda: nightmill.wait(batch_id)))
    give_up_at = time.monotonic() + timeout.total_seconds() if timeout else None
    shown: str | None = None
    try:
        with _progress() as show:
            while True:
                left = max(0.0, give_up_at - time.monotonic()) if give_up_at else LOOKS_EVERY.total_seconds()
                await asyncio.wait({ended}, timeout=min(left, LOOKS_EVERY.total_seconds()))
                if ended.done():
                    return ended.result()
                if give_up_at and time.monotonic() >= give_up_at:
                    raise TimeoutError
                state = await asyncio.to_thread(_look, nightmill, batch_id)
                show(state)
                if state.row.needs_attention != shown:
                    shown = state.row.needs_attention
                    if shown:
                        note(f"nightmill: batch {batch_id} needs attention: {shown}")
    finally:
        ended.cancel()


def _look(nightmill: Nightmill, batch_id: str) -> State:
    row = nightmill.assembly.batches.get(batch_id)
    counts = nightmill.assembly.outcomes.progress(batch_id)
    stored = (counts.succeeded or 0) + (counts.failed or 0)
    at_provider = sum(
        part.counts.get(name) or 0
        for part in nightmill.assembly.batches.parts(batch_id, round_=row.round)
        for name in ("succeeded", "failed", "canceled", "expired")
    )
    return State(row=row, done=min(row.requests, max(stored, at_provider)))


@contextmanager
def _progress() -> Iterator[Callable[[State], None]]:
    """Give a function that shows a state on the terminal; it shows nothing where there is none."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with bars(after=["next_poll"]) as progress:
        task = progress.add_task("waiting", total=None, next_poll="")

        def show(state: State) -> None:
            row = state.row
            ahead = f"next poll {ago(row.next_poll_at)}" if row.next_poll_at else ""
            total = row.requests or None
            progress.update(task, description=row.status.value, total=total, completed=state.done, next_poll=ahead)

        yield show
