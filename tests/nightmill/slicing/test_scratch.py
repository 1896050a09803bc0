"""Private folders are removed whatever became of them, and nothing else is."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nightmill.slicing import scratch as module
from nightmill.slicing.faults import DiskFull, OutputNotWritable
from nightmill.slicing.scratch import PREFIX, Scratch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are supervised on Linux only")


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return Scratch(tmp_path / "scratch")


def test_a_folder_and_its_parent_are_private_and_gone_afterwards(scratch: Scratch) -> None:
    with scratch.folder() as first, scratch.folder() as second:
        assert first.parent != second.parent
        for path in (first, first.parent):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        (first / "file").write_text("x")
        (first.parent / "beside").write_text("x")

    assert list(scratch.root.iterdir()) == []


def test_an_error_inside_removes_it_as_well(scratch: Scratch) -> None:
    with pytest.raises(ValueError, match="ours"), scratch.folder():
        raise ValueError("ours")

    assert list(scratch.root.iterdir()) == []


def test_closed_folders_and_files_are_removed(scratch: Scratch) -> None:
    with scratch.folder() as folder:
        inner = folder / "a" / "b"
        inner.mkdir(parents=True)
        (inner / "file").touch(mode=0o000)
        for path in (inner, inner.parent, folder, folder.parent):
            path.chmod(0o000)

    assert list(scratch.root.iterdir()) == []


def test_links_are_removed_and_what_they_point_to_stays(scratch: Scratch, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "file").write_text("kept")
    with scratch.folder() as folder:
        (folder / "link").symlink_to(ours)
        (folder / "dangling").symlink_to("/nonexistent")
        (folder / "loop").symlink_to(".")
        (folder / "hard").hardlink_to(ours / "file")
        inner = folder / "inner"
        inner.mkdir()
        (inner / "link").symlink_to(ours, target_is_directory=True)

    assert list(scratch.root.iterdir()) == []
    assert (ours / "file").read_text() == "kept"
    assert stat.S_IMODE(ours.stat().st_mode) == 0o755


def test_a_folder_that_was_replaced_by_a_link_costs_nobody_else_his_files(scratch: Scratch, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "file").write_text("kept")
    with scratch.folder() as folder:
        folder.rmdir()
        folder.symlink_to(ours)

    assert list(scratch.root.iterdir()) == []
    assert (ours / "file").read_text() == "kept"


def test_a_parent_that_was_replaced_by_a_link_costs_nobody_else_his_files(scratch: Scratch, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "file").write_text("kept")
    with scratch.folder() as folder:
        folder.rmdir()
        folder.parent.rmdir()
        folder.parent.symlink_to(ours)

    assert list(scratch.root.iterdir()) == []
    assert (ours / "file").read_text() == "kept"


def test_a_tree_of_any_depth_and_names_of_any_bytes_are_removed(scratch: Scratch) -> None:
    depth = 1_200  # deeper than Python recurses
    with scratch.folder() as folder:
        at = os.open(folder, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir("d", dir_fd=at)
            below = os.open("d", os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        os.close(at)
        for name in (b"\xff\xfe", b"a\nb", b"-rf", b" ", "ñ".encode()):
            (folder / os.fsdecode(name)).touch()
        os.mkfifo(folder / "fifo")

    assert list(scratch.root.iterdir()) == []


def test_more_files_than_are_read_at_once_are_removed(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 10)
    with scratch.folder() as folder:
        for number in range(25):
            (folder / str(number)).touch()
        for number in range(25):
            (folder / f"folder-{number}").mkdir()

    assert list(scratch.root.iterdir()) == []


def test_no_descriptor_is_left(scratch: Scratch) -> None:
    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    for _ in range(3):
        with scratch.folder() as folder:
            (folder / "a").mkdir()
        scratch.sweep()

    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before


def test_sweeping_removes_what_dead_processes_left_and_nothing_else(scratch: Scratch) -> None:
    code = (
        "import os, sys; from pathlib import Path; from nightmill.slicing.scratch import Scratch\n"
        "context = Scratch(Path(sys.argv[1])).folder(); (context.__enter__() / 'file').touch(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(scratch.root)], check=True, cwd=Path(__file__).parents[3])
    # This process's number, but another one that had it before.
    (scratch.root / f"{PREFIX}{os.getpid()}-1-0123456789abcdef" / "work").mkdir(parents=True)
    (scratch.root / "somebody's").mkdir()
    (scratch.root / f"{PREFIX}odd").mkdir()
    with scratch.folder() as living:
        assert scratch.sweep() == 2
        assert living.exists()

    assert sorted(path.name for path in scratch.root.iterdir()) == [f"{PREFIX}odd", "somebody's"]


def test_sweeping_leaves_what_a_process_holds_that_cannot_be_seen_from_here(scratch: Scratch) -> None:
    with scratch.folder() as folder:
        # As from another container: its number means nothing here, but its lock is on the same disk.
        foreign = scratch.root / f"{PREFIX}4194304-1-0123456789abcdef"
        folder.parent.rename(foreign)
        assert scratch.sweep() == 0
        assert foreign.exists()

    assert scratch.sweep() == 1


def test_sweeping_where_nothing_was_ever_made_is_nothing(tmp_path: Path) -> None:
    assert Scratch(tmp_path / "none").sweep() == 0


def test_too_little_room_is_said_before_anything_is_written(scratch: Scratch) -> None:
    scratch.check_space(1)
    with pytest.raises(DiskFull, match=r"1,125,899,906,842,624 bytes are needed in .*scratch, and [\d,]+ are free"):
        scratch.check_space(2**50)


def test_a_root_that_is_no_folder_is_said_so(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    with pytest.raises(OutputNotWritable, match=str(file)), Scratch(file).folder():
        pass


def test_what_cannot_be_removed_is_logged(
    scratch: Scratch, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("by the system's will")  # an immutable file, which not every file system has

    with scratch.folder() as folder:
        (folder / "file").touch()
        monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.undo()

    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.WARNING, "a private folder cannot be removed")
    ]
