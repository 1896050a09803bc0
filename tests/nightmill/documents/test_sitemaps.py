from __future__ import annotations

import gzip
import time
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta

import pytest

from nightmill.documents.anchors import MAX_LINKS as MAX_ANCHORS
from nightmill.documents.anchors import links_of
from nightmill.documents.fetching import PageFetcher, open_page_client
from nightmill.documents.sitemaps import MAX_LINKS, MAX_SITEMAP, read_sitemap
from nightmill.errors import InvalidInput, PageTooLarge
from nightmill.settings import DocumentSettings
from tests.nightmill.web.loopback import Loopback, answer, loopback

URL = "https://x.example/sitemaps/all.xml"
HEAD = b'<?xml version="1.0" encoding="UTF-8"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'


def pages(*locations: bytes) -> bytes:
    return HEAD + b"".join(b"<url><loc>%s</loc></url>" % location for location in locations) + b"</urlset>"


@pytest.mark.parametrize(
    ("body", "links"),
    [
        (pages(b" https://x.example/a?b=1&amp;c=2 \n"), ("https://x.example/a?b=1&c=2",)),
        (pages(b"/a", b"b", b"//y.example/"), ("https://x.example/a", "https://x.example/sitemaps/b", "https://y.example/")),
        (pages(b"<![CDATA[https://x.example/?a&b]]>"), ("https://x.example/?a&b",)),
        (pages(b"https://x.example/a", b"https://x.example/a"), ("https://x.example/a",)),
        (pages(b"", b"ftp://x.example/", b"mailto:a@b", b"http://[", b"https://x.example/" + b"a" * 3000), ()),
        (b"\n \n" + pages(b"https://x.example/a"), ("https://x.example/a",)),
        (b"\xef\xbb\xbf" + pages(b"https://x.example/\xc3\xa4"), ("https://x.example/ä",)),
        (
            '<?xml version="1.0" encoding="UTF-16"?><urlset><url><loc>https://x.example/ä</loc></url></urlset>'.encode(
                "utf-16"
            ),
            ("https://x.example/ä",),
        ),
        (b"<urlset><url><loc>https://x.example/p</loc><i><loc>https://x.example/i.png</loc></i></url></urlset>",
         ("https://x.example/p",)),
        (b"<urlset/>", ()),
        (b"https://x.example/a\r\n\r\nhttps://x.example/b\n", ("https://x.example/a", "https://x.example/b")),
    ],
)  # fmt: skip
def test_the_pages_of_a_sitemap_are_read(body: bytes, links: tuple[str, ...]) -> None:
    sitemap = read_sitemap(body, URL)
    assert sitemap.links == links
    assert sitemap.children == ()


def test_an_index_names_further_sitemaps() -> None:
    body = b"<sitemapindex><sitemap><loc>/1.xml.gz</loc></sitemap><sitemap><loc>/2.xml</loc></sitemap></sitemapindex>"
    assert read_sitemap(body, URL).children == ("https://x.example/1.xml.gz", "https://x.example/2.xml")


NO_SITEMAPS = {
    "nothing": b"",
    "words": b"plain words",
    "mostly words": b"https://x.example/a\nand\nmany\nwords",
    "bytes": bytes(range(256)) * 10,
    "page": b"<!doctype html><html><body>Not here</html>",
    "page without doctype": b"<html><body>Not here</body></html>",
    "cut": HEAD + b"<url><loc>https://x.example/a",
    "undeclared entity": pages(b"https://x.example/&undeclared;"),
    "file": b'<!DOCTYPE u [<!ENTITY a SYSTEM "file:///etc/passwd">]><urlset><url><loc>http://x/&a;</loc></url></urlset>',
    "bomb": b'<!DOCTYPE u [<!ENTITY a0 "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY a%d "%s">' % (depth + 1, b"&a%d;" % depth * 10) for depth in range(12))
    + b"]><urlset><url><loc>http://x/&a12;</loc></url></urlset>",
    "deep": b"<urlset>" + b"<a>" * 1_000_000,
    "large": b"x" * (MAX_SITEMAP + 1),
}


@pytest.mark.parametrize("name", NO_SITEMAPS)
def test_bombs_and_garbage_are_refused_quickly(name: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidInput, match=r"^sitemap: ") as caught:
        read_sitemap(NO_SITEMAPS[name], URL)
    assert "root:" not in str(caught.value)
    assert time.process_time() - started < 3


@pytest.mark.slow
def test_the_largest_sitemap_is_read_in_little_memory_and_no_further_than_its_bound() -> None:
    body = pages(*(b"https://x.example/%d" % number for number in range(MAX_LINKS + 1_000)))
    tracemalloc.start()
    links = read_sitemap(body, URL).links
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(links) == MAX_LINKS
    assert links[-1] == f"https://x.example/{MAX_LINKS - 1}"
    assert peak < len(body) + 24 * 1024 * 1024


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback() as server:
        yield server


@pytest.fixture
def fetcher() -> Iterator[PageFetcher]:
    with open_page_client(DocumentSettings(allow_private_addresses=True)) as client:
        yield PageFetcher(client, user_agent="Nightmill", fetch_timeout=timedelta(seconds=5), max_body=1000)


def test_a_packed_sitemap_is_unpacked_within_its_bound(server: Loopback, fetcher: PageFetcher) -> None:
    server.script = answer(gzip.compress(pages(b"/a")), headers={"Content-Type": "application/gzip"})
    found = fetcher.fetch_text(f"{server.url}/s.xml.gz", max_bytes=10_000)
    assert found.status == 200
    assert read_sitemap(found.body, found.url).links == (f"{server.url}/a",)
    twice = gzip.compress(gzip.compress(pages(b"/a")))
    server.script = answer(twice, headers={"Content-Encoding": "gzip"})  # sent packed as well
    found = fetcher.fetch_text(f"{server.url}/s.xml.gz", max_bytes=10_000)
    assert read_sitemap(found.body, found.url).links == (f"{server.url}/a",)
    server.script = answer(gzip.compress(bytes(100_000_000)))
    tracemalloc.start()
    with pytest.raises(PageTooLarge):
        fetcher.fetch_text(f"{server.url}/bomb.xml.gz", max_bytes=10_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000
    server.script = answer(status="404 Not Found", body=b"no such thing")
    missing = fetcher.fetch_text(f"{server.url}/s.xml", max_bytes=10_000)
    assert (missing.status, missing.body) == (404, b"")


def test_the_links_of_a_page_come_absolute_in_order_and_once() -> None:
    page = (
        b"<!doctype html><head><base href='/docs/'><base href='/other/'></head><body>"
        b"<a href='a#x'>1</a><a href='a#y'>2</a><a href=' /b\n?c=1 '>3</a><a href='#!/d'>4</a><a href='#top'>5</a>"
        b"<a href='mailto:x@y'>6</a><a rel='ugc NoFollow' href='n'>7</a><area href='//o.example/\xe4'>"
        b"<a href='http://[::1'>8</a><a href=''>9</a><a>10</a><a href='javascript:x()'>11</a>"
    )
    assert links_of(page, "https://x.example/en/p?q", "iso-8859-1") == [
        "https://x.example/docs/a",
        "https://x.example/b?c=1",
        "https://x.example/docs/#!/d",
        "https://o.example/ä",
    ]


@pytest.mark.parametrize("words", [b"nofollow", b"noindex, NoFollow", b"none"])
def test_a_page_that_asks_robots_not_to_follow_has_no_links(words: bytes) -> None:
    page = b"<meta name=description content=nofollow><meta name='%s' content='%s'><a href=/a>"
    assert links_of(page % (b"Robots", words), "https://x.example/") == []
    assert links_of(page % (b"otherbot", words), "https://x.example/") == ["https://x.example/a"]


@pytest.mark.parametrize(
    "page", [b"", b" ", b"words", b"\0\0", b"<!-- -->", b"<", b"<?xml version='1.0'?>", b"\xff\xfe"]
)
def test_a_page_without_links_has_none(page: bytes) -> None:
    assert links_of(page, "https://x.example/") == []


SIZE = 3 * 1024 * 1024
HOSTILE_PAGES = {
    "open divs": b"<div>" * (SIZE // 5),
    "open anchors": b"<a href=x>" * (SIZE // 10),
    "formatting": b"<b><i><u><a href=x><p>" * (SIZE // 22),
    "attributes": b"<a " + b" ".join(b"a%d=1" % number for number in range(300_000)) + b">",
    "end tags": b"<div>" * 200_000 + b"</p></x>" * 250_000,
    "unmatched": b"<span>" * 200_000 + b"</b>" * 400_000,
    "angles": b"<" * SIZE,
    "comments": b"<!--" * (SIZE // 4),
    "no http": b"".join(b"<a href='x:%d'>" % number for number in range(180_000)),
    "dots": b"".join(b"<a href='%s%d'>" % (b"../" * 600, number) for number in range(1_700)),
}


@pytest.mark.parametrize("name", HOSTILE_PAGES)
def test_no_page_holds_us_for_long(name: str) -> None:
    started = time.process_time()
    links_of(HOSTILE_PAGES[name], "https://x.example/")
    assert time.process_time() - started < 4  # under 1; other parsers take minutes for three of these


def test_a_page_yields_no_more_links_than_its_bound() -> None:
    page = b"".join(b"<a href=/%d></a>" % number for number in range(MAX_ANCHORS + 50))
    links = links_of(page, "https://x.example/")
    assert len(links) == MAX_ANCHORS
    assert links[-1] == f"https://x.example/{MAX_ANCHORS - 1}"


def test_elements_that_nobody_closes_do_not_end_an_ordinary_page() -> None:
    page = b"<ul>" + b"<li><p>Point<br><img src=x><input>" * 2_000 + b"</ul><a href=/last>Last</a>"
    assert links_of(page, "https://x.example/") == ["https://x.example/last"]
