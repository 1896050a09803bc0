"""Batches, provider batches, completions and outcomes."""

import sqlalchemy as sa
from alembic import op

from nightmill.storage.columns import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")

LARGE_COLUMNS = {
    "completions": ("line", "response_schema"),
    "outcomes": ("text", "output", "tool_calls", "raw"),
}


def batch_key(*, primary_key: bool = False) -> sa.Column[int]:
    batches = sa.ForeignKey("batches.key", ondelete="CASCADE")
    return sa.Column("batch_key", BIG_KEY, batches, nullable=False, primary_key=primary_key, autoincrement=False)


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("key", BIG_KEY, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("account", sa.String(64)),
        sa.Column("endpoint", sa.String(100), nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("needs_attention", sa.Text),
        sa.Column("user_metadata", sa.JSON, nullable=False),
        sa.Column("completion_handler", sa.JSON),
        sa.Column("poll_schedule", sa.JSON, nullable=False),
        sa.Column("max_age", sa.Float, nullable=False),
        sa.Column("retry_rounds", sa.Integer, nullable=False),
        sa.Column("budget", sa.String(40)),
        sa.Column("prices", sa.JSON),
        sa.Column("retry_of", sa.String(64)),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("cancel_requested_at", UtcDateTime),
        sa.Column("created_at", UtcDateTime, nullable=False, index=True),
        sa.Column("submitted_at", UtcDateTime),
        sa.Column("started_at", UtcDateTime),
        sa.Column("ended_at", UtcDateTime),
        sa.Column("failed_at", UtcDateTime),
        sa.Column("next_poll_at", UtcDateTime),
        sa.Column("results_fetched_at", UtcDateTime),
        sa.Column("handler_dispatched_at", UtcDateTime),
        sa.Column("dispatches", sa.Integer, nullable=False),
    )
    op.create_index("ix_batches_status_next_poll_at", "batches", ["status", "next_poll_at"])
    op.create_table(
        "provider_batches",
        sa.Column("key", BIG_KEY, primary_key=True, autoincrement=True),
        batch_key(),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("part", sa.Integer, nullable=False),
        sa.Column("first", sa.Integer, nullable=False),
        sa.Column("last", sa.Integer, nullable=False),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("account", sa.String(64)),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("provider_status", sa.Text),
        sa.Column("provider_batch_id", sa.String(300)),
        sa.Column("provider_error", sa.Text),
        sa.Column("attention", sa.Text),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.Column("refs", sa.JSON, nullable=False),
        sa.Column("input_file_id", sa.String(300)),
        sa.Column("upload_started_at", UtcDateTime),
        sa.Column("create_sent_at", UtcDateTime),
        sa.Column("created_at", UtcDateTime),
        sa.Column("submitted_at", UtcDateTime),
        sa.Column("canceled_at", UtcDateTime),
        sa.Column("next_poll_at", UtcDateTime),
        sa.Column("polls", sa.Integer, nullable=False),
        sa.Column("fetched", sa.JSON, nullable=False),
        sa.Column("fetches", sa.Integer, nullable=False),
        sa.Column("settled_at", UtcDateTime),
        sa.Column("cleaned_at", UtcDateTime),
        sa.UniqueConstraint("batch_key", "round", "part", name="uq_provider_batches_part"),
        sa.UniqueConstraint("provider", "provider_batch_id", name="uq_provider_batches_provider_batch_id"),
    )
    op.create_index("ix_provider_batches_open", "provider_batches", ["provider", "model", "settled_at"])
    op.create_table(
        "completions",
        batch_key(primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("custom_id", sa.Text, nullable=False),
        sa.Column("wire_id", sa.Text, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("response_schema", sa.Text),
        sa.Column("line", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("batch_key", "wire_id", name="uq_completions_wire_id"),
    )
    op.create_table(
        "outcomes",
        sa.Column("key", BIG_KEY, primary_key=True, autoincrement=True),
        batch_key(),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("ok", sa.Boolean, nullable=False),
        sa.Column("finish_reason", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("input_tokens", sa.Integer),
        sa.Column("output_tokens", sa.Integer),
        sa.Column("cached_tokens", sa.Integer),
        sa.Column("reasoning_tokens", sa.Integer),
        sa.Column("cost_picodollars", sa.BigInteger),
        sa.Column("error_code", sa.Text),
        sa.Column("error_type", sa.Text),
        sa.Column("error_provider_code", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("error_http_status", sa.Integer),
        sa.Column("error_retryable", sa.Boolean),
        sa.Column("text", sa.Text),
        sa.Column("output", sa.Text),
        sa.Column("tool_calls", sa.Text),
        sa.Column("raw", sa.Text),
        sa.UniqueConstraint("batch_key", "seq", "round", name="uq_outcomes_attempt"),
    )
    compress_large_columns()


def compress_large_columns() -> None:
    """Store what is large with LZ4 where the server has it: a COPY costs it half of what pglz does."""
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    known = "SELECT 'lz4' = ANY(enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
    if not connection.exec_driver_sql(known).scalar():
        return
    for table, columns in LARGE_COLUMNS.items():
        for column in columns:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET COMPRESSION lz4")


def downgrade() -> None:
    for table in ("outcomes", "completions", "provider_batches", "batches"):
        op.drop_table(table)
