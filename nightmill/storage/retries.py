"""The failed requests of a batch that has ended, to be sent again as a batch of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlmodel import select

from nightmill.completions.requests import StoredRequest
from nightmill.errors import BatchNotFound, InvalidInput
from nightmill.storage.models import BatchRow
from nightmill.storage.results import insist_on_rows

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

PAGE_ROWS = 500

# What became of a completion is its outcome of the highest round.
_FAILED = text(
    "SELECT c.seq, c.custom_id, c.wire_id, c.line, c.response_schema FROM completions c JOIN outcomes o"
    " ON o.batch_key = c.batch_key AND o.seq = c.seq"
    " WHERE c.batch_key = :batch AND c.seq > :after AND NOT o.ok AND (:all OR o.error_retryable)"
    " AND NOT EXISTS (SELECT 1 FROM outcomes n"
    "  WHERE n.batch_key = o.batch_key AND n.seq = o.seq AND n.round > o.round)"
    " ORDER BY c.seq LIMIT :rows"
)


def failed_requests(db: Database, batch_id: str, *, only_retriable: bool) -> Iterator[StoredRequest]:
    """Yield the requests that failed for good, as they were sent, numbered anew; a page at a time.

    Raises:
        BatchNotFound: There is no such batch.
        BatchDeleted: It was deleted, perhaps just now.
        InvalidInput: Nothing failed.
    """
    with db.reading() as session:
        batch_key = session.exec(select(BatchRow.key).where(BatchRow.id == batch_id)).first()
    if batch_key is None:
        raise BatchNotFound(f"no batch {batch_id!r}: `nightmill batch list` shows those there are")
    values = {"batch": batch_key, "after": -1, "all": not only_retriable, "rows": PAGE_ROWS}
    seq = 0
    while True:
        with db.reading() as session:
            rows = session.connection().execute(_FAILED, values).fetchall()
        for row in rows:
            yield StoredRequest(
                seq=seq,
                custom_id=row.custom_id,
                wire_id=row.wire_id,
                line=row.line,
                response_schema=row.response_schema,
            )
            seq += 1
        if len(rows) < PAGE_ROWS:
            break
        values["after"] = rows[-1].seq
    with db.reading() as session:
        insist_on_rows(session, batch_id)
    if not seq:
        what = "failed with an error that may pass" if only_retriable else "failed"
        raise InvalidInput(f"batch {batch_id}: no completion {what}, there is nothing to send again")
