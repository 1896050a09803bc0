"""What of the documents the reconciler looks at: lost syncs, and changes that nobody tells any more."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text

from nightmill.contracts import GONE, Subject
from nightmill.recovery.model import Candidate
from nightmill.storage.accounts import AccountRepository
from nightmill.storage.document_candidates import DocumentCandidates
from nightmill.storage.documents import DocumentRepository
from nightmill.storage.engine import Database, open_database
from tests.conftest import QUICK

GRACE = timedelta(minutes=6)


@pytest.fixture
def found(database: Database, given: Any) -> Any:
    """Finds candidates and returns their ids in order."""
    reads = DocumentCandidates(database)

    def found(*, hours: float = 0, limit: int = 100, after: str | None = None) -> list[str]:
        page = reads.page(after=after, limit=limit, now=given.at(hours), grace=GRACE)
        return [each.id for each in page]

    return found


def set_columns(database: Database, document_id: str, given: Any, **columns: Any) -> None:
    """Set columns; numbers are hours after noon where the column is a time."""
    row = DocumentRepository(database).get(document_id).row
    with database.transaction() as session:
        for name, value in columns.items():
            is_time = name.endswith(("_at", "_until")) and value is not None
            setattr(row, name, given.at(value) if is_time else value)
        session.add(row)


SYNCING = {"sync_status": "syncing", "last_sync_attempted_at": -0.2}
UNTOLD = {"sync_status": "synced", "last_sync_attempted_at": -0.2, "content_fingerprint": "a"}

CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "never tried": ({}, False),
    "at rest": ({"sync_status": "synced", "last_sync_attempted_at": -24}, False),
    "syncing": ({"sync_status": "syncing", "last_sync_attempted_at": -0.05}, False),
    "syncing for long": (SYNCING, True),
    "syncing for longer than the grace by a second": (
        {"sync_status": "syncing", "last_sync_attempted_at": -0.1 - 1 / 3600},
        True,
    ),
    "syncing for the grace to the second": ({"sync_status": "syncing", "last_sync_attempted_at": -0.1}, False),
    "syncing, without a time": ({"sync_status": "syncing"}, True),
    "syncing, and switched off since": (SYNCING | {"enabled": False}, True),
    "syncing, waits for its next attempt": (SYNCING | {"next_attempt_at": 0.5}, False),
    "syncing, its next attempt is just late": (SYNCING | {"next_attempt_at": -0.05}, False),
    "syncing, its next attempt never came": (SYNCING | {"next_attempt_at": -0.11}, True),
    "syncing, waits until a year that no attempt waits for": (SYNCING | {"next_attempt_at": 9_000}, True),
    "syncing by a clock that was years ahead": ({"sync_status": "syncing", "last_sync_attempted_at": 9_000}, True),
    "syncing by a clock that is an hour ahead": ({"sync_status": "syncing", "last_sync_attempted_at": 1}, False),
    "syncing, and its content is not told": (SYNCING | {"content_fingerprint": "a"}, True),
    "told": (UNTOLD | {"handled_fingerprint": "a"}, False),
    "not told": (UNTOLD, True),
    "not told, and just synced": (UNTOLD | {"last_sync_attempted_at": -0.05}, False),
    "not told, synced by a clock that was years ahead": (UNTOLD | {"last_sync_attempted_at": 9_000}, True),
    "not told of the last change": (UNTOLD | {"handled_fingerprint": "b"}, True),
    "not told, and switched off": (UNTOLD | {"enabled": False}, False),
    "not told, and a sync is on its way": (UNTOLD | {"queued_until": 0.5}, False),
    "not told, and the sync that was on its way never came": (UNTOLD | {"queued_until": -0.5}, True),
    "not told, and on its way by a clock that was years ahead": (UNTOLD | {"queued_until": 9_000}, True),
    "not told, for the handler refused just now": (UNTOLD | {"needs_attention": "handler: 500"}, False),
    "not told, for the handler refused an hour ago": (
        UNTOLD | {"needs_attention": "handler: 500", "last_sync_attempted_at": -1.01},
        True,
    ),
    "not told, and the page needs somebody": (UNTOLD | {"needs_attention": "sync after sync fails"}, False),
    "told that it is gone": (
        UNTOLD | {"sync_status": "failed", "handled_fingerprint": GONE, "gone_days": 3, "last_sync_attempted_at": -99},
        False,
    ),
    "never told, and gone": (UNTOLD | {"sync_status": "failed", "gone_days": 1, "last_sync_attempted_at": -99}, False),
    "not told, and cannot be had": (UNTOLD | {"sync_status": "failed", "last_sync_attempted_at": -23}, False),
    "not told, and could not be had a day ago": (
        UNTOLD | {"sync_status": "failed", "last_sync_attempted_at": -24.01},
        True,
    ),
    "not told, and nobody is to be told": (UNTOLD | {"account": "deaf"}, False),
}

SWEPT: dict[str, tuple[dict[str, Any], bool]] = {
    "lost, and a sweep would find it in an hour": (SYNCING, True),
    "not told, and a sweep will": (UNTOLD, False),
    "not told, and the sweeps may have many others": (UNTOLD | {"last_sync_attempted_at": -23.9}, False),
    "not told by the sweeps of a whole day": (UNTOLD | {"last_sync_attempted_at": -24.1}, True),
    "not told, and cannot be had": (UNTOLD | {"sync_status": "failed", "last_sync_attempted_at": -99}, False),
}


@pytest.mark.parametrize(("cases", "auto_sync"), [(CASES, False), (SWEPT, True)], ids=["by hand", "automatic"])
def test_what_is_lost_or_untold_is_found_and_nothing_else(
    database: Database, add_document: Any, given: Any, found: Any, cases: Any, auto_sync: bool
) -> None:
    accounts = AccountRepository(database)
    accounts.add("acme", "daily", auto_sync=auto_sync, change_handler=given.handler, now=given.noon)
    accounts.add("deaf", "daily", auto_sync=auto_sync, now=given.noon)
    for number, (columns, _) in enumerate(cases.values()):
        columns = dict(columns)
        add_document(f"d{number:02}", account=columns.pop("account", "acme"))
        set_columns(database, f"d{number:02}", given, **columns)
    ids = found()
    assert {name: f"d{number:02}" in ids for number, name in enumerate(cases)} == {
        name: expected for name, (_, expected) in cases.items()
    }


def test_a_candidate_says_where_to_look_and_how_it_stands(database: Database, add_document: Any, given: Any) -> None:
    add_document("lost", account_handler=given.handler)
    add_document("untold")
    set_columns(database, "lost", given, **SYNCING, next_attempt_at=-0.2, sync_run="r1")
    set_columns(database, "untold", given, **UNTOLD | {"last_sync_attempted_at": -25})
    lost, untold = DocumentCandidates(database).page(after=None, limit=9, now=given.noon, grace=GRACE)
    assert lost == Candidate(
        subject=Subject.DOCUMENT,
        id="lost",
        workflow_id="document/lost",
        after=lost.after,
        asked_at=given.at(-0.2),
        facts={"status": "syncing", "account": "acme", "next_attempt_at": given.at(-0.2), "sync_run": "r1"},
    )
    assert (untold.terminal, untold.facts["status"]) == (True, "synced")


def test_pages_go_on_behind_each_other_whatever_they_find(database: Database, add_document: Any, given: Any) -> None:
    for number in range(9):
        add_document(f"d{number}", account_handler=given.handler)
        lost = number % 2
        set_columns(database, f"d{number}", given, **(SYNCING if lost else UNTOLD | {"last_sync_attempted_at": -25}))
    everything = [f"d{number}" for number in range(9)]
    reads = DocumentCandidates(database)
    for limit in (1, 2, 4, 9, 10):
        seen: list[Candidate] = []
        while page := reads.page(after=seen[-1].after if seen else None, limit=limit, now=given.noon, grace=GRACE):
            assert len(page) <= limit
            seen += page
        assert [each.id for each in seen] == everything


def test_a_row_that_cannot_be_read_stops_nobody(database: Database, add_document: Any, given: Any, found: Any) -> None:
    for document_id in ("broken", "lost"):
        add_document(document_id)
        set_columns(database, document_id, given, **SYNCING)
    with database.transaction() as session:
        statement = "UPDATE documents SET last_sync_error_code = 'no word of ours', sync_step = '?' WHERE id = 'broken'"
        session.connection().execute(text(statement))
    assert found() == ["broken", "lost"]


def test_a_page_goes_by_indexes_of_what_may_be_stuck_not_through_all_documents(sqlite_url: str, given: Any) -> None:
    db = open_database(sqlite_url, QUICK)
    asked: list[tuple[str, Any]] = []
    event.listen(db.engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
    DocumentCandidates(db).page(after="7", limit=100, now=given.noon, grace=GRACE)
    queries = [each for each in asked if each[0].startswith("SELECT")]
    with db.engine.connect() as connection:
        plans = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values).all() for query, values in queries]
    db.close()
    stuck, untold = (" ".join(str(row[-1]) for row in plan) for plan in plans)
    assert "documents USING INDEX ix_documents_status (sync_status=?)" in stuck
    assert "documents USING INDEX ix_documents_untold (key>?)" in untold
