from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import HistogramDataPoint

from nightmill.contracts import SlicingErrorCode, SlicingRef, SlicingStatus, SlicingSummary
from nightmill.storage.slicing_attempts import NewAttempt
from nightmill.telemetry import slicings
from nightmill.telemetry.redaction import redacted, without_secrets
from nightmill.telemetry.slicings import record_program, record_slicing
from tests.measuring import Measured

SHA256 = "ab" * 32
MiB = 1024 * 1024


def labels(measured: Measured) -> set[str]:
    points = [point for found in measured.points().values() for point in found]
    return {str(value) for point in points for value in point.attributes.values()}


def a_run(**fields: Any) -> NewAttempt:
    given: dict[str, Any] = {
        "ref": SlicingRef(sha256=SHA256, profile="gazette", run_id="run-1"),
        "attempt": 1,
        "step": "slice",
        "command": "slicer --fast",
        "started_at": datetime(2026, 11, 22, tzinfo=UTC),
        "duration": timedelta(seconds=2),
        "exit_code": 0,
        "stdout_bytes": 512,
        "cpu": timedelta(seconds=1.5),
        "peak_memory": 80 * MiB,
        "pages": 60,
    }
    return NewAttempt(**given | fields)


def a_summary(**fields: Any) -> SlicingSummary:
    given: dict[str, Any] = {
        "sha256": SHA256,
        "profile": "gazette",
        "name": "gazette.pdf",
        "status": SlicingStatus.SLICED,
        "page_count": 60,
        "slices": 34,
        "duration": timedelta(seconds=30),
    }
    return SlicingSummary(**given | fields)


def test_a_program_leaves_one_record_of_what_it_took(measured: Measured, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "nightmill.slicing"):
        record_program(a_run(stderr_tail="cut 34 slices"))
    [record] = caplog.records
    fields = vars(record)
    assert (record.levelno, record.getMessage()) == (logging.INFO, "slicing program")
    assert (fields["command"], fields["exit_code"], fields["stdout_bytes"]) == ("slicer --fast", 0, 512)
    assert (fields["duration_ms"], fields["cpu_ms"], fields["peak_memory"]) == (2_000, 1_500, 80 * MiB)
    assert "stderr" not in fields


@pytest.mark.parametrize(
    "fields",
    [
        {"exit_code": 3},
        {"exit_code": None, "signal": 9},
        {"error_code": SlicingErrorCode.EMPTY_OUTPUT},
    ],
)
def test_a_failed_program_is_an_error_with_the_end_of_what_it_said(
    measured: Measured, caplog: pytest.LogCaptureFixture, fields: dict[str, Any]
) -> None:
    tail = "x" * 50_000 + " token=geheim Traceback: no page"
    record_program(a_run(stderr_tail=tail, **fields))
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert vars(record)["stderr"].endswith("token=*** Traceback: no page")
    assert len(vars(record)["stderr"]) == slicings.MAX_STDERR


def test_programs_are_measured_by_step_and_by_how_they_ended(measured: Measured) -> None:
    record_program(a_run())
    record_program(a_run(step="metadata", error_code=SlicingErrorCode.STALL_CLOCK, peak_memory=0))
    points = measured.points()
    durations = {
        (p.attributes["step"], p.attributes["error_code"]): p for p in points["nightmill.slicing.program.duration"]
    }
    assert durations["slice", ""].sum == 2
    assert durations["metadata", "stall_clock"].count == 1
    [memory] = points["nightmill.slicing.program.memory"]  # what is not known is not measured
    assert (memory.attributes["step"], memory.sum) == ("slice", 80 * MiB)


def test_slicings_are_measured_by_what_they_came_to(measured: Measured, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "nightmill.slicing"):
        record_slicing(a_summary(), queue_wait=timedelta(seconds=4))
        record_slicing(a_summary(status=SlicingStatus.NEEDS_REVIEW))
        failed = a_summary(status=SlicingStatus.FAILED, error_code=SlicingErrorCode.TIMED_OUT, message="timed out")
        record_slicing(failed, queue_wait=timedelta(0))
        record_slicing(a_summary(status=SlicingStatus.CANCELED, duration=None))
    points = measured.points()
    outcomes = {
        (p.attributes["status"], p.attributes["error_code"]): p.value for p in points["nightmill.slicing.outcomes"]
    }
    assert outcomes == {("sliced", ""): 1, ("needs_review", ""): 1, ("failed", "timed_out"): 1, ("canceled", ""): 1}
    [for_good] = points["nightmill.slicing.failed"]
    assert (for_good.value, for_good.attributes["error_code"]) == (1, "timed_out")
    durations = {p.attributes["status"]: p.sum for p in points["nightmill.slicing.duration"]}
    assert durations == {"sliced": 30, "needs_review": 30, "failed": 30}
    [rate] = points["nightmill.slicing.pages_per_second"]
    assert (rate.count, rate.sum) == (2, 4)
    [wait] = points["nightmill.slicing.queue.wait"]
    assert (wait.count, wait.sum) == (2, 4)
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "ERROR", "INFO"]
    assert [vars(record)["queue_wait_ms"] for record in caplog.records] == [4_000, None, 0, None]


def test_the_alerts_times_are_boundaries_of_their_histograms(measured: Measured) -> None:
    record_slicing(a_summary())
    [point] = measured.points()["nightmill.slicing.duration"]
    assert isinstance(point, HistogramDataPoint)
    assert {600.0, 900.0, 1_200.0, 1_800.0} <= set(point.explicit_bounds)


def test_no_label_names_a_document(measured: Measured) -> None:
    record_program(a_run())
    record_slicing(a_summary(status=SlicingStatus.FAILED, message="a message"), queue_wait=timedelta(1))
    assert not {
        label for label in labels(measured) if SHA256[:12] in label or label in ("gazette.pdf", "a message", "run-1")
    }


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["slicer", "--fast", "a b.pdf"], "slicer --fast 'a b.pdf'"),
        (["slicer", "--api-key=geheim", "x.pdf"], "slicer --api-key=*** x.pdf"),
        (["slicer", "--token", "geheim", "x.pdf"], "slicer --token *** x.pdf"),
        (["slicer", "--no-auth", "--token", "geheim"], "slicer --no-auth --token ***"),
        (["slicer", "-password", "-geheim", "x"], "slicer -password *** x"),
        (["env", "DB_PASSWORD=geheim geheim", "slicer"], "env DB_PASSWORD=*** slicer"),
        (["slicer", "--apiKey=geheim"], "slicer --apiKey=***"),
        (["curl", "-H", "Authorization: Bearer geheim.x"], "curl -H 'Authorization: ***'"),
        (["curl", "https://me:geheim@example.org/x"], "curl https://***@example.org/x"),
        (
            ["curl", "https://example.org:80/?page=1&token=geheim&x=2"],
            "curl 'https://example.org:80/?page=1&token=***&x=2'",
        ),
        (["slicer", '{"api_key": "geheim", "n": 1}'], 'slicer \'{"api_key": ***, "n": 1}\''),
        (["slicer", "--config=a:b?secret=geheim"], "slicer '--config=a:b?secret=***'"),
        (["slicer", "sk-geheimgeheim"], "slicer ***"),
        (["slicer", "--author=Ana", "--tokenizer", "es", "--keep=2"], "slicer --author=Ana --tokenizer es --keep=2"),
        ([], ""),
    ],
)
def test_a_command_is_shown_without_what_looks_like_a_secret(command: list[str], shown: str) -> None:
    assert redacted(command) == shown


def test_a_long_command_is_cut() -> None:
    found = redacted(["slicer", *["x" * 5_000] * 50])
    assert len(found) == 2_000
    assert found.endswith("…")


def test_an_errors_own_text_is_left_as_it_is() -> None:
    text = "KeyError: 'pages'\nline 3: token_count=5, status: ok"
    assert without_secrets(text) == text


def test_a_text_without_an_end_is_searched_in_no_time() -> None:
    for text in ("a-" * 20_000, "key=" * 20_000, "https://" * 5_000, "a" * 60_000, "'" * 40_000 + "key: '"):
        without_secrets(text)
