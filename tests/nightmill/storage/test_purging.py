"""Which syncs a purge may drop: by the run that the row names, not by how the document stands."""

from __future__ import annotations

from typing import Any

from nightmill.contracts import SyncErrorCode, SyncResult, Trigger
from nightmill.storage.document_syncs import SyncRepository, SyncStart
from nightmill.storage.engine import Database
from nightmill.storage.purging import PurgeRepository


def test_a_run_that_tells_of_a_page_that_failed_has_begun_and_one_that_waits_for_a_lost_sync_has_not(
    database: Database, add_document: Any, given: Any
) -> None:
    syncs = SyncRepository(database)
    for name in ("failed", "lost", "new"):
        add_document(name)
    for name in ("failed", "lost"):
        begun = syncs.begin(name, run_id=f"{name}-1", trigger=Trigger.MANUAL, now=given.noon)
        assert isinstance(begun, SyncStart)
        if name == "failed":
            syncs.failed(
                name, begun.token, result=SyncResult.PERMANENT_FAILURE, code=SyncErrorCode.NOT_FOUND, reason=None,
                note=None, next_sync_at=None, attempt=1, duration_ms=1, now=given.noon,
            )  # fmt: skip
    rows = PurgeRepository(database)
    assert rows.not_begun({"failed": "failed-1", "lost": "lost-1", "new": "new-1", "gone": "gone-1"}) == {"new", "gone"}
    assert rows.not_begun({"failed": "failed-2", "lost": "lost-2"}) == {"failed", "lost"}
