"""A notice is recorded before and after it is sent: at least once under one id, never again after a success."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from nightmill.contracts import SlicingRef
from nightmill.errors import SlicingNotFound
from nightmill.storage.engine import Database
from nightmill.storage.slicing_models import SlicingNoticeRow
from nightmill.storage.slicing_notices import NoticeRepository
from nightmill.storage.slicings import SlicingRepository

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
REF = SlicingRef(sha256="a" * 64, profile="gazette", run_id="r1")


@pytest.fixture
def notices(database: Database) -> NoticeRepository:
    given = {"name": "g", "source": "g", "size": 9, "notify": None, "metadata": None, "now": NOON}
    SlicingRepository(database).open(REF, **given)  # type: ignore[arg-type]
    return NoticeRepository(database)


def begin(notices: NoticeRepository, number: int = 0, message_id: str = "m1", ref: SlicingRef = REF) -> int | None:
    """Return which try it is; None: nothing is to be sent."""
    row = notices.begin(ref, number, "mailto:a@x.example", "error", message_id, NOON)
    return None if row is None else row.tries


def stored(notices: NoticeRepository) -> list[SlicingNoticeRow]:
    return notices.of(SlicingRepository(notices.database).get(REF.sha256, REF.profile))


def test_each_try_goes_under_the_id_of_the_first(notices: NoticeRepository) -> None:
    assert begin(notices) == 1
    notices.failed(REF, 0, "no answer")
    row = notices.begin(REF, 0, "mailto:b@x.example", "success", "m2", LATER)
    assert row is not None
    assert (row.tries, row.message_id, row.level, row.begun_at) == (2, "m1", "error", NOON)
    assert (row.error, row.target, row.sent_at) == ("no answer", "mailto:a@x.example", None)


def test_nothing_is_sent_again_after_a_recorded_success(notices: NoticeRepository) -> None:
    begin(notices)
    notices.failed(REF, 0, "no answer")
    notices.sent(REF, 0, NOON)
    notices.sent(REF, 0, LATER)
    notices.failed(REF, 0, "an attempt that hung")
    assert begin(notices) is None
    (row,) = stored(notices)
    assert (row.sent_at, row.error, row.tries) == (NOON, None, 1)


def test_each_who_is_told_and_each_run_counts_for_itself(notices: NoticeRepository) -> None:
    begin(notices)
    notices.sent(REF, 0, NOON)
    assert begin(notices, 1, "m2") == 1
    assert begin(notices, 0, "m3", REF.model_copy(update={"run_id": "r2"})) == 1
    assert [(row.run_id, row.number, row.message_id) for row in stored(notices)] == [
        ("r1", 0, "m1"),
        ("r1", 1, "m2"),
        ("r2", 0, "m3"),
    ]


def test_without_a_document_or_a_try_there_is_nothing_to_record(notices: NoticeRepository) -> None:
    notices.sent(REF, 5, NOON)
    notices.failed(REF, 5, "x")
    assert stored(notices) == []
    unknown = REF.model_copy(update={"sha256": "b" * 64})
    with pytest.raises(SlicingNotFound):
        begin(notices, ref=unknown)
    with pytest.raises(SlicingNotFound):
        notices.sent(unknown, 0, NOON)
