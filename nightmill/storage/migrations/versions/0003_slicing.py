"""Slicings with their slices, attempts and notices; breakers and their transitions."""

import sqlalchemy as sa
from alembic import op

from nightmill.storage.columns import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def own_key() -> sa.Column[int]:
    return sa.Column("key", BIG_KEY, primary_key=True, autoincrement=True)


def slicing_key() -> sa.Column[int]:
    return sa.Column("slicing_key", BIG_KEY, sa.ForeignKey("slicings.key", ondelete="CASCADE"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "slicings",
        own_key(),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("profile", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("run_id", sa.String(64)),
        sa.Column("result_run", sa.String(64)),
        sa.Column("size", sa.BigInteger),
        sa.Column("page_count", sa.Integer),
        sa.Column("text_source", sa.String(16)),
        sa.Column("number", sa.Text),
        sa.Column("issued_on", sa.Date),
        sa.Column("description", sa.Text),
        sa.Column("user_metadata", sa.JSON, nullable=False),
        sa.Column("notify", sa.JSON, nullable=False),
        sa.Column("error_code", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("reasons", sa.JSON, nullable=False),
        sa.Column("needs_attention", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("slice_count", sa.Integer, nullable=False),
        sa.Column("flagged_count", sa.Integer, nullable=False),
        sa.Column("queued_at", UtcDateTime, nullable=False),
        sa.Column("started_at", UtcDateTime),
        sa.Column("parked_at", UtcDateTime),
        sa.Column("ended_at", UtcDateTime),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.UniqueConstraint("sha256", "profile", name="uq_slicings_document"),
    )
    op.create_index("ix_slicings_status", "slicings", ["status", "queued_at"])
    op.create_index("ix_slicings_newest", "slicings", ["queued_at", "key"])
    op.create_index("ix_slicings_parked", "slicings", ["profile", "parked_at"])
    op.create_table(
        "slices",
        own_key(),
        slicing_key(),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("issue_id", sa.Text, nullable=False),
        sa.Column("start_page", sa.Integer, nullable=False),
        sa.Column("end_page", sa.Integer, nullable=False),
        sa.Column("full_text", sa.Text, nullable=False),
        sa.Column("short_description", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("materia", sa.Text, nullable=False),
        sa.Column("institutions", sa.JSON, nullable=False),
        sa.Column("file_key", sa.String(400)),
        sa.Column("file_size", sa.BigInteger),
        sa.Column("file_sha256", sa.String(64)),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("problem", sa.Text),
        sa.UniqueConstraint("slicing_key", "position", name="uq_slices_position"),
    )
    op.create_table(
        "slicing_attempts",
        own_key(),
        slicing_key(),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("exit_code", sa.Integer),
        sa.Column("signal", sa.Integer),
        sa.Column("error_code", sa.Text),
        sa.Column("stdout_bytes", sa.BigInteger, nullable=False),
        sa.Column("stderr_bytes", sa.BigInteger, nullable=False),
        sa.Column("duration_ms", sa.Integer, nullable=False),
        sa.Column("cpu_ms", sa.Integer, nullable=False),
        sa.Column("peak_memory", sa.BigInteger, nullable=False),
        sa.Column("pages", sa.Integer, nullable=False),
        sa.Column("text_source", sa.String(16)),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("stderr_tail", sa.Text, nullable=False),
        sa.Column("started_at", UtcDateTime, nullable=False),
    )
    op.create_index("ix_slicing_attempts_document", "slicing_attempts", ["slicing_key", "started_at"])
    op.create_table(
        "slicing_notices",
        own_key(),
        slicing_key(),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("message_id", sa.String(200), nullable=False),
        sa.Column("begun_at", UtcDateTime, nullable=False),
        sa.Column("sent_at", UtcDateTime),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
        sa.UniqueConstraint("slicing_key", "run_id", "number", name="uq_slicing_notices_number"),
    )
    op.create_table(
        "slicer_breakers",
        sa.Column("profile", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("faults", sa.JSON, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("changed_by", sa.Text),
        sa.Column("opened_at", UtcDateTime),
        sa.Column("probes", sa.Integer, nullable=False),
        sa.Column("probe_at", UtcDateTime),
        sa.Column("probe_token", sa.String(64)),
        sa.Column("probe_until", UtcDateTime),
        sa.Column("transitions", sa.Integer, nullable=False),
        sa.Column("canary_at", UtcDateTime),
        sa.Column("canary_passed", sa.Boolean),
        sa.Column("canary_message", sa.Text),
        sa.Column("canary_ms", sa.Integer),
    )
    op.create_table(
        "breaker_transitions",
        sa.Column("profile", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("changed_by", sa.Text, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("message_id", sa.String(200), nullable=False),
        sa.Column("told_at", UtcDateTime),
    )


def downgrade() -> None:
    for table in (
        "breaker_transitions",
        "slicer_breakers",
        "slicing_notices",
        "slicing_attempts",
        "slices",
        "slicings",
    ):
        op.drop_table(table)
