"""`nightmill worker`: run the workflows and activities."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    examples = "TEMPORAL_ADDRESS=temporal:7233 nightmill worker\n  nightmill worker --queues nightmill-slicing"
    app.command(epilog=f"\b\nExample:\n  {examples}")(worker)


def worker(
    queues: Annotated[
        str | None,
        typer.Option(help="Task queues to serve, separated by commas; default: nightmill,nightmill-slicing."),
    ] = None,
) -> None:
    """Run a worker until SIGTERM or Ctrl-C.

    What it is doing then gets time to end. Temporal is found as TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and the other
    variables of its SDK say.
    """
    from worker import main

    main([] if queues is None else ["--queues", queues])
