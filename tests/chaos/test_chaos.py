"""The short form of the chaos test: a few seconds of trouble, and the same books."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.judge import Change, breaks
from tests.chaos.leftovers import connections_to, files_of, processes_of
from tests.chaos.plan import Scale, draw
from tests.chaos.run import run
from tests.stack import eventually

SCALE = Scale(
    batches=10, documents=2, versions=2, slicings=2, gazettes=0, workers=2, kills=3, restarts=1, outages=1,
    terminations=3, ticks=0, storm=6.0, errors=0.01,
)  # fmt: skip


@pytest.mark.server
@pytest.mark.kill
@pytest.mark.timeout(300)
def test_the_books_balance_after_kills_outages_and_terminations(tmp_path: Path) -> None:
    ledger = asyncio.run(run(draw(1, SCALE), tmp_path / "run", 90))
    assert ledger.balances, "\n".join(ledger.text("make chaos"))


def test_a_seed_is_one_plan() -> None:
    assert draw(7, SCALE) == draw(7, SCALE)
    assert draw(7, SCALE) != draw(8, SCALE)


@pytest.mark.parametrize("mark", ["command", "environment", "place"])
def test_a_process_that_is_left_is_found(tmp_path: Path, mark: str) -> None:
    words = [sys.executable, "-S", "-c", "input()", *([str(tmp_path / "x")] if mark == "command" else [])]
    environment = {"TMPDIR": str(tmp_path)} if mark == "environment" else {}
    place = tmp_path if mark == "place" else Path("/")
    with subprocess.Popen(words, stdin=subprocess.PIPE, env=environment, cwd=place) as left:
        found = eventually(lambda: processes_of(tmp_path, [], []), every=0.01)
        assert [each.split(":")[0] for each in found] == [f"process {left.pid}"]
        assert processes_of(tmp_path, [], [left.pid]) == []
        left.communicate(b"\n")
    assert processes_of(tmp_path, [], []) == []


def test_a_reader_of_pages_is_known_by_its_worker(tmp_path: Path) -> None:
    words = [sys.executable, "-S", "-c", "input()", "nightmill.documents.extraction_child", str(os.getpid())]
    with subprocess.Popen(words, stdin=subprocess.PIPE, env={}) as left:
        assert len(eventually(lambda: processes_of(tmp_path, [os.getpid()], []), every=0.01)) == 1
        assert processes_of(tmp_path, [1], []) == []
        left.communicate(b"\n")


def test_files_and_connections_that_are_left_are_found(tmp_path: Path) -> None:
    (tmp_path / "tmp" / "scratch").mkdir(parents=True)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / ".result.jsonl.12ab.part").touch()
    assert files_of(tmp_path) == ["tmp/scratch", "files/.result.jsonl.12ab.part"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert connections_to([port]) == []
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            with accepted:
                assert connections_to([port]) == [f"connection to {port} from {client.getsockname()[1]}"]


A, B, C = Change(1, None, "a"), Change(2, "a", "b"), Change(3, "b", "c")


@pytest.mark.parametrize(
    ("told", "present"),
    [([A], "a"), ([A, B, C], "c"), ([Change(1, None, "x"), A, B], "b")],
    ids=["one", "three", "a newer content, as nobody knew whether the call had arrived"],
)
def test_changes_that_follow_from_each_other_are_right(told: list[Change], present: str) -> None:
    assert breaks("d", told, present) == []


@pytest.mark.parametrize(
    ("told", "present"),
    [([], "a"), ([B], "b"), ([A, C], "c"), ([A, B], "c"), ([A, B, Change(2, "b", "c")], "c"), ([A, B, A], "a")],
    ids=["none", "not the first", "one left out", "not the last", "a number again", "back"],
)
def test_changes_that_do_not_are_wrong(told: list[Change], present: str) -> None:
    assert breaks("d", told, present)
