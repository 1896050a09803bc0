"""`nightmill batch submit` and `nightmill batch estimate`: from a file to a running batch, or to what it would cost."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightmill.cli.output import JsonFlag, note, print_facts, print_json, say, size_of, wants_json
from nightmill.errors import InvalidInput

if TYPE_CHECKING:
    from datetime import timedelta

    from nightmill.cli.ending import ExitCode
    from nightmill.client.nightmill import Nightmill

STDIN = "-"
STDIN_NAME = "<stdin>"

File = Annotated[str, typer.Argument(metavar="FILE", help="JSON lines, one request each; `-` is standard input.")]
ProviderOption = Annotated[str | None, typer.Option(help="openai, anthropic, google or xai.")]
ModelOption = Annotated[str | None, typer.Option(help="The provider's model name.")]
EndpointOption = Annotated[
    str | None,
    typer.Option(help="OpenAI only: /v1/responses (default), /v1/chat/completions or /v1/embeddings."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `nightmill batch`."""
    app.command(
        epilog="\b\nExample:\n  nightmill batch submit requests.jsonl --provider openai --model gpt-5-mini --watch"
    )(submit)
    app.command(epilog="\b\nExample:\n  nightmill batch estimate requests.jsonl --provider openai --model gpt-5-mini")(
        estimate
    )


def submit(
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="JSON lines, one request each; `-` is standard input.")
    ] = None,
    provider: ProviderOption = None,
    model: ModelOption = None,
    endpoint: EndpointOption = None,
    id_: Annotated[
        str | None,
        typer.Option("--id", help="Id of the batch; with an id of your own a repeated submit is refused."),
    ] = None,
    account: Annotated[str | None, typer.Option(help="Name of the key to use.")] = None,
    metadata: Annotated[str | None, typer.Option(help="JSON object that the handler gets; never sent on.")] = None,
    handler: Annotated[
        str | None, typer.Option(help='Whom to tell, as JSON: {"kind": "webhook", "url": "https://…"}.')
    ] = None,
    poll_schedule: Annotated[
        str | None, typer.Option(help='Delays between polls, as JSON: [60, "5m"]; the last one repeats.')
    ] = None,
    max_age: Annotated[
        str | None, typer.Option(help="How long the provider may take: 26h, seconds, or ISO 8601.")
    ] = None,
    retry_rounds: Annotated[int | None, typer.Option(help="How often retriable failures are sent again.")] = None,
    budget: Annotated[str | None, typer.Option(help="Refuse it if the estimate is over so many US dollars.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Wait for the end and print the summary.")] = False,
    timeout: Annotated[str | None, typer.Option(help="With --watch: stop watching after this long.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the requests and estimate; store nothing.")] = False,
    resume: Annotated[
        str | None, typer.Option(metavar="ID", help="Start a batch that is stored but does not run; no FILE needed.")
    ] = None,
    json_: JsonFlag = None,
) -> None:
    """Submit a batch of requests.

    It runs on without this command. With --watch the exit code is 0 if all requests are completed, 3 if some are, 1
    if none is, 4 if it goes on.
    """
    from nightmill.cli.runtime import duration_of

    limit = duration_of(timeout, "--timeout") if timeout is not None else None
    if limit and not watch:
        raise InvalidInput("--timeout: only with --watch")
    as_json = wants_json(json_)
    if resume is not None:
        if file is not None or dry_run:
            raise InvalidInput("--resume: takes the stored requests; leave out FILE and --dry-run")
        raise typer.Exit(_run(_Resumed(resume), resume, watch=watch, timeout=limit, as_json=as_json))
    if file is None:
        raise InvalidInput("FILE: give a file of requests, or `-` for standard input")
    options = {
        "endpoint": endpoint,
        "account": account,
        "retry_rounds": retry_rounds,
        **_read_options(metadata=metadata, handler=handler, poll_schedule=poll_schedule, max_age=max_age),
    }
    if budget is not None:
        options["budget"] = budget
    chosen = _provider_and_model(provider, model)
    if dry_run:
        _estimate(file, chosen, options, as_json=as_json)
        return
    from nightmill import ids

    batch_id = ids.check_batch_id(id_) if id_ is not None else ids.new_id()
    raise typer.Exit(
        _run(_Submitted(file, chosen, batch_id, options), batch_id, watch=watch, timeout=limit, as_json=as_json)
    )


def estimate(
    file: File,
    provider: ProviderOption = None,
    model: ModelOption = None,
    endpoint: EndpointOption = None,
    json_: JsonFlag = None,
) -> None:
    """Check requests and estimate their cost.

    Nothing is stored or sent.
    """
    options = {"endpoint": endpoint}
    _estimate(file, _provider_and_model(provider, model), options, as_json=wants_json(json_))


def _provider_and_model(provider: str | None, model: str | None) -> dict[str, str]:
    from nightmill.providers.registry import PROVIDER_NAMES

    missing = [name for name, value in (("--provider", provider), ("--model", model)) if not value]
    if missing or not provider or not model:
        raise InvalidInput(f"{', '.join(missing)}: required")
    if provider not in PROVIDER_NAMES:
        raise InvalidInput(f"--provider: {provider[:40]!r} is unknown; choose one of {', '.join(PROVIDER_NAMES)}")
    return {"provider": provider, "model": model}


def _read_options(
    *, metadata: str | None, handler: str | None, poll_schedule: str | None, max_age: str | None
) -> dict[str, Any]:
    """Return the options that are given as JSON or as durations."""
    from nightmill.cli.runtime import json_of, seconds_of

    options: dict[str, Any] = {}
    if metadata is not None:
        options["metadata"] = json_of(metadata, "--metadata", dict)
    if handler is not None:
        options["completion_handler"] = json_of(handler, "--handler", dict)
    if poll_schedule is not None:
        given = json_of(poll_schedule, "--poll-schedule", list)
        options["poll_schedule"] = [seconds_of(d, "--poll-schedule") if isinstance(d, str) else d for d in given]
    if max_age is not None:
        options["max_age"] = seconds_of(max_age, "--max-age")
    return options


def read_chunks(file: str) -> tuple[str, Iterator[bytes]]:
    """Return the name to show in messages, and the bytes, of a file or of standard input.

    Raises:
        InvalidInput: The file cannot be read.
    """
    from nightmill.completions.sources import CHUNK_BYTES, read_file

    if file != STDIN:
        path = Path(file)
        if not path.exists():
            raise InvalidInput(f"{file}: no such file")
        if path.is_dir():
            raise InvalidInput(f"{file}: is a folder, not a file")
        return file, read_file(path)
    if sys.stdin.isatty():
        note("Reading requests from the terminal, one JSON object a line; Ctrl-D ends them.")
    return STDIN_NAME, iter(lambda: os.read(sys.stdin.fileno(), CHUNK_BYTES), b"")


class _Submitted:
    """Stores and starts a new batch."""

    def __init__(self, file: str, chosen: dict[str, Any], batch_id: str, options: dict[str, Any]) -> None:
        from nightmill.client.nightmill import read_input

        self._chosen, self._batch_id, self._options = chosen, batch_id, options

        # Checked before anything is connected to; the requests themselves are read once, while they are stored.
        read_input(**chosen, **options)
        self._name, self._chunks = read_chunks(file)

    async def __call__(self, nightmill: Nightmill) -> None:
        await nightmill.submit_file(
            self._chunks, name=self._name, batch_id=self._batch_id, **self._chosen, **self._options
        )


class _Resumed:
    """Starts a stored batch."""

    def __init__(self, batch_id: str) -> None:
        self._batch_id = batch_id

    async def __call__(self, nightmill: Nightmill) -> None:
        await nightmill.start(self._batch_id)


def _run(
    begin: _Submitted | _Resumed, batch_id: str, *, watch: bool, timeout: timedelta | None, as_json: bool
) -> ExitCode:
    from nightmill.cli.ending import ExitCode
    from nightmill.cli.runtime import run_async
    from nightmill.cli.watching import stopped_watching, watch_and_tell
    from nightmill.client.nightmill import Nightmill

    started = False

    async def work() -> ExitCode:
        nonlocal started
        async with Nightmill.connect() as nightmill:
            await begin(nightmill)
            started = True
            if watch:
                if not as_json:
                    note(f"Batch {batch_id} is submitted.")
                return await watch_and_tell(nightmill, batch_id, timeout=timeout, as_json=as_json)
            row = await asyncio.to_thread(nightmill.assembly.batches.get, batch_id)
            if as_json:
                print_json({"batch_id": batch_id, "status": row.status})
            else:
                say(f"Batch {batch_id} is submitted: {row.requests:,} requests for {row.provider} {row.model}.")
                say(f"Watch it: nightmill batch watch {batch_id}")
            return ExitCode.FINE

    try:
        return run_async(work())
    except KeyboardInterrupt:
        if started:
            return stopped_watching(batch_id)
        note(
            f"nightmill: interrupted; if batch {batch_id} was stored already, "
            f"`nightmill batch submit --resume {batch_id}` starts it"
        )
        return ExitCode.FAILED


def _estimate(file: str, chosen: dict[str, Any], options: dict[str, Any], *, as_json: bool) -> None:
    from nightmill.assembly import assembled
    from nightmill.client.nightmill import read_input
    from nightmill.completions.pricing import Tally, find_price
    from nightmill.completions.requests import read_requests
    from nightmill.errors import OverBudget
    from nightmill.settings import load_settings

    settings = load_settings()
    with assembled(settings) as assembly:
        given = read_input(**chosen, **options)
        provider = assembly.renderer(chosen["provider"])
        name, chunks = read_chunks(file)
        reader = read_requests(chunks, provider=provider, model=chosen["model"], endpoint=given.endpoint, source=name)
        tally = Tally(provider, find_price(provider, chosen["model"], settings.prices))
        for request in reader:
            tally.add(request.line)
        found = tally.estimate()
    if as_json:
        print_json({**chosen, "endpoint": reader.endpoint or None, **dataclasses.asdict(found)})
    else:
        unbounded = f" ({found.unbounded:,} requests set no maximum)" if found.unbounded else ""
        print_facts(
            [
                ("requests", f"{found.requests:,}"),
                ("size", size_of(found.bytes)),
                ("endpoint", reader.endpoint),
                ("provider batches", f"{found.provider_batches:,}"),
                ("tokens", f"about {found.input_tokens:,} in, up to {found.output_tokens:,} out{unbounded}"),
                (
                    "cost",
                    f"up to ${found.cost:.4f}" if found.cost is not None else f"not known: {found.no_cost_because}",
                ),
            ]
        )
    if given.budget is not None and (found.cost is None or found.cost > given.budget):
        cost = f"up to ${found.cost:.4f} by the estimate" if found.cost is not None else f"{found.no_cost_because}"
        raise OverBudget(f"budget: {cost}; the budget is ${given.budget}")
