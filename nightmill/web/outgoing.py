"""Calls to addresses that users give: webhooks, and files of requests. All through the guard."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from nightmill.web.guard import WEB_PORTS, GuardedClient, guarded_client
from nightmill.webhooks import signed

if TYPE_CHECKING:
    from pydantic import SecretStr

LONGEST_FETCH = timedelta(minutes=30)
LARGEST_FETCH = 1024**3


class Outgoing:
    """Sends signed webhooks and downloads files of requests; any thread may use it.

    Args:
        secret: Signs webhooks; needed only for them.
        allow_private: Whether loopback and private addresses, and any port, may be called.
    """

    def __init__(self, *, secret: SecretStr | None, allow_private: bool) -> None:
        self._secret = secret
        self._allow_private = allow_private

    @cached_property
    def _client(self) -> GuardedClient:
        ports = None if self._allow_private else WEB_PORTS
        return guarded_client(allow_private=self._allow_private, allowed_ports=ports)

    def close(self) -> None:
        """Close all connections."""
        if "_client" in vars(self):
            self._client.close()

    def post_signed(self, url: str, message_id: str, body: bytes) -> None:
        """Post a JSON body, signed by the Standard Webhooks scheme; returns after a 2xx answer.

        Raises:
            NotConfigured: There is no signing secret.
            AddressRefused: The address must not be connected to.
            TransientError: The receiver is away or answered 408, 409, 425, 429 or 5xx.
            PermanentError: It refused.
        """
        headers = signed(body, message_id=message_id, secret=self._secret)
        self._client.post(url, headers=headers, content=body)

    def fetch(self, url: str) -> Iterator[bytes]:
        """Download a file as chunks of bytes: at most 1 GiB in 30 minutes.

        Raises:
            AddressRefused: The address must not be connected to.
            TransientError: The peer is away, or the body ended early.
            PermanentError: It refused, or the body is too large.
        """
        with self._client.fetch(url, deadline=LONGEST_FETCH, max_bytes=LARGEST_FETCH) as download:
            yield from download
