"""What became of a batch, read from its rows: summary, progress, and every result in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import orjson
from sqlalchemy import text
from sqlmodel import select

from nightmill.contracts import BatchSummary, Counts, Tokens
from nightmill.errors import BatchDeleted, BatchNotFound
from nightmill.storage.models import BatchRow

if TYPE_CHECKING:
    from sqlalchemy import Row
    from sqlmodel import Session

    from nightmill.storage.engine import Database

PAGE_BYTES = 8 * 1024 * 1024
"""How much text a page of results aims at."""

_FIRST_PAGE = 100

# What became of a completion is its outcome of the highest round. Before there is a second round that is any outcome.
_LAST = (
    "(:round = 0 OR NOT EXISTS (SELECT 1 FROM outcomes later WHERE later.batch_key = o.batch_key"
    " AND later.seq = o.seq AND later.round > o.round))"
)
_BY_CODE = text(
    "SELECT o.ok, o.error_code, count(*) AS number FROM outcomes o"  # noqa: S608
    f" WHERE o.batch_key = :batch AND {_LAST} GROUP BY o.ok, o.error_code"
)
_PROGRESS = text(
    f"SELECT o.ok, count(*) AS number FROM outcomes o WHERE o.batch_key = :batch AND {_LAST} GROUP BY o.ok"  # noqa: S608
)
_SUMS = text(
    "SELECT count(*) AS attempts, sum(input_tokens) AS input, sum(output_tokens) AS output,"
    " sum(cached_tokens) AS cached, sum(reasoning_tokens) AS reasoning, sum(cost_picodollars) AS cost,"
    " sum(CASE WHEN cost_picodollars IS NULL AND (ok OR input_tokens IS NOT NULL) THEN 1 ELSE 0 END) AS unknown"
    " FROM outcomes WHERE batch_key = :batch"
)
_REQUESTS = text(
    "SELECT seq, custom_id FROM completions WHERE batch_key = :batch AND seq > :after ORDER BY seq LIMIT :rows"
)
# A query of its own, not a join: without fresh statistics PostgreSQL would read the whole table for each page.
_ATTEMPTS = text(
    "SELECT seq, ok, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_picodollars, error_code,"
    " error_type, error_provider_code, error_message, error_http_status, error_retryable, text, output, tool_calls"
    " FROM outcomes WHERE batch_key = :batch AND seq BETWEEN :first AND :last ORDER BY seq, round"
)


@dataclass(frozen=True, slots=True)
class ResultError:
    """Why a completion failed: `code` is an `ErrorCode`, the others are the provider's."""

    code: str
    message: str
    http_status: int | None = None
    retryable: bool = False
    provider_type: str | None = None
    provider_code: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one completion.

    Attributes:
        custom_id: The user's id.
        status: `pending` while there is no outcome.
        text: The answer's text; also kept where it violates the schema.
        output: The answer read as JSON, where a schema was given; embeddings.
        tool_calls: The answer's tool calls.
        usage: Tokens of the last attempt: `input`, `output`, `cached`, `reasoning`; empty where not known.
        cost: US dollars of the last attempt as a decimal string, None where not known.
        error: Set when it failed.
        attempts: How often it was answered or failed.
    """

    custom_id: str
    status: Literal["pending", "completed", "failed"]
    text: str | None = None
    output: Any = None
    tool_calls: Any = None
    usage: dict[str, int] = field(default_factory=dict)
    cost: str | None = None
    error: ResultError | None = None
    attempts: int = 0

    def to_json(self) -> bytes:
        """Return the result as one line of JSON, without line end."""
        return orjson.dumps(self)


def summarize(db: Database, batch_id: str) -> BatchSummary:
    """See `OutcomeRepository.summarize`."""
    with db.reading() as session:
        batch = _batch(session, batch_id)
        if batch.deleted_at is not None:
            return BatchSummary.model_validate(batch.summary)
        values = {"batch": batch.key, "round": batch.round}
        by_code = session.connection().execute(_BY_CODE, values).fetchall()
        sums = session.connection().execute(_SUMS, values).one()
    completed = sum(row.number for row in by_code if row.ok)
    failed = {str(row.error_code): int(row.number) for row in by_code if not row.ok}
    over = batch.status.is_terminal
    return BatchSummary(
        batch_id=batch.id,
        status=batch.status,
        reason=batch.reason,
        total=batch.requests,
        completed=completed,
        failed=sum(failed.values()),
        failed_by_code=dict(sorted(failed.items())),
        tokens=Tokens(
            input=sums.input or 0, output=sums.output or 0, cached=sums.cached or 0, reasoning=sums.reasoning or 0
        ),
        cost=None if sums.cost is None else Decimal(dollars(int(sums.cost))),
        cost_complete=sums.attempts > 0 and not sums.unknown,
        all_failed=over and batch.requests > 0 and completed == 0,
        partial=over and 0 < completed < batch.requests,
        metadata=batch.user_metadata,
    )


def progress(db: Database, batch_id: str) -> Counts:
    """See `OutcomeRepository.progress`."""
    with db.reading() as session:
        batch = _batch(session, batch_id)
        if batch.deleted_at is not None:
            kept = BatchSummary.model_validate(batch.summary)
            return Counts(
                total=kept.total,
                succeeded=kept.completed,
                failed=kept.failed,
                pending=kept.total - kept.completed - kept.failed,
            )
        rows = session.connection().execute(_PROGRESS, {"batch": batch.key, "round": batch.round})
        counted = {bool(row.ok): int(row.number) for row in rows}
    succeeded, failed = counted.get(True, 0), counted.get(False, 0)
    return Counts(
        total=batch.requests, succeeded=succeeded, failed=failed, pending=max(0, batch.requests - succeeded - failed)
    )


def read_results(db: Database, batch_id: str, *, page: int) -> Iterator[Result]:
    """See `OutcomeRepository.results`."""
    with db.reading() as session:
        batch = _batch(session, batch_id)
        insist_on_rows(session, batch_id)
    return _read(db, batch_id, {"batch": batch.key, "after": -1}, page)


def insist_on_rows(session: Session, batch_id: str) -> None:
    """Return if the batch has all its requests and outcomes; asked after they were read, they were all there.

    Raises:
        BatchDeleted: It was deleted.
    """
    deleted_at = session.exec(select(BatchRow.deleted_at).where(BatchRow.id == batch_id)).first()
    if deleted_at is not None:
        raise BatchDeleted(f"batch {batch_id} was deleted on {deleted_at:%Y-%m-%d}: its requests and results are gone")


def _read(db: Database, batch_id: str, values: dict[str, Any], page: int) -> Iterator[Result]:
    size = min(page, _FIRST_PAGE)
    while True:
        with db.reading() as session:
            connection = session.connection()
            requests = connection.execute(_REQUESTS, values | {"rows": size}).fetchall()
            if not requests:
                insist_on_rows(session, batch_id)  # deleted meanwhile: the end came too early
                return
            ends = {"first": requests[0].seq, "last": requests[-1].seq}
            rows = connection.execute(_ATTEMPTS, values | ends).fetchall()
        attempts: dict[int, list[Row[Any]]] = {}
        for row in rows:
            attempts.setdefault(row.seq, []).append(row)
        for request in requests:
            yield _result(request.custom_id, attempts.get(request.seq, []))
        values["after"] = requests[-1].seq
        weight = sum(len(row.text or "") + len(row.output or "") + len(row.tool_calls or "") + 500 for row in rows)
        size = max(1, min(page, 4 * size, size * PAGE_BYTES // max(1, weight)))


def _result(custom_id: str, attempts: list[Row[Any]]) -> Result:
    if not attempts:
        return Result(custom_id, "pending")
    row = attempts[-1]
    usage: dict[str, int] = {}
    if row.input_tokens is not None:
        usage = {
            "input": row.input_tokens,
            "output": row.output_tokens or 0,
            "cached": row.cached_tokens or 0,
            "reasoning": row.reasoning_tokens or 0,
        }
    error = None
    if not row.ok:
        error = ResultError(
            code=row.error_code,
            message=row.error_message or "",
            http_status=row.error_http_status,
            retryable=bool(row.error_retryable),
            provider_type=row.error_type,
            provider_code=row.error_provider_code,
        )
    return Result(
        custom_id=custom_id,
        status="completed" if row.ok else "failed",
        text=row.text,
        output=_json(row.output),
        tool_calls=_json(row.tool_calls),
        usage=usage,
        cost=None if row.cost_picodollars is None else dollars(row.cost_picodollars),
        error=error,
        attempts=len(attempts),
    )


def dollars(picodollars: int) -> str:
    """Return an amount as a plain decimal: 120_000_000_000 is `0.12`."""
    whole, rest = divmod(abs(picodollars), 10**12)
    fraction = f"{rest:012d}".rstrip("0")
    return ("-" if picodollars < 0 else "") + (f"{whole}.{fraction}" if fraction else str(whole))


def _json(stored: str | None) -> Any:
    return None if stored is None else msgspec.json.decode(stored)


def _batch(session: Session, batch_id: str) -> BatchRow:
    row = session.exec(select(BatchRow).where(BatchRow.id == batch_id)).first()
    if row is None:
        raise BatchNotFound(f"no batch {batch_id!r}: `nightmill batch list` shows those there are")
    return row
