"""The frozen requests of a batch: stored once, all or none, and read back a page at a time in short transactions."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import msgspec
import psycopg
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from nightmill.errors import BatchConflict, BatchNotFound, InvalidInput, StorageFull
from nightmill.storage.models import BatchRow, ProviderBatchRow

if TYPE_CHECKING:
    from sqlmodel import Session

    from nightmill.completions.requests import StoredRequest
    from nightmill.storage.engine import Database

PAGE_ROWS = 1_000
PAGE_BYTES = 4 * 1024 * 1024
"""A page ends at whichever comes first; it is what a reader or writer holds in memory."""

_SPOOL_IN_MEMORY = 8 * 1024 * 1024


def among(name: str) -> dict[str, str]:
    """Return, by dialect, the end of a condition "is one of the parameter `name`", which `listed` makes.

    One parameter, so that the statement is the same for any number of values and is compiled once.
    """
    each = f"(SELECT value FROM json_each(:{name}))"  # noqa: S608
    return {"sqlite": f"IN {each}", "postgresql": f"= ANY(:{name})"}


def listed(dialect: str, values: Sequence[str] | Sequence[int]) -> Any:
    """Return the parameter for `among`."""
    return msgspec.json.encode(values).decode() if dialect == "sqlite" else list(values)


BELONGS = (
    "c.batch_key = :batch AND c.seq BETWEEN :first AND :last AND (:prior = -1 OR EXISTS (SELECT 1 FROM outcomes o"
    " WHERE o.batch_key = c.batch_key AND o.seq = c.seq AND o.round = :prior AND NOT o.ok AND o.error_retryable))"
)
"""Which of the `completions c` a provider batch holds, by `bounds`: in later rounds, what failed retryably before."""

# A page ends after `rows` requests or with the one that reaches `bytes`: a few huge requests must not fill the memory.
# Looking for its end reads the short columns only.
_PAGE_END = text(
    "SELECT max(seq) FROM (SELECT seq, sum(bytes) OVER (ORDER BY seq) - bytes AS before FROM"  # noqa: S608
    f" (SELECT c.seq, c.bytes FROM completions c WHERE {BELONGS} ORDER BY c.seq LIMIT :rows) AS near) AS page"
    " WHERE before < :bytes"
)
_LINES = text(f"SELECT c.line FROM completions c WHERE {BELONGS} ORDER BY c.seq")  # noqa: S608
# The plus keeps the planners from walking through the whole range of `seq` instead of looking up each id.
_HAS_IDS = {
    dialect: text(f"SELECT c.seq FROM completions c WHERE {BELONGS.replace('c.seq B', '+c.seq B')} AND c.wire_id {ids}")  # noqa: S608
    for dialect, ids in among("ids").items()
}
_COLUMNS = ("batch_key", "seq", "custom_id", "wire_id", "bytes", "response_schema", "line")
_POSTGRES_TYPES = ("int8", "int4", "text", "text", "int4", "text", "bytea")

_Page = list[tuple[int, str, str, int, str | None, bytes]]
_PAGE_DECODER = msgspec.msgpack.Decoder(_Page)


class RequestRepository:
    """Stores and reads the requests of batches. Any thread may use it."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def store(self, batch: BatchRow, requests: Iterable[StoredRequest]) -> BatchRow:
        """Store a batch with its requests in one transaction and return it with `key` and `requests` set.

        The requests are read to the end before the transaction starts, into a temporary file once they are large: a
        slow source blocks nobody, and an exception it raises leaves the database untouched.

        Raises:
            BatchConflict: There is a batch of this id already.
            InvalidInput: Two requests have the same wire id, or an id holds what no database takes (NUL, half a
                surrogate pair).
            StorageUnavailable: The database is away.
            StorageFull: No space is left; nothing was kept.
        """
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_IN_MEMORY) as spool:
            with _disk_errors():
                count = _write_spool(spool, requests)
                spool.seek(0)
            with self._db.transaction() as session:
                taken = session.exec(select(BatchRow.deleted_at).where(BatchRow.id == batch.id)).all()
                if taken:  # by one that was deleted, too: whoever repeats a submission must not pay twice
                    deleted = f" and was deleted on {taken[0]:%Y-%m-%d}; use another id" if taken[0] else ""
                    raise BatchConflict(f"batch {batch.id} exists already{deleted}")
                batch.requests = count
                session.add(batch)
                try:
                    session.flush()
                except IntegrityError as error:  # another process was faster, after we looked
                    raise BatchConflict(f"batch {batch.id} exists already") from error
                assert batch.key is not None  # noqa: S101 - the flush has numbered it
                try:
                    self._insert(session, batch.key, spool)
                except (IntegrityError, psycopg.errors.UniqueViolation) as error:
                    raise InvalidInput(f"batch {batch.id}: two requests have the same id") from error
        return batch

    def lines(self, part_key: int) -> StoredLines:
        """Return the lines of a provider batch, in order.

        Raises:
            BatchNotFound: There is no such provider batch.
            StorageUnavailable: The database is away.
        """
        return StoredLines(self._db, self._part(part_key))

    def pending_sizes(self, batch_key: int, round_: int) -> Iterator[tuple[int, int]]:
        """Yield `(seq, bytes)` of each request that belongs in the round, in order: what planning splits into parts."""
        page = {"batch": batch_key, "last": 2**31 - 1, "prior": round_ - 1, "limit": 10 * PAGE_ROWS}
        query = text(f"SELECT c.seq, c.bytes FROM completions c WHERE {BELONGS} ORDER BY c.seq LIMIT :limit")  # noqa: S608
        first = 0
        while True:
            with self._db.reading() as session:
                rows = session.connection().execute(query, page | {"first": first}).fetchall()
            for row in rows:
                yield row.seq, row.bytes
            if len(rows) < page["limit"]:
                return
            first = rows[-1].seq + 1

    def count_of_ours(self, part_key: int, ids: Iterable[str]) -> int:
        """Return how many of these different wire ids belong to a provider batch.

        Raises:
            BatchNotFound: There is no such provider batch.
            StorageUnavailable: The database is away.
        """
        storable = [wire_id for wire_id in set(ids) if "\0" not in wire_id]
        values = bounds(self._part(part_key)) | {"ids": listed(self._db.dialect, storable)}
        with self._db.reading() as session:
            return len(session.connection().execute(_HAS_IDS[self._db.dialect], values).fetchall())

    def _part(self, part_key: int) -> ProviderBatchRow:
        with self._db.reading() as session:
            part = session.get(ProviderBatchRow, part_key)
        if part is None:
            raise BatchNotFound(f"provider batch {part_key} is gone")
        return part

    def _insert(self, session: Session, batch_key: int, spool: IO[bytes]) -> None:
        """Write the spooled requests, below the ORM: one object a row costs four times as much."""
        connection = session.connection()
        if self._db.dialect == "sqlite":
            marks = ", ".join("?" * len(_COLUMNS))
            insert = f"INSERT INTO completions ({', '.join(_COLUMNS)}) VALUES ({marks})"  # noqa: S608
            for page in _read_spool(spool):
                connection.exec_driver_sql(insert, [(batch_key, *row) for row in page])
            return
        driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
        with (
            driver.cursor() as cursor,
            cursor.copy(f"COPY completions ({', '.join(_COLUMNS)}) FROM STDIN (FORMAT BINARY)") as copy,
        ):
            copy.set_types(_POSTGRES_TYPES)
            for page in _read_spool(spool):
                for row in page:
                    copy.write_row((batch_key, *row))


@dataclass
class StoredLines:
    """The lines of one provider batch; see `nightmill.providers.base.RequestLines`."""

    db: Database
    part: ProviderBatchRow

    @property
    def count(self) -> int:
        """How many lines there are."""
        return self.part.requests

    @property
    def total_bytes(self) -> int:
        """Sum of their lengths, without line ends."""
        return self.part.bytes

    def __iter__(self) -> Iterator[bytes]:
        """Yield each line, in order, a page at a time, each page in a short read of its own."""
        values = bounds(self.part) | {"rows": PAGE_ROWS, "bytes": PAGE_BYTES}
        while values["first"] <= self.part.last:
            with self.db.reading() as session:
                connection = session.connection()
                end = connection.execute(_PAGE_END, values).scalar()
                if end is None:
                    return
                lines = connection.execute(_LINES, values | {"last": end}).scalars().all()
            yield from lines
            values["first"] = end + 1


def bounds(part: ProviderBatchRow) -> dict[str, Any]:
    """Return the parameters of `BELONGS` for a provider batch; `prior` is -1 in round 0, which holds every request."""
    return {"batch": part.batch_key, "first": part.first, "last": part.last, "prior": part.round - 1}


def _write_spool(spool: IO[bytes], requests: Iterable[StoredRequest]) -> int:
    """Write pages of requests, each after its length, and return how many requests there were."""
    count = size = 0
    page: _Page = []
    for request in requests:
        if "\0" in request.custom_id or "\0" in request.wire_id or "\0" in (request.response_schema or ""):
            raise InvalidInput(f"request {request.seq + 1}: its id or its schema has a NUL character")
        row = (
            request.seq,
            request.custom_id,
            request.wire_id,
            len(request.line),
            request.response_schema,
            request.line,
        )
        page.append(row)
        count += 1
        size += len(request.line)
        if len(page) >= PAGE_ROWS or size >= PAGE_BYTES:
            _write_page(spool, page)
            page, size = [], 0
    if page:
        _write_page(spool, page)
    return count


def _write_page(spool: IO[bytes], page: _Page) -> None:
    try:
        data = msgspec.msgpack.encode(page)
    except UnicodeEncodeError as error:
        first, last = page[0][0] + 1, page[-1][0] + 1
        raise InvalidInput(f"requests {first} to {last}: an id or a schema has half a surrogate pair") from error
    spool.write(len(data).to_bytes(8, "big"))
    spool.write(data)


def _read_spool(spool: IO[bytes]) -> Iterator[_Page]:
    while size := int.from_bytes(spool.read(8), "big"):
        yield _PAGE_DECODER.decode(spool.read(size))


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Tell a full disk from other trouble with the temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull(f"temporary files: {error.strerror}") from error
        raise
