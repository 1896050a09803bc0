"""Builds what stands behind activities, client and command line out of the settings; the only place that does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import SecretStr

from nightmill.completions.delivery import Deliverer
from nightmill.completions.ingest import Harvester
from nightmill.completions.polling import Poller
from nightmill.completions.preparation import Preparer
from nightmill.completions.settlement import Settler
from nightmill.completions.submission import Submitter
from nightmill.documents.alerts import Alerts
from nightmill.documents.crawling import Crawler
from nightmill.documents.delivery import ChangeDeliverer
from nightmill.documents.extractor import Extractor
from nightmill.documents.fetching import PageFetcher, open_page_client
from nightmill.documents.politeness import Politeness, RobotsKeeper
from nightmill.documents.sweeping import Sweeper
from nightmill.documents.syncing import Syncer
from nightmill.notify import Notifier, SmtpServer
from nightmill.providers.config import ProviderConfig
from nightmill.providers.registry import PROVIDER_NAMES, open_provider
from nightmill.recovery.audit import Auditor
from nightmill.recovery.audit_costs import AuditCosts
from nightmill.storage.accounts import AccountRepository
from nightmill.storage.audit_reads import AuditReads
from nightmill.storage.batches import BatchRepository
from nightmill.storage.crawls import CrawlRepository
from nightmill.storage.document_syncs import SyncRepository
from nightmill.storage.documents import DocumentRepository
from nightmill.storage.engine import Database, open_database
from nightmill.storage.files import FileStore, open_file_store
from nightmill.storage.hosts import HostRepository
from nightmill.storage.outcomes import OutcomeRepository
from nightmill.storage.provider_batches import ProviderBatchRepository
from nightmill.storage.requests import RequestRepository
from nightmill.storage.sweeps import SweepRepository
from nightmill.web.guard import GuardedClient
from nightmill.web.outgoing import Outgoing

if TYPE_CHECKING:
    from nightmill.providers.base import BatchProvider
    from nightmill.recovery.parts import RecoveryParts
    from nightmill.settings import Settings
    from nightmill.slicing.parts import SlicingParts

_NO_KEY = SecretStr("not-a-key")  # rendering and limits need no key, and clients often have none


@dataclass
class Assembly:
    """Everything that Nightmill is made of, each part built when first asked for.

    Attributes:
        settings: What it is built from.
    """

    settings: Settings
    _providers: dict[tuple[str, str | None], BatchProvider] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def provider_config(self, name: str, key: SecretStr) -> ProviderConfig:
        """Return how a provider is reached under a key."""
        given = self.settings.provider(name)
        return ProviderConfig(
            api_key=key,
            base_url=given.base_url,
            auth_header=given.auth_header,
            api_version=given.api_version,
            max_requests=given.max_requests,
            max_bytes=given.max_bytes,
            retriable_statuses=self.settings.batch.retriable_statuses,
        )

    def provider(self, name: str, account: str | None = None) -> BatchProvider:
        """Return the adapter for a provider and account; one a process, so that connections are kept.

        Raises:
            NotConfigured: The key is missing.
        """
        with self._lock:
            if (name, account) not in self._providers:
                key = self.settings.api_key(name, account)
                self._providers[name, account] = open_provider(name, self.provider_config(name, key))
            return self._providers[name, account]

    def renderer(self, name: str) -> BatchProvider:
        """Return an adapter that renders requests and knows the limits, without a key.

        Raises:
            InvalidInput: There is no such provider.
        """
        with self._lock:
            if (name, "") not in self._providers:
                known = name if name in PROVIDER_NAMES else PROVIDER_NAMES[0]
                self._providers[name, ""] = open_provider(name, self.provider_config(known, _NO_KEY))
            return self._providers[name, ""]

    @cached_property
    def database(self) -> Database:
        """The database."""
        return open_database(self.settings.database_url, self.settings.database)

    @cached_property
    def files(self) -> FileStore:
        """Where large files live."""
        return open_file_store(self.settings.storage_url)

    @cached_property
    def batches(self) -> BatchRepository:
        """The records of batches."""
        return BatchRepository(self.database)

    @cached_property
    def parts(self) -> ProviderBatchRepository:
        """The records of provider batches."""
        return ProviderBatchRepository(self.database)

    @cached_property
    def requests(self) -> RequestRepository:
        """The stored requests."""
        return RequestRepository(self.database)

    @cached_property
    def outcomes(self) -> OutcomeRepository:
        """The stored outcomes."""
        return OutcomeRepository(self.database)

    @cached_property
    def accounts(self) -> AccountRepository:
        """The records of accounts."""
        return AccountRepository(self.database)

    @cached_property
    def documents(self) -> DocumentRepository:
        """The records of documents."""
        return DocumentRepository(self.database)

    @cached_property
    def syncs(self) -> SyncRepository:
        """What syncs write."""
        return SyncRepository(self.database)

    @cached_property
    def hosts(self) -> HostRepository:
        """The lines at hosts."""
        return HostRepository(self.database)

    @cached_property
    def crawls(self) -> CrawlRepository:
        """The records of crawls."""
        return CrawlRepository(self.database)

    @cached_property
    def page_client(self) -> GuardedClient:
        """Guarded connections to sites."""
        return open_page_client(self.settings.documents)

    @cached_property
    def page_fetcher(self) -> PageFetcher:
        """Gets pages."""
        given = self.settings.documents
        return PageFetcher(
            self.page_client,
            user_agent=given.user_agent,
            fetch_timeout=given.fetch_timeout,
            max_body=given.max_body,
        )

    @cached_property
    def extractor(self) -> Extractor:
        """Finds the contents of pages, in processes of its own."""
        given = self.settings.documents
        return Extractor(processes=given.extractors, timeout=given.extraction_timeout, max_html=given.max_html)

    @cached_property
    def politeness(self) -> Politeness:
        """Gives turns at hosts."""
        robots = RobotsKeeper(self.hosts, self.page_fetcher, self.settings.documents)
        return Politeness(self.hosts, robots, self.settings.documents)

    @cached_property
    def syncer(self) -> Syncer:
        """Syncs documents."""
        return Syncer(
            documents=self.documents,
            syncs=self.syncs,
            politeness=self.politeness,
            fetcher=self.page_fetcher,
            extractor=self.extractor,
            settings=self.settings.documents,
        )

    @cached_property
    def sweeper(self) -> Sweeper:
        """Chooses what is due."""
        return Sweeper(SweepRepository(self.database), self.settings.documents)

    @cached_property
    def crawler(self) -> Crawler:
        """Makes documents of sites."""
        return Crawler(
            accounts=self.accounts,
            crawls=self.crawls,
            documents=self.documents,
            politeness=self.politeness,
            fetcher=self.page_fetcher,
            extractor=self.extractor,
            settings=self.settings.documents,
        )

    @cached_property
    def change_deliverer(self) -> ChangeDeliverer:
        """Tells hosts of changes."""
        return ChangeDeliverer(documents=self.documents, syncs=self.syncs, post_signed=self.outgoing.post_signed)

    @cached_property
    def alerts(self) -> Alerts:
        """Tells operators of documents."""
        return Alerts(self.syncs, self.notifier)

    @cached_property
    def slicing(self) -> SlicingParts:
        """What slicing is made of."""
        from nightmill.slicing.parts import SlicingParts

        return SlicingParts(self.settings, self.database, self.files, self.outgoing, self.notifier)

    @cached_property
    def recovery(self) -> RecoveryParts:
        """What recovery is made of."""
        from nightmill.recovery.parts import RecoveryParts

        return RecoveryParts(self)

    @cached_property
    def outgoing(self) -> Outgoing:
        """Guarded calls to addresses that users give."""
        hook = self.settings.webhook
        return Outgoing(secret=hook.secret, allow_private=hook.allow_private_addresses)

    @cached_property
    def settler(self) -> Settler:
        """Harvests and closes."""
        return Settler(
            provider_for=self.provider,
            batches=self.batches,
            parts=self.parts,
            requests=self.requests,
            outcomes=self.outcomes,
            harvester=Harvester(self.outcomes, self.files, refetch_delays=self.settings.batch.refetch_delays),
            renderer=self.renderer,
            deletes_files=lambda name: self.settings.provider(name).delete_files,
        )

    @cached_property
    def preparer(self) -> Preparer:
        """Stores and plans."""
        return Preparer(
            defaults=self.settings.batch,
            batches=self.batches,
            requests=self.requests,
            settler=self.settler,
            renderer=self.renderer,
            prices=self.settings.prices,
            input_roots=self.settings.input_roots,
            fetch=self.outgoing.fetch,
        )

    @cached_property
    def submitter(self) -> Submitter:
        """Uploads and creates."""
        return Submitter(
            provider_for=self.provider,
            parts=self.parts,
            requests=self.requests,
            max_open={name: self.settings.provider(name).max_open_batches for name in PROVIDER_NAMES},
        )

    @cached_property
    def poller(self) -> Poller:
        """Asks and cancels."""
        return Poller(provider_for=self.provider, parts=self.parts)

    @cached_property
    def auditor(self) -> Auditor:
        """Compares rows and providers."""
        reads = AuditReads(self.database)
        return Auditor(
            provider_for=self.provider,
            reads=reads,
            costs=AuditCosts(reads, self.requests, self.renderer),
            keys=self.settings.keys_given(),
        )

    @cached_property
    def deliverer(self) -> Deliverer:
        """Calls webhooks."""
        return Deliverer(batches=self.batches, outcomes=self.outcomes, post_signed=self.outgoing.post_signed)

    @cached_property
    def notifier(self) -> Notifier:
        """Tells operators."""
        given = self.settings.notify
        smtp = SmtpServer(
            host=given.smtp_host,
            port=given.smtp_port,
            user=given.smtp_user,
            password=given.smtp_password,
            tls=given.smtp_tls,
            sender=given.sender,
        )
        return Notifier(
            [url.get_secret_value() for url in given.urls],
            smtp,
            post_signed=self.outgoing.post_signed,
            channels={name: url.get_secret_value() for name, url in given.channels.items()},
            allow_http=self.settings.webhook.allow_private_addresses,
        )

    def close(self) -> None:
        """Close all connections that were opened."""
        with self._lock:
            for provider in self._providers.values():
                provider.close()
            self._providers.clear()
        for name in ("extractor", "page_client", "outgoing"):
            if name in vars(self):
                getattr(self, name).close()
        if "database" in vars(self):
            self.database.close()


@contextmanager
def assembled(settings: Settings) -> Iterator[Assembly]:
    """Give an assembly, and close its connections at the end."""
    assembly = Assembly(settings)
    try:
        yield assembly
    finally:
        assembly.close()
