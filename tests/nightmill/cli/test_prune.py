"""`nightmill prune` and `nightmill batch delete`: they show, ask, delete, and say what is left."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightmill.assembly import assembled
from nightmill.client.retention import Retention
from nightmill.contracts import BatchStatus
from nightmill.errors import InvalidInput
from nightmill.settings import DatabaseSettings, load_settings
from nightmill.storage.engine import open_database
from tests.nightmill.cli.conftest import Cli
from tests.nightmill.retention.conftest import Scene
from tests.stack import ROOT


@pytest.fixture
def scene(cli: Cli, tmp_path: Path) -> Iterator[Scene]:
    """The database and the folder of the command line, with a batch that ended 40 days ago and one of today."""
    scene = Scene(open_database(f"sqlite:///{tmp_path}/cli.db", DatabaseSettings()), tmp_path / "files")
    for name, days in (("old", 40), ("young", 0)):
        scene.ended(name)
        then = datetime.now(UTC) - timedelta(days=days)
        with scene.database.transaction() as session:
            row = scene.batches.get(name)
            row.ended_at = row.handler_dispatched_at = then
            session.add(row)
    yield scene
    scene.database.close()


def test_a_dry_run_says_what_a_prune_then_deletes(cli: Cli, scene: Scene) -> None:
    [shown] = cli("prune", "--older-than", "P30D", "--dry-run", "--json").lines
    assert shown["dry_run"] is True
    assert shown["deleted"] == [
        {"kind": "batches", "what": "batches", "number": 1, "bytes": None},
        {"kind": "batches", "what": "requests", "number": 4, "bytes": 80},
        {"kind": "batches", "what": "result files", "number": 1, "bytes": 100},
    ]
    assert scene.rows("completions") == 8
    ended = cli("prune", "--older-than", "30d", "--only", "batches,files", "--yes", "--json")
    [done] = ended.lines
    assert ended.code == 0
    assert done["dry_run"] is False
    by_sort = {pile["what"]: (pile["number"], pile["bytes"]) for pile in done["deleted"]}
    assert by_sort == {"batches": (1, None), "requests": (4, 80), "result files": (1, 100)}
    assert scene.rows("completions") == 4
    again = cli("prune", "--older-than", "30d", "--yes", "--no-json")
    assert (again.code, again.out) == (0, "")
    assert again.err.startswith("Nothing ended before ")


def test_where_nobody_can_be_asked_the_line_to_use_is_named(cli: Cli, scene: Scene) -> None:
    ended = cli("prune", "--older-than", "30d", "--only", "batches")
    assert ended.code == 2
    assert "`nightmill prune --older-than 30d --only batches --yes` deletes" in ended.message
    ended = cli("batch", "delete", "old")
    assert (ended.code, ended.message) == (2, "nobody can be asked here: `nightmill batch delete old --yes` deletes")
    assert scene.rows("completions") == 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--older-than", "30"], "younger than a day is never pruned"),
        (["--older-than", "a while"], "--older-than: 'a while' is no duration"),
        (["--older-than", "30d", "--only", "results"], "only: 'results' is unknown; known are batches, documents"),
        (["--older-than", "30d", "--only", ""], "only: names nothing; name some of batches, documents, slicings"),
        (["--older-than", "30d", "--only", " ,"], "or leave it out for batches, documents, slicings, repairs"),
        ([], "Missing option '--older-than'"),
    ],
)
def test_bad_input_is_one_line_and_deletes_nothing(cli: Cli, scene: Scene, arguments: list[str], says: str) -> None:
    ended = cli("prune", "--yes", *arguments)
    assert ended.code == 2
    assert says in ended.message
    assert scene.rows("completions") == 8


def test_a_deleted_batch_still_says_what_had_become_of_it(cli: Cli, scene: Scene) -> None:
    [before] = cli("batch", "show", "old", "--json").lines
    assert before["deleted_at"] is None
    ended = cli("batch", "delete", "old", "--yes", "--no-json")
    assert ended.code == 0
    assert ended.out == "Batch old is deleted: 4 requests with their results and files.\n"
    assert "temporal workflow delete --workflow-id batch/old" in ended.err

    [shown] = cli("batch", "show", "old", "--json").lines
    assert shown["deleted_at"].endswith("Z")
    assert {**shown, "deleted_at": None} == before
    assert "requests, results and files are gone" in cli("batch", "show", "old", "--no-json").out
    assert [row["batch_id"] for row in cli("batch", "list").lines] == ["young"]
    assert [row["batch_id"] for row in cli("batch", "list", "--deleted").lines] == ["old"]
    for command in (["results", "old"], ["results", "old", "--format", "csv", "-o", "a.csv"]):
        ended = cli("batch", *command)
        assert ended.code == 2
        assert "batch old was deleted on" in ended.message
    assert not Path("a.csv").exists()
    assert cli("batch", "delete", "old").lines[0]["total"] == 4


def test_a_batch_that_has_not_ended_is_not_deleted(cli: Cli, scene: Scene) -> None:
    scene.store("open")
    ended = cli("batch", "delete", "open", "--yes")
    assert (ended.code, ended.message) == (
        1, "batch open is pending: wait for its end, or `nightmill batch cancel open` first",
    )  # fmt: skip
    assert cli("batch", "delete", "none", "--yes").code == 2


def answered(folder: Path, answer: bytes, *arguments: str, output: Path | None = None) -> tuple[int, str]:
    """Run a command on a terminal, answer its question, and return its exit code and what was on the screen.

    With `output`, its standard output goes there.
    """
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(ROOT)
        if output is not None:
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 1)
        os.execv(sys.executable, [sys.executable, "-m", "nightmill.cli", *arguments])
    shown = b""
    while True:
        try:
            some = os.read(terminal, 4096)
        except OSError:  # the terminal is gone with the process
            break
        shown += some
        if not some:
            break
        if b"[y/N]" in some:
            os.write(terminal, answer)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode()


def test_on_a_terminal_it_shows_what_would_go_and_asks(cli: Cli, scene: Scene, tmp_path: Path) -> None:
    arguments = ("prune", "--older-than", "30d")
    code, shown = answered(tmp_path, b"no\n", *arguments)
    assert code == 1
    assert "Delete all this?" in shown
    assert "Nothing was deleted." in shown
    assert scene.rows("completions") == 8
    scene.pruner.deleter.rows.mark("old", before=None, now=datetime.now(UTC))  # by a prune that was then killed
    code, shown = answered(tmp_path, b"y\n", *arguments)
    assert code == 0
    assert shown.index("what goes") < shown.index("Delete all this?") < shown.index("what went")
    assert scene.rows("completions") == 4


def test_json_alone_is_in_a_file_though_a_person_was_asked(cli: Cli, scene: Scene, tmp_path: Path) -> None:
    output = tmp_path / "gone.json"
    code, shown = answered(tmp_path, b"y\n", "prune", "--older-than", "30d", output=output)
    assert code == 0
    assert "batches  4  80 bytes  their requests, with results" in shown
    assert {pile["what"] for pile in json.loads(output.read_text())["deleted"]} == {
        "batches",
        "requests",
        "result files",
    }


def test_a_program_prunes_and_deletes(cli: Cli, scene: Scene) -> None:
    with assembled(load_settings()) as assembly:
        retention = Retention(assembly)
        going = asyncio.run(retention.prune(timedelta(days=30), only=["batches"], dry_run=True))
        assert [(pile.what, pile.number) for pile in going] == [("batches", 1), ("requests", 4), ("result files", 1)]
        told: list[str] = []
        gone = asyncio.run(retention.prune(timedelta(days=30), on_progress=lambda pile: told.append(pile.what)))
        assert {pile.what: pile.number for pile in gone if pile.number} == {pile.what: pile.number for pile in going}
        assert told == ["result files", "requests", "batches"]
        for only, says in ((["all"], "only: 'all' is unknown"), ([], "only: names nothing")):
            with pytest.raises(InvalidInput, match=says):
                asyncio.run(retention.prune(timedelta(days=30), only=only))
        assert asyncio.run(retention.delete_batch("young"))
        assert not asyncio.run(retention.delete_batch("young"))
    assert scene.batches.get("young").status is BatchStatus.ENDED
    assert scene.rows("completions") == 0
