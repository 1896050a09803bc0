"""The outcomes of completions: appended a page at a time, together with how far into the results the page reaches.

Position and rows are one transaction, so that whoever goes on after a crash starts where the rows end. Each writer
holds the provider batch's row locked and gives the position it knows: of two, the slower one is told (`Moved`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from nightmill.contracts import BatchSummary, Counts, ErrorCode
from nightmill.errors import BatchConflict, BatchNotFound
from nightmill.storage import fence, results
from nightmill.storage.engine import means_later
from nightmill.storage.models import ProviderBatchRow
from nightmill.storage.requests import BELONGS, among, bounds, listed

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlmodel import Session

    from nightmill.storage.engine import Database


@dataclass(frozen=True)
class Position:
    """How far a source of results has been applied.

    Attributes:
        bytes: Offset after the last line applied.
        lines: Lines up to there, empty ones included.
        done: Whether that is the end.
        skipped: Entries up to there that changed nothing: unknown, or without an id.
    """

    bytes: int = 0
    lines: int = 0
    done: bool = False
    skipped: int = 0


class Known(NamedTuple):
    """What is known of a request that a result answers.

    Attributes:
        seq: Its position in the batch.
        schema: JSON schema of its answer, as text.
        answered: Whether it has an outcome of this round already.
    """

    seq: int
    schema: str | None
    answered: bool


class NewOutcome(NamedTuple):
    """An outcome to append; see `nightmill.storage.models.OutcomeRow`. A tuple, because there are 100,000 of them."""

    batch_key: int
    seq: int
    round: int
    ok: bool
    finish_reason: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_picodollars: int | None = None
    error_code: str | None = None
    error_type: str | None = None
    error_provider_code: str | None = None
    error_message: str | None = None
    error_http_status: int | None = None
    error_retryable: bool | None = None
    text: str | None = None
    output: str | None = None
    tool_calls: str | None = None
    raw: str | None = None

    def says_the_same(self, other: NewOutcome | None) -> bool:
        """Whether two results of one request agree in what they answer."""
        return other is not None and (
            (bool(other.ok), other.error_code, other.text, other.output, other.tool_calls)
            == (self.ok, self.error_code, self.text, self.output, self.tool_calls)
        )


class Moved(Exception):
    """The position in the database is not the one that the caller knows."""


_COLUMNS = ", ".join(NewOutcome._fields)
_POSTGRES_TYPES = (
    "int8", "int4", "int4", "bool", "text", "text", "int4", "int4", "int4", "int4", "int8", "text", "text", "text",
    "text", "int4", "bool", "text", "text", "text", "text",
)  # fmt: skip
_COPY = f"COPY outcomes ({_COLUMNS}) FROM STDIN (FORMAT BINARY)"
_INSERT = {
    dialect: f"INSERT INTO outcomes ({_COLUMNS}) VALUES ({', '.join([mark] * len(NewOutcome._fields))})"  # noqa: S608
    " ON CONFLICT (batch_key, seq, round) DO NOTHING"
    for dialect, mark in (("sqlite", "?"), ("postgresql", "%s"))
}
# Two plain look-ups, not a join: without fresh statistics the planners would read whole tables for each page.
_REQUESTS = {
    "sqlite": text(
        "SELECT wire_id, seq, response_schema FROM completions"  # noqa: S608
        f" WHERE batch_key = :batch AND wire_id {among('ids')['sqlite']}"
    ),
    # OFFSET 0 makes it look up one id after another; otherwise it would go through the whole batch for each page.
    "postgresql": text(
        "SELECT w.id, c.seq, c.response_schema FROM unnest(CAST(:ids AS text[])) AS w(id) CROSS JOIN LATERAL"
        " (SELECT seq, response_schema FROM completions WHERE batch_key = :batch AND wire_id = w.id OFFSET 0) AS c"
    ),
}
_ATTEMPTS = {
    dialect: text(
        "SELECT seq, round, NOT ok AND error_retryable AS sent_again FROM outcomes"  # noqa: S608
        f" WHERE batch_key = :batch AND seq {seqs} AND round BETWEEN :prior AND :prior + 1"
    )
    for dialect, seqs in among("seqs").items()
}
_STORED = {
    dialect: text(f"SELECT {_COLUMNS} FROM outcomes WHERE batch_key = :batch AND round = :round AND seq {seqs}")  # noqa: S608
    for dialect, seqs in among("seqs").items()
}
_FILL = text(
    "INSERT INTO outcomes (batch_key, seq, round, ok, error_code, error_message, error_retryable)"  # noqa: S608
    " SELECT c.batch_key, c.seq, :prior + 1, :ok, :code, :message, :retryable FROM completions c"
    f" WHERE {BELONGS} AND NOT EXISTS (SELECT 1 FROM outcomes d WHERE d.batch_key = c.batch_key AND d.seq = c.seq"
    " AND d.round = :prior + 1) ON CONFLICT (batch_key, seq, round) DO NOTHING"
)
_ANSWERED = text(
    "SELECT count(*) FROM outcomes WHERE batch_key = :batch AND seq BETWEEN :first AND :last AND round = :prior + 1"
    " AND (error_code IS NULL OR error_code NOT IN ('canceled', 'expired'))"
)


class OutcomeRepository:
    """Appends outcomes and tells what became of a batch. Any thread may use it."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def lookup(self, part: ProviderBatchRow, wire_ids: Sequence[str]) -> dict[str, Known]:
        """Return those of the wire ids that belong to the provider batch, and what is known of them."""
        dialect = self._db.dialect
        values = {"batch": part.batch_key, "prior": part.round - 1}
        with self._db.reading() as session:
            connection = session.connection()
            if dialect == "postgresql":
                # Statistics lag behind a table that is just being filled: taken for small, it would be read whole.
                connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            query = values | {"ids": listed(dialect, wire_ids)}
            found = connection.execute(_REQUESTS[dialect], query).fetchall()
            first, last, now = part.first, part.last, part.round
            requests = [(wire_id, seq, schema) for wire_id, seq, schema in found if first <= seq <= last]
            query = values | {"seqs": listed(dialect, [seq for _, seq, _ in requests])}
            attempts = connection.execute(_ATTEMPTS[dialect], query).fetchall()
        answered = {seq for seq, round_, _ in attempts if round_ == now}
        if now:
            sent_again = {seq for seq, round_, again in attempts if round_ < now and again}
            requests = [request for request in requests if request[1] in sent_again]
        return {wire_id: Known(seq, schema, seq in answered) for wire_id, seq, schema in requests}

    def stored(self, part: ProviderBatchRow, seqs: Sequence[int]) -> dict[int, NewOutcome]:
        """Return the outcomes that these requests have in the provider batch's round, by `seq`."""
        dialect = self._db.dialect
        values = {"batch": part.batch_key, "round": part.round, "seqs": listed(dialect, seqs)}
        with self._db.reading() as session:
            found = (NewOutcome(*row) for row in session.connection().execute(_STORED[dialect], values))
            return {outcome.seq: outcome for outcome in found}

    def position(self, part_key: int, source: str) -> Position:
        """Return how far a source has been applied.

        Raises:
            BatchNotFound: There is no such provider batch.
        """
        with self._db.reading() as session:
            part = session.get(ProviderBatchRow, part_key)
            if part is None:
                raise BatchNotFound(f"provider batch {part_key} is gone")
            return _position(part, source)

    def append(
        self,
        part_key: int,
        source: str,
        rows: Sequence[NewOutcome],
        *,
        known: Position,
        reached: Position,
        instead: Callable[[NewOutcome], NewOutcome],
        before_commit: Callable[[], None] = lambda: None,
    ) -> int:
        """Append a page of outcomes and the position that it reaches, in one transaction; return how many were new.

        An outcome that a request has in this round already is kept: the first one wins.

        Args:
            part_key: The provider batch.
            source: Name of the source of results.
            rows: The outcomes.
            known: The position that the caller started from.
            reached: The position after this page.
            instead: Returns what to store in place of an outcome that the database does not take.
            before_commit: Called when everything is written.

        Raises:
            Moved: Another worker has gone on meanwhile.
            RunSuperseded: Another run goes on in this one's place.
            BatchNotFound: There is no such provider batch.
            BatchConflict: The provider batch is settled.
            StorageUnavailable: The database is away; nothing was kept.
        """
        try:
            return self._append(part_key, source, rows, known, reached, before_commit, self._insert)
        except (DBAPIError, psycopg.Error, UnicodeError, OverflowError, ValueError):
            # A row is poison, or (PostgreSQL, which copies) has an outcome already: part it from the others.
            def insert(connection: Connection, rows: Sequence[NewOutcome]) -> int:
                return self._insert_bisecting(connection, rows, instead)

            return self._append(part_key, source, rows, known, reached, before_commit, insert)

    def _append(
        self,
        part_key: int,
        source: str,
        rows: Sequence[NewOutcome],
        known: Position,
        reached: Position,
        before_commit: Callable[[], None],
        insert: Callable[[Connection, Sequence[NewOutcome]], int],
    ) -> int:
        with self._db.transaction() as session:
            part = _locked(session, part_key)
            if _position(part, source) != known:
                raise Moved
            part.fetched = {**part.fetched, source: asdict(reached)}
            session.add(part)
            session.flush()
            new = insert(session.connection(), rows) if rows else 0
            before_commit()
        return new

    def restart(self, part_key: int, source: str) -> None:
        """Forget how far a source was applied: its file was fetched anew."""
        with self._db.transaction() as session:
            part = _locked(session, part_key)
            part.fetched = {**part.fetched, source: asdict(Position())}
            session.add(part)

    def fetch_again(self, part_key: int) -> int:
        """Forget how far every source was applied, because results are missing; return how often that was so."""
        with self._db.transaction() as session:
            part = _locked(session, part_key)
            part.fetched = {}
            part.fetches += 1
            session.add(part)
            return part.fetches

    def found(self, part: ProviderBatchRow) -> int:
        """Return how many entries of the provider batch's round were found that count as succeeded or failed there.

        Entries of canceled and expired requests are none of those; entries that nobody could be told of are.
        """
        assert part.key is not None  # noqa: S101 - a loaded row has its key
        with self._db.reading() as session:
            answered = int(session.connection().execute(_ANSWERED, bounds(part)).scalar_one())
            fresh = session.get(ProviderBatchRow, part.key)
            if fresh is None:
                return answered
            return answered + sum(_position(fresh, source).skipped for source in fresh.fetched)

    def fill_missing(self, part_key: int, *, code: ErrorCode, message: str, retryable: bool) -> int:
        """Fail every request of a provider batch that has no outcome in its round; return how many there were.

        Doing it again changes nothing.

        Raises:
            BatchNotFound: There is no such provider batch.
            StorageUnavailable: The database is away; nothing was kept.
        """
        values = {"ok": False, "code": str(code), "message": message.replace("\0", ""), "retryable": retryable}
        with self._db.transaction() as session:
            part = session.get(ProviderBatchRow, part_key, with_for_update=True)
            if part is None:
                raise BatchNotFound(f"provider batch {part_key} is gone")
            fence.check(session)
            filled = session.connection().execute(_FILL, bounds(part) | values)
            return max(0, filled.rowcount)

    def summarize(self, batch_id: str) -> BatchSummary:
        """Return what became of a batch, or how it stands, by counting its rows.

        Raises:
            BatchNotFound: There is no such batch.
        """
        return results.summarize(self._db, batch_id)

    def progress(self, batch_id: str) -> Counts:
        """Return how many completions have an answer, failed and are pending; cheaper than `summarize`.

        Raises:
            BatchNotFound: There is no such batch.
        """
        return results.progress(self._db, batch_id)

    def results(self, batch_id: str, *, page: int = 1_000) -> Iterator[results.Result]:
        """Yield the result of every completion in the order of the requests; see `nightmill.storage.results.Result`.

        Reads at most `page` rows at a time, fewer where they are large. May be used while the batch runs: each page
        shows its own moment.

        Raises:
            BatchNotFound: There is no such batch.
            BatchDeleted: It was deleted, perhaps while it was read.
        """
        return results.read_results(self._db, batch_id, page=page)

    def _insert(self, connection: Connection, rows: Sequence[NewOutcome]) -> int:
        """Insert the rows in the quickest way, below the ORM, or raise."""
        if self._db.dialect == "sqlite":
            return connection.exec_driver_sql(_INSERT["sqlite"], list(rows)).rowcount
        driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
        with driver.cursor() as cursor:
            with cursor.copy(_COPY) as copy:
                copy.set_types(_POSTGRES_TYPES)
                for row in rows:
                    copy.write_row(row)
            return cursor.rowcount

    def _insert_bisecting(
        self, connection: Connection, rows: Sequence[NewOutcome], instead: Callable[[NewOutcome], NewOutcome]
    ) -> int:
        """Insert the rows by halves, until those that cannot be inserted stand alone and are replaced."""
        try:
            with connection.begin_nested():
                done = connection.exec_driver_sql(_INSERT[self._db.dialect], list(rows))
                return max(0, done.rowcount)
        except (DBAPIError, UnicodeError, OverflowError, ValueError) as error:
            if means_later(error):
                raise
        if len(rows) == 1:
            replaced = connection.exec_driver_sql(_INSERT[self._db.dialect], instead(rows[0]))
            return max(0, replaced.rowcount)
        half = len(rows) // 2
        return sum(self._insert_bisecting(connection, part, instead) for part in (rows[:half], rows[half:]))


def _locked(session: Session, part_key: int) -> ProviderBatchRow:
    """Return the provider batch's row, kept from other writers until the transaction ends."""
    part = session.get(ProviderBatchRow, part_key, with_for_update=True)
    if part is None:
        raise BatchNotFound(f"provider batch {part_key} is gone")
    fence.check(session)
    if part.settled_at is not None:
        raise BatchConflict(f"provider batch {part_key} is settled: no result can be added")
    return part


def _position(part: ProviderBatchRow, source: str) -> Position:
    stored: dict[str, Any] = part.fetched.get(source, {})
    return Position(**{name: stored[name] for name in ("bytes", "lines", "done", "skipped") if name in stored})
