"""`nightmill events`: receive the providers' word that a batch has ended."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from nightmill.cli.output import note

if TYPE_CHECKING:
    from nightmill.assembly import Assembly

SERVICE = "nightmill-events"
"""Its name in telemetry, unless `OTEL_SERVICE_NAME` gives another one."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="\b\nExample:\n  NIGHTMILL_OPENAI__WEBHOOK_SECRET=whsec_… nightmill events --port 8083")(events)


def events(
    host: Annotated[str | None, typer.Option(help="The address to listen on; default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="The port; 0 is any free one.")] = None,
) -> None:
    """Let batches be polled as soon as OpenAI or Gemini tell that they have ended.

    Serves POST /openai and /google, and each with /ACCOUNT, where a webhook secret is set, until SIGTERM or Ctrl-C.
    """
    from nightmill.assembly import assembled
    from nightmill.cli.runtime import run_async
    from nightmill.settings import load_settings
    from nightmill.storage import schema
    from nightmill.telemetry.logs import set_up_logging

    settings = load_settings()
    set_up_logging(settings)
    with assembled(settings) as assembly:
        schema.check(assembly.database)
        given = settings.events
        run_async(_serve(assembly, given.host if host is None else host, given.port if port is None else port))


async def _serve(assembly: Assembly, host: str, port: int) -> None:
    from nightmill.client.connection import connect
    from nightmill.client.events import EventReceiver
    from nightmill.client.runtime import worker_runtime
    from nightmill.events.endpoints import endpoints_of
    from nightmill.serving import served
    from nightmill.storage.event_reads import EventReads

    settings = assembly.settings
    endpoints = endpoints_of(settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with worker_runtime(settings, None, service=SERVICE) as runtime:
        temporal = await connect(settings, runtime=runtime)
        receiver = EventReceiver(temporal, EventReads(assembly.database), endpoints)
        async with served(receiver.app(), host, port, setting="NIGHTMILL_EVENTS__PORT") as address:
            note(f"Listening for providers' events: {', '.join(address + path for path in sorted(endpoints))}")
            await stop.wait()
