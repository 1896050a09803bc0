"""Files that belong to nothing go once they are old; what is young, unknown or being written stays."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from nightmill.retention.model import Kind
from nightmill.settings import DatabaseSettings
from nightmill.slicing import keys
from nightmill.storage.engine import open_database
from tests.nightmill.retention.conftest import Scene, Slicer, ref

FILES = [Kind.FILES]


@pytest.fixture
def scene(sqlite_url: str, tmp_path: Path) -> Scene:
    """What is asked of the database is asked of both kinds elsewhere."""
    return Scene(open_database(sqlite_url, DatabaseSettings()), tmp_path / "files")


def test_old_files_of_deleted_batches_go_and_those_of_others_stay(scene: Scene) -> None:
    scene.ended("here", 50)
    scene.ended("gone", 1)
    scene.pruner.deleter.delete("gone")
    scene.files.write("batches/gone/0-0/late.jsonl", [b"a harvest that came too late"])
    scene.files.write("batches/lost/0-0/output.jsonl", [b"the database is an older copy, or another one"])
    expected = ["batches/gone/0-0/late.jsonl", "batches/here/0-0/output.jsonl", "batches/lost/0-0/output.jsonl"]
    assert scene.prune(kinds=FILES) == {}
    assert scene.stored() == expected
    scene.let_files_be_old(29)
    assert scene.prune(kinds=FILES) == {}
    scene.let_files_be_old(31)
    assert scene.count(kinds=FILES) == {"files": 1}
    assert scene.prune(kinds=FILES) == {"files": 1}
    assert scene.stored() == expected[1:]


def test_files_of_pdfs_that_no_row_names_go_only_when_files_are_named(scene: Scene) -> None:
    scene.files.write(keys.original("b" * 64), [b"x"])
    scene.let_files_be_old(400)
    assert scene.count() == {}
    assert scene.prune() == {}
    assert scene.prune(kinds=FILES) == {"files": 1}


def test_files_of_a_batch_whose_deletion_goes_on_are_its_own(scene: Scene) -> None:
    scene.ended("b")
    scene.pruner.deleter.rows.mark("b", before=None, now=scene.batches.get("b").created_at)
    scene.let_files_be_old()
    assert scene.prune(kinds=FILES) == {}
    assert scene.prune() == {"batches": 1, "requests": 4, "result files": 1}


def test_old_files_go_that_no_slicing_needs(scene: Scene) -> None:
    slicer = Slicer(scene)
    slicer.sliced(ref("r1"), 20)
    slicer.sliced(ref("r2"), 10)
    needed = [keys.original("a" * 64), keys.slice_file(ref("r2"), 0), keys.result(ref("r2"))]
    needed.append(keys.raw_output(ref("r2"), "slice", 1))
    for key in (keys.original("b" * 64), keys.result(ref("r1", "b")), keys.result(ref("r1", profile="other"))):
        scene.files.write(key, [b"x"])
    scene.let_files_be_old()
    assert scene.count(kinds=FILES) == {"files": 6}
    assert scene.prune(kinds=FILES) == {"files": 6}
    assert scene.stored() == sorted(needed)


def test_what_is_not_made_as_our_files_are_is_left_alone(scene: Scene) -> None:
    for key in ("doctor/1", "batches/notes.txt", "slicings/readme", "slicings/abc/original.pdf", "mine/batches/b/x"):
        scene.files.write(key, [b"x"])
    scene.let_files_be_old(400)
    assert scene.prune() == {}
    assert len(scene.stored()) == 5


WRITE = """
import sys
from pathlib import Path
from nightmill.storage.files import LocalFileStore

def chunks():
    yield b"x" * 3_000_000
    print("writing", flush=True)
    sys.stdin.read()

LocalFileStore(Path(sys.argv[1])).write("batches/b/0-0/output.jsonl", chunks())
"""


def test_what_a_killed_process_was_writing_goes_and_what_one_writes_just_now_stays(scene: Scene) -> None:
    command = [sys.executable, "-c", WRITE, str(scene.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        scene.let_files_be_old()
        assert scene.count(kinds=FILES) == {}
        assert scene.prune(kinds=FILES) == {}
        writer.kill()
    assert scene.stored() == ["batches/b/0-0/.output.jsonl.part"]
    assert scene.prune(kinds=FILES, older_than=timedelta(days=41)) == {}
    assert scene.prune(kinds=FILES) == {"files": 1}
    assert scene.stored() == []


def test_empty_folders_go_a_level_at_a_time_and_a_file_may_come_back(scene: Scene) -> None:
    scene.files.write("batches/b/0-0/output.jsonl", [b"x"])
    scene.files.delete("batches/b/0-0/output.jsonl")
    for left in (["b", "b/0-0"], ["b"], []):
        folder = scene.folder / "batches"
        assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == left
        scene.let_files_be_old()
        os.utime(scene.folder / "batches")
        scene.prune(kinds=FILES)
    scene.files.write("batches/b/0-0/output.jsonl", [b"x"])
    assert scene.stored() == ["batches/b/0-0/output.jsonl"]
