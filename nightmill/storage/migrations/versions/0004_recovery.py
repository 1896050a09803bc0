"""Repairs, and the indexes by which what may be stuck is found."""

import sqlalchemy as sa
from alembic import op

from nightmill.storage.columns import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIG_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")

OPEN_ONES = (
    ("ix_batches_open", "batches", "results_fetched_at IS NULL OR handler_dispatched_at IS NULL"),
    ("ix_provider_batches_unsettled", "provider_batches", "settled_at IS NULL"),
    ("ix_repairs_open", "repairs", "ended_at IS NULL"),
)
"""Indexes of what has not ended, which the reconciler goes through in the order of the keys."""

UNTOLD = "content_fingerprint IS NOT NULL AND handled_fingerprint IS {} content_fingerprint"
"""The documents whose handler was not told of their content; the databases spell that differently."""


def upgrade() -> None:
    op.create_table(
        "repairs",
        sa.Column("key", BIG_KEY, primary_key=True, autoincrement=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("subject_id", sa.Text, nullable=False),
        sa.Column("workflow_id", sa.Text, nullable=False),
        sa.Column("epoch", sa.Text, nullable=False),
        sa.Column("finding", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("run_id", sa.String(64)),
        sa.Column("event_id", sa.Integer),
        sa.Column("new_run_id", sa.String(64)),
        sa.Column("build", sa.String(200), nullable=False),
        sa.Column("tick", sa.String(200), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("asked_at", UtcDateTime, nullable=False),
        sa.Column("ended_at", UtcDateTime),
        sa.UniqueConstraint("workflow_id", "epoch", name="uq_repairs_epoch"),
    )
    op.create_index("ix_repairs_run", "repairs", ["run_id"])
    op.create_index("ix_repairs_subject", "repairs", ["subject", "subject_id"])
    for name, table, holds in OPEN_ONES:
        op.create_index(name, table, ["key"], sqlite_where=sa.text(holds), postgresql_where=sa.text(holds))
    op.create_index(
        "ix_documents_untold",
        "documents",
        ["key"],
        sqlite_where=sa.text(UNTOLD.format("NOT")),
        postgresql_where=sa.text(UNTOLD.format("DISTINCT FROM")),
    )


def downgrade() -> None:
    op.drop_index("ix_documents_untold", "documents")
    for name, table, _ in OPEN_ONES:
        op.drop_index(name, table)
    op.drop_table("repairs")
