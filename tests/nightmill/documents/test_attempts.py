"""When a document is due next, after syncs that failed or that found what is not believed yet."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from nightmill.contracts import SyncErrorCode
from nightmill.documents.attempts import AttemptState, now
from nightmill.settings import DocumentSettings, PlanSettings
from nightmill.storage.document_models import AccountRow, DocumentRow
from nightmill.storage.stored_documents import StoredDocument

HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(weeks=1)
TIMEOUT, GONE, EMPTY = SyncErrorCode.TIMEOUT, SyncErrorCode.NOT_FOUND, SyncErrorCode.CONTENT_EMPTY
SETTINGS = DocumentSettings(plans={"weekly": PlanSettings(interval=WEEK)}, gone_after_days=3, slowest_pace=4)


def state(plan: str | None = "weekly", **columns: Any) -> AttemptState:
    row = DocumentRow(id="d1", account_key=1, collection="c", external_link="l", link="l", host="h", **columns)
    return AttemptState(StoredDocument(row, AccountRow(name="acme", plan=plan)), SETTINGS, time.monotonic())


@pytest.mark.parametrize(
    ("code", "failures", "wait"),
    [
        (TIMEOUT, 1, HOUR),
        (TIMEOUT, 2, 2 * HOUR),
        (TIMEOUT, 8, 128 * HOUR),
        (TIMEOUT, 11, 4 * WEEK),
        (TIMEOUT, 10_000, 4 * WEEK),
        (SyncErrorCode.FETCH_FAILED, 1, HOUR),
        (SyncErrorCode.SYNC_ERROR, 1, HOUR),
        (EMPTY, 1, WEEK),
        (EMPTY, 2, 2 * WEEK),
        (EMPTY, 9, 4 * WEEK),
    ],
)
def test_failures_make_the_next_sync_later_and_sites_that_come_back_are_seen_soon(
    code: SyncErrorCode, failures: int, wait: timedelta
) -> None:
    due = state().next_after_failure(failures, code)
    assert due is not None
    assert abs(due - now() - wait) < timedelta(seconds=5)


@pytest.mark.parametrize("failures", [1, 4, 9])
def test_a_page_that_is_gone_is_looked_at_daily_until_the_days_are_counted_whatever_failed_before(
    failures: int,
) -> None:
    today = now().date()
    for days, on, wait in [
        (0, None, DAY),
        (1, today - DAY, DAY),
        (2, today, DAY),
        (2, today - DAY, min(WEEK * 2 ** (failures - 1), 4 * WEEK)),
    ]:
        due = state(gone_days=days, gone_on=on).next_after_failure(failures, GONE)
        assert due is not None
        assert abs(due - now() - wait) < timedelta(seconds=5)


def test_a_text_that_shrank_is_looked_at_again_soon_once_and_then_as_planned() -> None:
    first, later = state().looked_at_again(), state(shrunk_fingerprint="short").looked_at_again()
    assert first is not None
    assert later is not None
    assert abs(first - now() - HOUR) < timedelta(seconds=5)
    assert abs(later - now() - WEEK) < timedelta(seconds=5)


def test_without_a_plan_nothing_is_due() -> None:
    assert state(None).next_after_failure(1, TIMEOUT) is None
    assert state(None).looked_at_again() is None
