"""An index of the documents that wait for a person: gauges count them every few seconds."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

WAITS = "needs_attention IS NOT NULL"


def upgrade() -> None:
    op.create_index(
        "ix_documents_attention", "documents", ["key"], sqlite_where=sa.text(WAITS), postgresql_where=sa.text(WAITS)
    )


def downgrade() -> None:
    op.drop_index("ix_documents_attention", "documents")
