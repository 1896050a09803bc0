from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

from nightmill.documents.fetching import PageFetcher, open_page_client
from nightmill.documents.robots import MAX_ROBOTS, RobotsRules, fetch_robots
from nightmill.errors import PageBlocked, PageFetchFailed
from nightmill.settings import DocumentSettings
from tests.nightmill.web.loopback import Loopback, Received, answer, loopback

AGENT = "Nightmill/0.1 (+https://nightmill.example)"


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback() as server:
        yield server


@pytest.fixture
def fetcher() -> Iterator[PageFetcher]:
    with open_page_client(DocumentSettings(allow_private_addresses=True)) as client:
        yield PageFetcher(client, user_agent=AGENT, fetch_timeout=timedelta(seconds=2), max_body=100_000)


@pytest.mark.parametrize(
    ("robots", "path", "allowed"),
    [
        ("", "/a", True),
        ("User-agent: *\nDisallow: /", "/a", False),
        ("User-agent: *\nDisallow: /", "/robots.txt", True),
        ("User-agent: *\nDisallow:", "/a", True),
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/c", True),
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/c", False),
        ("User-agent: *\nDisallow: /*.php$", "/x.php", False),
        ("User-agent: *\nDisallow: /*.php$", "/x.php?a", True),
        ("User-agent: *\nDisallow: /ä", "/%C3%A4", False),
        ("User-agent: *\nDisallow: /a?b=", "/a?b=1", False),
        ("User-agent: nightmill\nDisallow: /a\n\nUser-agent: *\nDisallow: /", "/b", True),
        ("User-agent: NightMill\nDisallow: /a", "/a", False),
        ("User-agent: Nightmill/2.0\nDisallow: /a", "/a", False),
        ("User-agent: night\nDisallow: /a", "/a", True),
        ("User-agent: nightmillbot\nDisallow: /a", "/a", True),
        ("User-agent: other\nUser-agent: nightmill\nDisallow: /a", "/a", False),
        ("User-agent: nightmill\nDisallow: /a\n\nUser-agent: nightmill\nDisallow: /b", "/b", False),
        ("User-agent: * # all\nDisallow: /a # this", "/a", False),
        ("\ufeffUser-agent: *\nDisallow: /a", "/a", False),
        ("User-agent: *\r\nDisallow: /a\r\n", "/a", False),
        ("user agent *\ndisallow /a", "/a", False),
        ("<html><body>Not found</body></html>", "/a", True),
    ],
)
def test_a_page_is_allowed_as_the_rules_for_us_say(robots: str, path: str, allowed: bool) -> None:
    rules = RobotsRules.read(robots.encode(), AGENT)
    assert rules.allows(f"https://x.example{path}") is allowed


def test_delay_and_sitemaps_are_read() -> None:
    text = (
        "Sitemap: https://x.example/s.xml\nUser-agent: other\nCrawl-delay: 9\n\nUser-agent: nightmill\n"
        "Crawl-delay: 2.5\nSitemap: /t.xml\nSitemap: ftp://x/\nSitemap: https://x.example/s.xml"
    )
    rules = RobotsRules.read(text, AGENT)
    assert rules.crawl_delay == 2.5
    assert rules.sitemaps == ("https://x.example/s.xml", "/t.xml")
    for none in (None, "", b"", "User-agent: *\nCrawl-delay: never", "User-agent: *\nCrawl-delay: -1"):
        assert RobotsRules.read(none, AGENT).crawl_delay is None


HALF = MAX_ROBOTS // 2
HOSTILE = {
    "many agents": b"User-agent: a\n" * (HALF // 14) + b"Disallow: /a\n" * (HALF // 13),
    "different agents": b"".join(b"useragent a%d\n" % number for number in range(16_000)) + b"Disallow: /a\n" * 19_000,
    "many stars": b"User-agent: *\n" + b"Disallow: /*a*a*a*a*a*a*a*a*a*b\n" * 15_000,
    "one rule of stars": b"User-agent: *\nDisallow: /" + b"*a" * HALF,
    "dollars": b"User-agent: *\nDisallow: /" + b"$" * MAX_ROBOTS,
    "escapes": b"User-agent: *\n" + b"".join(b"Disallow: /%%e4%d*\n" % number for number in range(25_000)),
    "no line end": b"User-agent" + b" " * MAX_ROBOTS + b"x",
    "words": b"a " * HALF,
    "NULs": b"\0" * MAX_ROBOTS,
    "random": random.Random(1).randbytes(MAX_ROBOTS),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_robots_txt_takes_long_or_raises(name: str) -> None:
    started = time.process_time()
    rules = RobotsRules.read(HOSTILE[name], AGENT)
    rules.allows("https://x.example/" + "a" * 1_900)
    assert time.process_time() - started < 3  # about 0.1; without our care minutes and gigabytes


def test_garbage_made_of_the_words_of_robots_txt_is_read_without_an_error() -> None:
    chance = random.Random(7)
    words = [
        "User-agent:", "user agent", "Disallow:", "Allow :", "Crawl-delay:", "Sitemap:", "Request-rate:", "Visit-time:",
        "*", "/", "$", "%", "%zz", "%c3", "#", ":", "\n", "\r", "\x0b", "\u2028", "\x00", "1e999", "nan", "9" * 400,
        "[", "http://[", "//", "ä", "\ud83d", "nightmill", " ", "\t", "index.html", "1/0s", "0000-9999",
    ]  # fmt: skip
    for _ in range(2_000):
        text = "".join(chance.choices(words, k=chance.randrange(40)))
        rules = RobotsRules.read(text.encode("utf-8", "surrogatepass"), AGENT)
        for url in ("https://x.example/", "https://x.example/ä%", "http://[", "", "//["):
            rules.allows(url)


def test_the_robots_txt_of_a_pages_host_is_fetched(server: Loopback, fetcher: PageFetcher) -> None:
    server.script = answer(b"\xef\xbb\xbfUser-agent: *\0\nDisallow: /a")
    found = fetch_robots(fetcher, f"{server.url}/a/b?c=d#e")
    assert (found.status, found.body) == (200, "User-agent: *\nDisallow: /a")
    assert server.received[0].target == "/robots.txt"
    assert server.received[0].headers["user-agent"] == AGENT


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone", "401 Unauthorized", "403 Forbidden", "300 Choices"])
def test_a_host_without_robots_txt_allows_all(server: Loopback, fetcher: PageFetcher, status: str) -> None:
    server.script = answer(b"User-agent: *\nDisallow: /", status=status)
    assert fetch_robots(fetcher, server.url).body is None


def test_a_host_that_is_in_trouble_allows_nothing_yet(server: Loopback, fetcher: PageFetcher) -> None:
    for status in ("500 Oops", "503 Busy", "429 Slowly"):
        server.script = answer(status=status, headers={"Retry-After": "77"})
        with pytest.raises(PageFetchFailed) as caught:
            fetch_robots(fetcher, server.url)
        assert caught.value.reason == "robots_unreachable"
        assert caught.value.retry_after == timedelta(seconds=77)
        assert caught.value.failed_host == f"127.0.0.1:{server.port}"
    server.script = lambda _, peer: peer.close()
    with pytest.raises(PageFetchFailed, match="protocol") as caught:
        fetch_robots(fetcher, server.url)
    assert caught.value.reason == "robots_unreachable"
    with pytest.raises(PageFetchFailed) as caught:
        fetch_robots(fetcher, "http://nowhere.invalid/")
    assert caught.value.reason == "robots_unreachable"


def test_a_host_that_never_answers_has_no_robots_txt_yet(server: Loopback) -> None:
    def silent(_: Received, peer: socket.socket) -> None:
        peer.recv(1)

    server.script = silent
    with open_page_client(DocumentSettings(allow_private_addresses=True)) as client:
        hasty = PageFetcher(client, user_agent=AGENT, fetch_timeout=timedelta(seconds=0.3), max_body=1000)
        with pytest.raises(PageFetchFailed, match="too long") as caught:
            fetch_robots(hasty, server.url)
    assert caught.value.reason == "robots_unreachable"


def test_redirects_of_robots_txt_are_followed_five_times(server: Loopback, fetcher: PageFetcher) -> None:
    def hops(request: Received, peer: socket.socket) -> None:
        number = int(request.target.rpartition("/")[2]) if request.target[-1].isdigit() else 0
        if number == last:
            answer(b"User-agent: *\nDisallow: /")(request, peer)
        else:
            answer(b"", status="301 Moved", headers={"Location": f"/r/{number + 1}"})(request, peer)

    server.script = hops
    last = 5
    assert fetch_robots(fetcher, server.url).body == "User-agent: *\nDisallow: /"
    last = 6
    assert fetch_robots(fetcher, server.url).body is None


def test_a_robots_txt_leads_to_no_inner_address(server: Loopback) -> None:
    with open_page_client(DocumentSettings()) as client:
        strict = PageFetcher(client, user_agent=AGENT, fetch_timeout=timedelta(seconds=2), max_body=1000)
        with pytest.raises(PageBlocked):
            fetch_robots(strict, server.url)
    assert server.connections == 0


def test_a_longer_robots_txt_is_cut_where_the_standard_says(server: Loopback, fetcher: PageFetcher) -> None:
    server.script = answer(b"User-agent: *\n" + b"Disallow: /a\n" * 100_000)
    body = fetch_robots(fetcher, server.url).body
    assert body is not None
    assert len(body) == MAX_ROBOTS
