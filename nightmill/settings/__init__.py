"""Every setting, read once from the environment, `.env` and files of secrets.

docs/settings.md and the README's table come from here.
"""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from nightmill.concealing import keep_secret
from nightmill.contracts import Duration
from nightmill.errors import NotConfigured
from nightmill.ids import TASK_QUEUE
from nightmill.settings.base import Section
from nightmill.settings.recovery import ReconcilerSettings
from nightmill.settings.secrets import SecretFiles, secret_values
from nightmill.settings.serving import CodecSettings, EventsSettings
from nightmill.settings.slicing import SlicingSettings


class ProviderSettings(Section):
    """How one provider is reached."""

    api_key: SecretStr | None = Field(default=None, description="API key")
    webhook_secret: SecretStr | None = Field(
        default=None, description="OpenAI and Google only: verifies the provider's batch events (`whsec_…`)"
    )
    base_url: str = Field(description="base address; OPENAI and XAI include `/v1`, ANTHROPIC and GOOGLE do not")
    auth_header: Literal["bearer", "api-key"] = Field(
        default="bearer", description="OpenAI only: `api-key` for Azure-style deployments"
    )
    api_version: str | None = Field(default=None, description="OpenAI only: the `api-version` query of Azure")
    max_open_batches: int = Field(
        default=50, ge=1, description="provider batches per model that may be open at once; more wait for their turn"
    )
    max_requests: int | None = Field(default=None, ge=1, description="overrides the provider's requests per batch")
    max_bytes: int | None = Field(default=None, ge=1024, description="overrides the provider's bytes per batch")
    delete_files: bool = Field(default=True, description="delete uploaded files at the provider after the harvest")


class AccountKeySettings(Section):
    """One provider's key of an account."""

    api_key: SecretStr | None = Field(
        default=None, description="API key of a named account, for the batches that name it"
    )
    webhook_secret: SecretStr | None = Field(
        default=None, description="OpenAI and Google only: verifies batch events of this key's account (`whsec_…`)"
    )


class BatchSettings(Section):
    """Defaults of a batch; each can be given per batch."""

    poll_schedule: tuple[Duration, ...] = Field(
        default=tuple(timedelta(seconds=s) for s in (60, 120, 300, 600, 1800)),
        description="delays between status polls, a JSON list; the last one repeats",
    )
    max_age: Duration | None = Field(
        default=None,
        description="how long after submission a provider batch may stay unresolved; unset: 26 h, or the provider's "
        "expiry plus 2 h where that is later",
    )
    retry_rounds: int = Field(default=0, ge=0, le=10, description="how often retriable failures are sent again")
    pending_ttl: Duration = Field(
        default=timedelta(days=7), description="how long a batch may wait to be submitted before it is given up"
    )
    retriable_statuses: frozenset[int] = Field(
        default=frozenset({408, 409, 425, 429, *range(500, 600)}), description="HTTP statuses that are tried again"
    )
    refetch_delays: tuple[Duration, ...] = Field(
        default=tuple(timedelta(seconds=s) for s in (60, 300, 600)),
        description="when fewer results come than the provider counts: the pauses before they are fetched again",
    )
    find_delays: tuple[Duration, ...] = Field(
        default=tuple(timedelta(seconds=s) for s in (0, 15, 30, 60, 120)),
        description="when a create's answer was lost: the pauses before each look for it at the provider",
    )


class DatabaseSettings(Section):
    """The pool of PostgreSQL connections, and SQLite's patience."""

    pool_size: int = Field(default=25, ge=1, le=500, description="connections at most")
    pool_timeout: Duration = Field(default=timedelta(seconds=5), description="wait for a free connection at most")
    connect_timeout: Duration = Field(default=timedelta(seconds=10), description="network timeout of PostgreSQL")
    busy_timeout: Duration = Field(default=timedelta(seconds=30), description="SQLite: wait for another writer at most")


class WebhookSettings(Section):
    """Outgoing webhooks."""

    secret: SecretStr | None = Field(default=None, description="signs completion webhooks (`whsec_…`)")
    allow_private_addresses: bool = Field(default=False, description="allow loopback and private targets, for tests")


def _duration_or_none(value: Any, handler: ValidatorFunctionWrapHandler) -> timedelta | None:
    """Read a duration; anything that is none means none: one customer's plan must not keep a worker from starting."""
    try:
        found: timedelta | None = handler(value)
    except ValueError:
        return None
    return found if found is None or found > timedelta(0) else None


class PlanSettings(Section):
    """What an account's plan is worth."""

    interval: Annotated[Duration | None, WrapValidator(_duration_or_none)] = Field(
        default=None, description="time between syncs of a document; none or unreadable: no automatic sync"
    )
    jitter: Annotated[Duration | None, WrapValidator(_duration_or_none)] = Field(
        default=None, description="the part of the interval over which an account's documents are spread"
    )
    weight: float = Field(default=1.0, gt=0, le=1000, description="share of the workers, when they are short")


class DocumentSettings(Section):
    """How pages are fetched, compared and swept."""

    plans: dict[str, PlanSettings] = Field(
        default={
            "hourly": PlanSettings(interval=timedelta(hours=1), jitter=timedelta(minutes=15), weight=4),
            "daily": PlanSettings(interval=timedelta(days=1), jitter=timedelta(hours=6), weight=2),
            "weekly": PlanSettings(interval=timedelta(weeks=1), jitter=timedelta(days=1), weight=1),
        },
        description="plans of accounts by name, in any case: "
        '`{"NAME": {"interval": "P1D", "jitter": "PT6H", "weight": 2}}`',
    )
    account_limit: int = Field(default=50, ge=1, description="documents of one account in one sweep at most")
    sweep_limit: int = Field(default=1000, ge=1, le=100_000, description="documents in one sweep at most")
    sweep_interval: Duration = Field(default=timedelta(hours=1), description="time between sweeps")
    sweep: bool = Field(default=True, description="let the worker make the schedule of the sweep")
    adaptive: bool = Field(
        default=False, description="sync pages that do not change less and less often, and those that do as planned"
    )
    slowest_pace: float = Field(
        default=8.0,
        ge=1,
        le=100,
        description="plan intervals between syncs at most, of a page that rarely changes or often fails",
    )
    attention_after: int = Field(
        default=5, ge=1, description="syncs that failed one after the other before the document needs attention"
    )
    gone_after_days: int = Field(
        default=3,
        ge=1,
        description="consecutive days on which a page is gone before the handler is told that it is removed",
    )
    full_fetch_after: Duration = Field(
        default=timedelta(days=7),
        description="a whole page is fetched at least this often, whatever the site says of changes",
    )
    user_agent: str = Field(
        default="Nightmill/0.1",
        pattern=r"^[A-Za-z][A-Za-z_-]*(/[!-~]+)?( [ -~]+)?$",
        description="how we introduce ourselves; robots.txt is read for its first word. Add a way to reach you: "
        "`Nightmill/0.1 (+https://example.com/bot)`",
    )
    host_delay: Duration = Field(
        default=timedelta(seconds=1),
        description="pause between requests to a host, if its robots.txt asks for no longer one",
    )
    longest_crawl_delay: Duration = Field(
        default=timedelta(minutes=1), description="robots.txt may ask for a pause up to this"
    )
    connect_timeout: Duration = Field(default=timedelta(seconds=10), description="to connect to a site")
    fetch_timeout: Duration = Field(
        default=timedelta(seconds=30), description="for the whole of a page, redirects included"
    )
    max_body: int = Field(default=10 * 1024 * 1024, ge=1024, description="bytes of a page at most, after decompression")
    max_html: int = Field(
        default=3 * 1024 * 1024, ge=1024, description="bytes of HTML at most that are read for content"
    )
    extraction_timeout: Duration = Field(default=timedelta(seconds=5), description="to find a page's content")
    extractors: int = Field(default=2, ge=1, le=64, description="processes of a worker that find contents")
    allow_private_addresses: bool = Field(
        default=False, description="sync pages of private networks and loopback, on any port; for tests and intranets"
    )


class NotifySettings(Section):
    """Whom to tell that something needs attention."""

    urls: tuple[SecretStr, ...] = Field(
        default=(), description="JSON list of `mailto:` and `https:` addresses; others with the extra `apprise`"
    )
    smtp_host: str = Field(default="localhost", description="mail server")
    smtp_port: int = Field(default=25, description="its port")
    smtp_user: str | None = Field(default=None, description="its user, if it asks for one")
    smtp_password: SecretStr | None = Field(default=None, description="and the password")
    smtp_tls: Literal["none", "starttls", "tls"] = Field(default="none", description="how the connection is encrypted")
    sender: str = Field(default="nightmill@localhost", description="sender of mails")
    channels: dict[str, SecretStr] = Field(
        default={},
        description='channels that owners of documents may be told by, as `channel:NAME`: `{"NAME": "slack://…"}`',
    )


def _names(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


class WorkerSettings(Section):
    """What a worker listens to, and how much it does at once."""

    task_queue: str = Field(default=TASK_QUEUE, min_length=1, max_length=255, description="Temporal task queue")
    queues: Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_names)] = Field(
        default=None,
        description="task queues that this worker serves, separated by `,`; unset: its own and that of slicing",
    )
    max_activities: int = Field(default=20, ge=1, le=1000, description="activities at once, each on a thread")
    workflow_sandbox: bool = Field(
        default=False, description="run workflow code in the SDK's sandbox, which refuses what is not deterministic"
    )
    max_cached_workflows: int = Field(default=2500, ge=0, description="workflows kept in memory between their tasks")
    shutdown_grace: Duration = Field(
        default=timedelta(seconds=20), description="how long running activities may go on after SIGTERM"
    )
    host: str = Field(default="127.0.0.1", description="address that health and metrics are served on")
    health_port: int = Field(default=8081, ge=0, le=65535, description="port of `/healthz` and `/readyz`; 0: none")
    metrics_port: int = Field(default=9464, ge=0, le=65535, description="port of Prometheus' `/metrics`; 0: none")


def _paths(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(p for p in value.split(":") if p)
    return value


class Settings(BaseSettings):
    """All settings. Read with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix="NIGHTMILL_",
        env_nested_delimiter="__",
        env_file=".env",
        env_ignore_empty=True,  # compose files write `NAME=` for what is not set
        extra="ignore",
        frozen=True,
    )

    database_url: str = Field(
        default="sqlite:///.nightmill/nightmill.db", description="`sqlite:///FILE` or `postgresql://…`"
    )
    storage_url: str = Field(
        default=".nightmill/files", description="where large files live: a folder, or `s3://`, `gs://`, `az://`"
    )
    input_roots: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_paths)] = Field(
        default=(),
        description="folders, separated by `:`, under which a workflow may read a batch's `requests_uri` and a "
        "slicing's `source`",
    )
    encryption_key: SecretStr | None = Field(
        default=None, description="encrypts payloads in Temporal: 32 bytes as base64, from `openssl rand -base64 32`"
    )
    encryption_old_keys: tuple[SecretStr, ...] = Field(
        default=(), description="JSON list of former keys, which still decrypt what they encrypted"
    )
    secrets_dir: Path | None = Field(
        default=None,
        description="folder of files that hold settings, each named as its variable in lower case; a variable of the "
        "environment only. Unset: `/run/secrets`, if it is there",
    )
    log_format: Literal["auto", "json", "text"] = Field(default="auto", description="`auto`: text on a terminal")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="least level logged")
    openai: ProviderSettings = ProviderSettings(base_url="https://api.openai.com/v1")
    anthropic: ProviderSettings = ProviderSettings(base_url="https://api.anthropic.com")
    google: ProviderSettings = ProviderSettings(base_url="https://generativelanguage.googleapis.com")
    xai: ProviderSettings = ProviderSettings(base_url="https://api.x.ai/v1")
    accounts: dict[str, dict[str, AccountKeySettings]] = Field(
        default={}, description="keys of named accounts: `NIGHTMILL_ACCOUNTS__<NAME>__<PROVIDER>__API_KEY`"
    )
    prices: dict[str, dict[str, Decimal]] = Field(
        default={},
        description='US dollars per million tokens, before prices known by default: `{"MODEL": {"input": 0.25, …}}`',
    )
    batch: BatchSettings = BatchSettings()
    database: DatabaseSettings = DatabaseSettings()
    documents: DocumentSettings = DocumentSettings()
    slicing: SlicingSettings = SlicingSettings()
    webhook: WebhookSettings = WebhookSettings()
    notify: NotifySettings = NotifySettings()
    reconciler: ReconcilerSettings = ReconcilerSettings()
    codec: CodecSettings = CodecSettings()
    events: EventsSettings = EventsSettings()
    worker: WorkerSettings = WorkerSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where settings come from; what is first wins."""
        return init_settings, env_settings, dotenv_settings, SecretFiles(settings_cls)

    @model_validator(mode="before")
    @classmethod
    def _base_urls_have_defaults(cls, data: Any) -> Any:
        """Keep a provider's base URL when only its key is set."""
        for name, field in cls.model_fields.items():
            given = data.get(name) if isinstance(data, dict) else None
            if isinstance(field.default, ProviderSettings) and isinstance(given, dict):
                given.setdefault("base_url", field.default.base_url)
        return data

    def provider(self, name: str) -> ProviderSettings:
        """Return the settings of a provider.

        Raises:
            NotConfigured: There is no such provider.
        """
        section = getattr(self, name, None)
        if not isinstance(section, ProviderSettings):
            raise NotConfigured(f"provider {name!r}: known are openai, anthropic, google and xai")
        return section

    def api_key(self, provider: str, account: str | None) -> SecretStr:
        """Return the key for a provider, of an account if one is named.

        Raises:
            NotConfigured: There is none; the message names the variable to set.
        """
        if account is None:
            key = self.provider(provider).api_key
            variable = f"NIGHTMILL_{provider.upper()}__API_KEY"
        else:
            named = {name.lower(): keys for name, keys in self.accounts.items()}.get(account.lower(), {})
            entry = named.get(provider)
            key = entry.api_key if entry else None
            variable = f"NIGHTMILL_ACCOUNTS__{account.upper()}__{provider.upper()}__API_KEY"
        if key is None or not key.get_secret_value():
            raise NotConfigured(f"no API key for {provider}: set {variable}")
        return key

    def keys_given(self) -> list[tuple[str, str | None]]:
        """Return provider and account of every API key that is set; accounts are in lower case, None: the default."""
        named = [(name, None, value.api_key) for name, value in self if isinstance(value, ProviderSettings)]
        of_accounts = [
            (provider, name.lower(), entry.api_key)
            for name, entries in self.accounts.items()
            for provider, entry in entries.items()
        ]
        return [(name, account) for name, account, key in (*named, *of_accounts) if key and key.get_secret_value()]


def load_settings() -> Settings:
    """Read the settings from the environment, `.env` and files of secrets; what is secret is hidden from now on.

    Raises:
        NotConfigured: A value cannot be used; the message names the variable.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        variable = "NIGHTMILL_" + "__".join(str(step).upper() for step in first["loc"])
        raise NotConfigured(f"{variable}: {first['msg']}") from None
    except SettingsError as error:  # its text names the section and nothing of the value
        section = next(iter(re.findall(r'field "(\w+)"', str(error))), "")
        raise NotConfigured(f"NIGHTMILL_{section.upper()}…: a list or an object is written as JSON") from None
    keep_secret(secret_values(settings))
    return settings
