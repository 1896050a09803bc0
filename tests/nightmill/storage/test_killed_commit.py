"""A process killed at any write of a commit leaves a whole database, with rows and position as one commit left them."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nightmill.settings import DatabaseSettings
from nightmill.storage.engine import open_database
from nightmill.storage.outcomes import OutcomeRepository

PAGES, ROWS = 4, 5

APPEND = """
import sys
from nightmill.settings import DatabaseSettings
from nightmill.storage.engine import open_database
from nightmill.storage.outcomes import NewOutcome, OutcomeRepository, Position

url, pages, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
db = open_database(url, DatabaseSettings())
outcomes = OutcomeRepository(db)
known = outcomes.position(1, "output")
for page in range(known.lines // rows, pages):
    new = [NewOutcome(1, page * rows + n, 0, True, text=f"answer {page * rows + n}" * 400) for n in range(rows)]
    reached = Position(bytes=known.bytes + 100, lines=known.lines + rows)
    outcomes.append(1, "output", new, known=known, reached=reached, instead=lambda row: row)
    known = reached
db.close()
"""


@pytest.mark.system
@pytest.mark.kill
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "step",
    [pytest.param(7, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow)],
    ids=["every-seventh", "every"],
)
def test_a_kill_at_any_write_of_a_commit_leaves_rows_and_position_together(
    sqlite_url: str, store_part: Any, tmp_path: Path, step: int
) -> None:
    db = open_database(sqlite_url, DatabaseSettings())
    store_part(db, *(f"r{n}" for n in range(PAGES * ROWS)))
    db.close()
    prepared = Path(sqlite_url.removeprefix("sqlite:///"))
    seen: set[int] = set()
    for write in range(1, 1_000, step):
        path = tmp_path / f"{write}.db"
        shutil.copyfile(prepared, path)
        traced = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64"]
        traced += ["-e", f"inject=pwrite64:signal=KILL:when={write}"]
        command = [sys.executable, "-c", APPEND, f"sqlite:///{path}", str(PAGES), str(ROWS)]
        ran = subprocess.run([*traced, *command], capture_output=True, text=True, timeout=60, check=False)
        kept = whole_pages(path)
        seen.add(kept)
        if ran.returncode == 0:  # it makes no more writes than this
            break
        assert subprocess.run(command, timeout=60, check=False).returncode == 0
        assert whole_pages(path) == PAGES
    assert kept == PAGES
    assert write >= 45
    assert seen == set(range(PAGES + 1)), "killed before the first commit, after the last, and between any two"


def whole_pages(path: Path) -> int:
    """Return how many pages are kept, having made sure that each is there to its last row and nothing is besides."""
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = [seq for (seq,) in connection.execute("SELECT seq FROM outcomes ORDER BY seq")]
    connection.close()
    db = open_database(f"sqlite:///{path}", DatabaseSettings())
    position = OutcomeRepository(db).position(1, "output")
    db.close()
    assert rows == list(range(position.lines))
    return len(rows) // ROWS
