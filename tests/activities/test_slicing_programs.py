"""How often a program's progress reaches its workflow."""

from __future__ import annotations

import pytest

from activities.slicing_programs import pause_after


@pytest.mark.parametrize(("seconds", "pause"), [(0, 10), (300, 10), (900, 30), (3_600, 120)])
def test_the_longer_a_program_runs_the_less_often_it_is_signaled(seconds: float, pause: float) -> None:
    assert pause_after(seconds) == pause


def test_a_program_may_run_for_a_week_within_what_a_history_may_have() -> None:
    signals, seconds = 0, 0.0
    while seconds < 7 * 86_400:
        seconds += pause_after(seconds)
        signals += 1
    assert signals < 400
