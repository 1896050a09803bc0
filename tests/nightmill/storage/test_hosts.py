"""One request at a time goes to a host, whoever sends it, with the pause that it asks for. Time is passed in."""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nightmill.storage.engine import Database
from nightmill.storage.hosts import HostRepository, Turn

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
SITE = "site.example:443"


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


class Line:
    """One host and those who want to go there."""

    def __init__(self, database: Database) -> None:
        self.hosts = HostRepository(database)

    def ask(self, lease: str, at: float, ticket: datetime | None = None, *, urgent: bool = False) -> Turn:
        return self.hosts.acquire(
            SITE,
            lease=lease,
            ticket=ticket,
            urgent=urgent,
            delay=timedelta(seconds=1),
            lease_for=timedelta(seconds=60),
            now=after(at),
        )

    def end(self, lease: str, at: float, **columns: Any) -> None:
        given = {"seconds": 1.0, "delay": timedelta(seconds=1), "failed": False, "retry_after": None}
        self.hosts.release(SITE, lease, **given | columns, now=after(at))


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def test_a_host_that_is_free_is_granted_at_once_and_rests_after_the_request(line: Line) -> None:
    assert line.ask("a", 0) == Turn(True)
    assert line.ask("a", 0.5) == Turn(True)  # an answer that was lost is asked for again
    line.end("a", 1)
    assert line.ask("b", 1.5).ticket == after(2)
    assert line.ask("b", 2, after(2)) == Turn(True)


def test_those_who_wait_come_back_one_after_the_other(line: Line) -> None:
    assert line.ask("a", 0).granted
    tickets = [line.ask(lease, 0).ticket for lease in "bcd"]
    assert tickets == [after(2), after(4), after(6)]
    line.end("a", 1)
    assert line.ask("c", 2.5, tickets[1]) == Turn(False, timedelta(seconds=1.5), tickets[1])
    assert not line.ask("new", 3).granted  # b's turn is past due, but the line does not end before it
    assert line.ask("b", 3.1, tickets[0]).granted
    line.end("b", 4.1)
    assert line.ask("c", 5.1, tickets[1]).granted


def test_whose_turn_is_past_due_asks_again_soon_and_keeps_the_place(line: Line) -> None:
    assert line.ask("slow", 0).granted
    ticket = line.ask("b", 0).ticket
    assert line.ask("b", 10, ticket) == Turn(False, timedelta(seconds=1), ticket)
    line.end("slow", 20, seconds=100.0)
    assert line.ask("b", 20.25, ticket) == Turn(False, timedelta(seconds=0.75), ticket)
    assert line.ask("b", 21, ticket).granted
    assert line.ask("c", 21).wait > timedelta(seconds=5)
    assert line.ask("d", 30, ticket) == Turn(False, timedelta(seconds=5), ticket)


def test_sync_now_goes_before_the_line_but_not_before_the_pause(line: Line) -> None:
    assert line.ask("a", 0).granted
    tickets = [line.ask(f"swept{number}", 0).ticket for number in range(100)]
    assert (turn := line.ask("now", 0.5, urgent=True)).wait == timedelta(seconds=1)
    line.end("a", 1)
    assert line.ask("now", 1.5, turn.ticket, urgent=True) == Turn(False, timedelta(seconds=0.5), turn.ticket)
    assert line.ask("now", 2, turn.ticket, urgent=True).granted
    line.end("now", 3)
    assert line.ask("swept0", 4, tickets[0]).granted


def test_of_many_who_want_it_now_each_gets_a_time_to_come_back_at(line: Line) -> None:
    assert line.ask("a", 0).granted
    turns = [line.ask(f"now{number}", 0, urgent=True) for number in range(20)]
    waits = [turn.wait.total_seconds() for turn in turns]
    assert waits[0] <= 2
    assert all(later - sooner == 2 for sooner, later in itertools.pairwise(waits))
    line.end("a", 1)
    assert not line.ask("new", 2, urgent=True).granted
    assert line.ask("now0", 2, turns[0].ticket, urgent=True).granted


def test_whoever_is_wanted_now_does_not_keep_the_place_that_a_sweep_gave(line: Line) -> None:
    assert line.ask("a", 0).granted
    swept = [line.ask(f"swept{number}", 0).ticket for number in range(10)]
    line.end("a", 1)
    assert line.ask("swept9", 2, swept[-1], urgent=True).granted


def test_who_stands_in_no_line_is_granted_what_is_free(line: Line) -> None:
    asked = {"ticket": None, "urgent": True, "delay": timedelta(seconds=1), "lease_for": timedelta(seconds=60)}
    assert line.ask("a", 0).granted
    assert line.ask("now", 0, urgent=True).ticket is not None
    assert line.hosts.acquire(SITE, lease="redirected", now=NOON, lines_up=False, **asked).ticket is None
    line.end("a", 1)
    assert line.hosts.acquire(SITE, lease="redirected", now=after(2), lines_up=False, **asked).granted


def test_whose_turns_the_urgent_took_for_long_lines_up_again_instead_of_asking_all_the_time(line: Line) -> None:
    assert line.ask("a", 0).granted
    swept = [line.ask(f"swept{number}", 0).ticket for number in range(3)]
    line.end("a", 1)
    for second in range(2, 90, 4):
        assert line.ask(f"now{second}", second, urgent=True).granted
        line.end(f"now{second}", second + 2)
    assert line.ask("urgent", 90, urgent=True).granted
    again = [line.ask(f"swept{number}", 90, ticket).ticket for number, ticket in enumerate(swept)]
    assert again == sorted({ticket for ticket in again if ticket and ticket > after(90)})
    assert len(again) == 3


def test_a_line_that_nobody_comes_from_any_more_is_forgotten(line: Line) -> None:
    line.hosts.store_robots(SITE, status=200, body="Crawl-delay: 100", crawl_delay=100.0, now=NOON)
    assert line.ask("a", 0).granted
    purged = [line.ask(f"purged{number}", 0).ticket for number in range(30)]  # for 3,030 s
    line.end("a", 1)
    assert not line.ask("new", 1_000).granted
    assert line.ask("new", 1_200).granted
    line.end("new", 1_201)
    assert line.ask("purged20", 2_200, purged[20]).granted


def test_times_of_a_worker_whose_clock_is_years_ahead_hold_nobody_up_for_long(line: Line) -> None:
    years = 5 * 365 * 86_400
    assert line.ask("a", years).granted
    assert line.ask("b", 0, urgent=True).wait <= timedelta(seconds=5)
    ticket = line.ask("c", years).ticket
    line.end("a", years + 1)
    assert line.ask("d", 2).wait <= timedelta(hours=1)
    assert line.ask("c", 2, ticket).wait <= timedelta(hours=1)
    assert line.ask("d", 3_602 + 61).granted


def test_the_turn_of_a_killed_worker_lapses(line: Line) -> None:
    assert line.ask("killed", 0).granted
    turn = line.ask("b", 59, urgent=True)
    assert not turn.granted
    assert line.ask("b", 60, turn.ticket, urgent=True).granted
    line.end("killed", 61)  # it lives after all; the turn is b's
    turn = line.ask("c", 62.5, urgent=True)
    assert not turn.granted
    line.end("b", 63)
    assert line.ask("c", 64, turn.ticket, urgent=True).granted


def test_a_ticket_whose_holder_died_blocks_nobody(line: Line) -> None:
    assert line.ask("a", 0).granted
    for number in range(5):
        line.ask(f"dies{number}", 0)
    line.end("a", 1)
    assert line.ask("late", 12).granted


def test_a_ticket_of_another_line_is_no_place_in_this_one(line: Line) -> None:
    assert line.ask("a", 0, after(1_000_000)).granted
    ticket = line.ask("b", 0, after(1_000_000)).ticket
    assert ticket == after(2)


def test_retry_after_holds_for_everybody_and_an_hour_at_most(line: Line) -> None:
    assert line.ask("a", 0).granted
    ticket = line.ask("b", 0).ticket
    line.end("a", 1, retry_after=timedelta(days=1), failed=True)
    assert (now := line.ask("now", 2, urgent=True)).wait == timedelta(seconds=3_599)
    again = [line.ask("b", 2, ticket).ticket, line.ask("c", 2).ticket]
    assert again == [after(3_601), after(3_603)]  # one after the other, not all at the same moment
    assert not line.ask("now", 3_600, now.ticket, urgent=True).granted
    assert line.ask("now", 3_601, now.ticket, urgent=True).granted


def test_a_crawl_delay_that_is_longer_than_ours_is_kept(line: Line) -> None:
    line.hosts.store_robots(SITE, status=200, body="Crawl-delay: 7", crawl_delay=7.0, now=NOON)
    assert line.ask("a", 0).granted
    line.end("a", 1)
    assert line.ask("b", 7.9, urgent=True) == Turn(False, timedelta(seconds=0.1), after(8))
    assert line.ask("b", 8, after(8), urgent=True).granted
    assert line.hosts.acquire(
        "other.example:443",
        lease="c",
        ticket=None,
        urgent=False,
        delay=timedelta(seconds=1),
        lease_for=timedelta(seconds=60),
        now=NOON,
    ).granted


def test_robots_is_kept_when_it_cannot_be_had_again(line: Line) -> None:
    assert line.hosts.robots(SITE) is None
    line.ask("a", 0)
    assert line.hosts.robots(SITE) is None
    line.hosts.robots_failed(SITE, NOON)
    assert (unknown := line.hosts.robots(SITE)) is not None
    assert (unknown.status, unknown.fetched_at, unknown.checked_at) == (None, None, NOON)
    line.hosts.store_robots(SITE, status=404, body=None, crawl_delay=None, now=after(10))
    line.hosts.store_robots(SITE, status=200, body="Disallow: /\0", crawl_delay=2.5, now=after(20))
    line.hosts.robots_failed(SITE, after(30))
    assert (known := line.hosts.robots(SITE)) is not None
    assert (known.status, known.body, known.crawl_delay) == (200, "Disallow: /", 2.5)
    assert (known.fetched_at, known.checked_at) == (after(20), after(30))


def test_many_threads_never_meet_at_a_host_and_keep_the_pause(line: Line) -> None:
    clock, guard = [0.0], threading.Lock()
    visits: list[tuple[float, float]] = []
    in_flight: list[str] = []
    overlaps: list[list[str]] = []

    def pass_time(until: float) -> float:
        with guard:
            clock[0] = max(clock[0], until)
            return clock[0]

    def visit(name: str) -> None:
        for number in range(3):
            lease, ticket, now = f"{name}-{number}", None, pass_time(0)
            while not (turn := line.ask(lease, now, ticket, urgent=name == "0")).granted:
                ticket, now = turn.ticket, pass_time(now + turn.wait.total_seconds())
            in_flight.append(lease)
            overlaps.append(list(in_flight))
            end = pass_time(now + 0.3)
            in_flight.remove(lease)
            visits.append((now, end))
            line.end(lease, end, seconds=0.3)

    threads = [threading.Thread(target=visit, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(visits) == 24
    assert all(len(each) == 1 for each in overlaps)
    for (_, end), (start, _) in itertools.pairwise(visits):
        assert start >= end + 0.999_999
