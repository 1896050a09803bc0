"""`nightmill worker`: run the workflows and activities."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="\b\nExample:\n  TEMPORAL_ADDRESS=temporal:7233 nightmill worker")(worker)


def worker() -> None:
    """Run a worker until SIGTERM or Ctrl-C.

    What it is doing then gets time to end. Temporal is found as TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and the other
    variables of its SDK say.
    """
    from worker import main

    main()
