"""Alembic's entry: runs the migrations on the connection that `nightmill.storage.schema` hands over."""

from alembic import context
from sqlmodel import SQLModel

import nightmill.storage.document_models
import nightmill.storage.models
import nightmill.storage.recovery_models
import nightmill.storage.slicing_models  # noqa: F401 - all of these fill the metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    compare_type=True,
    # SQLite cannot alter a column: Alembic copies the table there.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
