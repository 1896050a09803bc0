"""The tables of documents.

`accounts` 1 ─ n `documents` 1 ─ n `document_versions` (texts, the present one among them) and 1 ─ n `document_events`
(what happened). `hosts` is the politeness of all workers together. `sweeps` 1 ─ n `sweep_picks` and `crawls` 1 ─ n
`crawl_pages` are work that is under way. Texts have a table of their own, so that the many small writes of a sync do
not rewrite them.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, Integer, String, text
from sqlmodel import Column, Field, SQLModel, UniqueConstraint

from nightmill.contracts import MAX_NAME, SyncErrorCode, SyncResult, SyncStatus, SyncStep
from nightmill.storage.columns import BIG_KEY, PageText, Word, time_column

# Conditions ask for SQL's NULL; SQLAlchemy would write JSON's.
_OPTIONAL_JSON = JSON(none_as_null=True)

# The documents whose handler was not told of their content; the databases spell that differently.
_UNTOLD = "content_fingerprint IS NOT NULL AND handled_fingerprint IS {} content_fingerprint"
_WAITS_FOR_A_PERSON = text("needs_attention IS NOT NULL")


def _belongs_to(table: str) -> Any:
    return Field(sa_column=Column(BIG_KEY, ForeignKey(f"{table}.key", ondelete="CASCADE"), nullable=False))


class AccountRow(SQLModel, table=True):
    """One customer.

    Attributes:
        key: Our own number, which the other tables point to.
        name: Unique name; also the key of Temporal's fairness.
        plan: Name of a plan in the settings, in any case; an unknown one means no automatic sync.
        auto_sync: Whether the sweep looks at its documents.
        change_handler: Whom to tell of changes, where a document names nobody else.
        applied_interval: Seconds; the plan's interval that its documents' `next_sync_at` were computed with.
        last_served_at: When a sweep took a document of it last; who waited longest comes first.
    """

    __tablename__ = "accounts"

    key: int | None = Field(default=None, sa_column=Column(BIG_KEY, primary_key=True, autoincrement=True))
    name: str = Field(max_length=64, unique=True)
    plan: str | None = Field(default=None, max_length=64)
    auto_sync: bool = True
    change_handler: dict[str, Any] | None = Field(default=None, sa_column=Column(_OPTIONAL_JSON))
    applied_interval: float | None = None
    last_served_at: datetime | None = time_column()
    created_at: datetime = time_column(nullable=False)


class DocumentRow(SQLModel, table=True):
    """One page that feeds a knowledge base.

    Attributes:
        key: Our own number.
        id: The public id.
        external_link: The link as the user gave it.
        link: The canonical link, unique in the collection.
        host: `host:port` of the link, the key of politeness.
        name: The page's title, or what the user said; at most 255 characters.
        source_type: `html`, `text` or `markdown`; None before the first content.
        enabled: Whether it is synced at all.
        interval: Seconds; overrides the plan's.
        change_handler: Overrides the account's.
        content_fingerprint: Of the present content.
        handled_fingerprint: Of the content that the handler was told of last.
        changes_told: How many changes the handler was told of; the next one's number is one more.
        fingerprint_version: What the fingerprint was computed by.
        content_length: Characters of the whole text.
        content_cut: Whether less than that is stored.
        sync_run: The workflow run that syncs it, or did last.
        sync_token: The attempt that may write; an earlier one that is still going writes nothing any more.
        sync_scheduled_at: When the attempt that began last was scheduled, by Temporal's clock.
        sync_attempts: Attempts of this run that failed, of both kinds.
        spent_transient: Of these, transient ones.
        spent_unexpected: Of these, others.
        next_attempt_at: When a sync that waits between attempts goes on.
        gate_at: Its place in its host's line.
        last_sync_error_reason: More about the error code.
        queued_until: Taken by a sweep, until then.
        next_sync_at: When it is due; None: at once.
        raw_hash: Of the last body, as it came.
        last_full_fetch_at: When a body was read last.
        pace: Adaptive interval: how many plan intervals pass between syncs.
        shrunk_fingerprint: A much shorter text that was seen once and waits to be seen again.
        gone_on: The last day on which the page was gone.
        gone_days: On how many consecutive days it was.
        resolved_link: Where redirects lead, if elsewhere.
        page_link: What the page says its canonical link is, if something else.
        needs_attention: What waits for a person.
    """

    __tablename__ = "documents"
    __table_args__ = (
        UniqueConstraint("account_key", "collection", "link", name="uq_documents_link"),
        Index("ix_documents_due", "account_key", "next_sync_at"),
        Index("ix_documents_status", "sync_status", "last_sync_attempted_at"),
        Index(
            "ix_documents_untold",
            "key",
            sqlite_where=text(_UNTOLD.format("NOT")),
            postgresql_where=text(_UNTOLD.format("DISTINCT FROM")),
        ),
        Index("ix_documents_attention", "key", sqlite_where=_WAITS_FOR_A_PERSON, postgresql_where=_WAITS_FOR_A_PERSON),
    )

    key: int | None = Field(default=None, sa_column=Column(BIG_KEY, primary_key=True, autoincrement=True))
    id: str = Field(max_length=64, unique=True)
    account_key: int = _belongs_to("accounts")
    collection: str = Field(max_length=64)
    external_link: str = Field(sa_column=Column(PageText, nullable=False))
    link: str = Field(sa_column=Column(PageText, nullable=False))
    host: str = Field(max_length=300)
    name: str | None = Field(default=None, sa_column=Column(PageText(MAX_NAME)))
    source_type: str | None = Field(default=None, max_length=32)
    enabled: bool = True
    interval: float | None = None
    change_handler: dict[str, Any] | None = Field(default=None, sa_column=Column(_OPTIONAL_JSON))
    content_fingerprint: str | None = Field(default=None, max_length=80)
    handled_fingerprint: str | None = Field(default=None, max_length=80)
    changes_told: int = 0
    fingerprint_version: str | None = Field(default=None, max_length=80)
    content_length: int | None = None
    content_cut: bool = False
    sync_status: SyncStatus | None = Field(default=None, sa_column=Column(Word(SyncStatus)))
    sync_step: SyncStep | None = Field(default=None, sa_column=Column(Word(SyncStep)))
    sync_run: str | None = Field(default=None, max_length=64)
    sync_token: str | None = Field(default=None, max_length=64)
    sync_scheduled_at: datetime | None = time_column()
    sync_attempts: int = 0
    spent_transient: int = 0
    spent_unexpected: int = 0
    next_attempt_at: datetime | None = time_column()
    gate_at: datetime | None = time_column()
    last_synced_at: datetime | None = time_column()
    last_sync_attempted_at: datetime | None = time_column()
    last_sync_error_code: SyncErrorCode | None = Field(default=None, sa_column=Column(Word(SyncErrorCode)))
    last_sync_error_reason: str | None = Field(default=None, sa_column=Column(PageText(500)))
    queued_until: datetime | None = time_column()
    next_sync_at: datetime | None = time_column()
    etag: str | None = Field(default=None, sa_column=Column(PageText))
    last_modified: str | None = Field(default=None, sa_column=Column(PageText))
    raw_hash: str | None = Field(default=None, max_length=64)
    last_full_fetch_at: datetime | None = time_column()
    consecutive_failures: int = 0
    consecutive_unchanged: int = 0
    pace: float = 1.0
    shrunk_fingerprint: str | None = Field(default=None, max_length=80)
    gone_on: date | None = None
    gone_days: int = 0
    resolved_link: str | None = Field(default=None, sa_column=Column(PageText))
    page_link: str | None = Field(default=None, sa_column=Column(PageText))
    needs_attention: str | None = Field(default=None, sa_column=Column(PageText(1_000)))
    created_at: datetime = time_column(nullable=False)


class VersionRow(SQLModel, table=True):
    """One text of a document, the present one or an earlier one.

    Attributes:
        fingerprint: Its fingerprint; the document's `content_fingerprint` names the present one.
        name: The title at that time.
        stored_at: When it was last stored: a text that comes back is the newest again.
        content: Markdown, at most 200,000 characters. Last in the table: SQLite reads through what stands before.
    """

    __tablename__ = "document_versions"
    __table_args__ = (UniqueConstraint("document_key", "fingerprint", name="uq_document_versions_fingerprint"),)

    key: int | None = Field(default=None, sa_column=Column(BIG_KEY, primary_key=True, autoincrement=True))
    document_key: int = _belongs_to("documents")
    fingerprint: str = Field(max_length=80)
    name: str | None = Field(default=None, sa_column=Column(PageText(MAX_NAME)))
    stored_at: datetime = time_column(nullable=False)
    content: str = Field(sa_column=Column(PageText, nullable=False))


class DocumentEventRow(SQLModel, table=True):
    """Something that happened to a document; syncs that found nothing new are only counted.

    Attributes:
        result: What the sync came to; None for an event that is no sync, such as a delivered change.
        note: One line for people.
        old_fingerprint: Before an update.
        new_fingerprint: After it.
        added: Paragraphs that are new.
        removed: Paragraphs that are gone.
    """

    __tablename__ = "document_events"
    __table_args__ = (Index("ix_document_events_document", "document_key", "key"),)

    key: int | None = Field(default=None, sa_column=Column(BIG_KEY, primary_key=True, autoincrement=True))
    document_key: int = _belongs_to("documents")
    at: datetime = time_column(nullable=False)
    result: SyncResult | None = Field(default=None, sa_column=Column(Word(SyncResult)))
    error_code: SyncErrorCode | None = Field(default=None, sa_column=Column(Word(SyncErrorCode)))
    note: str | None = Field(default=None, sa_column=Column(PageText(500)))
    old_fingerprint: str | None = Field(default=None, max_length=80)
    new_fingerprint: str | None = Field(default=None, max_length=80)
    added: int | None = None
    removed: int | None = None
    attempt: int | None = None
    duration_ms: int | None = None


class HostRow(SQLModel, table=True):
    """How one host is treated by all workers together.

    Attributes:
        host: `host:port`.
        free_at: Before this no request is sent: the pause after the last one, or what `Retry-After` asks for.
        lease: The request that is on its way, if one is.
        leased_until: When that one is given up for lost.
        line_ends_at: Where the line of those who wait ends.
        urgent_ends_at: Where the line of those ends whom a person waits for.
        crawl_delay: Seconds between requests that robots.txt asks for.
        seconds: What a request takes, a moving average.
        failures: Requests that failed one after the other.
        robots: Its robots.txt, None where there is none.
        robots_status: The answer's status; None: never fetched.
        robots_checked_at: When it was asked for last.
        robots_fetched_at: When `robots` is from.
    """

    __tablename__ = "hosts"

    host: str = Field(max_length=300, primary_key=True)
    free_at: datetime | None = time_column()
    lease: str | None = Field(default=None, max_length=64)
    leased_until: datetime | None = time_column()
    line_ends_at: datetime | None = time_column()
    urgent_ends_at: datetime | None = time_column()
    crawl_delay: float | None = None
    seconds: float | None = None
    failures: int = 0
    robots: str | None = Field(default=None, sa_column=Column(PageText))
    robots_status: int | None = None
    robots_checked_at: datetime | None = time_column()
    robots_fetched_at: datetime | None = time_column()


class SweepRow(SQLModel, table=True):
    """One sweep, kept for a day, so that asking it again finds what it took.

    Attributes:
        id: The sweep's workflow run.
        taken: `SweepTaken` as JSON.
    """

    __tablename__ = "sweeps"

    id: str = Field(max_length=64, primary_key=True)
    taken_at: datetime = time_column(nullable=False)
    taken: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


class SweepPickRow(SQLModel, table=True):
    """A document that a sweep has taken.

    Attributes:
        position: In the order of the starts, from 0; there are gaps where documents were deleted since.
        due_at: When it is due, which may be later than the sweep.
    """

    __tablename__ = "sweep_picks"
    __table_args__ = (Index("ix_sweep_picks_document", "document_key"),)

    sweep_id: str = Field(sa_column=Column(String(64), ForeignKey("sweeps.id", ondelete="CASCADE"), primary_key=True))
    position: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    document_key: int = _belongs_to("documents")
    due_at: datetime = time_column(nullable=False)


class CrawlRow(SQLModel, table=True):
    """One crawl of a site.

    Attributes:
        id: The public id.
        limits: `CrawlLimits` as JSON.
        limit_hit: The bound that ended it.
    """

    __tablename__ = "crawls"

    key: int | None = Field(default=None, sa_column=Column(BIG_KEY, primary_key=True, autoincrement=True))
    id: str = Field(max_length=64, unique=True)
    account_key: int = _belongs_to("accounts")
    collection: str = Field(max_length=64)
    start_url: str = Field(sa_column=Column(PageText, nullable=False))
    limits: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    limit_hit: str | None = Field(default=None, max_length=32)
    created_at: datetime = time_column(nullable=False)
    ended_at: datetime | None = time_column()


class CrawlPageRow(SQLModel, table=True):
    """One link that a crawl has found.

    Attributes:
        link: Canonical link, unique in the crawl.
        depth: Links between the start page and this one; for sitemaps how deep it is nested.
        kind: `page` or `sitemap`.
        state: `waiting`, `done`, `failed` or `refused`.
        is_new: Whether it made a new document; None where it made none.
        listed: Pages that a sitemap lists, which become documents without a look at them.
        added: Of these, those that made new documents.
        known: Of these, those that were documents before.
        gate_at: Its place in its host's line.
        tries: Looks at it that failed for a reason that may pass.
        try_again_at: When it is looked at again after that.
    """

    __tablename__ = "crawl_pages"
    __table_args__ = (
        UniqueConstraint("crawl_key", "link", name="uq_crawl_pages_link"),
        Index("ix_crawl_pages_waiting", "crawl_key", "state", "depth", "key"),
    )

    key: int | None = Field(default=None, sa_column=Column(BIG_KEY, primary_key=True, autoincrement=True))
    crawl_key: int = _belongs_to("crawls")
    link: str = Field(sa_column=Column(PageText, nullable=False))
    depth: int = Field(sa_column=Column(Integer, nullable=False))
    kind: str = Field(default="page", max_length=16)
    state: str = Field(default="waiting", max_length=16)
    is_new: bool | None = None
    listed: int = 0
    added: int = 0
    known: int = 0
    gate_at: datetime | None = time_column()
    tries: int = 0
    try_again_at: datetime | None = time_column()


__all__ = [
    "AccountRow",
    "CrawlPageRow",
    "CrawlRow",
    "DocumentEventRow",
    "DocumentRow",
    "HostRow",
    "SweepPickRow",
    "SweepRow",
    "VersionRow",
]
