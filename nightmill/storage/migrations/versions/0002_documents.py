"""Accounts, documents with their texts and events, hosts, sweeps and crawls."""

import sqlalchemy as sa
from alembic import op

from nightmill.storage.columns import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def own_key() -> sa.Column[int]:
    return sa.Column("key", BIG_KEY, primary_key=True, autoincrement=True)


def key_of(column: str, table: str) -> sa.Column[int]:
    return sa.Column(column, BIG_KEY, sa.ForeignKey(f"{table}.key", ondelete="CASCADE"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "accounts",
        own_key(),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("plan", sa.String(64)),
        sa.Column("auto_sync", sa.Boolean, nullable=False),
        sa.Column("change_handler", sa.JSON),
        sa.Column("applied_interval", sa.Float),
        sa.Column("last_served_at", UtcDateTime),
        sa.Column("created_at", UtcDateTime, nullable=False),
    )
    op.create_table(
        "documents",
        own_key(),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        key_of("account_key", "accounts"),
        sa.Column("collection", sa.String(64), nullable=False),
        sa.Column("external_link", sa.Text, nullable=False),
        sa.Column("link", sa.Text, nullable=False),
        sa.Column("host", sa.String(300), nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("source_type", sa.String(32)),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("interval", sa.Float),
        sa.Column("change_handler", sa.JSON),
        sa.Column("content_fingerprint", sa.String(80)),
        sa.Column("handled_fingerprint", sa.String(80)),
        sa.Column("changes_told", sa.Integer, nullable=False),
        sa.Column("fingerprint_version", sa.String(80)),
        sa.Column("content_length", sa.Integer),
        sa.Column("content_cut", sa.Boolean, nullable=False),
        sa.Column("sync_status", sa.Text),
        sa.Column("sync_step", sa.Text),
        sa.Column("sync_run", sa.String(64)),
        sa.Column("sync_token", sa.String(64)),
        sa.Column("sync_scheduled_at", UtcDateTime),
        sa.Column("sync_attempts", sa.Integer, nullable=False),
        sa.Column("spent_transient", sa.Integer, nullable=False),
        sa.Column("spent_unexpected", sa.Integer, nullable=False),
        sa.Column("next_attempt_at", UtcDateTime),
        sa.Column("gate_at", UtcDateTime),
        sa.Column("last_synced_at", UtcDateTime),
        sa.Column("last_sync_attempted_at", UtcDateTime),
        sa.Column("last_sync_error_code", sa.Text),
        sa.Column("last_sync_error_reason", sa.Text),
        sa.Column("queued_until", UtcDateTime),
        sa.Column("next_sync_at", UtcDateTime),
        sa.Column("etag", sa.Text),
        sa.Column("last_modified", sa.Text),
        sa.Column("raw_hash", sa.String(64)),
        sa.Column("last_full_fetch_at", UtcDateTime),
        sa.Column("consecutive_failures", sa.Integer, nullable=False),
        sa.Column("consecutive_unchanged", sa.Integer, nullable=False),
        sa.Column("pace", sa.Float, nullable=False),
        sa.Column("shrunk_fingerprint", sa.String(80)),
        sa.Column("gone_on", sa.Date),
        sa.Column("gone_days", sa.Integer, nullable=False),
        sa.Column("resolved_link", sa.Text),
        sa.Column("page_link", sa.Text),
        sa.Column("needs_attention", sa.Text),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.UniqueConstraint("account_key", "collection", "link", name="uq_documents_link"),
    )
    op.create_index("ix_documents_due", "documents", ["account_key", "next_sync_at"])
    op.create_index("ix_documents_status", "documents", ["sync_status", "last_sync_attempted_at"])
    op.create_table(
        "document_versions",
        own_key(),
        key_of("document_key", "documents"),
        sa.Column("fingerprint", sa.String(80), nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("stored_at", UtcDateTime, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.UniqueConstraint("document_key", "fingerprint", name="uq_document_versions_fingerprint"),
    )
    op.create_table(
        "document_events",
        own_key(),
        key_of("document_key", "documents"),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("error_code", sa.Text),
        sa.Column("note", sa.Text),
        sa.Column("old_fingerprint", sa.String(80)),
        sa.Column("new_fingerprint", sa.String(80)),
        sa.Column("added", sa.Integer),
        sa.Column("removed", sa.Integer),
        sa.Column("attempt", sa.Integer),
        sa.Column("duration_ms", sa.Integer),
    )
    op.create_index("ix_document_events_document", "document_events", ["document_key", "key"])
    op.create_table(
        "hosts",
        sa.Column("host", sa.String(300), primary_key=True),
        sa.Column("free_at", UtcDateTime),
        sa.Column("lease", sa.String(64)),
        sa.Column("leased_until", UtcDateTime),
        sa.Column("line_ends_at", UtcDateTime),
        sa.Column("urgent_ends_at", UtcDateTime),
        sa.Column("crawl_delay", sa.Float),
        sa.Column("seconds", sa.Float),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("robots", sa.Text),
        sa.Column("robots_status", sa.Integer),
        sa.Column("robots_checked_at", UtcDateTime),
        sa.Column("robots_fetched_at", UtcDateTime),
    )
    op.create_table(
        "sweeps",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("taken_at", UtcDateTime, nullable=False),
        sa.Column("taken", sa.JSON, nullable=False),
    )
    op.create_table(
        "sweep_picks",
        sa.Column("sweep_id", sa.String(64), sa.ForeignKey("sweeps.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        key_of("document_key", "documents"),
        sa.Column("due_at", UtcDateTime, nullable=False),
    )
    op.create_index("ix_sweep_picks_document", "sweep_picks", ["document_key"])
    op.create_table(
        "crawls",
        own_key(),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        key_of("account_key", "accounts"),
        sa.Column("collection", sa.String(64), nullable=False),
        sa.Column("start_url", sa.Text, nullable=False),
        sa.Column("limits", sa.JSON, nullable=False),
        sa.Column("limit_hit", sa.String(32)),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("ended_at", UtcDateTime),
    )
    op.create_table(
        "crawl_pages",
        own_key(),
        key_of("crawl_key", "crawls"),
        sa.Column("link", sa.Text, nullable=False),
        sa.Column("depth", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("is_new", sa.Boolean),
        sa.Column("listed", sa.Integer, nullable=False),
        sa.Column("added", sa.Integer, nullable=False),
        sa.Column("known", sa.Integer, nullable=False),
        sa.Column("gate_at", UtcDateTime),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("try_again_at", UtcDateTime),
        sa.UniqueConstraint("crawl_key", "link", name="uq_crawl_pages_link"),
    )
    op.create_index("ix_crawl_pages_waiting", "crawl_pages", ["crawl_key", "state", "depth", "key"])
    compress_texts()


def compress_texts() -> None:
    """Store texts with LZ4 where the server has it, as 0001 does."""
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    known = "SELECT 'lz4' = ANY(enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
    if connection.exec_driver_sql(known).scalar():
        op.execute("ALTER TABLE document_versions ALTER COLUMN content SET COMPRESSION lz4")


def downgrade() -> None:
    documents = ("document_events", "document_versions", "documents", "accounts")
    for table in ("crawl_pages", "crawls", "sweep_picks", "sweeps", "hosts", *documents):
        op.drop_table(table)
