"""Whose files a prune has still to delete, of slicings whose rows it has deleted.

Taken back, it forgets them; `nightmill prune --only files` finds them all the same.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "slicing_leavings",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("profile", sa.String(64), primary_key=True),
        sa.Column("run_id", sa.String(64), primary_key=True),
    )


def downgrade() -> None:
    op.drop_table("slicing_leavings")
