"""Attempts at documents over minutes and hours, on a server that skips time. The rows' own clock is the wall clock."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import SyncErrorCode, SyncOutcome, SyncResult, SyncStatus
from nightmill.sandbox import Sandbox
from nightmill.storage.document_models import DocumentRow
from tests.pages import article
from tests.site import Page, Site, failure
from tests.skipping import running
from tests.stack import Stack, TemporalServer

pytestmark = pytest.mark.server


@pytest.fixture
def stack(sandbox: Sandbox, tmp_path: Path, sqlite_url: str) -> Stack:
    """A stack whose Temporal server is started a test."""
    return Stack(tmp_path, TemporalServer(), sandbox, sqlite_url, "nightmill-document-time")


@dataclass
class Tried:
    """A sync that has ended on the skipping server."""

    outcome: SyncOutcome
    row: DocumentRow
    gaps: list[int]
    visits: list[int]


def tried(stack: Stack, answers: list[Page], *, is_broken: bool = False) -> Tried:
    """Sync a page that gives these answers first; return the seconds between the attempts, by Temporal's clock."""

    async def go() -> Tried:
        with Site({"/0": article(0)}) as site:
            site.answers["/0"] = answers
            async with running(stack) as (environment, nightmill):
                await nightmill.documents.add_account("acme", "daily")
                document_id = await nightmill.documents.add(
                    site.url("/0"), account="acme", collection="docs", sync=False
                )
                if is_broken:
                    break_storing(nightmill)
                begun: list[datetime] = []
                watching = asyncio.create_task(watch(nightmill, document_id, begun))
                await nightmill.documents.sync_now(document_id)
                handle = environment.client.get_workflow_handle(f"document/{document_id}")
                while (closed := (await handle.describe()).close_time) is None:
                    await environment.sleep(timedelta(seconds=1))
                watching.cancel()
                with suppress(asyncio.CancelledError):
                    await watching
                outcome = await nightmill.documents.wait(document_id)
                row = nightmill.assembly.documents.get(document_id).row
        # Of a retry this server says when it was asked for, not when it was due: each is the end of the attempt before.
        ended = [*begun[1:], closed]
        gaps = [round((later - earlier).total_seconds()) for earlier, later in itertools.pairwise(ended)]
        return Tried(outcome, row, gaps, [visit.status for visit in site.visits("/0")])

    return asyncio.run(go())


def break_storing(nightmill: Nightmill) -> None:
    """Plant a bug: a text that was read cannot be stored."""
    trigger = "CREATE TRIGGER broken BEFORE INSERT ON document_versions BEGIN SELECT RAISE(ABORT, 'a bug'); END"
    with nightmill.assembly.database.transaction() as session:
        session.connection().execute(text(trigger))


async def watch(nightmill: Nightmill, document_id: str, begun: list[datetime]) -> None:
    """Note when each attempt was scheduled, by Temporal's clock."""
    while True:
        at = nightmill.assembly.documents.get(document_id).row.sync_scheduled_at
        if at is not None and at not in begun:
            begun.append(at)
        await asyncio.sleep(0.01)


def about(gaps: list[int], expected: list[int]) -> bool:
    """Whether gaps are as expected, give or take what the attempts themselves take."""
    return len(gaps) == len(expected) and all(
        0 <= gap - wanted <= 4 for gap, wanted in zip(gaps, expected, strict=True)
    )


def test_a_site_that_fails_is_tried_four_times_30_120_and_300_seconds_apart(stack: Stack) -> None:
    done = tried(stack, [failure(503)] * 9)
    assert about(done.gaps, [30, 120, 300]), done.gaps
    assert done.visits == [503] * 4
    assert (done.outcome.result, done.outcome.attempt) == (SyncResult.TRANSIENT_RETRY_EXHAUSTED, 4)
    assert (done.row.sync_status, done.row.last_sync_error_code) == (SyncStatus.FAILED, SyncErrorCode.FETCH_FAILED)
    assert (done.row.sync_step, done.row.next_attempt_at) == (None, None)


def test_a_bug_of_ours_is_tried_three_times_5_seconds_apart(stack: Stack) -> None:
    done = tried(stack, [], is_broken=True)
    assert about(done.gaps, [5, 5]), done.gaps
    assert (done.outcome.result, done.outcome.attempt) == (SyncResult.UNEXPECTED_RETRY_EXHAUSTED, 3)
    assert (done.row.sync_status, done.row.last_sync_error_code) == (SyncStatus.FAILED, SyncErrorCode.SYNC_ERROR)


def test_the_two_budgets_are_counted_apart_where_they_alternate(stack: Stack) -> None:
    ok = article(0)
    done = tried(stack, [failure(503), ok, failure(503), ok, failure(503), failure(503)], is_broken=True)
    assert about(done.gaps, [30, 5, 120, 5, 300]), done.gaps
    assert done.outcome.result is SyncResult.TRANSIENT_RETRY_EXHAUSTED
    assert (done.row.spent_transient, done.row.spent_unexpected) == (3, 2)


def test_a_page_that_cannot_be_had_is_asked_for_once(stack: Stack) -> None:
    done = tried(stack, [failure(410)])
    assert done.gaps == []
    assert done.visits == [410]
    assert done.outcome.error_code is SyncErrorCode.NOT_FOUND


@pytest.mark.parametrize(("asked", "gap"), [("600", 600), ("10", 30), ("86400", 3600)])
def test_a_retry_after_that_is_longer_than_ours_is_honoured_up_to_an_hour(stack: Stack, asked: str, gap: int) -> None:
    """The host's own budget knows the wall clock only, so it does not let the next attempt in: its length is told."""
    done = tried_until_waiting(stack, failure(429, retry_after=asked))
    assert abs(done - gap) <= 4


def tried_until_waiting(stack: Stack, answer: Page) -> float:
    """Return how long a sync waits after this answer, by the row."""

    async def go() -> float:
        with Site({"/0": article(0)}) as site:
            site.answers["/0"] = [answer]
            async with running(stack) as (_, nightmill):
                await nightmill.documents.add_account("acme", "daily")
                document_id = await nightmill.documents.add(
                    site.url("/0"), account="acme", collection="docs", sync=False
                )
                await nightmill.documents.sync_now(document_id)
                async with asyncio.timeout(30):
                    while (row := nightmill.assembly.documents.get(document_id).row).next_attempt_at is None:
                        await asyncio.sleep(0.02)
                assert row.last_sync_attempted_at is not None
                assert row.next_attempt_at is not None
                return (row.next_attempt_at - row.last_sync_attempted_at).total_seconds()

    return asyncio.run(go())
