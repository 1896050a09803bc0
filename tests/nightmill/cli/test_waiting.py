"""Somebody who watches a batch for hours is not sent away by a server that is restarted."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from nightmill.cli import waiting
from nightmill.cli.waiting import over_outages
from nightmill.errors import TemporalUnreachable

AWAY = TemporalUnreachable("no Temporal server")


class Server:
    """Answers each wait in turn, after so many seconds; it is away where it answers so, and for ever at the end."""

    def __init__(self, *answers: tuple[float, str]) -> None:
        self.answers = list(answers)

    async def wait(self) -> str:
        seconds, answer = self.answers.pop(0) if self.answers else (0, "away")
        await asyncio.sleep(seconds)
        if answer == "away":
            raise AWAY
        return answer


def test_short_outages_are_waited_over_however_many_and_a_long_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOOKS_EVERY", timedelta(seconds=0.1))
    monkeypatch.setattr(waiting, "OUTAGE", timedelta(seconds=0.05))
    assert asyncio.run(over_outages(Server((0, "away"), (0, "ended")).wait)) == "ended"
    again = Server((0, "away"), (0.1, "away"), (0.1, "away"), (0, "ended"))
    assert asyncio.run(over_outages(again.wait)) == "ended", "between two outages it was there"
    with pytest.raises(TemporalUnreachable):
        asyncio.run(over_outages(Server((0, "away"), (0, "away"), (0, "ended")).wait))
