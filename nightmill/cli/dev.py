"""`nightmill dev`: the whole stack in the foreground, to play with."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightmill.cli.output import say

if TYPE_CHECKING:
    from nightmill.cli.slicing_choice import SlicingChoice
    from nightmill.cli.stack import LocalStack
    from nightmill.settings import Settings

FOLDER = Path(".nightmill")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="\b\nExample:\n  nightmill dev --port 7233 --ui-port 8233")(dev)


def dev(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Temporal's port.")] = 7233,
    ui_port: Annotated[int, typer.Option(min=1, max=65535, help="The port of Temporal's UI.")] = 8233,
    sandbox_port: Annotated[int, typer.Option(min=1, max=65535, help="The sandbox's port.")] = 8700,
    no_sandbox: Annotated[bool, typer.Option("--no-sandbox", help="Use real providers only.")] = False,
) -> None:
    """Run everything on this machine.

    Temporal with its UI, a database, the sandbox providers and a worker, until Ctrl-C. Data stays under
    .nightmill/. The sandbox stands in for each provider that has no API key in the settings. Where slicers
    cannot be sandboxed they run without, and that is said.
    """
    from nightmill.cli.runtime import run_async
    from nightmill.cli.stack import LOOPBACK, LocalStack, check_port
    from nightmill.settings import load_settings

    settings = load_settings()
    check_port(port, "--port")
    check_port(ui_port, "--ui-port")
    if not no_sandbox:
        check_port(sandbox_port, "--sandbox-port")
    stack = LocalStack(FOLDER, port=port, ui_port=ui_port, sandbox_port=None if no_sandbox else sandbox_port)
    if settings.encryption_key is not None or settings.encryption_old_keys:
        check_port(settings.codec.port, "NIGHTMILL_CODEC__PORT")
        stack.codec_endpoint = f"http://{LOOPBACK}:{settings.codec.port}"
    with stack:
        run_async(_serve(stack, settings))
        say("Stopping …")
    say(f"Stopped. The data is kept in {FOLDER}/.")


async def _serve(stack: LocalStack, settings: Settings) -> None:
    """Start everything and watch it until a signal comes."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _codec_server(stack, settings):
        serving = asyncio.create_task(_start_and_watch(stack, settings))
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if serving in done:
            serving.result()
        serving.cancel()


@asynccontextmanager
async def _codec_server(stack: LocalStack, settings: Settings) -> AsyncIterator[None]:
    """Decode for this stack's UI, where payloads are encrypted. On loopback, so that nobody needs a token."""
    if stack.codec_endpoint is None:
        yield
        return
    from nightmill.cli.stack import LOOPBACK
    from nightmill.client.codec import codec_of
    from nightmill.client.codec_server import CodecServer
    from nightmill.serving import served

    codec = codec_of(settings.encryption_key, settings.encryption_old_keys)
    assert codec is not None  # noqa: S101 - there is an address because there is a key
    origins = (stack.ui_url, f"http://localhost:{stack.ui_port}", *settings.codec.origins)
    app = CodecServer(codec, None, origins).app()
    async with served(app, LOOPBACK, settings.codec.port, setting="NIGHTMILL_CODEC__PORT"):
        yield


async def _start_and_watch(stack: LocalStack, settings: Settings) -> None:
    variables = {} if stack.sandbox_port is None else stack.sandbox_environment(settings)
    slicing = await stack.start(settings, variables, to_terminal=True)
    _announce(stack, settings, variables, slicing)
    while True:
        stack.supervisor.check()
        await asyncio.sleep(0.5)


def _announce(stack: LocalStack, settings: Settings, variables: dict[str, str], slicing: SlicingChoice) -> None:
    from sqlalchemy import make_url

    say("")
    say(f"Temporal    {stack.address}   UI {stack.ui_url}/namespaces/default/workflows")
    say(f"Database    {make_url(settings.database_url).render_as_string(hide_password=True)}")
    provided = sorted({name.removeprefix("NIGHTMILL_").partition("__")[0].lower() for name in variables})
    if stack.sandbox_port is not None:
        say(f"Sandbox     {stack.sandbox_url}   in place of {', '.join(provided) or 'no provider: all have keys'}")
    say(f"Slicing     {slicing.line}")
    if stack.codec_endpoint is not None:
        say(f"Encryption  the UI decodes by {stack.codec_endpoint}   temporal workflow show --codec-endpoint …")
    say(f"Logs        {stack.folder}/logs/")
    say("")
    say("Try, in this folder and another terminal:")
    if stack.port != 7233:
        say(f"  export TEMPORAL_ADDRESS={stack.address}")
    say("""  echo '{"custom_id": "a", "prompt": "Say hello"}' | nightmill batch submit - \\""")
    say("    --provider openai --model gpt-5-mini --poll-schedule '[2]' --watch")
    say("  nightmill account add acme --plan daily")
    say("  nightmill document add https://docs.python.org/3/faq/general.html --account acme --collection help --watch")
    if slicing.serves:
        say("  python -m nightmill.slicer.samples gazette.pdf --seed 13 && nightmill slice run gazette.pdf --watch")
    say("")
    say("Ctrl-C stops everything.")
