"""A local stack whose providers, site and host application are on this machine: for the demonstration and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightmill.cli.slicing_choice import SlicingChoice
    from nightmill.cli.stack import LocalStack
    from nightmill.client.nightmill import Nightmill

MODELS = {
    "openai": "gpt-5-mini",
    "anthropic": "claude-haiku-4-5",
    "google": "gemini-2.5-flash",
    "xai": "grok-4-fast",
}

SCRATCH = "scratch"
"""Where in the stack's folder the worker's programs have their private folders."""


def variables_of(stack: LocalStack, webhook_secret: str) -> dict[str, str]:
    """Return what such a stack's worker is told: everything is kept in its folder, and nothing runs by itself."""
    return stack.sandbox_environment() | {
        "NIGHTMILL_DATABASE_URL": f"sqlite:///{stack.folder}/nightmill.db",
        "NIGHTMILL_STORAGE_URL": str(stack.folder / "files"),
        "NIGHTMILL_WEBHOOK__SECRET": webhook_secret,
        "NIGHTMILL_WEBHOOK__ALLOW_PRIVATE_ADDRESSES": "true",
        "NIGHTMILL_DOCUMENTS__ALLOW_PRIVATE_ADDRESSES": "true",  # the site listens on loopback
        "NIGHTMILL_DOCUMENTS__HOST_DELAY": "0",
        "NIGHTMILL_DOCUMENTS__SWEEP": "false",
        "NIGHTMILL_SLICING__SCRATCH": str(stack.folder / SCRATCH),
        "NIGHTMILL_SLICING__CANARY": "false",
    }


async def started(
    stack: LocalStack, variables: Mapping[str, str], *, profile: Mapping[str, Any] | None = None, **given: Any
) -> tuple[Nightmill, SlicingChoice]:
    """Start every part; return a client of theirs, and how slicers are isolated.

    Args:
        stack: The stack.
        variables: What its worker is told: `variables_of`, and more.
        profile: How the sandbox handles batches; fields of `nightmill.sandbox.Profile`.
        given: Settings of the client.
    """
    from temporalio.client import Client

    from nightmill.assembly import Assembly
    from nightmill.client.converter import data_converter
    from nightmill.client.nightmill import Nightmill
    from nightmill.settings import Settings

    settings = Settings(
        _env_file=None,
        database_url=variables["NIGHTMILL_DATABASE_URL"],
        storage_url=variables["NIGHTMILL_STORAGE_URL"],
        **given,
    )
    slicing = await stack.start(settings, variables, profile=profile)
    client = await Client.connect(stack.address, data_converter=data_converter(None))
    return Nightmill(client, Assembly(settings)), slicing
