"""What the activities of documents do where nothing can be written of a failure."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest
from sqlalchemy import update
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.documents import DocumentActivities
from nightmill.assembly import assembled
from nightmill.contracts import SyncInput, Trigger
from nightmill.documents.links import read_link
from nightmill.settings import Settings
from nightmill.storage.document_models import DocumentRow
from nightmill.storage.documents import NewDocument


def test_of_one_bug_in_many_documents_people_are_told_once(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    with assembled(Settings(database_url=sqlite_url)) as assembly:
        present = datetime.now(UTC)
        assembly.accounts.add("acme", "daily", now=present)
        for number in range(3):
            link = read_link(f"https://site.example/{number}")
            assembly.documents.add(NewDocument(account="acme", collection="c", link=link, id=f"d{number}"), present)
        with assembly.database.transaction() as session:  # no version of ours writes this
            session.connection().execute(update(DocumentRow).values(change_handler={"kind": "pigeon"}))
        activities = DocumentActivities(assembly.syncer, assembly.syncs, assembly.alerts)
        for number in range(3):
            asked = SyncInput(document_id=f"d{number}", trigger=Trigger.MANUAL, run_id="r")
            with pytest.raises(ApplicationError) as caught:
                ActivityEnvironment().run(activities.sync_document, asked)
            assert caught.value.next_retry_delay is not None
    assert [record.message for record in caplog.records] == ["operator fault"]
