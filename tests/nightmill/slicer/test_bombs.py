"""A PDF that is made to do harm ends with a name for what it is, in time, in bounds, and with nothing left of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nightmill.slicing.inspection import check_source
from tests.bombs import BOMBS, Bomb
from tests.children.running import MIB
from tests.supervised_pdfs import put_through

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="programs are supervised on Linux only")


@pytest.mark.parametrize(
    "bomb", [pytest.param(bomb, marks=pytest.mark.slow if bomb.slow else (), id=bomb.name) for bomb in BOMBS]
)
def test_a_bomb_ends_by_its_name_within_its_bounds(bomb: Bomb, tmp_path: Path) -> None:
    path, scratch = tmp_path / "bomb.pdf", tmp_path / "scratch"
    path.write_bytes(bomb.make())
    assert check_source(path, 32 * MIB), "it has to look like any other PDF"

    ending = asyncio.run(put_through(path, scratch, options=bomb.options))

    assert ending.outcome in bomb.ends, ending
    assert ending.broken_promises() == []
    assert list(scratch.iterdir()) == []
    if ending.result is not None:
        assert all(entry.problem is None for entry in ending.result.entries)
        assert bomb.says in " ".join(ending.result.reasons())
        covered = {page for each in ending.result.entries for page in range(each.start_page, each.end_page + 1)}
        assert len(covered) in (ending.page_count, 0)
