"""Only the attempt that began last writes; what it writes is whole, and the last good text is never lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest
from sqlalchemy import text

from nightmill.contracts import GONE, ParagraphDiff, SyncErrorCode, SyncResult, SyncStatus, SyncStep, Trigger
from nightmill.errors import DocumentNotFound, SyncSuperseded
from nightmill.storage.accounts import AccountRepository
from nightmill.storage.document_models import DocumentRow
from nightmill.storage.document_syncs import NewText, Skip, SyncRepository, SyncStart
from nightmill.storage.documents import DocumentRepository
from nightmill.storage.engine import Database
from nightmill.storage.sync_state import PageFacts, Rest

FACTS = PageFacts(
    etag='"1"',
    last_modified="Mon, 02 Mar 2026 11:00:00 GMT",
    raw_hash="r1",
    title=None,
    resolved_link=None,
    page_link=None,
)

_T = TypeVar("_T", PageFacts, NewText, Rest)


def with_its_own(given: _T, changes: dict[str, Any]) -> _T:
    """Return it with those of the changes that are its fields, which are taken out of them."""
    return replace(given, **{name: changes.pop(name) for name in list(changes) if hasattr(given, name)})


class Lab:
    """One document and what syncs do to it."""

    def __init__(self, database: Database, at: Callable[..., datetime]) -> None:
        self.documents = DocumentRepository(database)
        self.syncs = SyncRepository(database)
        self.database = database
        self.at = at

    @property
    def row(self) -> DocumentRow:
        return self.documents.get("d1").row

    def begin(self, run: str = "run1", trigger: Trigger = Trigger.MANUAL, hours: float = 0) -> SyncStart:
        begun = self.syncs.begin("d1", run_id=run, trigger=trigger, now=self.at(hours))
        assert isinstance(begun, SyncStart)
        return begun

    def store(self, token: str, fingerprint: str = "f1", hours: float = 0, **changes: Any) -> None:
        content = f"text of {fingerprint}"
        text = NewText(content=content, length=len(content), fingerprint=fingerprint, version="v1", source_type="html")
        self.syncs.store_content(
            "d1",
            token,
            with_its_own(text, changes),
            with_its_own(replace(FACTS, title="Prices"), changes),
            with_its_own(self.rest(hours), changes),
            **{
                "result": SyncResult.UPDATED,
                "handled": False,
                "diff": ParagraphDiff(added=1),
                "attempt": 1,
                "duration_ms": 20,
                **changes,
            },
        )

    def unchanged(self, token: str, hours: float = 0, **changes: Any) -> None:
        facts, rest = with_its_own(FACTS, changes), with_its_own(self.rest(hours), changes)
        self.syncs.unchanged("d1", token, facts, rest, **{"result": SyncResult.UNCHANGED, **changes})

    def rest(self, hours: float = 0) -> Rest:
        return Rest(next_sync_at=self.at(hours + 24), pace=1.0, now=self.at(hours), done=True)

    def failed(self, token: str, code: SyncErrorCode = SyncErrorCode.NOT_FOUND, hours: float = 0) -> int:
        return self.syncs.failed(
            "d1",
            token,
            result=SyncResult.PERMANENT_FAILURE,
            code=code,
            reason="soft_404",
            note="not there",
            next_sync_at=self.at(hours + 24),
            attempt=1,
            duration_ms=5,
            now=self.at(hours),
        )

    def transient(self, token: str, hours: float = 0) -> int:
        return self.syncs.transient(
            "d1",
            token,
            code=SyncErrorCode.TIMEOUT,
            reason="connect",
            retry_at=self.at(hours + 0.1),
            note="slow",
            now=self.at(hours),
        )


@pytest.fixture
def lab(database: Database, add_document: Any, given: Any) -> Lab:
    add_document("d1", account_handler=given.handler)
    return Lab(database, given.at)


def test_a_sync_that_begins_says_so_and_starts_with_fresh_budgets(lab: Lab, given: Any) -> None:
    begun = lab.begin()
    row = lab.row
    assert (begun.account, begun.plan, begun.attempt, begun.handler) == ("acme", "daily", 1, given.handler)
    assert (row.sync_status, row.sync_step, row.sync_token) == (SyncStatus.SYNCING, SyncStep.FETCHING, begun.token)
    assert (row.last_sync_attempted_at, row.last_synced_at) == (given.noon, None)
    assert begun.row.sync_run == row.sync_run == "run1"


def test_only_the_attempt_that_began_last_may_write(lab: Lab) -> None:
    late = lab.begin().token
    lab.begin()
    writes: list[Callable[[], object]] = [
        lambda: lab.syncs.step("d1", late, SyncStep.COMPARING),
        lambda: lab.store(late),
        lambda: lab.unchanged(late),
        lambda: lab.transient(late),
        lambda: lab.failed(late),
        lambda: lab.syncs.skip("d1", late, reason="pdf", next_sync_at=None, now=lab.at()),
        lambda: lab.syncs.hold_shrunk("d1", late, "s", lab.rest()),
        lambda: lab.syncs.unexpected("d1", late, reason=None, retry_at=lab.at(), note=None, now=lab.at()),
    ]
    before = lab.row.model_dump()
    for write in writes:
        with pytest.raises(SyncSuperseded):
            write()
    assert lab.row.model_dump() == before
    assert lab.documents.history("d1") == []
    lab.documents.delete("d1")
    for write in writes:
        with pytest.raises(DocumentNotFound):
            write()
    assert lab.syncs.begin("d1", run_id="run1", trigger=Trigger.MANUAL, now=lab.at()) == Skip("gone")
    lab.syncs.release("d1")


def test_a_new_text_its_title_and_its_fingerprint_are_stored_together_or_not_at_all(lab: Lab) -> None:
    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    begun = lab.begin()
    with pytest.raises(Killed):
        lab.store(begun.token, before_commit=die)
    row = lab.row
    assert (row.content_fingerprint, row.name, row.sync_step) == (None, None, SyncStep.FETCHING)
    assert lab.documents.versions("d1") == lab.documents.history("d1") == []
    lab.store(begun.token, content="a\0b\ud800", length=7, done=False)
    row, content = lab.row, lab.documents.content("d1")
    assert (row.content_fingerprint, row.handled_fingerprint, row.name) == ("f1", None, "Prices")
    assert (row.sync_status, row.sync_step) == (SyncStatus.SYNCING, SyncStep.UPDATING)
    assert (row.content_length, row.content_cut) == (7, True)
    assert (row.etag, row.raw_hash, row.last_full_fetch_at) == ('"1"', "r1", lab.at())
    assert content is not None
    assert (content.content, content.name, content.fingerprint) == ("ab\ufffd", "Prices", "f1")


def test_a_blank_title_keeps_the_present_one_and_a_title_alone_is_stored(lab: Lab) -> None:
    lab.store(lab.begin().token)
    lab.store(lab.begin("run2").token, "f2", title=" \n", done=True)
    assert lab.row.name == "Prices"
    lab.unchanged(lab.begin("run3").token, title="Our prices")
    assert (lab.row.name, lab.row.content_fingerprint) == ("Our prices", "f2")


def test_what_nobody_wants_to_be_told_counts_as_told(lab: Lab) -> None:
    lab.store(lab.begin().token, handled=True)
    assert lab.row.handled_fingerprint == "f1"
    lab.store(lab.begin("run2").token, "f2", handled=True, result=SyncResult.BASELINE)
    assert [event.result for event in lab.documents.history("d1")] == [SyncResult.BASELINE, SyncResult.UPDATED]


def test_an_unchanged_page_moves_times_and_counters_only(lab: Lab) -> None:
    lab.store(lab.begin().token)
    lab.unchanged(lab.begin("run2", hours=1).token, hours=1, raw_hash=None, pace=1.5)
    row = lab.row
    assert (row.consecutive_unchanged, row.pace, row.raw_hash) == (1, 1.5, "r1")
    assert (row.last_synced_at, row.last_full_fetch_at, row.next_sync_at) == (lab.at(1), lab.at(0), lab.at(25))
    lab.unchanged(lab.begin("run3").token, counted=False)
    assert lab.row.consecutive_unchanged == 1
    assert len(lab.documents.history("d1")) == 1
    lab.store(lab.begin("run4").token, "f2")
    assert lab.row.consecutive_unchanged == 0


def test_five_texts_are_kept_and_beyond_them_the_one_that_the_handler_knows(lab: Lab) -> None:
    lab.store(lab.begin("run0").token, "f0")
    lab.syncs.delivered("d1", "f0", number=1, now=lab.at(0))
    for number in range(1, 9):
        lab.store(lab.begin(f"run{number}").token, f"f{number}", hours=number)
    assert [version.fingerprint for version in lab.documents.versions("d1")] == ["f8", "f7", "f6", "f5", "f4", "f0"]
    assert (known := lab.documents.content("d1", "f0")) is not None
    assert known.content == "text of f0"
    assert lab.documents.content("d1", "f1") is None
    lab.store(lab.begin("again").token, "f5", hours=9, content="text of f5, laid out anew", length=25)
    assert [version.fingerprint for version in lab.documents.versions("d1")] == ["f5", "f8", "f7", "f6", "f4", "f0"]
    assert (present := lab.documents.content("d1")) is not None
    assert present.content == "text of f5, laid out anew"


def test_fifty_events_are_kept(lab: Lab) -> None:
    for number in range(53):
        lab.store(lab.begin(f"run{number}").token, f"f{number}")
    events = lab.documents.history("d1", limit=100)
    assert len(events) == 50
    assert (events[0].new_fingerprint, events[-1].new_fingerprint) == ("f52", "f3")
    assert (events[0].old_fingerprint, events[0].added, events[0].duration_ms) == ("f51", 1, 20)


def test_between_attempts_the_document_stays_syncing_and_its_error_stays_visible(lab: Lab) -> None:
    assert lab.transient(lab.begin().token) == 1
    row = lab.row
    assert (row.sync_status, row.sync_step, row.next_attempt_at) == (SyncStatus.SYNCING, None, lab.at(0.1))
    assert (row.last_sync_error_code, row.last_sync_error_reason) == (SyncErrorCode.TIMEOUT, "connect")
    second = lab.begin(hours=0.1)
    assert second.attempt == 2
    assert second.row.last_sync_error_code is SyncErrorCode.TIMEOUT
    assert second.row.next_attempt_at is None
    given = {"reason": "KeyError", "retry_at": lab.at(1), "note": None, "now": lab.at(0.1)}
    assert lab.syncs.unexpected("d1", second.token, **given) == 1
    assert lab.transient(lab.begin(hours=0.2).token, hours=0.2) == 2
    row = lab.row
    assert (row.sync_attempts, row.spent_transient, row.spent_unexpected) == (3, 2, 1)
    assert [(event.result, event.attempt) for event in lab.documents.history("d1")] == [
        (SyncResult.TRANSIENT_FAILURE, 3),
        (SyncResult.UNEXPECTED_FAILURE, 2),
        (SyncResult.TRANSIENT_FAILURE, 1),
    ]
    another = lab.begin("run2", hours=1)
    row = another.row
    assert (another.attempt, row.spent_transient, row.spent_unexpected, row.last_sync_error_code) == (1, 0, 0, None)


def test_an_attempt_that_is_lost_costs_no_budget(lab: Lab) -> None:
    assert [lab.begin().attempt for _ in range(5)] == [1] * 5
    assert lab.row.spent_transient == 0


def test_a_failure_keeps_the_last_good_text(lab: Lab) -> None:
    lab.store(lab.begin().token)
    lab.failed(lab.begin("run2").token)
    row = lab.row
    assert (row.sync_status, row.sync_step, row.content_fingerprint) == (SyncStatus.FAILED, None, "f1")
    assert (row.last_sync_error_code, row.last_sync_error_reason) == (SyncErrorCode.NOT_FOUND, "soft_404")
    assert (row.consecutive_failures, row.etag, row.next_sync_at) == (1, '"1"', lab.at(24))
    assert lab.documents.content("d1") is not None
    lab.failed(lab.begin("run3").token)
    assert lab.row.consecutive_failures == 2
    lab.syncs.set_attention("d1", "2 syncs failed")
    lab.unchanged(lab.begin("run4").token)
    row = lab.row
    assert (row.consecutive_failures, row.needs_attention, row.last_sync_error_code) == (0, None, None)
    assert lab.documents.history("d1")[0].note == "works again after 2 syncs that failed"


def test_days_on_which_a_page_is_gone_are_counted_until_it_comes_back(lab: Lab) -> None:
    days = [lab.failed(lab.begin(f"run{hours}").token, hours=hours) for hours in (0, 11.9, 12, 36, 60)]
    assert days == [1, 1, 2, 3, 4]
    assert lab.failed(lab.begin("timeout").token, SyncErrorCode.TIMEOUT, hours=84) == 4
    assert lab.failed(lab.begin("weeks").token, hours=24 * 21) == 5
    lab.unchanged(lab.begin("back").token)
    assert (lab.row.gone_days, lab.row.gone_on) == (0, None)
    assert lab.failed(lab.begin("gone").token, hours=24 * 21) == 1


def test_a_text_that_shrank_is_held_and_the_site_is_asked_for_the_whole_page_again(lab: Lab) -> None:
    lab.store(lab.begin().token)
    lab.syncs.hold_shrunk("d1", lab.begin("run2").token, "short", replace(lab.rest(1), next_sync_at=lab.at(2)))
    row = lab.row
    assert (row.content_fingerprint, row.shrunk_fingerprint, row.sync_status) == ("f1", "short", SyncStatus.SYNCED)
    assert (row.etag, row.last_modified, row.raw_hash, row.next_sync_at) == (None, None, None, lab.at(2))
    lab.unchanged(lab.begin("run3").token)
    assert lab.row.shrunk_fingerprint is None


def test_the_handler_is_told_of_each_content_and_of_a_later_one_again(lab: Lab) -> None:
    lab.store(lab.begin().token, done=False)
    lab.syncs.set_attention("d1", "the handler does not answer")
    lab.store(lab.begin("run2").token, "f2", done=False)
    assert lab.row.needs_attention == "the handler does not answer"
    lab.syncs.delivered("d1", "f1", number=1, now=lab.at(1))
    row = lab.row
    assert (row.handled_fingerprint, row.changes_told, row.needs_attention) == ("f1", 1, None)
    assert lab.documents.get("d1").is_undelivered
    for _ in range(2):
        lab.syncs.delivered("d1", "f2", number=2, now=lab.at(1))
    lab.syncs.delivered("d1", "f1", number=1, now=lab.at(1))  # word of the first one comes late
    row = lab.row
    assert (row.handled_fingerprint, row.changes_told) == ("f2", 2)
    assert len([event for event in lab.documents.history("d1") if event.result is None]) == 2
    lab.syncs.finish("d1", lab.at(1))
    lab.syncs.finish("d1", lab.at(2))
    assert (lab.row.sync_status, lab.row.sync_step, lab.row.last_synced_at) == (SyncStatus.SYNCED, None, lab.at(0))


def test_a_page_that_is_told_as_gone_stays_failed(lab: Lab) -> None:
    lab.store(lab.begin().token, handled=True)
    lab.failed(lab.begin("run2").token)
    lab.syncs.set_attention("d1", "5 syncs failed")
    lab.syncs.delivered("d1", GONE, number=1, now=lab.at(1))
    lab.syncs.finish("d1", lab.at(1))
    row = lab.row
    assert (row.sync_status, row.handled_fingerprint, row.needs_attention) == (
        SyncStatus.FAILED,
        GONE,
        "5 syncs failed",
    )
    assert not lab.documents.get("d1").is_undelivered
    lab.unchanged(lab.begin("run3").token, done=False)
    assert lab.documents.get("d1").is_undelivered


def test_what_needs_a_person_is_news_once(lab: Lab) -> None:
    message = "no\0 answer" + "x" * 2_000
    assert lab.syncs.set_attention("d1", message)
    assert not lab.syncs.set_attention("d1", message)
    assert lab.syncs.set_attention("d1", "another")
    assert not lab.syncs.set_attention("d1", None)
    assert lab.row.needs_attention is None


def test_a_page_and_a_handler_that_both_fail_are_not_news_by_turns(lab: Lab) -> None:
    assert lab.syncs.set_attention("d1", "handler: status 502")
    assert not lab.syncs.set_attention("d1", "handler: no answer")
    assert lab.row.needs_attention == "handler: no answer"
    assert lab.syncs.set_attention("d1", "sync after sync fails")
    for _ in range(2):
        assert not lab.syncs.set_attention("d1", "handler: status 500")
        assert not lab.syncs.set_attention("d1", "sync after sync fails")
    assert lab.row.needs_attention == "sync after sync fails"


def test_what_a_clock_wrote_that_was_years_ahead_keeps_no_sweep_from_syncing(lab: Lab) -> None:
    years = 5 * 365 * 24.0
    lab.store(lab.begin("ahead", hours=years).token, hours=years, handled=True)
    begun = lab.syncs.begin("d1", run_id="sweep", trigger=Trigger.SWEEP, now=lab.at())
    assert isinstance(begun, SyncStart)


def test_a_sweep_syncs_only_what_is_due_and_wanted(lab: Lab) -> None:
    def swept(run: str = "sweep", hours: float = 0) -> SyncStart | Skip:
        return lab.syncs.begin("d1", run_id=run, trigger=Trigger.SWEEP, now=lab.at(hours))

    first = swept()
    assert isinstance(first, SyncStart)
    lab.store(first.token, handled=True)
    assert isinstance(swept("sweep"), SyncStart)  # the same run goes on, though the document has just been synced
    lab.unchanged(lab.begin("manual").token)
    with lab.database.transaction() as session:
        session.connection().execute(text("UPDATE documents SET queued_until = '2026-03-02 15:00:00.000000'"))
    assert swept("later") == Skip("not_due")
    assert (lab.row.queued_until, lab.row.sync_status) == (None, SyncStatus.SYNCED)
    assert isinstance(swept("in time", 23.99), SyncStart)
    lab.unchanged(lab.begin("manual2").token)
    assert swept("later", 23.98) == Skip("not_due")
    lab.store(lab.begin("manual3").token, "f2", done=False)
    lab.syncs.finish("d1", lab.at())
    assert isinstance(swept("undelivered"), SyncStart)
    lab.begin("lost")
    assert isinstance(swept("instead of the lost one"), SyncStart)
    lab.store(lab.begin("manual4").token, "f3", handled=True)
    AccountRepository(lab.database).add("acme", "daily", auto_sync=False, now=lab.at())
    assert swept("off", 48) == Skip("auto_sync_off")
    lab.begin("manual5", hours=48)


def test_a_document_that_is_switched_off_between_attempts_comes_to_rest(lab: Lab) -> None:
    lab.transient(lab.begin().token)
    lab.documents.set_enabled("d1", False)
    assert lab.syncs.begin("d1", run_id="run1", trigger=Trigger.MANUAL, now=lab.at()) == Skip("disabled")
    row = lab.row
    assert (row.sync_status, row.sync_step, row.next_attempt_at) == (SyncStatus.FAILED, None, None)


def test_a_sync_that_is_given_up_leaves_the_document_as_it_was(lab: Lab) -> None:
    lab.begin()
    lab.syncs.abandon("d1", run_id="run1")
    assert lab.row.sync_status is None
    lab.store(lab.begin("run2").token)
    token = lab.begin("run3").token
    lab.syncs.abandon("d1", run_id="another")
    assert lab.row.sync_status is SyncStatus.SYNCING
    lab.syncs.skip("d1", token, reason="pdf", next_sync_at=lab.at(24), now=lab.at())
    row = lab.row
    assert (row.sync_status, row.sync_step, row.next_sync_at) == (SyncStatus.SYNCED, None, lab.at(24))
    assert lab.documents.history("d1")[0].note == "pdf"


def test_a_place_in_the_line_is_kept_for_the_run_and_keeps_sweeps_away(lab: Lab) -> None:
    begun = lab.begin()
    assert begun.ticket is None
    lab.syncs.wait_in_line("d1", ticket=lab.at(3), until=lab.at(2))
    row = lab.row
    assert (row.gate_at, row.next_attempt_at, row.sync_step) == (lab.at(3), lab.at(2), None)
    assert row.queued_until == lab.at(2) + timedelta(minutes=10)
    assert lab.begin().ticket == lab.at(3)
    assert lab.begin("another").ticket is None
    lab.syncs.release("d1")
    assert lab.row.queued_until is None


def test_what_a_site_sends_along_is_kept_only_where_it_is_bearable(lab: Lab) -> None:
    lab.store(
        lab.begin().token, etag='"' + "e" * 1_000, last_modified="a\nb", page_link="https://x.example/" + "p" * 2_000
    )
    row = lab.row
    assert (row.etag, row.last_modified, row.page_link) == (None, None, None)
