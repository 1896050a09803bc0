"""A slicing goes with all that it has, whatever interrupts the prune, and stays with all where somebody asks for it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from nightmill.contracts import BreakerState, SlicingStatus
from nightmill.errors import StorageUnavailable
from nightmill.retention.model import Kind
from nightmill.settings import DatabaseSettings
from nightmill.slicing import keys
from nightmill.storage import slicings
from nightmill.storage.engine import open_database
from nightmill.storage.pruning_slicings import FilesLeft, SlicingPruning
from nightmill.storage.slicing_models import BreakerTransitionRow, SlicerBreakerRow, SlicingRow
from nightmill.storage.slicing_reads import load_slicing
from tests.nightmill.retention.conftest import MONTH, NOW, Scene, Slicer, ago, ref


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
    with rows.emptying(gone) as left:
        assert left == FilesLeft(frozenset({"r1"}), others=True, original=True)
        delete()
    thread.join()
    assert slicer.files.size(keys.original("a" * 64)) == 5
    assert not rows.if_unknown(gone.sha256, pytest.fail)
    assert scene.prune(timedelta(days=1)) == {}


def test_files_that_a_prune_could_not_reach_go_with_the_next_one(scene: Scene, tmp_path: Path) -> None:
    Slicer(scene).sliced(ref(), 40)
    away = scene.folder.rename(tmp_path / "away")
    scene.folder.touch()  # where the storage should be is something else
    with pytest.raises(StorageUnavailable):
        scene.prune()
    scene.folder.unlink()
    away.rename(scene.folder)
    assert len(scene.stored()) == 4
    assert scene.rows("slicings") == 0
    assert scene.count() == {"slicings": 1}
    assert scene.prune() == {"slicings": 1}
    assert scene.stored() == []
    assert scene.rows("slicing_leavings") == 0
    assert scene.prune() == {}


def test_of_what_a_killed_prune_left_only_that_goes_which_nobody_has_asked_for_again(scene: Scene) -> None:
    slicer, rows = Slicer(scene), SlicingPruning(scene.database)
    for which in (ref("r0"), ref("r1"), ref("r1", "b"), ref("r1", "b", "other")):
        slicer.sliced(which, 40)
    for _ in rows.delete_slicings(NOW - MONTH, NOW):
        pass  # and here the process dies
    assert len(rows.half_deleted()) == 3
    slicer.slicings.open(ref("r1"), name="g", source="g", size=40, notify=None, metadata=None, now=NOW)  # by a reset
    slicer.asked_for(ref("", "b", "other"))
    assert scene.prune() == {"slicings": 3}
    needed = [keys.slice_file(ref(), 0), keys.result(ref()), keys.raw_output(ref(), "slice", 1)]
    assert scene.stored() == sorted([*needed, keys.original("a" * 64), keys.original("b" * 64)])
    assert rows.half_deleted() == []


def test_with_a_slicing_goes_what_runs_left_of_which_there_is_no_record_any_more(scene: Scene) -> None:
    slicer = Slicer(scene)
    slicer.sliced(ref("r0"), 60)
    slicer.sliced(ref("r1"), 20)
    assert scene.prune() == {"attempts": 1}
    scene.let_files_be_old()
    young = keys.result(ref("r2"))
    scene.files.write(young, [b"of a run whose row is lost with a newer database"])
    assert scene.prune(timedelta(days=10)) == {"slicings": 1}
    assert scene.stored() == [young]


@pytest.fixture
def busy(postgres_url: str, tmp_path: Path) -> Iterator[Scene]:
    """PostgreSQL, where others write while a prune does; SQLite has one writer at a time."""
    patience = "&options=-c%20lock_timeout%3D2s"  # so that who would wait for ever for the test itself fails
    database = open_database(postgres_url + patience, DatabaseSettings())
    yield Scene(database, tmp_path / "files")
    database.close()


def test_a_slicing_that_is_asked_for_just_as_it_is_pruned_is_there(
    busy: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    slicer = Slicer(busy)
    slicer.sliced(ref(), 40)
    went: list[dict[str, int]] = []

    def late(*given: Any, **options: Any) -> Any:
        went.append(busy.prune())  # between the statement that finds the row and the one that locks it
        return load_slicing(*given, **options)

    monkeypatch.setattr(slicings, "load_slicing", late)
    slicer.asked_for(ref())
    assert went == [{}]
    assert slicer.slicings.get("a" * 64, "gazette").asked_at == NOW
    assert len(busy.stored()) == 4


def test_only_who_writes_of_the_same_pdf_keeps_it_from_a_prune(busy: Scene) -> None:
    slicer, rows = Slicer(busy), SlicingPruning(busy.database)
    for digit in "abc":
        slicer.sliced(ref(digit=digit), 40)
    list(itertools.islice(rows.delete_slicings(NOW - MONTH, NOW), 1))  # of "a", and here the process dies
    with busy.database.transaction() as session:
        session.get_one(SlicingRow, slicer.slicings.get("c" * 64, "gazette").key, with_for_update=True)
        slicings.hold_pdf(busy.database, session, "a" * 64, alone=False)  # as who asks for it does
        assert busy.prune() == {"slicings": 1}
        assert {key.split("/")[1][0] for key in busy.stored()} == {"a", "c"}
    assert busy.prune() == {"slicings": 2}
    assert busy.stored() == []
