"""Signed webhooks by the Standard Webhooks scheme, sent and received (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from nightmill.errors import InvalidSignature, NotConfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import SecretStr

_PREFIX = "whsec_"
_KEY_BYTES = range(24, 65)  # Standard Webhooks, "Signature scheme" (read 2026-11)
_GUESSABLE = 16  # bytes; what others sign with is theirs to choose, but not so that anybody could


@dataclass(frozen=True)
class Delivery:
    """One signed message, ready to be posted. A receiver that sees the same `webhook-id` again has seen it before."""

    headers: Mapping[str, str]
    body: bytes


def new_secret() -> str:
    """Return a fresh signing secret, `whsec_` and 32 random bytes in base64."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode("ascii")


def build_delivery(*, message_id: str, body: bytes, secret: str, now: datetime) -> Delivery:
    """Sign `body`.

    Args:
        message_id: The same for every attempt to deliver the same message; the batch id.
        body: JSON in UTF-8.
        secret: `whsec_…`.
        now: The time of this attempt, with a time zone.

    Raises:
        NotConfigured: The secret is none.
    """
    key = _key(secret)
    if len(key) not in _KEY_BYTES:
        raise NotConfigured("the webhook secret must hold 24 to 64 bytes")
    at = now.astimezone(UTC)  # the library takes any time for UTC
    signature = Webhook(key).sign(message_id, at, body.decode("utf-8"))
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signature,
    }
    return Delivery(headers, body)


def check_secret(secret: str) -> None:
    """Return if messages of others can be verified by `secret`.

    Raises:
        NotConfigured: It is none, or so short that it could be guessed.
    """
    if len(_key(secret)) < _GUESSABLE:
        raise NotConfigured(f"the webhook secret must hold {_GUESSABLE} bytes or more")


def verify_delivery(headers: Mapping[str, str], body: bytes, *, secret: str) -> None:
    """Return if the message was signed with `secret` within the last five minutes; header names in any case.

    Raises:
        InvalidSignature: It was not.
        NotConfigured: The secret is none.
    """
    webhook = Webhook(_key(secret))
    try:
        webhook.verify(body, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError, TypeError):  # the last two: headers that cannot be parsed
        raise InvalidSignature("the webhook's signature or time is not valid") from None


def signed(body: bytes, *, message_id: str, secret: SecretStr | None) -> dict[str, str]:
    """Return the headers that go with `body` when it is posted now. See `build_delivery`.

    Raises:
        NotConfigured: There is no secret, or it is none.
    """
    if secret is None:
        raise NotConfigured("webhooks are signed: set NIGHTMILL_WEBHOOK__SECRET")
    delivery = build_delivery(message_id=message_id, body=body, secret=secret.get_secret_value(), now=datetime.now(UTC))
    return dict(delivery.headers)


def _key(secret: str) -> bytes:
    """Return the bytes of a secret; the library would drop characters that are no base64 without a word."""
    text = secret.removeprefix(_PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise NotConfigured("the webhook secret must be base64, with or without whsec_ before it")
    return key
