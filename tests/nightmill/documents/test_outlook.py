"""Telling sites that are away from a network of ours that is."""

from __future__ import annotations

from nightmill.documents.outlook import LATELY, LONGEST, MANY, Outlook
from nightmill.errors import PageFetchFailed, PageTimeout

SILENCE = PageFetchFailed("no connection", reason="connect")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lost(outlook: Outlook, hosts: int) -> bool:
    """Meet so many hosts that cannot be reached; return what is thought of the last one."""
    return [outlook.failed(f"host{number}:443", SILENCE) for number in range(hosts)][-1]


def test_many_hosts_in_a_row_that_cannot_be_reached_are_our_own_fault() -> None:
    assert not lost(Outlook(), MANY - 1)
    assert lost(Outlook(), MANY)


def test_one_host_that_cannot_be_reached_is_its_own_fault_however_often() -> None:
    outlook = Outlook()
    assert not any(outlook.failed("host:443", SILENCE) for _ in range(3 * MANY))


def test_any_answer_shows_that_the_network_is_there() -> None:
    outlook = Outlook()
    lost(outlook, MANY - 1)
    outlook.reached()
    assert not lost(outlook, MANY - 1)
    lost(outlook, MANY)
    assert not outlook.failed("other:443", PageFetchFailed("status 503", reason="status_503", http_status=503))
    assert not outlook.failed("other:443", PageTimeout("takes too long", reason="read"))
    assert not lost(outlook, MANY - 1)


def test_sites_that_are_dead_for_good_are_met_now_and_then() -> None:
    clock = Clock()
    outlook = Outlook(clock)
    for number in range(3 * MANY):
        clock.now += LATELY.total_seconds() / (MANY - 2)
        assert not outlook.failed(f"host{number}:443", SILENCE)


def test_after_an_hour_of_silence_the_sites_are_believed_to_be_away() -> None:
    clock = Clock()
    outlook = Outlook(clock)
    assert lost(outlook, MANY)
    clock.now = LONGEST.total_seconds() - 1
    assert lost(outlook, MANY)
    clock.now += 2
    assert not lost(outlook, MANY)
    outlook.reached()
    assert lost(outlook, MANY)


def test_a_robots_txt_that_cannot_be_reached_counts_by_its_own_reason() -> None:
    outlook = Outlook()
    for number in range(MANY):
        failed = PageFetchFailed("no robots.txt", reason="robots_unreachable")
        failed.__cause__ = SILENCE
        found = outlook.failed(f"host{number}:443", failed)
    assert found
