"""What ran is kept as it ran, and forecasts learn from what did its work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nightmill.contracts import FinishSlicing, ProgramOutcome, SlicingErrorCode, SlicingRef, SlicingStatus
from nightmill.errors import SlicingNotFound
from nightmill.storage.engine import Database
from nightmill.storage.slicing_attempts import AttemptRepository, AttemptSample, NewAttempt
from nightmill.storage.slicings import SlicingRepository

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def ref(run_id: str = "r1", profile: str = "gazette") -> SlicingRef:
    return SlicingRef(sha256="a" * 64, profile=profile, run_id=run_id)


@pytest.fixture
def attempts(database: Database) -> AttemptRepository:
    for profile in ("gazette", "other"):
        open_run(database, ref(profile=profile))
    return AttemptRepository(database)


def open_run(database: Database, which: SlicingRef) -> None:
    now = NOON + timedelta(hours=int(which.run_id[1:]))
    SlicingRepository(database).open(which, name="g", source="g", size=9, notify=None, metadata=None, now=now)


def ran(attempts: AttemptRepository, **columns: Any) -> None:
    given: dict[str, Any] = {"ref": ref(), "attempt": 1, "step": "slice", "command": "slicer --fast", "exit_code": 0}
    given |= {"started_at": NOON, "duration": timedelta(seconds=2), "pages": 80, "size": 10, "peak_memory": 5}
    attempts.record(NewAttempt(**given | columns))


def test_an_attempt_is_kept_as_it_ran(attempts: AttemptRepository, database: Database) -> None:
    ran(attempts, duration=timedelta(days=400), cpu=timedelta(microseconds=2_600), stderr_tail="a\0b" + "x" * 70_000)
    ran(attempts, exit_code=None, signal=9, error_code=SlicingErrorCode.PROGRAM_KILLED, stdout_bytes=2**40, attempt=2)
    slicing = SlicingRepository(database).get("a" * 64, "gazette")
    first, second = attempts.of(slicing)
    assert (first.run_id, first.duration_ms, first.cpu_ms, first.started_at) == ("r1", 2**31 - 1, 3, NOON)
    assert (first.stderr_tail[:4], len(first.stderr_tail), first.error_code) == ("abxx", 65_536, None)
    assert (second.signal, second.exit_code, second.stdout_bytes, second.attempt) == (9, None, 2**40, 2)
    assert second.error_code is SlicingErrorCode.PROGRAM_KILLED
    assert [row.attempt for row in attempts.of(slicing, limit=1)] == [2]
    with pytest.raises(SlicingNotFound):
        ran(attempts, ref=ref(profile="unknown"))


def test_forecasts_learn_from_the_newest_that_did_their_work(attempts: AttemptRepository) -> None:
    for pages in (10, 20, 30):
        ran(attempts, pages=pages, text_source="digital")
    ran(attempts, pages=0)
    ran(attempts, exit_code=1)
    ran(attempts, error_code=SlicingErrorCode.INVALID_JSON)
    ran(attempts, step="pages")
    ran(attempts, ref=ref(profile="other"))
    newest = AttemptSample(pages=30, size=10, text_source="digital", duration_ms=2_000, peak_memory=5)
    samples = attempts.samples("gazette", "slice", limit=2)
    assert samples[0] == newest
    assert [sample.pages for sample in samples] == [30, 20]
    assert [sample.pages for sample in attempts.samples("gazette", "slice")] == [30, 20, 10]
    assert len(attempts.samples("gazette", "pages")) == len(attempts.samples("other", "slice")) == 1


def test_files_of_earlier_runs_are_needed_by_nobody_but_those_of_the_result(
    attempts: AttemptRepository, database: Database
) -> None:
    slicings = SlicingRepository(database)

    def unneeded() -> list[str]:
        return attempts.earlier_runs(slicings.get("a" * 64, "gazette"))

    ran(attempts)
    ran(attempts, ref=ref(profile="other"))
    assert unneeded() == []
    done = FinishSlicing(ref=ref("r1"), status=SlicingStatus.SLICED, result=ProgramOutcome())
    slicings.finish(done, [], now=NOON)
    for number in (2, 3, 4):
        open_run(database, ref(f"r{number}"))
        ran(attempts, ref=ref(f"r{number}"))
        ran(attempts, ref=ref(f"r{number}"), step="check")
    assert unneeded() == ["r3", "r2"]
    slicings.finish(done.model_copy(update={"ref": ref("r4")}), [], now=NOON)
    assert unneeded() == ["r3", "r2", "r1"]
