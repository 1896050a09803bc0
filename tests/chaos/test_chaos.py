"""The short form of the chaos test: a few seconds of trouble, and the same books."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos.plan import Scale, draw
from tests.chaos.run import run

pytestmark = [pytest.mark.server, pytest.mark.kill]

SCALE = Scale(
    batches=10, documents=2, versions=2, slicings=2, gazettes=0, workers=2, kills=3, restarts=1, outages=1,
    terminations=3, ticks=0, storm=6.0, errors=0.01,
)  # fmt: skip


def test_the_books_balance_after_kills_outages_and_terminations(tmp_path: Path) -> None:
    ledger = asyncio.run(run(draw(1, SCALE), tmp_path / "run", 60))
    assert ledger.balances, "\n".join(ledger.text("make chaos"))


def test_a_seed_is_one_plan() -> None:
    assert draw(7, SCALE) == draw(7, SCALE)
    assert draw(7, SCALE) != draw(8, SCALE)
