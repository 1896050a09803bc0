"""What of the slicings the reconciler looks at: runs that may be gone, and owners who may not have been told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nightmill.contracts import Fault, FinishSlicing, SlicingErrorCode, SlicingRef, SlicingStatus, Subject
from nightmill.recovery.model import Candidate
from nightmill.storage.engine import Database
from nightmill.storage.slicing_candidates import TOLD_WITHIN, SlicingCandidates
from nightmill.storage.slicing_models import SlicingRow
from nightmill.storage.slicing_notices import NoticeRepository
from nightmill.storage.slicings import SlicingRepository

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
GRACE = timedelta(minutes=5)
OWNERS = ("mailto:a@example.org", "mailto:b@example.org")
A_WEEK = TOLD_WITHIN / timedelta(minutes=1)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def ref(sha256: str, run_id: str = "r1") -> SlicingRef:
    return SlicingRef(sha256=sha256, profile="gazette", run_id=run_id)


def sha(number: int) -> str:
    return f"{number:064x}"


class Slicings:
    """Documents in the states that runs leave."""

    def __init__(self, database: Database) -> None:
        self.rows = SlicingRepository(database)
        self.notices = NoticeRepository(database)
        self.reads = SlicingCandidates(database)

    def asked(self, sha256: str, minutes: float) -> None:
        """A client has stored it."""
        self.rows.add(sha256, "gazette", name="g.pdf", source="g.pdf", notify=OWNERS, metadata={}, now=at(minutes))

    def opened(self, sha256: str, minutes: float) -> SlicingRow:
        """Its run has begun."""
        return self.rows.open(
            ref(sha256), name="g.pdf", source="g.pdf", size=9, notify=OWNERS, metadata=None, now=at(minutes)
        )

    def ended(self, sha256: str, minutes: float, status: SlicingStatus = SlicingStatus.FAILED) -> None:
        """Its run has ended, and told nobody yet."""
        self.opened(sha256, minutes - 1)
        fault = Fault(code=SlicingErrorCode.TIMED_OUT, message="timed out")
        self.rows.finish(FinishSlicing(ref=ref(sha256), status=status, fault=fault), [], now=at(minutes))

    def told(self, sha256: str, *numbers: int, run_id: str = "r1", sent: bool = True) -> None:
        """Those who asked to be told were, or it was tried."""
        for number in numbers:
            self.notices.begin(ref(sha256, run_id), number, "mailto:…", "error", f"{sha256[-4:]}-{number}", NOON)
            if sent:
                self.notices.sent(ref(sha256, run_id), number, NOON)

    def found(self, minutes: float = 0, *, limit: int = 100, after: str | None = None) -> list[Candidate]:
        return self.reads.page(after=after, limit=limit, now=at(minutes), grace=GRACE)


@pytest.fixture
def slicings(database: Database) -> Slicings:
    return Slicings(database)


def parked(slicings: Slicings, sha256: str, minutes: float) -> None:
    slicings.opened(sha256, minutes)
    slicings.rows.park(ref(sha256), now=at(minutes))


def started(slicings: Slicings, sha256: str, minutes: float) -> None:
    slicings.opened(sha256, -60)
    slicings.rows.started(ref(sha256), attempt=1, now=at(minutes))


def told_all(slicings: Slicings, sha256: str) -> None:
    slicings.ended(sha256, -6)
    slicings.told(sha256, 0, 1)


def told_one(slicings: Slicings, sha256: str) -> None:
    slicings.ended(sha256, -6)
    slicings.told(sha256, 0)
    slicings.told(sha256, 1, sent=False)


def told_of_an_earlier_run(slicings: Slicings, sha256: str) -> None:
    slicings.ended(sha256, -6)
    slicings.told(sha256, 0, 1, run_id="r0")


def cannot_be_told(slicings: Slicings, sha256: str) -> None:
    slicings.ended(sha256, -6)
    slicings.rows.attention(ref(sha256), "notice 1: no such mailbox")


def asks_for_no_notice(slicings: Slicings, sha256: str) -> None:
    slicings.opened(sha256, -7)
    slicings.rows.open(ref(sha256, "r2"), name="g.pdf", source="g.pdf", size=9, notify=[], metadata=None, now=at(-6.5))
    fault = Fault(code=SlicingErrorCode.TIMED_OUT, message="timed out")
    slicings.rows.finish(FinishSlicing(ref=ref(sha256, "r2"), status=SlicingStatus.FAILED, fault=fault), [], now=at(-6))


CASES: dict[str, tuple[Callable[[Slicings, str], Any], bool]] = {
    "asked for just now": (lambda s, d: s.asked(d, -4), False),
    "asked for, and nothing has begun": (lambda s, d: s.asked(d, -6), True),
    "queued": (lambda s, d: s.opened(d, -4), False),
    "queued for the grace to the second": (lambda s, d: s.opened(d, -5), False),
    "queued for long": (lambda s, d: s.opened(d, -6), True),
    "queued by a clock that was years ahead": (lambda s, d: s.opened(d, 500_000), True),
    "queued by a clock that is an hour ahead": (lambda s, d: s.opened(d, 60), False),
    "being sliced": (lambda s, d: started(s, d, -4), False),
    "being sliced for long": (lambda s, d: started(s, d, -6), True),
    "parked just now": (lambda s, d: parked(s, d, -4), False),
    "parked for long": (lambda s, d: parked(s, d, -6), True),
    "ended, and told": (told_all, False),
    "ended, and one of two was told": (told_one, True),
    "ended, and nobody was told": (lambda s, d: s.ended(d, -6), True),
    "ended just now": (lambda s, d: s.ended(d, -4), False),
    "ended too long ago for anybody to care": (lambda s, d: s.ended(d, -A_WEEK - 1), False),
    "ended nearly too long ago": (lambda s, d: s.ended(d, -A_WEEK + 1), True),
    "ended, and of an earlier run they were told": (told_of_an_earlier_run, True),
    "ended, and an operator knows who cannot be told": (cannot_be_told, False),
    "ended, and nobody asked to be told": (asks_for_no_notice, False),
    "canceled": (lambda s, d: s.ended(d, -6, SlicingStatus.CANCELED), False),
}


def test_what_may_be_lost_or_untold_is_found_and_nothing_else(slicings: Slicings) -> None:
    for number, (happens, _) in enumerate(CASES.values()):
        happens(slicings, sha(number))
    found = {each.id for each in slicings.found()}
    assert {name: f"{sha(number)}/gazette" in found for number, name in enumerate(CASES)} == {
        name: expected for name, (_, expected) in CASES.items()
    }


def test_a_candidate_says_where_to_look_and_how_it_stands(slicings: Slicings) -> None:
    parked(slicings, sha(1), -6)
    slicings.ended(sha(2), -6)
    waiting, ended = slicings.found()
    assert waiting == Candidate(
        subject=Subject.SLICING,
        id=f"{sha(1)}/gazette",
        workflow_id=f"slice/{sha(1)}/gazette",
        after=waiting.after,
        asked_at=at(-6),
        facts={"status": "waiting", "run_id": "r1"},
    )
    assert (ended.id, ended.terminal, ended.facts["status"]) == (f"{sha(2)}/gazette", True, "failed")


def test_pages_go_on_behind_each_other_whatever_they_find(slicings: Slicings) -> None:
    for number in range(9):
        (slicings.opened if number % 2 else slicings.ended)(sha(number), -6)
    everything = [f"{sha(number)}/gazette" for number in range(9)]
    for limit in (1, 2, 4, 9, 10):
        seen: list[Candidate] = []
        while page := slicings.found(limit=limit, after=seen[-1].after if seen else None):
            assert len(page) <= limit
            seen += page
        assert [each.id for each in seen] == everything
