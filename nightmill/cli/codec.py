"""`nightmill codec-server`: show encrypted payloads in Temporal's UI and CLI."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from nightmill.cli.output import note

if TYPE_CHECKING:
    from nightmill.client.codec_server import CodecServer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("codec-server", epilog="\b\nExample:\n  nightmill codec-server --port 8082")(codec_server)


def codec_server(
    host: Annotated[str | None, typer.Option(help="The address to listen on; default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="The port; 0 is any free one.")] = None,
) -> None:
    """Decode what NIGHTMILL_ENCRYPTION_KEY has encrypted, for Temporal's UI and CLI.

    Serves POST /decode and /encode until SIGTERM or Ctrl-C. Other machines may ask where NIGHTMILL_CODEC__TOKEN is
    set, and the UIs of NIGHTMILL_CODEC__ORIGINS.
    """
    from nightmill.cli.runtime import run_async
    from nightmill.client import codec_server as answering
    from nightmill.settings import load_settings
    from nightmill.telemetry.logs import set_up_logging

    settings = load_settings()
    set_up_logging(settings)
    given = settings.codec
    host = given.host if host is None else host
    server = answering.codec_server(settings, host)
    run_async(_serve(server, host, given.port if port is None else port))


async def _serve(server: CodecServer, host: str, port: int) -> None:
    from nightmill.serving import served

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with served(server.app(), host, port, setting="NIGHTMILL_CODEC__PORT") as address:
        present = server.codec.present
        writes = f"key {present.id}" if present else "no key, so that nothing is encrypted any more"
        reads = f", and reads {', '.join(key.id for key in server.codec.old)}" if server.codec.old else ""
        note(f"The codec server listens on {address}; it writes with {writes}{reads}")
        await stop.wait()
