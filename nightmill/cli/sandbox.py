"""`nightmill sandbox`: the local providers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightmill.cli.output import say

if TYPE_CHECKING:
    from nightmill.sandbox import Sandbox


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="\b\nExample:\n  nightmill sandbox --port 8700 --finish-after 5 --fail-share 0.01")(sandbox)


def sandbox(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 is any free port.")] = 8700,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    seed: Annotated[int, typer.Option(help="What shares and answers are drawn from.")] = 0,
    validating_for: Annotated[float, typer.Option(min=0, help="Seconds in validation.")] = 0.0,
    finish_after: Annotated[float, typer.Option(min=0, help="Seconds in progress.")] = 2.0,
    fail_share: Annotated[float, typer.Option(min=0, max=1, help="Share of requests that fail.")] = 0.0,
    expire_share: Annotated[float, typer.Option(min=0, max=1, help="Share of requests that expire.")] = 0.0,
    answer_chars: Annotated[int | None, typer.Option(min=1, help="Length of each text answer.")] = None,
    profile: Annotated[str, typer.Option(help='More of the behaviour, as JSON: {"cancelling_for": 5}.')] = "{}",
) -> None:
    """Run local stand-ins for the providers.

    They speak the batch APIs of OpenAI, Anthropic, Google and xAI, and accept any API key.
    """
    from nightmill.cli.runtime import json_of
    from nightmill.errors import InvalidInput
    from nightmill.sandbox import Profile, serve

    more: dict[str, Any] = json_of(profile, "--profile", dict)
    try:
        behaviour = Profile(
            validating_for=validating_for,
            finish_after=finish_after,
            fail_share=fail_share,
            expire_share=expire_share,
            answer_chars=answer_chars,
        ).merged(more)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"--profile: {error}") from None
    try:
        serve(host, port, profile=behaviour, seed=seed, ready=_announce)
    except OSError as error:
        raise InvalidInput(f"--port, --host: cannot listen on {host}:{port}: {error.strerror}") from None


def _announce(running: Sandbox) -> None:
    say(f"The sandbox listens on {running.base_url}")
    for name, url in running.base_urls.items():
        say(f"  NIGHTMILL_{name.upper()}__BASE_URL={url}")
