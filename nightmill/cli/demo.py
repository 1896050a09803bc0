"""The demonstration behind `make demo`: requests through every sandbox provider, a site, a gazette, and a proof."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightmill.cli.ending import ExitCode
from nightmill.cli.loopback import MODELS, started, variables_of
from nightmill.cli.output import note, print_table, say
from nightmill.cli.progress import bars

if TYPE_CHECKING:
    from nightmill.cli.receiver import WebhookReceiver
    from nightmill.cli.stack import LocalStack
    from nightmill.client.nightmill import Nightmill
    from nightmill.contracts import BatchSummary

FOLDER = Path(".nightmill/demo")

SANDBOX = {"finish_after": 5.0, "fail_share": 0.01}
"""A few requests fail, so that the table shows how failures look."""

POLL_SCHEDULE = (timedelta(seconds=3), timedelta(seconds=2))

PATIENCE = timedelta(minutes=5)
"""How long the batches may take; they take a quarter of a minute on two cores."""


@dataclass
class Course:
    """One batch of the demonstration.

    Attributes:
        provider: Its provider.
        batch_id: Its id.
        summary: What became of it.
        seconds: From submit to delivery.
        wrong: What is not as it should be.
    """

    provider: str
    batch_id: str
    summary: BatchSummary | None = None
    seconds: float = 0.0
    wrong: tuple[str, ...] = ()


def register(app: typer.Typer) -> None:
    """Add the command; hidden, because `make demo` is how it is meant to be run."""
    app.command(hidden=True, epilog="\b\nExample:\n  nightmill demo --keep")(demo)


def demo(
    requests: Annotated[int, typer.Option(min=1, max=50_000, help="Requests for each provider.")] = 1_000,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running, to look at the UI.")] = False,
) -> None:
    """Take requests through four providers, keep a site fresh, cut up a gazette, and prove that all of it is right."""
    from nightmill.cli.runtime import run_async
    from nightmill.cli.stack import LocalStack, free_port

    # Neither the settings of this shell nor a `.env` file here: the demonstration is the same everywhere.
    for name in [name for name in os.environ if name.startswith("NIGHTMILL_")]:
        del os.environ[name]
    shutil.rmtree(FOLDER, ignore_errors=True)
    folder = FOLDER.absolute()
    stack = LocalStack(
        folder,
        port=free_port(7233),
        ui_port=free_port(8233),
        sandbox_port=free_port(8700),
        working_folder=folder,
    )
    with stack:
        code = run_async(_run(stack, requests, keep=keep))
    raise typer.Exit(code)


async def _run(stack: LocalStack, requests: int, *, keep: bool) -> ExitCode:
    from nightmill.cli import demo_documents, demo_slicing
    from nightmill.cli.demo_documents import keep_fresh
    from nightmill.cli.demo_site import DemoSite
    from nightmill.cli.demo_slicing import slice_gazette
    from nightmill.cli.receiver import WebhookReceiver
    from nightmill.settings import BatchSettings
    from nightmill.webhooks import new_secret

    began = time.monotonic()
    with WebhookReceiver(new_secret()) as receiver:
        note("Starting Temporal, the sandbox and a worker …")
        variables = variables_of(stack, receiver.secret) | {"NIGHTMILL_LOG_FORMAT": "json"}
        nightmill, slicing = await started(
            stack, variables, profile=SANDBOX, batch=BatchSettings(poll_schedule=POLL_SCHEDULE)
        )
        note(f"Temporal's UI: {stack.ui_url}/namespaces/default/workflows")
        with DemoSite() as site:
            # Beside the batches, which mostly wait.
            fresh = asyncio.create_task(keep_fresh(nightmill, site, receiver))
            cut = asyncio.create_task(slice_gazette(nightmill, stack.folder, receiver)) if slicing.serves else None
            courses = await _take_all(stack, nightmill, receiver, requests)
            steps = await fresh
            gazette = await cut if cut is not None else None
        _judge_all(stack, nightmill, receiver, courses, requests)
        wrong = [*(course.wrong for course in courses), *(step.wrong for step in steps)]
        right = not any(wrong) and not (gazette and gazette.wrong)
        _report(courses, receiver, requests)
        demo_documents.report(steps)
        demo_slicing.report(gazette, slicing)
        what = f"{len(courses)} batches, a site and a gazette" if gazette else f"{len(courses)} batches and a site"
        say(f"{what}, {time.monotonic() - began:.0f} s in all, with everything started from nothing.")
        say(f"Temporal's UI: {stack.ui_url}/namespaces/default/workflows" + ("" if keep else " (--keep leaves it up)"))
        if not right:
            note(f"nightmill: the demonstration failed; logs are in {stack.folder}/logs/")
        if keep:
            say(f"Everything goes on running, TEMPORAL_ADDRESS={stack.address}; Ctrl-C stops it.")
            await _until_interrupted(stack)
        return ExitCode.FINE if right else ExitCode.FAILED


async def _take_all(stack: LocalStack, nightmill: Nightmill, receiver: WebhookReceiver, requests: int) -> list[Course]:
    """Submit one batch to each provider, all at the same time, and wait for their ends."""
    courses = [Course(provider, f"demo-{provider}") for provider in MODELS]
    tasks = [asyncio.create_task(_take(nightmill, course, receiver.url, requests)) for course in courses]
    give_up_at = time.monotonic() + PATIENCE.total_seconds()
    with _progress(courses, requests) as show:
        while not all(task.done() for task in tasks):
            stack.supervisor.check()
            if time.monotonic() > give_up_at:
                break
            await asyncio.wait(tasks, timeout=0.5)
            show(await asyncio.to_thread(_look, nightmill, courses))
    for task, course in zip(tasks, courses, strict=True):
        if not task.done():
            task.cancel()
            course.wrong = (f"not ended within {PATIENCE}",)
        else:
            task.result()
    return courses


async def _take(nightmill: Nightmill, course: Course, hook: str, requests: int) -> None:
    started = time.monotonic()
    given = (
        {
            "custom_id": f"{course.provider}-{n:04}",
            "system": "You are a terse geographer.",
            "prompt": f"Name one fact about the number {n}.",
            "max_output_tokens": 100,
        }
        for n in range(requests)
    )
    await nightmill.submit(
        given,
        provider=course.provider,
        model=MODELS[course.provider],
        batch_id=course.batch_id,
        metadata={"demo": True},
        completion_handler={"kind": "webhook", "url": hook},
    )
    course.summary = await nightmill.wait(course.batch_id)
    course.seconds = time.monotonic() - started


def _look(nightmill: Nightmill, courses: list[Course]) -> list[tuple[str, int]]:
    """Return each batch's status and how many of its requests are done."""
    from nightmill.errors import BatchNotFound

    states = []
    for course in courses:
        try:
            row = nightmill.assembly.batches.get(course.batch_id)
            counts = nightmill.assembly.outcomes.progress(course.batch_id)
        except BatchNotFound:
            states.append(("storing", 0))
        else:
            states.append((row.status.value, (counts.succeeded or 0) + (counts.failed or 0)))
    return states


@contextmanager
def _progress(courses: list[Course], requests: int) -> Iterator[Any]:
    """Give a function that shows the states: bars on a terminal, a line for each change elsewhere."""
    if sys.stderr.isatty():
        with bars(before=["provider"]) as progress:
            tasks = [progress.add_task("starting", total=requests, provider=course.provider) for course in courses]

            def show_bars(states: list[tuple[str, int]]) -> None:
                for task, (status, done) in zip(tasks, states, strict=True):
                    progress.update(task, description=status, completed=done)

            yield show_bars
        return
    known: dict[str, str] = {}

    def show_changes(states: list[tuple[str, int]]) -> None:
        for course, (status, _) in zip(courses, states, strict=True):
            if known.get(course.provider) != status:
                known[course.provider] = status
                note(f"{course.provider}: {status}")

    yield show_changes


def _judge_all(
    stack: LocalStack, nightmill: Nightmill, receiver: WebhookReceiver, courses: list[Course], requests: int
) -> None:
    """Hold every batch against the sandbox's own memory, the database, and what the receiver got."""
    at_providers = stack.sandbox_memory("batches")
    for course in courses:
        if course.summary is None:
            continue
        wrong = []
        summary = course.summary
        if summary.total != requests or summary.completed + summary.failed != requests:
            wrong.append(f"{summary.completed} + {summary.failed} of {requests} accounted for")
        if summary.status != "ended":
            wrong.append(f"status {summary.status}")
        found = [
            result.custom_id
            for result in nightmill.assembly.outcomes.results(course.batch_id)
            if result.status != "pending"
        ]
        if len(set(found)) != requests or len(found) != requests:
            wrong.append(f"{len(found)} results, {len(set(found))} of them different")
        made = [batch for batch in at_providers if batch["provider"] == course.provider]
        if len(made) != 1 or made[0]["requests"] != requests:
            wrong.append(f"{len(made)} provider batches in place of one")
        elif made[0]["tag"] not in (None, f"nm-{course.batch_id}-0-0-1", f"nm-{course.batch_id}-0-0-0"):
            wrong.append(f"the provider batch is marked {made[0]['tag']!r}")
        deliveries = receiver.deliveries(course.batch_id)
        if deliveries != 1:
            wrong.append(f"{deliveries} deliveries in place of one")
        course.wrong = tuple(wrong)
    if receiver.refused:
        courses[0].wrong += (f"{receiver.refused} webhooks without a valid signature",)


def _report(courses: list[Course], receiver: WebhookReceiver, requests: int) -> None:
    headers = ["provider", "status", "completed", "failed", "tokens", "cost", "seconds", "delivered", "proof"]
    rows = []
    for course in courses:
        summary = course.summary
        if summary is None:
            rows.append([course.provider, "not ended", *[""] * 6, "wrong"])
            continue
        rows.append(
            [
                course.provider,
                summary.status.value,
                f"{summary.completed:,}",
                f"{summary.failed:,}",
                f"{summary.tokens.input + summary.tokens.output:,}",
                f"${summary.cost:.4f}" if summary.cost is not None else "not known",
                f"{course.seconds:.1f}",
                _times(receiver.deliveries(course.batch_id)),
                "wrong" if course.wrong else "right",
            ]
        )
    print_table(headers, rows, numbers=["completed", "failed", "tokens", "cost", "seconds"])
    for course in courses:
        for wrong in course.wrong:
            note(f"nightmill: {course.provider}: {wrong}")
    if not any(course.wrong for course in courses):
        say(
            f"Each of the {requests:,} requests has one outcome; each provider made one batch; each summary was "
            "delivered once, signed."
        )


def _times(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count} times")


async def _until_interrupted(stack: LocalStack) -> None:
    try:
        while True:
            stack.supervisor.check()
            await asyncio.sleep(0.5)
    except asyncio.CancelledError:
        say("Stopping …")


if __name__ == "__main__":
    from nightmill.cli.app import run
    from nightmill.cli.ending import finish

    finish(run(["demo", *sys.argv[1:]]))
