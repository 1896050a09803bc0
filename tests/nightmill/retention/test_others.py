"""Histories, slicings and repairs: what is past goes, what somebody may still need stays."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from nightmill.contracts import (
    GONE,
    Action,
    BreakerState,
    CrawlInput,
    Finding,
    FinishSlicing,
    ParagraphDiff,
    ProgramOutcome,
    SlicingRef,
    SlicingStatus,
    Subject,
    SyncResult,
    Trigger,
)
from nightmill.retention import pruning
from nightmill.retention.model import Kind
from nightmill.slicing import keys
from nightmill.storage.accounts import AccountRepository
from nightmill.storage.crawls import CrawlRepository
from nightmill.storage.document_models import HostRow, SweepPickRow, SweepRow
from nightmill.storage.document_syncs import SyncRepository, SyncStart
from nightmill.storage.documents import DocumentRepository, NewDocument
from nightmill.storage.hosts import HostRepository
from nightmill.storage.pruning_slicings import SlicingPruning
from nightmill.storage.repairs import Intent, RepairRepository
from nightmill.storage.slices import NewSlice
from nightmill.storage.slicing_attempts import AttemptRepository, NewAttempt
from nightmill.storage.slicing_models import BreakerTransitionRow, SlicerBreakerRow
from nightmill.storage.slicing_notices import NoticeRepository
from nightmill.storage.slicings import SlicingRepository
from tests.nightmill.retention.conftest import MONTH, NOW, Scene, ago
from tests.nightmill.storage.conftest import a_link

SECOND = timedelta(seconds=1)


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
        given: dict[str, Any] = {
            "content": f"text of {fingerprint}", "content_length": 9, "fingerprint": fingerprint, "version": "v1",
            "title": "Prices", "result": SyncResult.UPDATED, "source_type": "html", "next_sync_at": ago(days - 1),
            "pace": 1.0, "diff": ParagraphDiff(added=1), "attempt": 1, "duration_ms": 20, "now": ago(days),
            "etag": None, "last_modified": None, "raw_hash": fingerprint, "resolved_link": None, "page_link": None,
        }  # fmt: skip
        self.syncs.store_content(name, self.begin(name, ago(days)), handled=handled, done=True, **given)

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


def ref(run: str = "r1", digit: str = "a", profile: str = "gazette") -> SlicingRef:
    return SlicingRef(sha256=digit * 64, profile=profile, run_id=run)


class Slicer:
    """PDFs, sliced by the real repositories, with the files of their runs."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.files = scene, scene.files
        self.slicings = SlicingRepository(scene.database)
        self.attempts = AttemptRepository(scene.database)
        self.notices = NoticeRepository(scene.database)

    def sliced(
        self,
        which: SlicingRef,
        days: float,
        *,
        status: SlicingStatus = SlicingStatus.SLICED,
        notify: tuple[str, ...] = (),
    ) -> None:
        self.files.write(keys.original(which.sha256), [b"%PDF" * 10])
        self.slicings.open(which, name="g", source="g", size=40, notify=notify, metadata=None, now=ago(days + 0.1))
        self.attempts.record(
            NewAttempt(
                ref=which, attempt=1, step="slice", command="c", started_at=ago(days), duration=SECOND, exit_code=0
            )
        )
        for key in (keys.slice_file(which, 0), keys.result(which), keys.raw_output(which, "slice", 1)):
            self.files.write(key, [b"0123456789"])
        slices = [NewSlice(position=0, start_page=0, end_page=3, file_key=keys.slice_file(which, 0), file_size=10)]
        found = ProgramOutcome(slices=1, page_count=4)
        self.slicings.finish(FinishSlicing(ref=which, status=status, result=found), slices, now=ago(days))

    def asked_for(self, which: SlicingRef, days: float = 0) -> None:
        self.slicings.add(
            which.sha256, which.profile, name="g", source="stored:g", notify=[], metadata={}, now=ago(days)
        )  # fmt: skip


def test_a_slicing_goes_with_its_slices_records_and_files_and_its_pdf_when_no_other_profile_has_it(
    scene: Scene,
) -> None:
    slicer = Slicer(scene)
    slicer.sliced(ref("r0"), 60)
    slicer.sliced(ref("r1"), 40, notify=("mailto:a@x.example",), status=SlicingStatus.NEEDS_REVIEW)
    slicer.sliced(ref("r2", profile="other"), 5)
    slicer.sliced(ref("r3", "b"), 35)
    slicer.notices.begin(ref("r1"), 0, "mailto:a@x.example", "success", "m", ago(40))
    slicer.notices.sent(ref("r1"), 0, ago(40))
    assert scene.count(kinds=[Kind.SLICINGS]) == {"slicings": 2}
    assert scene.prune(kinds=[Kind.SLICINGS]) == {"slicings": 2}
    assert scene.rows("slicings", "slices", "slicing_attempts", "slicing_notices") == 3
    other = ref("r2", profile="other")
    files = [keys.original("a" * 64), keys.slice_file(other, 0), keys.result(other), keys.raw_output(other, "slice", 1)]
    assert scene.stored() == sorted(files)
    assert scene.prune(kinds=[Kind.SLICINGS]) == {}


def test_a_slicing_stays_that_somebody_waits_for(scene: Scene) -> None:
    slicer = Slicer(scene)
    slicer.sliced(ref("r1", "a"), 40)
    slicer.asked_for(ref("", "a"), 0.5)  # and no worker has begun yet
    slicer.sliced(ref("r1", "b"), 40)
    slicer.slicings.attention(ref("r1", "b"), "the mail server refuses")
    slicer.sliced(ref("r1", "c"), 40)
    slicer.slicings.open(ref("r2", "c"), name="g", source="g", size=4, notify=None, metadata=None, now=ago(38))
    slicer.sliced(ref("r1", "d"), 5, notify=("mailto:a@x.example",))
    before = scene.stored()
    assert scene.prune(timedelta(days=2)) == {}
    assert scene.stored() == before
    assert scene.prune(timedelta(days=2), kinds=[Kind.SLICINGS]) == {}
    assert scene.rows("slicings", "slices") == 8


def test_of_a_slicing_that_stays_what_earlier_runs_left_goes(scene: Scene) -> None:
    slicer = Slicer(scene)
    for run, days in (("r0", 60), ("r1", 40), ("r2", 20)):
        slicer.sliced(ref(run), days, notify=("mailto:a@x.example",))
        slicer.notices.begin(ref(run), 0, "mailto:a@x.example", "success", run, ago(days))
    with scene.database.transaction() as session:
        session.add(SlicerBreakerRow(profile="gazette", transitions=4))
        for number, days, told in ((1, 50, ago(50)), (2, 50, None), (3, 5, ago(5)), (4, 50, ago(50))):
            session.add(
                BreakerTransitionRow(
                    profile="gazette",
                    number=number,
                    state=BreakerState.OPEN,
                    changed_by="x",
                    at=ago(days),
                    told_at=told,
                    message_id="m",
                )
            )
    expected = {"attempts": 2, "notices": 2, "transitions": 1}
    assert scene.count(kinds=[Kind.SLICINGS]) == expected
    assert scene.prune(kinds=[Kind.SLICINGS]) == expected
    row = slicer.slicings.get("a" * 64, "gazette")
    assert [attempt.run_id for attempt in slicer.attempts.of(row)] == ["r2"]
    assert [notice.run_id for notice in slicer.notices.of(row)] == ["r2"]
    with scene.database.reading() as session:
        numbers = session.connection().execute(text("SELECT number FROM breaker_transitions ORDER BY number")).scalars()
        assert list(numbers) == [2, 3, 4]


def test_a_pdf_that_is_asked_for_again_while_it_is_pruned_is_there_when_its_row_is(scene: Scene) -> None:
    slicer = Slicer(scene)
    slicer.sliced(ref(), 40)
    rows, made = SlicingPruning(scene.database), threading.Event()

    def ask() -> None:
        slicer.asked_for(ref())
        made.set()
        if slicer.files.size(keys.original("a" * 64)) is None:
            slicer.files.write(keys.original("a" * 64), [b"again"])

    def delete() -> None:
        thread.start()
        assert not made.wait(0.3), "a row was made while the file was being deleted"
        slicer.files.delete(keys.original("a" * 64))

    thread = threading.Thread(target=ask)
    [gone] = rows.delete_slicings(NOW - MONTH, NOW)
    assert rows.if_unknown(gone.sha256, delete)
    thread.join()
    assert slicer.files.size(keys.original("a" * 64)) == 5
    assert not rows.if_unknown(gone.sha256, pytest.fail)
    assert scene.prune(timedelta(days=1)) == {}


def test_files_of_a_slicing_whose_prune_was_killed_are_found_by_the_next_one(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    slicer = Slicer(scene)
    slicer.sliced(ref(), 40)
    scene.let_files_be_old()

    class Killed(BaseException):
        pass

    def die(name: str) -> None:
        if name == "prune.slicing_deleted":
            raise Killed

    monkeypatch.setattr(pruning, "fail_point", die)
    with pytest.raises(Killed):
        scene.prune()
    assert len(scene.stored()) == 4
    monkeypatch.undo()
    assert scene.prune(kinds=[Kind.FILES]) == {"files": 4}
    assert scene.stored() == []


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
