"""Outcomes are appended once, with the position they reach, and every count is a count of rows."""

from __future__ import annotations

import json
import threading
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from nightmill.contracts import BatchStatus, Counts, ErrorCode
from nightmill.errors import BatchConflict, BatchNotFound
from nightmill.storage.engine import Database
from nightmill.storage.outcomes import Moved, NewOutcome, OutcomeRepository, Position
from nightmill.storage.results import dollars

START = Position()


def answer(batch_key: int, seq: int, round_: int = 0, **columns: Any) -> NewOutcome:
    return NewOutcome(batch_key, seq, round_, **{"ok": True, "text": f"answer {seq}"} | columns)


def failure(batch_key: int, seq: int, round_: int = 0, **columns: Any) -> NewOutcome:
    given = {"ok": False, "error_code": "provider_error", "error_message": "busy", "error_retryable": True}
    return NewOutcome(batch_key, seq, round_, **given | columns)


def append(db: Database, part: Any, *rows: NewOutcome, known: Position = START, to: int = 100, **options: Any) -> int:
    reached = Position(bytes=to, lines=len(rows))
    given = {"known": known, "reached": reached, "instead": lambda row: row._replace(ok=False, text=None, raw="poison")}
    return OutcomeRepository(db).append(part.key, "output", rows, **given | options)


def finish(db: Database, status: BatchStatus, round_: int = 0) -> None:
    with db.transaction() as session:
        query = text("UPDATE batches SET status = :status, round = :round")
        session.connection().execute(query, {"status": status.value, "round": round_})


def test_rows_and_position_are_kept_together_or_not_at_all(database: Database, store_part: Any) -> None:
    batch, part = store_part(database, "a", "b")
    outcomes = OutcomeRepository(database)

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        append(database, part, answer(batch.key, 0), before_commit=die)
    assert outcomes.position(part.key, "output") == START
    assert outcomes.progress("b1") == Counts(total=2, succeeded=0, failed=0, pending=2)
    assert append(database, part, answer(batch.key, 0)) == 1
    assert outcomes.position(part.key, "output") == Position(bytes=100, lines=1)
    assert outcomes.position(part.key, "errors") == START


def test_of_two_writers_the_slower_one_is_told(database: Database, store_part: Any) -> None:
    batch, part = store_part(database, "a", "b")
    append(database, part, answer(batch.key, 0))
    with pytest.raises(Moved):
        append(database, part, answer(batch.key, 1), known=START)
    assert OutcomeRepository(database).progress("b1").succeeded == 1


def test_two_writers_at_the_same_moment_write_once(database: Database, store_part: Any) -> None:
    batch, part = store_part(database, "a")
    barrier = threading.Barrier(2)
    results: list[object] = []

    def write() -> None:
        barrier.wait()
        try:
            results.append(append(database, part, answer(batch.key, 0)))
        except Moved:
            results.append(Moved)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=str) == [1, Moved]


def test_the_first_outcome_of_a_round_stays(database: Database, store_part: Any) -> None:
    batch, part = store_part(database, "a", "b")
    append(database, part, answer(batch.key, 0, text="first"))
    new = append(
        database,
        part,
        answer(batch.key, 0, text="second"),
        answer(batch.key, 1),
        known=Position(bytes=100, lines=1),
    )
    assert new == 1
    assert [result.text for result in OutcomeRepository(database).results("b1")] == ["first", "answer 1"]


@pytest.mark.parametrize("poison", [{"text": "half a pair \ud800"}, {"cost_picodollars": 2**70}])
def test_one_row_that_cannot_be_stored_fails_alone(database: Database, store_part: Any, poison: dict[str, Any]) -> None:
    batch, part = store_part(database, *(f"r-{n}" for n in range(40)))
    rows = [answer(batch.key, seq) for seq in range(40)]
    rows[17] = rows[17]._replace(**poison)

    def instead(row: NewOutcome) -> NewOutcome:
        return failure(batch.key, row.seq, error_code="malformed_entry", raw="poison")

    assert append(database, part, *rows, instead=instead) == 40
    results = list(OutcomeRepository(database).results("b1"))
    assert [n for n, result in enumerate(results) if result.status == "failed"] == [17]


def test_no_outcome_is_added_to_a_settled_part(database: Database, store_part: Any) -> None:
    batch, part = store_part(database, "a")
    with database.transaction() as session:
        session.connection().execute(text("UPDATE provider_batches SET settled_at = '2026-01-01 00:00:00+00:00'"))
    with pytest.raises(BatchConflict):
        append(database, part, answer(batch.key, 0))


def test_missing_results_are_filled_in_once(database: Database, store_part: Any) -> None:
    batch, part = store_part(database, "a", "b", "c")
    outcomes = OutcomeRepository(database)
    append(database, part, answer(batch.key, 1))
    fill = {"code": ErrorCode.ENTRY_MISSING, "message": "no result", "retryable": True}
    assert outcomes.fill_missing(part.key, **fill) == 2
    assert outcomes.fill_missing(part.key, **fill) == 0
    results = list(outcomes.results("b1"))
    assert [result.status for result in results] == ["failed", "completed", "failed"]
    assert results[0].error is not None
    assert (results[0].error.code, results[0].error.retryable) == ("entry_missing", True)
    with pytest.raises(BatchNotFound):
        outcomes.fill_missing(999, **fill)


def test_a_summary_counts_the_last_round_and_pays_for_all(database: Database, build: Any, store_part: Any) -> None:
    batch, part = store_part(database, "a", "b", "c", "d", user_metadata={})
    used = {"input_tokens": 10, "output_tokens": 5, "cached_tokens": 2, "reasoning_tokens": 1}
    append(
        database,
        part,
        answer(batch.key, 0, **used, cost_picodollars=120_000_000_000),
        failure(batch.key, 1, error_code="invalid_output", **used, cost_picodollars=1),
        failure(batch.key, 2, error_code="expired"),
        failure(batch.key, 3),
    )
    second = build.part(database, batch, 1, 3, round=1, requests=3)
    append(database, second, answer(batch.key, 1, 1, **used, cost_picodollars=3), failure(batch.key, 2, 1))
    finish(database, BatchStatus.ENDED, round_=1)
    outcomes = OutcomeRepository(database)
    summary = outcomes.summarize("b1")
    assert (summary.total, summary.completed, summary.failed) == (4, 2, 2)
    assert summary.failed_by_code == {"provider_error": 2}
    assert summary.tokens.model_dump() == {"input": 30, "output": 15, "cached": 6, "reasoning": 3}
    assert summary.cost == Decimal("0.120000000004")
    assert json.loads(summary.model_dump_json())["cost"] == "0.120000000004"
    assert (summary.cost_complete, summary.partial, summary.all_failed) == (True, True, False)
    assert outcomes.progress("b1") == Counts(total=4, succeeded=2, failed=2, pending=0)
    results = list(outcomes.results("b1"))
    assert [result.attempts for result in results] == [1, 2, 2, 1]
    assert [result.status for result in results] == ["completed", "completed", "failed", "failed"]


def test_a_cost_is_unknown_rather_than_zero(database: Database, store_part: Any) -> None:
    batch, part = store_part(database, "a", "b")
    append(database, part, answer(batch.key, 0, input_tokens=3, output_tokens=1), failure(batch.key, 1))
    finish(database, BatchStatus.ENDED)
    summary = OutcomeRepository(database).summarize("b1")
    assert (summary.cost, summary.cost_complete) == (None, False)


def test_an_ended_batch_without_one_answer_is_told_at_a_glance(database: Database, store_part: Any) -> None:
    batch, part = store_part(database, "a", "b")
    outcomes = OutcomeRepository(database)
    assert outcomes.summarize("b1").all_failed is False  # it is still running
    append(database, part, failure(batch.key, 0), failure(batch.key, 1))
    finish(database, BatchStatus.ENDED)
    summary = outcomes.summarize("b1")
    assert (summary.all_failed, summary.partial, summary.completed, summary.failed) == (True, False, 0, 2)


def test_results_come_in_order_also_while_the_batch_runs(database: Database, store_part: Any) -> None:
    batch, part = store_part(database, *(f"r-{n}" for n in range(250)))
    append(
        database,
        part,
        answer(
            batch.key, 249, output='{"a": 1}', tool_calls='[{"name": "f"}]', cost_picodollars=10**12, input_tokens=1
        ),
        answer(batch.key, 7),
    )
    results = list(OutcomeRepository(database).results("b1", page=100))
    assert [result.custom_id for result in results] == [f"r-{n}" for n in range(250)]
    assert [n for n, result in enumerate(results) if result.status != "pending"] == [7, 249]
    assert json.loads(results[249].to_json()) == {
        "custom_id": "r-249",
        "status": "completed",
        "text": "answer 249",
        "output": {"a": 1},
        "tool_calls": [{"name": "f"}],
        "usage": {"input": 1, "output": 0, "cached": 0, "reasoning": 0},
        "cost": "1",
        "error": None,
        "attempts": 1,
    }
    assert json.loads(results[0].to_json())["status"] == "pending"


def test_an_unknown_batch_is_refused_before_the_first_result(database: Database) -> None:
    outcomes = OutcomeRepository(database)
    for call in (outcomes.results, outcomes.summarize, outcomes.progress):
        with pytest.raises(BatchNotFound):
            call("nobody")


@pytest.mark.parametrize(
    ("picodollars", "shown"),
    [
        (0, "0"),
        (1, "0.000000000001"),
        (120_000_000_000, "0.12"),
        (10**12, "1"),
        (100 * 10**12, "100"),
        (-5 * 10**11, "-0.5"),
    ],
)
def test_amounts_are_plain_decimals(picodollars: int, shown: str) -> None:
    assert dollars(picodollars) == shown
