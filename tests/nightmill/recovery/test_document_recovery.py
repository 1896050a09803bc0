"""Which sync brings a lost document in order, and which documents are put to rest instead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nightmill.contracts import SyncErrorCode, SyncStatus, Trigger, WebhookHandler
from nightmill.recovery.documents import DocumentRecovery, LostSync
from nightmill.settings import PlanSettings
from nightmill.storage.accounts import AccountRepository
from nightmill.storage.document_syncs import SyncRepository
from nightmill.storage.documents import DocumentRepository
from nightmill.storage.engine import Database
from tests.changes import ChangingDocument

NOW = datetime.now(UTC)
SYNCING = {"sync_status": SyncStatus.SYNCING, "sync_run": "r1", "next_attempt_at": NOW, "queued_until": NOW}


@pytest.fixture
def document(database: Database) -> ChangingDocument:
    return ChangingDocument(database, WebhookHandler(kind="webhook", url="https://host.example/changes"))


@pytest.fixture
def recovery(database: Database) -> DocumentRecovery:
    plans = {"daily": PlanSettings(interval=timedelta(days=1), weight=2)}
    return DocumentRecovery(DocumentRepository(database), SyncRepository(database), plans)


@pytest.mark.parametrize(("auto_sync", "trigger"), [(True, Trigger.SWEEP), (False, Trigger.MANUAL)])
def test_a_lost_sync_is_started_as_sweeps_or_as_people_start_it(
    document: ChangingDocument, recovery: DocumentRecovery, auto_sync: bool, trigger: Trigger
) -> None:
    document.has("aaa", **SYNCING)
    AccountRepository(document.database).add("acme", "Daily", auto_sync=auto_sync, now=NOW)
    assert recovery.lost_sync("d-1") == LostSync("d-1", "acme", 2, trigger, "https://example.org/hours#top")
    assert document.row.sync_status is SyncStatus.SYNCING, "whoever starts it says so"


@pytest.mark.parametrize(
    ("columns", "status"),
    [
        ({"last_synced_at": NOW}, SyncStatus.SYNCED),
        ({"last_synced_at": NOW, "last_sync_error_code": SyncErrorCode.TIMEOUT}, SyncStatus.FAILED),
        ({}, None),
    ],
    ids=["synced before", "failed before", "never synced"],
)
def test_a_document_that_is_switched_off_rests_as_it_was_before(
    document: ChangingDocument, recovery: DocumentRecovery, columns: dict[str, Any], status: SyncStatus | None
) -> None:
    document.has("aaa", enabled=False, **SYNCING, **columns)
    for _ in range(2):
        assert recovery.lost_sync("d-1") is None
        row = document.row
        assert (row.sync_status, row.next_attempt_at, row.queued_until) == (status, None, None)


def test_a_document_that_is_deleted_needs_nothing(recovery: DocumentRecovery) -> None:
    assert recovery.lost_sync("d-1") is None
