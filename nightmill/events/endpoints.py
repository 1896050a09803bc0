"""Who may tell of batches, and by which secret: a path for each provider and account that has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightmill.errors import NotConfigured
from nightmill.webhooks import check_secret, verify_delivery

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import SecretStr

    from nightmill.settings import Settings

PROVIDERS = ("openai", "google")
"""Those that send events; Anthropic and xAI have none (read 2026-11)."""


@dataclass(frozen=True)
class Endpoint:
    """Where one provider tells of the batches under one key.

    Attributes:
        provider: `openai` or `google`.
        account: In lower case; None: the default key's.
        secret: What its events are signed with, `whsec_…`.
    """

    provider: str
    account: str | None
    secret: SecretStr

    @property
    def path(self) -> str:
        """`/openai` or `/openai/ACCOUNT`."""
        return path_of(self.provider, self.account)

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Return if the event was signed with the secret within the last five minutes.

        Raises:
            InvalidSignature: It was not; which part is wrong is not told.
        """
        verify_delivery(headers, body, secret=self.secret.get_secret_value())

    def owns(self, account: str | None) -> bool:
        """Whether a batch under this account may be told of here."""
        return (account.lower() if account else None) == self.account


def path_of(provider: str, account: str | None) -> str:
    """Return the path of a provider and account."""
    return f"/{provider}" if account is None else f"/{provider}/{account.lower()}"


def endpoints_of(settings: Settings) -> dict[str, Endpoint]:
    """Return the endpoints by their paths: those whose secrets are set.

    Raises:
        NotConfigured: No secret is set, or one is none; the message names the variable.
    """
    found = {}
    for provider, account, secret in _secrets(settings):
        named = provider if account is None else f"accounts__{account}__{provider}"
        variable = f"NIGHTMILL_{named.upper()}__WEBHOOK_SECRET"
        if provider not in PROVIDERS:
            raise NotConfigured(f"{variable}: {provider} sends no events; only {' and '.join(PROVIDERS)} do")
        try:
            check_secret(secret.get_secret_value())
        except NotConfigured as error:
            raise NotConfigured(f"{variable}: {error}") from None
        endpoint = Endpoint(provider, account, secret)
        found[endpoint.path] = endpoint
    if not found:
        raise NotConfigured(
            "nobody could tell of a batch: set NIGHTMILL_OPENAI__WEBHOOK_SECRET or NIGHTMILL_GOOGLE__WEBHOOK_SECRET"
        )
    return found


def _secrets(settings: Settings) -> Iterator[tuple[str, str | None, SecretStr]]:
    for provider in ("openai", "google", "anthropic", "xai"):
        secret = settings.provider(provider).webhook_secret
        if secret is not None and secret.get_secret_value():
            yield provider, None, secret
    for account, keys in settings.accounts.items():
        for provider, key in keys.items():
            if key.webhook_secret is not None and key.webhook_secret.get_secret_value():
                yield provider.lower(), account.lower(), key.webhook_secret
