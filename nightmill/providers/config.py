"""How a provider is reached; built from the settings, without knowing them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from nightmill.errors import NotConfigured
from nightmill.web.classify import RETRIABLE_STATUSES
from nightmill.web.client import HttpClient, Timeouts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from pydantic import SecretStr

    from nightmill.providers.base import Candidate, Limits

FIND_MARGIN = timedelta(minutes=10)
"""How far a provider's clock may be behind ours before we no longer find what we made."""


@dataclass(frozen=True, kw_only=True)
class ProviderConfig:
    """One provider under one key.

    Attributes:
        api_key: The key; None for an adapter that only renders and reads.
        base_url: Base address; for OpenAI and xAI with `/v1`.
        auth_header: OpenAI only: `api-key` for Azure-style deployments.
        api_version: OpenAI only: the `api-version` query of Azure.
        max_requests: Replaces the provider's limit of requests a batch.
        max_bytes: Replaces the provider's limit of bytes a batch.
        retriable_statuses: HTTP statuses that mean "later".
        timeouts: How long one exchange may wait.
        download_deadline: For all waiting on the provider while one file of results is read.
        max_download_bytes: Bound on one file of results; larger than any batch's answers are.
    """

    api_key: SecretStr | None
    base_url: str
    auth_header: Literal["bearer", "api-key"] = "bearer"
    api_version: str | None = None
    max_requests: int | None = None
    max_bytes: int | None = None
    retriable_statuses: frozenset[int] = RETRIABLE_STATUSES
    timeouts: Timeouts = field(default_factory=Timeouts)
    download_deadline: timedelta = timedelta(minutes=30)
    max_download_bytes: int = 16 * 1024**3

    def limited(self, limits: Limits) -> Limits:
        """Return the provider's limits with what is overridden here."""
        max_bytes = self.max_bytes or limits.max_bytes
        return dataclasses.replace(
            limits,
            max_requests=self.max_requests or limits.max_requests,
            max_bytes=max_bytes,
            max_request_bytes=min(limits.max_request_bytes, max_bytes),
        )

    def key(self) -> str:
        """Return the key.

        Raises:
            NotConfigured: There is none.
        """
        if self.api_key is None or not self.api_key.get_secret_value():
            raise NotConfigured("no API key is set for this provider")
        return self.api_key.get_secret_value()

    def open_client(
        self, auth: Mapping[str, str], *, base_url: str | None = None, headers: Mapping[str, str] | None = None
    ) -> HttpClient:
        """Return a client that sends the headers `auth` to the base address and nowhere else."""
        return HttpClient(
            base_url or self.base_url,
            auth_headers=auth,
            headers=headers,
            timeouts=self.timeouts,
            retriable_statuses=self.retriable_statuses,
        )


class Adapter(ABC):
    """Base of the adapters: connects when first used, so that rendering needs neither key nor connection."""

    keeps_tags: bool

    def __init__(self, config: ProviderConfig) -> None:
        self._config = config

    @cached_property
    def _client(self) -> HttpClient:
        return self._connect()

    @abstractmethod
    def _connect(self) -> HttpClient:
        """Return the client, with the provider's own way to show the key."""

    @abstractmethod
    def _pages_of_batches(self) -> Iterator[list[Candidate]]:
        """Yield the pages of the provider's list of batches, newest first."""

    def listed(self, *, since: datetime) -> Iterator[Candidate]:
        """See `BatchProvider.listed`."""
        for page in self._pages_of_batches():
            yield from page
            times = [one.created_at for one in page if one.created_at is not None]
            # Nothing younger can follow, if the newest do come first. Not every provider says so, and to overlook a
            # batch of ours is to pay for it twice: a page that goes the other way is no reason to stop.
            if times and max(times) < since - FIND_MARGIN and times[0] >= times[-1]:
                return

    def find(self, *, tag: str, since: datetime) -> list[Candidate]:
        """See `BatchProvider.find`."""
        if self.keeps_tags:
            return [one for one in self.listed(since=since) if one.tag == tag]
        earliest = since - FIND_MARGIN
        return [one for one in self.listed(since=since) if one.created_at is None or one.created_at >= earliest]

    def close(self) -> None:
        """See `BatchProvider.close`."""
        if "_client" in self.__dict__:
            self._client.close()
