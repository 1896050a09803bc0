"""Writes results to a file, one at a time, for other programs: JSON lines, CSV or Parquet."""

from __future__ import annotations

import csv
import io
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import orjson

from nightmill.errors import InvalidInput, NotConfigured

if TYPE_CHECKING:
    from nightmill.storage.results import Result

Format = Literal["jsonl", "csv", "parquet"]

ROW_GROUP_ROWS = 10_000
ROW_GROUP_BYTES = 16 * 1024 * 1024
"""A row group ends at whichever comes first; one is held in memory."""

COLUMNS = (
    "custom_id",
    "status",
    "text",
    "output",
    "tool_calls",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost",
    "error_code",
    "error_message",
    "error_http_status",
    "error_retryable",
    "error_provider_type",
    "error_provider_code",
    "attempts",
)
"""Columns of CSV and Parquet; `output` and `tool_calls` hold JSON, `cost` US dollars."""


def export(results: Iterable[Result], format: Format, target: Path | IO[bytes]) -> int:  # noqa: A002 - the user's word
    """Write results and return how many there were. Memory is flat in their number.

    Args:
        results: What to write.
        format: `jsonl`: as `Result.to_json`; `csv`: UTF-8 with a header; `parquet`: zstd, decimals for costs.
        target: A file's path, which appears when all is written and replaces what was there; or an open binary stream.

    Raises:
        InvalidInput: There is no such format.
        NotConfigured: Parquet needs the extra `nightmill[parquet]`, which is not installed.
    """
    writers: dict[str, Callable[[Iterable[Result], IO[bytes]], int]] = {
        "jsonl": _write_jsonl,
        "csv": _write_csv,
        "parquet": _write_parquet,
    }
    write = writers.get(format)
    if write is None:
        raise InvalidInput(f"format {format!r}: use {', '.join(writers)}")
    if not isinstance(target, Path):
        return write(results, target)
    with _replacing(target) as stream:
        return write(results, stream)


def _write_jsonl(results: Iterable[Result], stream: IO[bytes]) -> int:
    count = 0
    for result in results:
        stream.write(result.to_json() + b"\n")
        count += 1
    return count


def _write_csv(results: Iterable[Result], stream: IO[bytes]) -> int:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        count = 0
        for result in results:
            writer.writerow(_row(result))
            count += 1
    finally:
        text.detach()  # closing the wrapper would close the caller's stream
    return count


def _write_parquet(results: Iterable[Result], stream: IO[bytes]) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise NotConfigured("Parquet needs an extra: pip install 'nightmill[parquet]'") from None
    number, amount, flag = pa.int64(), pa.decimal128(38, 12), pa.bool_()
    types = {
        "cost": amount, "error_retryable": flag, "error_http_status": number, "attempts": number,
        "input_tokens": number, "output_tokens": number, "cached_tokens": number, "reasoning_tokens": number,
    }  # fmt: skip
    schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
    count = 0
    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for group in _groups(results):
            columns = [list(column) for column in zip(*group, strict=True)]
            cost = COLUMNS.index("cost")
            columns[cost] = [None if value is None else Decimal(value) for value in columns[cost]]
            writer.write_table(pa.Table.from_pydict(dict(zip(COLUMNS, columns, strict=True)), schema=schema))
            count += len(group)
    return count


def _groups(results: Iterable[Result]) -> Iterator[list[tuple[Any, ...]]]:
    group: list[tuple[Any, ...]] = []
    size = 0
    for result in results:
        row = _row(result)
        group.append(row)
        size += sum(len(value) for value in row if isinstance(value, str))
        if len(group) >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _row(result: Result) -> tuple[Any, ...]:
    usage, error = result.usage, result.error
    return (
        result.custom_id,
        result.status,
        result.text,
        _json(result.output),
        _json(result.tool_calls),
        usage.get("input"),
        usage.get("output"),
        usage.get("cached"),
        usage.get("reasoning"),
        result.cost,
        error and error.code,
        error and error.message,
        error and error.http_status,
        error and error.retryable,
        error and error.provider_type,
        error and error.provider_code,
        result.attempts,
    )


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


@contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    """Open a file beside the target that takes its place at the end, or is deleted if there is an error."""
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    with beside.open("xb") as stream:
        try:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            beside.replace(target)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
