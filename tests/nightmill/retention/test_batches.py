"""A batch goes whole or stays whole; of one that is gone it is known what had become of it, and its id stays taken."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nightmill import failpoints
from nightmill.contracts import Action, BatchStatus, Finding, Subject
from nightmill.errors import BatchConflict, BatchDeleted, BatchNotFound, InvalidInput
from nightmill.retention.model import Kind
from nightmill.retention.pruning import Pruner
from nightmill.settings import DatabaseSettings
from nightmill.storage import pruning_batches
from nightmill.storage.audit_reads import AuditReads
from nightmill.storage.engine import Database, open_database
from nightmill.storage.files import LocalFileStore
from nightmill.storage.pruning_batches import BatchPruning
from nightmill.storage.pruning_slicings import SlicingPruning
from nightmill.storage.repairs import Intent, RepairRepository
from nightmill.storage.retries import failed_requests
from tests.nightmill.retention.conftest import MONTH, NOW, ROWS, Scene, Slicer, ago, ref


def test_of_a_deleted_batch_only_what_had_become_of_it_is_left(scene: Scene) -> None:
    scene.ended("b1", user_metadata={"who": "ana"}, completion_handler={"kind": "webhook", "url": "https://h.example"})
    scene.ended("b2")
    before = scene.outcomes.summarize("b1")
    assert (before.completed, before.failed_by_code, str(before.cost)) == (2, {"provider_error": 1}, "0.002")
    went: dict[str, int] = {}
    assert scene.pruner.deleter.delete("b1", tell=lambda each: went.update({each.what: each.number}))
    assert went == {"result files": 1, "requests": 4}

    row = scene.batches.get("b1")
    assert scene.outcomes.summarize("b1") == before.model_copy(update={"metadata": {}})
    counts = scene.outcomes.progress("b1")
    assert (counts.total, counts.succeeded, counts.failed, counts.pending) == (4, 2, 1, 1)
    assert (row.user_metadata, row.completion_handler, row.status) == ({}, None, BatchStatus.ENDED)
    assert row.deleted_at is not None
    assert row.emptied_at is not None
    assert [part.provider_batch_id for part in scene.batches.parts("b1")] == ["at-provider-b1"]
    assert scene.rows(*ROWS) == 4 + 3
    assert scene.stored() == ["batches/b2/0-0/output.jsonl"]
    assert [row.id for row in scene.batches.newest()] == ["b2"]
    assert [row.id for row in scene.batches.newest(deleted=True)] == ["b1"]
    assert not scene.pruner.deleter.delete("b1")
    assert scene.batches.get("b1") == row


def test_nobody_is_given_the_results_of_a_deleted_batch_nor_its_id(scene: Scene) -> None:
    scene.ended("b1")
    scene.pruner.deleter.delete("b1")
    with pytest.raises(BatchDeleted, match=r"batch b1 was deleted on 20\d\d-\d\d-\d\d: its requests and results are"):
        scene.outcomes.results("b1")
    with pytest.raises(BatchDeleted):
        list(failed_requests(scene.database, "b1", only_retriable=False))
    with pytest.raises(BatchConflict, match=r"batch b1 exists already and was deleted on .* use another id"):
        scene.store("b1")
    with pytest.raises(BatchNotFound, match="no batch 'b3'"):
        scene.pruner.deleter.delete("b3")


def test_whoever_reads_a_batch_that_is_deleted_meanwhile_learns_it_and_is_given_no_half(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.ended("b1", count=10)
    results, failed = scene.outcomes.results("b1", page=2), failed_requests(scene.database, "b1", only_retriable=False)
    assert [next(results).custom_id for _ in range(2)] == ["r0", "r1"]
    next(failed)
    scene.pruner.deleter.delete("b1")
    with pytest.raises(BatchDeleted):
        list(results)
    with pytest.raises(BatchDeleted):
        list(failed)


def repaired(scene: Scene, subject: Subject, subject_id: str) -> int | None:
    intent = Intent(subject, subject_id, f"batch/{subject_id}", "e", Finding.TERMINATED, Action.RESET)
    return RepairRepository(scene.database).intend(intent, now=ago(40))


STAY: dict[str, Callable[[Scene, str], Any]] = {
    "is not that old": lambda scene, name: scene.ended(name, 29.9),
    "has not ended": lambda scene, name: scene.store(name),
    "has a handler that was not told": lambda scene, name: scene.ended(name, handler_dispatched_at=None),
    "has a handler that was told lately": lambda scene, name: scene.ended(name, handler_dispatched_at=ago(1)),
    "has results that are not stored": lambda scene, name: scene.ended(name, results_fetched_at=None),
    "needs attention": lambda scene, name: scene.ended(name, needs_attention="the key is refused"),
    "is being repaired": lambda scene, name: (scene.ended(name), repaired(scene, Subject.BATCH, name)),
    "has a part that is being repaired": lambda scene, name: (
        scene.ended(name),
        repaired(scene, Subject.PART, f"{name}/0/1"),
    ),
}


def test_only_batches_go_from_which_nobody_waits_for_anything(scene: Scene) -> None:
    for number, make in enumerate(STAY.values()):
        make(scene, f"b{number}")
    scene.ended("b")
    scene.ended("b7-2")  # a namesake of one that is being repaired
    expected = {"batches": 2, "requests": 8, "result files": 2}
    assert scene.count() == expected
    assert scene.prune() == expected
    assert {row.id for row in scene.batches.newest(deleted=True)} == {"b", "b7-2"}
    assert scene.rows(*ROWS) == len(STAY) * (4 + 3)
    assert scene.stored() == [f"batches/b{number}/0-0/output.jsonl" for number in range(len(STAY))]
    assert (scene.count(), scene.prune()) == ({}, {})


def test_a_batch_with_an_open_provider_batch_stays(scene: Scene) -> None:
    scene.ended("b")
    [part] = scene.batches.parts("b")
    with scene.database.transaction() as session:
        part.settled_at = None
        session.add(part)
    assert scene.prune() == {}
    with pytest.raises(BatchConflict, match="b is ended, but its results are still being stored"):
        scene.pruner.deleter.delete("b")


def test_a_person_is_told_why_a_batch_cannot_be_deleted(scene: Scene) -> None:
    for why, says in (
        ("has not ended", "is pending: wait for its end, or `nightmill batch cancel b0` first"),
        ("has a handler that was not told", "its handler was not told yet: `nightmill batch redispatch b1` first"),
        ("has results that are not stored", "its results are still being stored"),
        ("has a part that is being repaired", "is being repaired"),
    ):
        name = f"b{len(scene.batches.newest())}"
        STAY[why](scene, name)
        for act in (scene.pruner.deleter.delete, BatchPruning(scene.database).check):
            with pytest.raises(BatchConflict, match=f"batch {name} .*{says}"):
                act(name)
    assert scene.rows(*ROWS) == 4 * (4 + 3)


def test_a_person_may_delete_what_is_young_or_needs_attention(scene: Scene) -> None:
    scene.ended("b", 0.01, needs_attention="look at it")
    assert scene.pruner.deleter.delete("b")
    assert scene.batches.get("b").needs_attention is None
    assert scene.rows(*ROWS) == 0


def test_an_age_that_cannot_be_meant_is_refused(scene: Scene) -> None:
    scene.ended("b")
    for age in (timedelta(seconds=30), timedelta(0), timedelta(hours=23.9), timedelta(days=10**6)):
        for act in (scene.prune, scene.count):
            with pytest.raises(InvalidInput, match="older than"):
                act(age)
    assert scene.rows("completions") == 4


def shown(scene: Scene, batch_id: str) -> Any:
    """What is to be seen of a batch: its summary, its results, its provider batches."""
    parts = [part.model_dump() for part in scene.batches.parts(batch_id)]
    return scene.outcomes.summarize(batch_id), list(scene.outcomes.results(batch_id)), parts


def owned(scene: Scene, ids: list[str]) -> Any:
    """What an audit knows of provider batches: which are ours, and by which tags."""
    reads = AuditReads(scene.database)
    return reads.owners("openai", [f"at-provider-{each}" for each in ids]), reads.keys_used(ago(7))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_after_a_prune_every_batch_that_stays_is_as_it_was_and_every_provider_batch_is_known(
    scene: Scene, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning_batches, "PAGE_ROWS", 3)
    chance = random.Random(seed)
    ids = [f"b{number}" for number in range(12)]
    for batch_id in ids:
        changes: dict[str, Any] = chance.choice([{}, {}, {"needs_attention": "x"}, {"handler_dispatched_at": None}])
        if chance.random() < 0.2:
            scene.store(batch_id)
        else:
            scene.ended(batch_id, chance.uniform(1, 90), chance.randrange(2, 9), **changes)
    before, ours = {batch_id: shown(scene, batch_id) for batch_id in ids}, owned(scene, ids)
    bound = timedelta(days=chance.uniform(1, 60))
    counted = scene.count(bound)
    went = scene.prune(bound)
    assert went == counted
    gone = {row.id for row in scene.batches.newest(deleted=True)}
    assert len(gone) == went.get("batches", 0)
    for batch_id in ids:
        if batch_id in gone:
            assert scene.outcomes.summarize(batch_id) == before[batch_id][0]
        else:
            assert shown(scene, batch_id) == before[batch_id]
    assert scene.rows("completions") == sum(before[each][0].total for each in ids if each not in gone)
    assert {key.split("/")[1] for key in scene.stored()} == set(ids) - gone
    assert owned(scene, ids) == ours


def in_another_process(url: str, folder: Path, act: Callable[[Pruner], Any], point: str) -> int:
    """Fork, prune there, and return the signal that ended it; 0 where none did."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            failpoints._ARMED = point
            act(Pruner(open_database(url, DatabaseSettings()), LocalFileStore(folder)))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.mark.kill
@pytest.mark.parametrize(
    ("point", "by_name"),
    [
        *((point, False) for point in failpoints.PRUNE_POINTS),
        ("prune.page_deleted", True),
    ],
)
def test_a_deletion_that_is_killed_is_brought_to_its_end_by_the_next(
    scene: Scene, database_url: str, monkeypatch: pytest.MonkeyPatch, point: str, by_name: bool
) -> None:
    monkeypatch.setattr(pruning_batches, "PAGE_ROWS", 3)
    scene.ended("b1", count=8)
    scene.ended("b2", 1)
    kept, summary = shown(scene, "b2"), scene.outcomes.summarize("b1")
    slicings = SlicingPruning(scene.database)
    if is_of_a_slicing := point.startswith("prune.slicing"):
        Slicer(scene).sliced(ref(), 40)
    scene.database.close()

    def act(pruner: Pruner) -> None:
        if by_name:
            pruner.deleter.delete("b1")
        else:
            pruner.prune(MONTH, now=NOW)

    assert in_another_process(database_url, scene.folder, act, point) == signal.SIGKILL
    assert scene.outcomes.summarize("b1") == summary
    with pytest.raises(BatchDeleted):
        scene.outcomes.results("b1")
    half_deleted = ([], [("a" * 64, "gazette")]) if is_of_a_slicing else (["b1"], [])
    assert (BatchPruning(scene.database).half_deleted(), slicings.half_deleted()) == half_deleted
    assert scene.count(kinds=[Kind.BATCHES, Kind.SLICINGS])["slicings" if is_of_a_slicing else "batches"] == 1
    act(scene.pruner)
    assert scene.rows(*ROWS) == 4 + 3
    assert scene.stored() == ["batches/b2/0-0/output.jsonl"]
    assert (BatchPruning(scene.database).half_deleted(), slicings.half_deleted()) == ([], [])
    assert scene.outcomes.summarize("b1") == summary
    assert shown(scene, "b2") == kept


def test_two_prunes_at_once_do_what_one_does(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning_batches, "PAGE_ROWS", 2)
    for number in range(6):
        scene.ended(f"b{number}", count=6)
    failures: list[BaseException] = []
    begin = threading.Barrier(3)

    def prune() -> None:
        begin.wait()
        try:
            scene.prune()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=prune) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert scene.rows(*ROWS) == 0
    assert scene.stored() == []
    assert len(scene.batches.newest(deleted=True)) == 6
    assert scene.prune() == {}


def test_only_what_is_named_is_pruned(scene: Scene) -> None:
    scene.ended("b1")
    assert scene.count(kinds=[Kind.REPAIRS, Kind.FILES]) == {}
    assert scene.prune(kinds=[Kind.DOCUMENTS, Kind.SLICINGS, Kind.REPAIRS, Kind.FILES]) == {}
    assert scene.rows("completions") == 4
    assert scene.prune(kinds=[Kind.BATCHES]) == {"batches": 1, "requests": 4, "result files": 1}


def test_a_page_ends_with_the_request_that_reaches_its_bytes(
    database: Database, scene: Scene, monkeypatch: Any
) -> None:
    scene.ended("b1", count=5)
    monkeypatch.setattr(pruning_batches, "PAGE_BYTES", 40)
    rows = BatchPruning(database)
    assert rows.mark("b1", before=None, now=NOW)
    assert list(rows.empty("b1")) == [(2, 40), (2, 40), (1, 20)]


def test_what_is_kept_of_a_batch_that_is_named_is_summed_up_only_once_it_may_go(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a batch that ends meanwhile would keep the sum of one that had not ended."""
    scene.store("b1", status=BatchStatus.IN_PROGRESS)
    summed: list[str] = []
    monkeypatch.setattr(pruning_batches, "summarize", lambda _, batch_id: summed.append(batch_id))
    with pytest.raises(BatchConflict, match="wait for its end"):
        scene.pruner.deleter.rows.mark("b1", before=None, now=NOW)
    assert summed == []
