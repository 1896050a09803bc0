"""Attempts at a real page with a real database, without Temporal: what no sync from end to end meets by itself."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import update

from nightmill.assembly import Assembly, assembled
from nightmill.contracts import SyncInput, SyncOutcome, SyncResult, Trigger
from nightmill.documents.links import read_link
from nightmill.settings import DocumentSettings, Settings
from nightmill.storage.document_models import DocumentRow
from nightmill.storage.documents import NewDocument
from tests.site import Page, Site, redirect

LONG = "".join(f"<p>Paragraph {n} says something of its own about pier {n * 7} of the harbour.</p>" for n in range(60))


def page(body: str) -> Page:
    return Page(f"<!doctype html><title>Harbour</title><body><main><h1>Harbour</h1>{body}</main>")


class Lab:
    """One document and its syncs."""

    def __init__(self, assembly: Assembly, link: str) -> None:
        self.assembly = assembly
        present = datetime.now(UTC)
        assembly.accounts.add("acme", "weekly", now=present)
        new = NewDocument(account="acme", collection="help", link=read_link(link), id="d1")
        assembly.documents.add(new, present)

    @property
    def row(self) -> DocumentRow:
        return self.assembly.documents.get("d1").row

    def set(self, **columns: object) -> None:
        with self.assembly.database.transaction() as session:
            session.connection().execute(update(DocumentRow).values(**columns))

    def sync(self, trigger: Trigger = Trigger.MANUAL) -> SyncOutcome:
        asked = SyncInput(document_id="d1", trigger=trigger, run_id=uuid.uuid4().hex)
        return self.assembly.syncer.attempt(asked).outcome


@pytest.fixture
def site() -> Iterator[Site]:
    with Site({"/a": page(LONG)}) as site:
        yield site


@pytest.fixture
def lab(database_url: str, site: Site) -> Iterator[Lab]:
    documents = DocumentSettings.model_validate({"allow_private_addresses": True, "host_delay": 0, "extractors": 1})
    with assembled(Settings(database_url=database_url, documents=documents)) as assembly:
        yield Lab(assembly, site.url("/a"))


def test_a_page_that_breaks_while_fingerprints_are_made_anew_keeps_its_content(lab: Lab, site: Site) -> None:
    assert lab.sync().result is SyncResult.UPDATED
    before = lab.row.content_fingerprint
    lab.set(fingerprint_version="an older one")
    site.pages["/a"] = page("<p>Something went wrong. Please come back in some minutes.</p>")
    held = lab.sync()
    assert (held.result, held.reason, lab.row.content_fingerprint) == (SyncResult.UNCHANGED, "shrunk", before)
    site.pages["/a"] = page(LONG)
    assert lab.sync().result is SyncResult.BASELINE


def test_a_link_that_leads_to_an_older_page_by_now_is_not_taken_for_unmodified(lab: Lab, site: Site) -> None:
    new, old = datetime(2026, 3, 2, tzinfo=UTC), datetime(2025, 3, 2, tzinfo=UTC)
    site.pages["/a"] = replace(page(LONG), etag=False, modified=new)
    assert lab.sync().result is SyncResult.UPDATED
    assert lab.sync().result is SyncResult.NOT_MODIFIED
    site.pages["/a"] = redirect("/b")
    site.pages["/b"] = replace(page(LONG.replace("harbour", "station")), etag=False, modified=old)
    assert lab.sync().result is SyncResult.UPDATED
    assert lab.row.resolved_link == site.url("/b")
    assert lab.sync().result is SyncResult.NOT_MODIFIED
    assert [visit.status for visit in site.visits("/b")] == [304, 200, 304]


def test_once_intervals_no_longer_adapt_a_page_that_slowed_down_is_synced_as_planned(lab: Lab) -> None:
    assert lab.sync().result is SyncResult.UPDATED
    lab.set(pace=8.0, next_sync_at=None)
    assert lab.sync(Trigger.SWEEP).result is SyncResult.NOT_MODIFIED
    due = lab.row.next_sync_at
    assert due is not None
    assert (due - datetime.now(UTC)).days < 7
