from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from nightmill.contracts import (
    BreakerState,
    Fault,
    FinishSlicing,
    NoticeRef,
    ProgramOutcome,
    SlicingErrorCode,
    SlicingRef,
    SlicingStatus,
)
from nightmill.errors import NotificationFailed, NotificationRefused, SlicingNotFound
from nightmill.notify import Notifier, SmtpServer
from nightmill.slicing import notices
from nightmill.slicing.notices import Notices, breaker_notification, compose, level_of, message_id, summary_of
from nightmill.storage.engine import Database
from nightmill.storage.slices import NewSlice
from nightmill.storage.slicing_models import BreakerTransitionRow, SlicingRow
from nightmill.storage.slicing_notices import NoticeRepository
from nightmill.storage.slicings import SlicingRepository
from tests.nightmill.mail_server import Inbox, mail_server

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
REF = SlicingRef(sha256="ab" * 32, profile="gazette", run_id="run-1")
TARGETS = ("mailto:a@example.org", "https://hooks.example.org/T0K3N", "mailto:nobody@example.org", "channel:desk")
TIMED_OUT = Fault(code=SlicingErrorCode.TIMED_OUT, message="timed out after 15 min", retried=True, counts=True)

Hook = list[tuple[str, str, dict[str, Any]]]


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def smtp(inbox: Inbox) -> Iterator[SmtpServer]:
    with mail_server(inbox) as settings:
        yield settings


@pytest.fixture
def posted() -> Hook:
    return []


@pytest.fixture
def slicings(database: Database) -> SlicingRepository:
    return SlicingRepository(database)


@pytest.fixture
def told(slicings: SlicingRepository, smtp: SmtpServer, posted: Hook) -> Notices:
    def post_signed(url: str, message_id: str, body: bytes) -> None:
        posted.append((url, message_id, json.loads(body)))

    notifier = Notifier([], smtp, post_signed=post_signed, channels={"desk": "mailto:desk@example.org"})
    return Notices(slicings, NoticeRepository(slicings.database), notifier)


def ended(slicings: SlicingRepository, status: SlicingStatus, *, ref: SlicingRef = REF, slices: int = 2) -> None:
    slicings.open(
        ref, name="gazette.pdf", source="/g.pdf", size=9, notify=TARGETS, metadata={"case": 17}, now=NOW - timedelta(1)
    )
    slicings.started(ref, attempt=1, now=NOW - timedelta(minutes=5))
    result = ProgramOutcome(slices=slices, page_count=60, number="33,463", issued_on=date(2014, 6, 26))
    found = [NewSlice(position=n, start_page=n, end_page=n) for n in range(slices)]
    if status in (SlicingStatus.SLICED, SlicingStatus.NEEDS_REVIEW):
        slicings.finish(FinishSlicing(ref=ref, status=status, result=result), found, now=NOW)
    else:
        fault = TIMED_OUT if status is SlicingStatus.FAILED else None
        slicings.finish(FinishSlicing(ref=ref, status=status, fault=fault), (), now=NOW)


def a_row(**columns: Any) -> SlicingRow:
    given: dict[str, Any] = {
        "sha256": REF.sha256,
        "profile": "gazette",
        "name": "gazette.pdf",
        "source": "/g.pdf",
        "status": SlicingStatus.SLICED,
        "page_count": 60,
        "number": "33,463",
        "issued_on": date(2014, 6, 26),
        "slice_count": 34,
        "queued_at": NOW - timedelta(minutes=6),
        "started_at": NOW - timedelta(minutes=5),
        "ended_at": NOW,
        "created_at": NOW,
    }
    return SlicingRow(**given | columns)


def test_an_owner_is_told_once_and_never_again(told: Notices, slicings: SlicingRepository, inbox: Inbox) -> None:
    ended(slicings, SlicingStatus.SLICED)
    assert told.deliver(NoticeRef(ref=REF, number=0), NOW)
    assert not told.deliver(NoticeRef(ref=REF, number=0), NOW + timedelta(hours=1))
    [(recipients, mail)] = inbox.mails
    assert recipients == ["a@example.org"]
    assert mail["Message-ID"] == f"<{message_id(REF, 0)}@example.org>"
    [kept] = told.notices.of(slicings.get(REF.sha256, REF.profile))
    assert (kept.target, kept.level, kept.sent_at, kept.tries) == ("mailto:a@example.org", "success", NOW, 1)


def test_each_of_those_who_asked_is_told_by_an_id_of_its_own(
    told: Notices, slicings: SlicingRepository, inbox: Inbox, posted: Hook
) -> None:
    ended(slicings, SlicingStatus.SLICED)
    for number in (0, 1, 3):
        assert told.deliver(NoticeRef(ref=REF, number=number), NOW)
    assert not told.deliver(NoticeRef(ref=REF, number=4), NOW)  # nobody has this number
    assert [recipients for recipients, _ in inbox.mails] == [["a@example.org"], ["desk@example.org"]]
    [(url, webhook_id, body)] = posted
    assert (url, webhook_id) == (TARGETS[1], f"msg_{message_id(REF, 1)}")
    details = body["data"]["details"]
    assert body["data"]["slicing"] == f"{REF.sha256}/gazette"
    assert (details["status"], details["slices"], details["issued_on"]) == ("sliced", 2, "2014-06-26")
    assert (details["run_id"], details["metadata"]) == ("run-1", {"case": 17})
    kept = told.notices.of(slicings.get(REF.sha256, REF.profile))
    assert [row.target for row in kept] == ["mailto:a@example.org", "https://hooks.example.org", "channel:desk"]


class Killed(BaseException):
    """What a kill at a fail point is to the code before it: nothing after it runs, and nothing catches it."""


@pytest.mark.parametrize(("point", "mails"), [("notice.begun", 1), ("notice.sent", 2), ("notice.recorded", 1)])
def test_a_kill_at_any_step_loses_no_notice_and_repeats_it_only_under_its_id(
    told: Notices,
    slicings: SlicingRepository,
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    mails: int,
) -> None:
    ended(slicings, SlicingStatus.SLICED)

    def killed(name: str) -> None:
        if name == point:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(notices, "fail_point", killed)
        with pytest.raises(Killed):
            told.deliver(NoticeRef(ref=REF, number=0), NOW)
    told.deliver(NoticeRef(ref=REF, number=0), NOW)
    told.deliver(NoticeRef(ref=REF, number=0), NOW)
    assert len(inbox.mails) == mails
    assert len({mail["Message-ID"] for _, mail in inbox.mails}) == 1


def test_a_failure_is_recorded_and_the_next_try_has_the_same_id(
    told: Notices, slicings: SlicingRepository, inbox: Inbox, smtp: SmtpServer
) -> None:
    ended(slicings, SlicingStatus.FAILED)
    away = Notices(told.slicings, told.notices, Notifier([], SmtpServer(host="127.0.0.1", port=1), post_signed=post))
    with pytest.raises(NotificationFailed):
        away.deliver(NoticeRef(ref=REF, number=0), NOW)
    [kept] = told.notices.of(slicings.get(REF.sha256, REF.profile))
    assert (kept.sent_at, kept.error) == (None, "the mail could not be sent (Connection refused)")
    assert told.deliver(NoticeRef(ref=REF, number=0), NOW + timedelta(minutes=5))
    [again] = told.notices.of(slicings.get(REF.sha256, REF.profile))
    assert (again.tries, again.error, again.message_id) == (2, None, kept.message_id)
    with pytest.raises(NotificationRefused):
        told.deliver(NoticeRef(ref=REF, number=2), NOW)


def post(url: str, message_id: str, body: bytes) -> None:
    raise AssertionError("nothing is posted")


def test_nobody_is_told_of_a_cancel_or_before_the_end(told: Notices, slicings: SlicingRepository, inbox: Inbox) -> None:
    slicings.open(REF, name="g", source="/g.pdf", size=9, notify=TARGETS, metadata={}, now=NOW)
    assert not told.deliver(NoticeRef(ref=REF, number=0), NOW)
    ended(slicings, SlicingStatus.CANCELED)
    assert not told.deliver(NoticeRef(ref=REF, number=0), NOW)
    assert not inbox.mails


def test_a_run_after_which_another_has_begun_tells_nobody(
    told: Notices, slicings: SlicingRepository, inbox: Inbox
) -> None:
    ended(slicings, SlicingStatus.SLICED)
    later = REF.model_copy(update={"run_id": "run-2"})
    ended(slicings, SlicingStatus.FAILED, ref=later)
    assert not told.deliver(NoticeRef(ref=REF, number=0), NOW)
    assert told.deliver(NoticeRef(ref=later, number=0), NOW)
    [(_, mail)] = inbox.mails
    assert "could not be sliced" in mail["Subject"]
    assert "What an earlier run found is kept: 2 slices." in mail.get_content()


def test_a_document_that_was_deleted_is_said_to_be(told: Notices) -> None:
    with pytest.raises(SlicingNotFound):
        told.deliver(NoticeRef(ref=REF, number=0), NOW)


@pytest.mark.parametrize(
    ("columns", "level", "subject", "first"),
    [
        ({}, "success", "gazette.pdf is sliced", "gazette.pdf was cut into 34 slices."),
        ({"slice_count": 1}, "success", "gazette.pdf is sliced", "gazette.pdf was cut into 1 slice."),
        (
            {"status": SlicingStatus.NEEDS_REVIEW, "flagged_count": 2},
            "warning",
            "gazette.pdf is to be looked at",
            "gazette.pdf was cut into 34 slices. A person should look at it.",
        ),
        (
            {"status": SlicingStatus.NEEDS_REVIEW, "slice_count": 0},
            "warning",
            "no slices found in gazette.pdf",
            "No slices were found in gazette.pdf. The document is kept.",
        ),
        (
            {"status": SlicingStatus.SLICED, "slice_count": 0},
            "warning",
            "no slices found in gazette.pdf",
            "No slices were found in gazette.pdf. The document is kept.",
        ),
        (
            {"status": SlicingStatus.FAILED, "error": "timed out after 15 min", "slice_count": 0},
            "error",
            "gazette.pdf could not be sliced",
            "gazette.pdf could not be sliced: timed out after 15 min.",
        ),
    ],
)
def test_how_it_ended_is_said_first(columns: dict[str, Any], level: str, subject: str, first: str) -> None:
    notification = compose(a_row(**columns), link=None, message_id="m")
    assert notification.level == level
    assert notification.subject == f"Nightmill: {subject}"
    assert notification.body.splitlines()[0] == first


def test_a_notice_says_what_is_known_and_where_to_look() -> None:
    row = a_row(
        status=SlicingStatus.NEEDS_REVIEW,
        flagged_count=1,
        reasons=["slice 3: its file\nis missing", *[f"reason {n}" for n in range(10)]],
        user_metadata={"case": "Nº 17"},
        notify=["https://hooks.example.org/T0K3N"],
        source="https://example.org/g.pdf",
    )
    lines = compose(row, link=None, message_id="m").body.splitlines()
    assert lines[:9] == [
        "gazette.pdf was cut into 34 slices. A person should look at it.",
        "",
        "Document: gazette.pdf, 60 pages",
        "Gazette: No. 33,463 of 2014-06-26",
        "Slices: 34, 1 with a problem",
        "Took: 5 min",
        'Metadata: {"case": "Nº 17"}',
        "",
        "To be looked at:",
    ]
    assert lines[9] == "- slice 3: its file is missing"
    assert lines[-3:] == ["- and 1 more", "", "To see it: nightmill slice show abababababab/gazette"]
    linked = compose(row, link="https://app.example.org/{profile}/{sha256}?{x}", message_id="m")
    assert linked.link == f"https://app.example.org/gazette/{row.sha256}?{{x}}"
    assert "nightmill slice show" not in linked.body
    assert "T0K3N" not in f"{linked}"


def test_a_failure_names_its_kind_and_the_summary_its_reason() -> None:
    row = a_row(status=SlicingStatus.FAILED, error="killed by signal 9", error_code=SlicingErrorCode.PROGRAM_KILLED)
    assert "Error: program_killed" in compose(row, link=None, message_id="m").body
    summary = summary_of(row)
    assert (summary.message, summary.duration) == ("killed by signal 9", timedelta(minutes=5))
    assert level_of(a_row(status=SlicingStatus.CANCELED)) is None
    assert summary_of(a_row(status=SlicingStatus.SLICING, ended_at=None)).duration is None


@pytest.mark.parametrize(
    "other",
    [
        (REF.model_copy(update={"run_id": "run-2"}), 0),
        (REF.model_copy(update={"profile": "outline"}), 0),
        (REF.model_copy(update={"sha256": "ab" * 31 + "ff"}), 0),
        (REF, 1),
    ],
)
def test_the_id_is_of_one_notice_of_one_run_alone(other: tuple[SlicingRef, int]) -> None:
    assert message_id(REF, 0) == message_id(REF.model_copy(), 0)
    assert message_id(*other) != message_id(REF, 0)


@pytest.mark.parametrize(
    ("state", "level", "subject"),
    [
        (BreakerState.OPEN, "error", "Nightmill: slicing by gazette is interrupted"),
        (BreakerState.HELD_OPEN, "warning", "Nightmill: slicing by gazette is held"),
        (BreakerState.CLOSED, "success", "Nightmill: slicing by gazette goes on"),
    ],
)
def test_operators_are_told_of_each_transition_under_its_id(state: BreakerState, level: str, subject: str) -> None:
    row = BreakerTransitionRow(
        profile="gazette", number=3, state=state, reason="5 faults", changed_by="breaker", at=NOW, message_id="nm-b-3"
    )
    notification = breaker_notification(row)
    assert (notification.level, notification.subject, notification.message_id) == (level, subject, "nm-b-3")
    assert notification.body.endswith("Reason: 5 faults\nBy: breaker\nAt: 2026-11-22 12:00:00 UTC")
    assert notification.details is not None
    assert notification.details["number"] == 3
