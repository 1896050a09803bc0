"""What stays of a deleted batch, and when a PDF was asked for last.

Taken back, it forgets which batches were deleted: they are listed as ended, without counts. No command does so.
"""

import sqlalchemy as sa
from alembic import op

from nightmill.storage.columns import UtcDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

HALF_DELETED = "deleted_at IS NOT NULL AND emptied_at IS NULL"


def upgrade() -> None:
    op.add_column("batches", sa.Column("deleted_at", UtcDateTime))
    op.add_column("batches", sa.Column("emptied_at", UtcDateTime))
    op.add_column("batches", sa.Column("summary", sa.JSON))
    op.add_column("slicings", sa.Column("asked_at", UtcDateTime))
    op.create_index(
        "ix_batches_half_deleted",
        "batches",
        ["key"],
        sqlite_where=sa.text(HALF_DELETED),
        postgresql_where=sa.text(HALF_DELETED),
    )


def downgrade() -> None:
    op.drop_index("ix_batches_half_deleted", "batches")
    op.drop_column("slicings", "asked_at")
    for name in ("summary", "emptied_at", "deleted_at"):
        op.drop_column("batches", name)
