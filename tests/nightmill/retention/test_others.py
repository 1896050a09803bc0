"""Histories and repairs: what is past goes, what somebody may still need stays."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from nightmill.contracts import (
    GONE,
    Action,
    CrawlInput,
    Finding,
    ParagraphDiff,
    Subject,
    SyncResult,
    Trigger,
)
from nightmill.retention.model import Kind
from nightmill.storage.accounts import AccountRepository
from nightmill.storage.crawls import CrawlRepository
from nightmill.storage.document_models import HostRow, SweepPickRow, SweepRow
from nightmill.storage.document_syncs import NewText, SyncRepository, SyncStart
from nightmill.storage.documents import DocumentRepository, NewDocument
from nightmill.storage.hosts import HostRepository
from nightmill.storage.repairs import Intent, RepairRepository
from nightmill.storage.sync_state import PageFacts, Rest
from tests.nightmill.retention.conftest import NOW, SECOND, Scene, Slicer, ago, ref
from tests.nightmill.storage.conftest import a_link


class Pages:
    """Documents of one account, synced by the real repositories."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.documents, self.syncs = DocumentRepository(scene.database), SyncRepository(scene.database)
        AccountRepository(scene.database).add("acme", "daily", now=ago(99))

    def add(self, name: str) -> None:
        self.documents.add(NewDocument(id=name, account="acme", collection="help", link=a_link(name)), ago(99))

    def begin(self, name: str, at: datetime) -> str:
        begun = self.syncs.begin(name, run_id=f"run-{at}", trigger=Trigger.MANUAL, now=at)
        assert isinstance(begun, SyncStart)
        return begun.token

    def sync(self, name: str, fingerprint: str, days: float, *, handled: bool = True) -> None:
        text = NewText(
            content=f"text of {fingerprint}", length=9, fingerprint=fingerprint, version="v1", source_type="html"
        )
        facts = PageFacts(
            etag=None, last_modified=None, raw_hash=fingerprint, title="Prices", resolved_link=None, page_link=None
        )
        rest = Rest(next_sync_at=ago(days - 1), pace=1.0, now=ago(days), done=True)
        self.syncs.store_content(
            name, self.begin(name, ago(days)), text, facts, rest,
            result=SyncResult.UPDATED, handled=handled, diff=ParagraphDiff(added=1), attempt=1, duration_ms=20,
        )  # fmt: skip

    def change(self, name: str, **columns: Any) -> None:
        row = self.documents.get(name).row
        with self.scene.database.transaction() as session:
            session.add(row)
            for column, value in columns.items():
                setattr(row, column, value)

    def texts(self, name: str) -> set[str]:
        return {version.fingerprint for version in self.documents.versions(name)}

    def events(self, name: str) -> int:
        return len(self.documents.history(name))


def test_earlier_texts_and_events_go_and_the_present_text_and_the_one_that_was_told_stay(scene: Scene) -> None:
    pages = Pages(scene)
    pages.add("d1")
    for number, days in enumerate((80, 60, 40, 20, 10)):
        pages.sync("d1", f"f{number}", days)
    pages.add("d2")
    pages.sync("d2", "g0", 70)
    assert scene.count(kinds=[Kind.DOCUMENTS]) == {"texts": 3, "events": 4}
    assert scene.prune(kinds=[Kind.DOCUMENTS]) == {"texts": 3, "events": 4}
    assert (pages.texts("d1"), pages.texts("d2")) == ({"f3", "f4"}, {"g0"})
    assert (pages.events("d1"), pages.events("d2")) == (2, 0)
    content = pages.documents.content("d2")
    assert content is not None
    assert content.content == "text of g0"
    assert scene.prune(kinds=[Kind.DOCUMENTS]) == {}


def test_a_document_that_somebody_waits_for_keeps_all_it_has(scene: Scene) -> None:
    pages = Pages(scene)
    names = ["untold", "syncing", "attention", "gone", "gone-told"]
    for name in names:
        pages.add(name)
        for number, days in enumerate((80, 60, 50)):
            pages.sync(name, f"f{number}", days, handled=name != "untold" or number == 0)
    pages.begin("syncing", ago(45))
    pages.change("attention", needs_attention="look at it")
    pages.change("gone", handled_fingerprint="f1", gone_days=2)  # nobody was told yet that it is
    pages.change("gone-told", handled_fingerprint=GONE, gone_days=3)
    assert scene.count(kinds=[Kind.DOCUMENTS]) == {"texts": 2, "events": 3}
    assert scene.prune(kinds=[Kind.DOCUMENTS]) == {"texts": 2, "events": 3}
    assert [pages.texts(name) for name in names[:4]] == [{"f0", "f1", "f2"}] * 4
    assert [pages.events(name) for name in names[:4]] == [3] * 4
    assert pages.texts("gone-told") == {"f2"}


def test_a_document_whose_sync_begins_just_then_keeps_what_it_has(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = Pages(scene)
    for name in ("d1", "d2"):
        pages.add(name)
        for number, days in enumerate((80, 60)):
            pages.sync(name, f"f{number}", days)
    began: list[str] = []
    transaction = scene.database.transaction

    def late(**given: Any) -> Any:
        if not began:
            began.append("d1")
            pages.begin("d1", ago(0))
        return transaction(**given)

    monkeypatch.setattr(scene.database, "transaction", late)
    assert scene.prune(kinds=[Kind.DOCUMENTS]) == {"texts": 1, "events": 2}
    assert began
    assert (pages.texts("d1"), pages.texts("d2")) == ({"f0", "f1"}, {"f1"})


def test_crawls_that_have_ended_sweeps_and_hosts_that_nobody_asks_go(scene: Scene) -> None:
    Pages(scene).add("d1")
    crawls, hosts = CrawlRepository(scene.database), HostRepository(scene.database)
    for name, days in (("old", 50.0), ("young", 5.0), ("open", None)):
        asked = CrawlInput(start_url="https://site.example/", account="acme", collection="help")
        crawls.create(name, asked, now=ago(60))
        crawls.add_links(name, ["https://site.example/2", "https://site.example/3"], depth=1, kind="page")
        if days is not None:
            crawls.end(name, limit_hit=None, now=ago(days))
    for name, days in (("old:443", 50.0), ("young:443", 5.0)):
        hosts.store_robots(name, status=200, body="x", crawl_delay=None, now=ago(days))
    hosts.store_robots("waits:443", status=200, body="x", crawl_delay=None, now=ago(50))
    with scene.database.transaction() as session:
        session.get_one(HostRow, "waits:443").free_at = NOW + SECOND
        for name, days in (("s-old", 50.0), ("s-young", 5.0)):
            session.add(SweepRow(id=name, taken_at=ago(days)))
            session.flush()
            session.add(SweepPickRow(sweep_id=name, position=0, document_key=1, due_at=ago(days)))
    expected = {"crawls": 1, "hosts": 1, "sweeps": 1}
    assert scene.count() == expected
    assert scene.prune() == expected
    assert {crawl.row.id for crawl in crawls.newest()} == {"young", "open"}
    assert scene.rows("crawl_pages") == 4
    assert scene.rows("hosts") == 2
    assert scene.rows("sweeps", "sweep_picks") == 2


def test_a_repair_stays_whose_batch_waits_for_somebody_just_then(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    repairs, transaction = RepairRepository(scene.database), scene.database.transaction
    batch = scene.ended("b", 5)
    key = repairs.intend(Intent(Subject.BATCH, "b", "batch/b", "e", Finding.TERMINATED, Action.RESET), now=ago(50))
    repairs.done(key or 0, now=ago(50))

    def late(**given: Any) -> Any:
        with transaction() as session:
            session.add(batch)
            batch.needs_attention = "the key is refused"
        return transaction(**given)

    monkeypatch.setattr(scene.database, "transaction", late)
    assert scene.prune(kinds=[Kind.REPAIRS]) == {}
    assert [row.subject_id for row in repairs.newest()] == ["b"]


def test_repairs_that_ended_long_ago_go_but_those_of_what_goes_on_and_those_that_are_open(scene: Scene) -> None:
    repairs, slicer, pages = RepairRepository(scene.database), Slicer(scene), Pages(scene)
    scene.store("open")
    scene.ended("ended", 5)
    pages.add("synced")
    pages.add("syncing")
    pages.begin("syncing", ago(45))
    slicer.sliced(ref(), 5)
    subjects = [
        (Subject.BATCH, "open"), (Subject.PART, "open/0/1"), (Subject.BATCH, "ended"), (Subject.PART, "ended/0/1"),
        (Subject.DOCUMENT, "syncing"), (Subject.DOCUMENT, "synced"), (Subject.SLICING, f"{'a' * 64}/gazette"),
        (Subject.BATCH, "unknown"), (Subject.BATCH, "unanswered"), (Subject.BATCH, "lately"),
    ]  # fmt: skip
    for subject, name in subjects:
        intent = Intent(subject, name, f"x/{name}", "e", Finding.TERMINATED, Action.RESET)
        key = repairs.intend(intent, now=ago(50))
        if name != "unanswered":
            repairs.done(key or 0, now=ago(1) if name == "lately" else ago(50))
    assert scene.count(kinds=[Kind.REPAIRS]) == {"repairs": 5}
    assert scene.prune(kinds=[Kind.REPAIRS]) == {"repairs": 5}
    left = {row.subject_id for row in repairs.newest()}
    assert left == {"open", "open/0/1", "syncing", "unanswered", "lately"}
