"""The end of a slicing is counted when it is written, and not when a step that has written it runs again."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest

from nightmill.assembly import assembled
from nightmill.contracts import Fault, FinishSlicing, SlicingErrorCode, SlicingRef, SlicingStatus
from nightmill.settings import Settings
from nightmill.telemetry import metrics
from tests.measuring import Measured

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_an_end_that_is_written_again_is_not_counted_again(
    database_url: str, measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nightmill.slicing")
    ref = SlicingRef(sha256="ab" * 32, profile="gazette", run_id="run-1")
    fault = Fault(code=SlicingErrorCode.WALL_CLOCK, message="too slow")
    with assembled(Settings(_env_file=None, database_url=database_url)) as assembly:
        assembly.slicing.slicings.open(ref, name="x.pdf", source="x.pdf", size=1, notify=None, metadata=None, now=NOW)
        done = FinishSlicing(ref=ref, status=SlicingStatus.FAILED, fault=fault)
        for minute in (1, 2, 3):
            assembly.slicing.jobs.finish(done, scheduled_at=NOW, now=NOW + timedelta(minutes=minute))
    assert measured.series(metrics.SLICING_OUTCOMES) == {("gazette", "failed", "wall_clock"): 1}
    assert measured.series(metrics.SLICING_FAILED) == {("gazette", "wall_clock"): 1}
    assert [record.getMessage() for record in caplog.records] == ["slicing ended"]
