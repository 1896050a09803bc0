"""What is remembered of robots.txt: for a day, for a while longer while the site fails, and never too much of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from nightmill.documents.fetching import PageFetcher, open_page_client
from nightmill.documents.links import read_link
from nightmill.documents.politeness import ROBOTS_AGE, ROBOTS_ASKED_AGAIN, ROBOTS_LAST_RESORT, RobotsKeeper
from nightmill.errors import PageFetchFailed
from nightmill.settings import DocumentSettings
from nightmill.storage.engine import Database
from nightmill.storage.hosts import HostRepository
from tests.nightmill.web.loopback import Loopback, answer, loopback

SETTINGS = DocumentSettings(allow_private_addresses=True)
LITTLE = timedelta(minutes=1)


@pytest.fixture
def site() -> Iterator[Loopback]:
    with loopback() as server:
        server.script = answer(status="503 Busy")
        yield server


@pytest.fixture
def fetcher() -> Iterator[PageFetcher]:
    with open_page_client(SETTINGS) as client:
        yield PageFetcher(client, user_agent="Nightmill", fetch_timeout=timedelta(seconds=2), max_body=100_000)


def known(database: Database, url: str, *, fetched: timedelta, checked: timedelta) -> HostRepository:
    """Store a robots.txt that came and was asked for so long ago."""
    hosts, present = HostRepository(database), datetime.now(UTC)
    host = read_link(url).host
    body = "User-agent: *\nCrawl-delay: 60\nDisallow: /a"
    hosts.store_robots(host, status=200, body=body, crawl_delay=60.0, now=present - fetched)
    if checked < fetched:
        hosts.robots_failed(host, present - checked)
    return hosts


def test_while_a_site_fails_its_old_robots_txt_counts_and_every_worker_does_not_ask_again(
    database: Database, site: Loopback, fetcher: PageFetcher
) -> None:
    hosts = known(database, site.url, fetched=ROBOTS_AGE + LITTLE, checked=ROBOTS_AGE + LITTLE)
    host = read_link(site.url).host
    rules, fetched = RobotsKeeper(hosts, fetcher, SETTINGS).rules(site.url, host)
    assert (rules.allows(f"{site.url}/a"), fetched) == (False, True)
    asked = len(site.received)
    for _ in range(2):  # other workers, which have not asked themselves
        rules, fetched = RobotsKeeper(hosts, fetcher, SETTINGS).rules(site.url, host)
        assert (rules.allows(f"{site.url}/a"), fetched) == (False, False)
    assert len(site.received) == asked


@pytest.mark.parametrize(
    ("fetched", "checked", "asks"),
    [
        (ROBOTS_AGE - LITTLE, ROBOTS_AGE - LITTLE, False),
        (ROBOTS_AGE + LITTLE, ROBOTS_ASKED_AGAIN - LITTLE, False),
        (ROBOTS_AGE + LITTLE, ROBOTS_ASKED_AGAIN + LITTLE, True),
    ],
)
def test_an_old_robots_txt_is_asked_for_again_now_and_then(
    database: Database, site: Loopback, fetcher: PageFetcher, fetched: timedelta, checked: timedelta, asks: bool
) -> None:
    hosts = known(database, site.url, fetched=fetched, checked=checked)
    _, asked = RobotsKeeper(hosts, fetcher, SETTINGS).rules(site.url, read_link(site.url).host)
    assert asked is asks


def test_a_robots_txt_of_last_week_is_no_longer_believed(
    database: Database, site: Loopback, fetcher: PageFetcher
) -> None:
    hosts = known(database, site.url, fetched=ROBOTS_LAST_RESORT + LITTLE, checked=LITTLE)
    with pytest.raises(PageFetchFailed):
        RobotsKeeper(hosts, fetcher, SETTINGS).rules(site.url, read_link(site.url).host)


def test_long_files_of_many_hosts_are_not_all_remembered(database: Database, fetcher: PageFetcher) -> None:
    hosts = HostRepository(database)
    keeper = RobotsKeeper(hosts, fetcher, SETTINGS)
    body = "User-agent: *\n" + "# nothing\n" * 50_000
    for number in range(10):
        hosts.store_robots(f"h{number}:80", status=200, body=body, crawl_delay=None, now=datetime.now(UTC))
        keeper.rules(f"http://h{number}/", f"h{number}:80")
    remembered = list(keeper._parsed)
    assert remembered == ["h7:80", "h8:80", "h9:80"]
