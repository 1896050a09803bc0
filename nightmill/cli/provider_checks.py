"""What `nightmill doctor` looks at for providers: each key, their addresses, and what is needed to tell hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nightmill.cli.checks import Finding, State, reason_of
from nightmill.cli.stack import PROVIDERS
from nightmill.errors import AccessDenied, NightmillError, NotConfigured

if TYPE_CHECKING:
    from nightmill.assembly import Assembly
    from nightmill.settings import Settings

_WITH_VERSION = frozenset({"openai", "xai"})
_VERSION = re.compile(r"/v\d\w*/?$")
_LOCAL = ("localhost", "127.", "::1", "sandbox")


def keys_of(settings: Settings) -> list[tuple[str, str | None]]:
    """Return provider and account of every key that there is to try; None is the provider's own."""
    keys: list[tuple[str, str | None]] = [(name, None) for name in PROVIDERS]
    return keys + [(provider, account) for account, given in settings.accounts.items() for provider in given]


def label_of(name: str, account: str | None) -> str:
    """Return what the finding of a key is called."""
    return name if account is None else f"{name} ({account})"


def examine_addresses(settings: Settings) -> Iterator[Finding]:
    """Yield what is wrong with the providers' addresses, and whether there is any key."""
    for name in PROVIDERS:
        if any(provider == name for provider, _ in settings.keys_given()):
            yield from _address(settings, name)
    if not settings.accounts and all(settings.provider(name).api_key is None for name in PROVIDERS):
        fix = "set one, or play with the sandbox: `nightmill dev`"
        yield Finding("providers", State.WARN, "no API key is set at all", fix)


def _address(settings: Settings, name: str) -> Iterator[Finding]:
    url, variable = settings.provider(name).base_url, f"NIGHTMILL_{name.upper()}__BASE_URL"
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in ("http", "https"):
        message = f"{name}: not an address: it begins with neither http:// nor https://, or names no host"
        yield Finding("provider addresses", State.FAIL, message, f"set {variable}, or unset it for the provider's own")
        return
    has_version = _VERSION.search(parts.path) is not None
    if has_version is not (name in _WITH_VERSION) and settings.provider(name).api_version is None:
        message = f"{name}: {parts.hostname}{parts.path} {'ends with a version' if has_version else 'lacks /v1'}"
        fix = (
            f"{'take the version off' if has_version else 'add /v1 to'} {variable}; OPENAI and XAI have it, others not"
        )
        yield Finding("provider addresses", State.WARN, message, fix)
    # SQLite is one host's, and so is the sandbox; beside a database for production it answers what nobody asked.
    if parts.hostname.startswith(_LOCAL) and settings.database_url.startswith("postgresql"):
        message = f"{name}: calls go to {parts.hostname}, which is the sandbox or a proxy, and not to the provider"
        yield Finding("provider addresses", State.WARN, message, f"unset {variable} in production")


def examine_key(assembly: Assembly, name: str, account: str | None) -> Finding:
    """Return whether a provider takes a key."""
    from nightmill.providers.registry import open_provider

    label = label_of(name, account)
    try:
        key = assembly.settings.api_key(name, account)
    except NotConfigured as error:
        if account is None:
            return Finding(label, State.OK, "no API key: not used")
        return Finding(label, State.FAIL, str(error), "set it, or remove the account")
    try:
        with closing(open_provider(name, assembly.provider_config(name, key))) as provider:
            provider.check_access()
    except AccessDenied as error:
        variable = f"NIGHTMILL_{name.upper()}__API_KEY" if account is None else f"NIGHTMILL_ACCOUNTS__{account.upper()}"
        return Finding(label, State.FAIL, str(error), f"check the key in {variable}")
    except NightmillError as error:
        return Finding(label, State.FAIL, str(error), f"check the network, and NIGHTMILL_{name.upper()}__BASE_URL")
    except Exception as error:  # noqa: BLE001 - one provider must not hide the others
        return Finding(label, State.FAIL, reason_of(error))
    return Finding(label, State.OK, "the key is accepted")
