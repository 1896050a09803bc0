"""The providers that there are, by name. A new one is a module of its own and a line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from nightmill.errors import InvalidInput

if TYPE_CHECKING:
    from nightmill.providers.base import BatchProvider
    from nightmill.providers.config import ProviderConfig

# Imported when first used, so that a command that needs none of them starts quickly.
_CLASSES = {
    "anthropic": "nightmill.providers.anthropic:AnthropicProvider",
    "google": "nightmill.providers.google:GoogleProvider",
    "openai": "nightmill.providers.openai:OpenAIProvider",
    "xai": "nightmill.providers.xai:XaiProvider",
}

PROVIDER_NAMES = tuple(_CLASSES)


def open_provider(name: str, config: ProviderConfig) -> BatchProvider:
    """Return the provider's adapter, bound to one key. It connects when first used.

    Raises:
        InvalidInput: There is no such provider.
        NotConfigured: The base address or the key cannot be used.
    """
    place = _CLASSES.get(name)
    if place is None:
        raise InvalidInput(f"provider {name[:40]!r}: known are {', '.join(PROVIDER_NAMES)}")
    module, _, class_name = place.partition(":")
    return cast("BatchProvider", getattr(import_module(module), class_name)(config))
