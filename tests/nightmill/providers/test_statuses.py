"""What each provider's batch object means: tables from the providers' documents."""

from datetime import UTC, datetime
from typing import Any

import pytest

from nightmill.contracts import BatchStatus
from nightmill.providers import anthropic, google, openai, xai

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("validating", "in_progress"),
        ("in_progress", "in_progress"),
        ("finalizing", "in_progress"),
        ("cancelling", "canceling"),
        ("completed", "ended"),
        ("failed", "failed"),
        ("expired", "expired"),
        ("cancelled", "canceled"),
    ],
)
def test_openai_statuses(word: str, status: str) -> None:
    found = openai.read_status({"status": word})
    assert (found.status, found.raw, found.known) == (status, word, True)


@pytest.mark.parametrize("body", [{}, {"status": "pondering"}, {"status": 7}, {"status": None, "errors": []}])
def test_what_openai_never_said_before_reads_as_in_progress(body: dict[str, Any]) -> None:
    found = openai.read_status(body)
    assert (found.status, found.known) == ("in_progress", False)


def test_openai_reasons_name_line_and_code() -> None:
    errors = [{"code": "invalid_json_line", "line": 3, "message": "not\nJSON", "param": None}, {"code": "x"}, "junk"]
    found = openai.read_status({"status": "failed", "errors": {"object": "list", "data": errors}})
    assert found.reason == "line 3: not JSON (invalid_json_line); (x)"
    assert not found.over_quota


def test_a_thousand_openai_reasons_make_one_short_line() -> None:
    errors = [{"code": "c", "line": n, "message": "m" * 200} for n in range(1000)]
    found = openai.read_status({"status": "failed", "errors": {"data": errors}})
    assert found.reason is not None
    assert len(found.reason) == 1000


def test_openai_over_quota_is_told_apart_from_a_failure() -> None:
    errors = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]
    assert openai.read_status({"status": "failed", "errors": {"data": errors}}).over_quota
    assert not openai.read_status({"status": "in_progress", "errors": {"data": errors}}).over_quota


def test_blank_openai_file_ids_count_as_absent() -> None:
    found = openai.read_status({"status": "completed", "output_file_id": "", "error_file_id": None})
    assert found.refs == {}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (None, (None, None, None, None)),
        ({"total": 5, "completed": 2, "failed": 1}, (5, 2, 1, 2)),
        ({"total": 0, "completed": 0, "failed": 0}, (0, 0, 0, 0)),
    ],
)
def test_openai_counts(counts: Any, expected: tuple[int | None, ...]) -> None:
    found = openai.read_status({"status": "in_progress", "request_counts": counts}).counts
    assert (found.total, found.succeeded, found.failed, found.pending) == expected


@pytest.mark.parametrize(
    ("word", "status", "known"),
    [
        ("in_progress", "in_progress", True),
        ("canceling", "canceling", True),
        ("ended", "ended", True),
        ("archived", "in_progress", False),
    ],
)
def test_anthropic_statuses(word: str, status: str, known: bool) -> None:
    found = anthropic.read_status({"processing_status": word, "results_url": None})
    assert (found.status, found.known, found.refs) == (status, known, {})


def test_the_sum_of_anthropic_counts_is_the_total() -> None:
    counts = {"processing": 0, "succeeded": 1, "errored": 2, "canceled": 3, "expired": 4}
    found = anthropic.read_status({"processing_status": "ended", "request_counts": counts}).counts
    assert found.model_dump() == {
        "total": 10,
        "succeeded": 1,
        "failed": 2,
        "canceled": 3,
        "expired": 4,
        "pending": 0,
    }


@pytest.mark.parametrize("prefix", ["BATCH_STATE_", "JOB_STATE_"])
@pytest.mark.parametrize(
    ("word", "status"),
    [
        *(
            (w, "in_progress")
            for w in ("PENDING", "QUEUED", "RUNNING", "PROCESSING", "PAUSED", "UPDATING", "UNSPECIFIED")
        ),
        ("CANCELLING", "canceling"),
        ("SUCCEEDED", "ended"),
        ("PARTIALLY_SUCCEEDED", "ended"),
        ("FAILED", "failed"),
        ("CANCELLED", "canceled"),
        ("EXPIRED", "expired"),
    ],
)
def test_google_statuses(prefix: str, word: str, status: str) -> None:
    for body in ({"metadata": {"state": prefix + word}}, {"state": prefix + word}):
        found = google.read_status(body)
        assert (found.status, found.raw, found.known) == (status, prefix + word, True)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, "in_progress"),
        ({"done": False}, "in_progress"),
        ({"done": True, "error": {"code": 13, "message": "broken"}}, "failed"),
        ({"done": True, "response": {}}, "ended"),
        ({"metadata": None}, "in_progress"),
    ],
)
def test_google_without_a_state(body: dict[str, Any], status: str) -> None:
    assert google.read_status(body).status == status


def test_google_counts_come_as_strings_without_zeros() -> None:
    stats = {"requestCount": "7", "successfulRequestCount": "5"}
    found = google.read_status({"metadata": {"state": "BATCH_STATE_RUNNING", "batchStats": stats}}).counts
    assert (found.total, found.succeeded, found.failed, found.pending) == (7, 5, 0, 0)


@pytest.mark.parametrize(
    "body",
    [
        {"response": {"responsesFile": "files/x"}},
        {"dest": {"fileName": "files/x"}},
        {"metadata": {"output": {"responsesFile": "files/x"}}},
    ],
)
def test_google_result_files_are_found_wherever_they_stand(body: dict[str, Any]) -> None:
    assert google.read_status(body).refs["responses_file"] == "files/x"


def counts(total: int, pending: int, success: int = 0, error: int = 0, canceled: int = 0) -> dict[str, int]:
    names = ("num_requests", "num_pending", "num_success", "num_error", "num_cancelled")
    return dict(zip(names, (total, pending, success, error, canceled), strict=True))


@pytest.mark.parametrize(
    ("body", "ack", "status"),
    [
        ("no object", False, "in_progress"),
        (["list"], False, "in_progress"),
        ({"cancel_by_xai_message": "Invalid file", "state": counts(0, 0)}, False, "failed"),
        ({"cancel_by_xai_message": "Invalid file", "cancel_time": "2026-03-01T00:00:00Z"}, False, "failed"),
        ({"cancel_by_xai_message": " ", "state": counts(2, 0, 2)}, False, "ended"),
        ({"cancel_time": "2026-03-01T00:00:00Z", "state": counts(5, 3)}, False, "canceled"),
        ({"expire_time": "2026-03-01", "state": counts(5, 3)}, False, "expired"),
        ({"expire_time": "2026-03-02", "state": counts(5, 3)}, False, "in_progress"),  # until the end of that day
        ({"expire_time": "2026-03-02T11:59:59Z", "state": counts(5, 3)}, False, "expired"),
        ({"expire_time": "2026-03-01", "state": counts(5, 0, 5)}, False, "ended"),
        ({"expire_time": "soon", "state": counts(5, 3)}, False, "in_progress"),
        ({"state": {"num_requests": 5}}, False, "in_progress"),
        ({"state": counts(5, 3)}, True, "in_progress"),
        ({"state": counts(0, 0)}, True, "canceled"),
        ({"state": counts(5, 0, 5)}, True, "canceled"),
        ({"state": counts(0, 0)}, False, "in_progress"),
        ({"state": {"num_pending": 0}}, False, "in_progress"),
        ({"state": counts(5, 0, 3, 0, 2)}, False, "canceled"),
        ({"state": counts(5, 0, 0, 5)}, False, "ended"),
        ({}, False, "in_progress"),
    ],
)
def test_xai_statuses_are_derived_in_order(body: Any, ack: bool, status: str) -> None:
    assert xai.read_status(body, cancel_ack=ack, now=NOW).status == status


def test_xai_counts_that_are_absent_stay_unknown() -> None:
    found = xai.read_status({"expire_time": None})
    assert set(found.counts.model_dump().values()) == {None}
    assert found.status is BatchStatus.IN_PROGRESS
