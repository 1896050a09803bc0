"""Repairs."""

import sqlalchemy as sa
from alembic import op

from nightmill.storage.columns import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIG_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


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


def downgrade() -> None:
    op.drop_table("repairs")
