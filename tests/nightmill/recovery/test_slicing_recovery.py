"""What a lost slicing is started with, and the ends that no run can write or tell any more."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightmill.contracts import (
    Fault,
    FinishSlicing,
    ProgramOutcome,
    SlicingErrorCode,
    SlicingInput,
    SlicingRef,
    SlicingStatus,
)
from nightmill.errors import NotificationFailed
from nightmill.notify import Notifier
from nightmill.recovery.slicings import SlicingRecovery
from nightmill.settings.slicing import SlicingSettings
from nightmill.slicing import keys
from nightmill.slicing.breaker import Breaker
from nightmill.slicing.jobs import SlicingJobs
from nightmill.slicing.notices import Notices
from nightmill.slicing.originals import Originals
from nightmill.storage.breakers import BreakerRepository
from nightmill.storage.engine import Database
from nightmill.storage.files import open_file_store
from nightmill.storage.slices import NewSlice
from nightmill.storage.slicing_attempts import AttemptRepository
from nightmill.storage.slicing_models import SlicingRow
from nightmill.storage.slicing_notices import NoticeRepository
from nightmill.storage.slicings import SlicingRepository
from tests.nightmill.mail_server import Inbox, mail_server

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SHA = "ab" * 32
OWNER = "mailto:owner@example.org"
TIMED_OUT = Fault(code=SlicingErrorCode.TIMED_OUT, message="timed out after 15 min")


def ref(run_id: str = "r1") -> SlicingRef:
    return SlicingRef(sha256=SHA, profile="gazette", run_id=run_id)


class Scene:
    """One document, whoever is told of it, and what recovers it."""

    def __init__(self, database: Database, folder: Path, inbox: Inbox, notifier: Notifier) -> None:
        def fetch(url: str) -> Iterator[bytes]:
            raise AssertionError(url)

        self.inbox, settings = inbox, SlicingSettings()
        self.files = open_file_store(f"file://{folder}/files")
        self.rows = SlicingRepository(database)
        jobs = SlicingJobs(
            settings,
            Originals(self.files, (), fetch, max_size=1_000),
            self.files,
            self.rows,
            AttemptRepository(database),
            Breaker(BreakerRepository(database), settings),
        )
        self.recovery = SlicingRecovery(
            self.rows, jobs, Notices(self.rows, NoticeRepository(database), notifier, link=None)
        )

    @property
    def row(self) -> SlicingRow:
        return self.rows.get(SHA, "gazette")

    @property
    def told(self) -> list[str]:
        """Who was told, and of what."""
        return [f"{mail['to']} {mail['subject']}" for _, mail in self.inbox.mails]

    def asked(self, *notify: str) -> None:
        """A client has stored it."""
        self.rows.add(SHA, "gazette", name="g.pdf", source="stored:g.pdf", notify=notify, metadata={"of": 1}, now=NOW)

    def opened(self, *notify: str, run_id: str = "r1", minutes: float = 1) -> None:
        """A run has begun."""
        at = NOW + timedelta(minutes=minutes)
        self.rows.open(
            ref(run_id), name="g.pdf", source="/in/g.pdf", size=9, notify=notify or None, metadata=None, now=at
        )

    def ended(self) -> None:
        """Its run has failed."""
        self.rows.finish(FinishSlicing(ref=ref(), status=SlicingStatus.FAILED, fault=TIMED_OUT), [], now=NOW)

    def close(self, run_id: str | None = "r1", *, canceled: bool = False) -> None:
        self.recovery.close(SHA, "gazette", run_id=run_id, reason="its run is gone", canceled=canceled)


@pytest.fixture
def scene(database: Database, tmp_path: Path) -> Iterator[Scene]:
    inbox = Inbox()
    with mail_server(inbox) as smtp:
        yield Scene(database, tmp_path, inbox, Notifier([], smtp, post_signed=lambda *_: None))


def test_a_lost_run_is_started_with_what_the_row_knows_and_leaves_the_rest_there(scene: Scene) -> None:
    assert scene.recovery.lost_run(SHA, "gazette") is None, "it was deleted"
    scene.asked(OWNER)
    given = scene.recovery.lost_run(SHA, "gazette")
    assert given == SlicingInput(source="stored:g.pdf", profile="gazette")
    scene.opened()
    given = scene.recovery.lost_run(SHA, "gazette")
    assert given == SlicingInput(source="/in/g.pdf", profile="gazette")
    assert (scene.row.notify, scene.row.user_metadata) == ([OWNER], {"of": 1})
    scene.ended()
    assert scene.recovery.lost_run(SHA, "gazette") is None


@pytest.mark.parametrize("begun", [True, False], ids=["a run has begun", "none has"])
def test_what_no_run_can_end_is_closed_as_failed_and_its_owner_told_once(scene: Scene, begun: bool) -> None:
    scene.asked(OWNER)
    if begun:
        scene.opened()
    for _ in range(2):
        scene.close("r1" if begun else None)
    row = scene.row
    assert (row.status, row.error_code, row.error) == (
        SlicingStatus.FAILED,
        SlicingErrorCode.INTERNAL,
        "its run is gone",
    )
    assert scene.told == ["owner@example.org Nightmill: g.pdf could not be sliced"]


@pytest.mark.parametrize("begun", [True, False], ids=["a run has begun", "none has"])
def test_what_was_canceled_is_closed_so_and_nobody_told(scene: Scene, begun: bool) -> None:
    scene.asked(OWNER)
    if begun:
        scene.opened()
    scene.close("r1" if begun else None, canceled=True)
    assert (scene.row.status, scene.row.error, scene.told) == (SlicingStatus.CANCELED, None, [])


@pytest.mark.parametrize("canceled", [True, False])
def test_a_run_that_has_begun_since_is_not_ended(scene: Scene, canceled: bool) -> None:
    scene.opened(OWNER)
    before, run = scene.row, scene.rows.get

    def just_too_early(sha256: str, profile: str) -> SlicingRow:
        object.__setattr__(scene.recovery.slicings, "get", run)
        scene.opened(run_id="r2", minutes=2)
        return before

    object.__setattr__(scene.recovery.slicings, "get", just_too_early)
    scene.close(canceled=canceled)
    assert (scene.row.run_id, scene.row.status, scene.told) == ("r2", SlicingStatus.QUEUED, [])
    scene.close(canceled=canceled)
    assert (scene.row.run_id, scene.row.status, scene.told) == ("r2", SlicingStatus.QUEUED, [])


def test_what_an_earlier_run_found_stays_when_a_later_one_is_closed(scene: Scene) -> None:
    scene.opened(OWNER)
    done = FinishSlicing(
        ref=ref(), status=SlicingStatus.SLICED, result=ProgramOutcome(slices=1, page_count=3, number="7")
    )
    scene.rows.finish(done, [NewSlice(position=0, start_page=0, end_page=2)], now=NOW)
    scene.opened(run_id="r2", minutes=2)
    for run in ("r1", "r2"):
        scene.files.write(f"{keys.run(SHA, 'gazette', run)}/0001.pdf", [b"x"])
    scene.close("r2")
    assert (scene.row.status, scene.row.slice_count, scene.row.result_run) == (SlicingStatus.FAILED, 1, "r1")
    left = [scene.files.size(f"{keys.run(SHA, 'gazette', run)}/0001.pdf") for run in ("r1", "r2")]
    assert left == [1, None]


def test_all_are_told_but_whom_nobody_can_tell_and_an_operator_hears_of_him(scene: Scene) -> None:
    scene.opened("mailto:nobody@example.org", OWNER)
    scene.ended()
    for _ in range(2):
        scene.recovery.tell(SHA, "gazette")
    assert scene.told == ["owner@example.org Nightmill: g.pdf could not be sliced"]
    assert (scene.row.needs_attention or "").startswith("notice 1: ")


def test_somebody_who_cannot_be_told_now_holds_up_nobody_and_is_told_later(scene: Scene) -> None:
    scene.opened("mailto:later@example.org", OWNER)
    scene.ended()
    with pytest.raises(NotificationFailed):
        scene.recovery.tell(SHA, "gazette")
    assert scene.told == ["owner@example.org Nightmill: g.pdf could not be sliced"]
    assert scene.row.needs_attention is None


def test_nobody_is_told_of_a_run_that_goes_on_or_of_a_document_that_is_gone(scene: Scene) -> None:
    scene.recovery.tell(SHA, "gazette")
    scene.close()
    scene.opened(OWNER)
    scene.recovery.tell(SHA, "gazette")
    assert scene.told == []
