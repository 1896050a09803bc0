"""Results leave as files that other programs read back to the letter."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from nightmill.completions import export as module
from nightmill.completions.export import COLUMNS, export
from nightmill.errors import InvalidInput, NotConfigured
from nightmill.storage.results import Result, ResultError

TEXT = 'line one\nline "two", é \u2028 =1+1'
USAGE = {"input": 3, "output": 2, "cached": 0, "reasoning": 0}
RESULTS = [
    Result("a", "completed", TEXT, output={"n": [1, None]}, usage=USAGE, cost="0.000000000001", attempts=1),
    Result("b", "failed", error=ResultError("provider_error", "too busy", 429, True, "rate_limit", "busy"), attempts=2),
    Result("c", "pending"),
]


def test_json_lines_hold_every_result_whole(tmp_path: Path) -> None:
    target = tmp_path / "results.jsonl"
    assert export(RESULTS, "jsonl", target) == 3
    rows = [json.loads(line) for line in target.read_bytes().split(b"\n")[:-1]]
    assert rows[0]["text"] == TEXT
    assert rows[1]["error"] == {
        "code": "provider_error",
        "message": "too busy",
        "http_status": 429,
        "retryable": True,
        "provider_type": "rate_limit",
        "provider_code": "busy",
    }
    assert (rows[2]["status"], rows[2]["error"]) == ("pending", None)


def test_csv_keeps_line_ends_and_quotes_inside_texts() -> None:
    stream = io.BytesIO()
    assert export(RESULTS, "csv", stream) == 3
    assert not stream.closed
    rows = list(csv.DictReader(io.StringIO(stream.getvalue().decode(), newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert (rows[0]["text"], rows[0]["output"], rows[0]["cost"]) == (TEXT, '{"n":[1,null]}', "0.000000000001")
    assert (rows[1]["error_code"], rows[1]["attempts"], rows[1]["text"]) == ("provider_error", "2", "")


def test_parquet_has_types_and_one_row_group_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP_ROWS", 2)
    target = tmp_path / "results.parquet"
    assert export(iter(RESULTS), "parquet", target) == 3
    assert pq.ParquetFile(target).num_row_groups == 2
    rows = pq.read_table(target).to_pylist()
    assert rows[0]["text"] == TEXT
    assert rows[0]["cost"] == Decimal("0.000000000001")
    assert (rows[0]["input_tokens"], rows[1]["error_retryable"], rows[2]["error_code"]) == (3, True, None)


def test_no_results_make_an_empty_file_of_the_right_kind(tmp_path: Path) -> None:
    assert export([], "parquet", tmp_path / "empty.parquet") == 0
    assert pq.read_table(tmp_path / "empty.parquet").num_rows == 0
    assert export([], "csv", tmp_path / "empty.csv") == 0
    assert (tmp_path / "empty.csv").read_text().startswith("custom_id,")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_failed_export_leaves_what_was_there(tmp_path: Path, kind: Any) -> None:
    def failing() -> Iterator[Result]:
        yield RESULTS[0]
        raise KeyError("database away")

    target = tmp_path / "results"
    target.write_text("before")
    with pytest.raises(KeyError):
        export(failing(), kind, target)
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(InvalidInput, match="use jsonl, csv, parquet"):
        export(RESULTS, "xml", io.BytesIO())  # type: ignore[arg-type]


def test_parquet_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(NotConfigured, match=r"nightmill\[parquet\]"):
        export(RESULTS, "parquet", io.BytesIO())
