"""The web site that other tests fetch from behaves as real servers do, and fails as it is told."""

from __future__ import annotations

import gzip
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.debian_docs import debian_site
from tests.site import Break, Page, Site, failure, folder_pages, gz_file, redirect, robots, sitemap, sitemap_index
from tests.stack import eventually


@pytest.fixture
def site() -> Iterator[Site]:
    with Site({"/a": "<p>Hello</p>" * 100}) as running:
        yield running


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=5, trust_env=False) as fetching:
        yield fetching


def test_a_page_that_the_client_has_is_not_sent_again(site: Site, client: httpx.Client) -> None:
    first = client.get(site.url("/a"))
    known = {"etag": first.headers["etag"], "date": first.headers["last-modified"]}
    for asked in ({"if-none-match": known["etag"]}, {"if-modified-since": known["date"]}):
        again = client.get(site.url("/a"), headers=asked)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", known["etag"])
    site.pages["/a"] = Page("<p>Changed")
    # The date is the same second's, but a tag goes before it.
    both = {"if-none-match": known["etag"], "if-modified-since": known["date"]}
    assert client.get(site.url("/a"), headers=both).text == "<p>Changed"
    assert [visit.status for visit in site.visits("/a")] == [200, 304, 304, 200]


def test_a_tag_is_the_same_with_and_without_compression_and_a_failure_is_never_304(
    site: Site, client: httpx.Client
) -> None:
    plain = client.get(site.url("/a"), headers={"accept-encoding": "identity"}).headers["etag"]
    assert client.get(site.url("/a"), headers={"if-none-match": f'"x", {plain}'}).status_code == 304
    assert client.get(site.url("/a"), headers={"if-none-match": "*"}).status_code == 304
    site.pages["/a"] = failure(500)
    assert client.get(site.url("/a"), headers={"if-none-match": "*"}).status_code == 500


def test_who_asks_for_gzip_gets_it(site: Site, client: httpx.Client) -> None:
    with client.stream("GET", site.url("/a"), headers={"accept-encoding": "br;q=1, gzip;q=0.5"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(b"".join(answer.iter_raw())) == b"<p>Hello</p>" * 100
    for refusing in ("identity", "gzip;q=0", "br"):
        assert "content-encoding" not in client.get(site.url("/a"), headers={"accept-encoding": refusing}).headers


def test_a_head_request_tells_what_get_would(site: Site, client: httpx.Client) -> None:
    got, head = client.get(site.url("/a")), client.head(site.url("/a"))
    assert head.content == b""
    for name in ("content-length", "etag", "content-type"):
        assert head.headers[name] == got.headers[name]


def test_redirects_lead_on_to_other_hosts_and_in_circles(site: Site, client: httpx.Client) -> None:
    with Site({"/b": "there"}, address="127.0.0.2") as other:
        site.pages |= {"/old": redirect("/a"), "/out": redirect(other.url("/b"), 308), "/loop": redirect("/loop", 302)}
        assert client.get(site.url("/old"), follow_redirects=True).status_code == 200
        assert client.get(site.url("/out"), follow_redirects=True).text == "there"
        with pytest.raises(httpx.TooManyRedirects):
            client.get(site.url("/loop"), follow_redirects=True)
    assert len(other.log) == 1


def test_what_is_to_fail_first_fails_once_each(site: Site, client: httpx.Client) -> None:
    site.answers["/a"] = [failure(503, retry_after=7), failure(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT")]
    answers = [client.get(site.url("/a")) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 429, 200]
    assert [answer.headers.get("retry-after") for answer in answers] == ["7", "Wed, 21 Oct 2026 07:28:00 GMT", None]


def test_what_is_missing_or_removed_is_not_found(site: Site, client: httpx.Client) -> None:
    assert client.get(site.url("/b?x=1")).status_code == 404
    del site.pages["/a"]
    assert client.get(site.url("/a")).status_code == 404


def test_a_query_may_have_a_page_of_its_own(site: Site, client: httpx.Client) -> None:
    site.pages["/a?page=2"] = Page("second")
    assert client.get(site.url("/a?page=2")).text == "second"
    assert client.get(site.url("/a?page=3")).text.startswith("<p>Hello")


def test_connections_break_as_they_are_told(site: Site, client: httpx.Client) -> None:
    body = b"x" * 100_000
    site.pages |= {f"/{kind}": Page(body, breaks=kind, gzip=False) for kind in Break}
    with pytest.raises(httpx.ReadError):
        client.get(site.url("/reset"))
    assert site.visits("/reset")[0].status == 0
    with pytest.raises(httpx.ReadError):
        client.get(site.url("/midway"))
    with pytest.raises(httpx.RemoteProtocolError):  # in order, but short
        client.get(site.url("/truncated"))
    assert client.get(site.url("/a")).status_code == 200


def test_a_page_drips_and_the_end_of_the_site_waits_for_none(client: httpx.Client) -> None:
    with Site({"/drip": Page("x" * 100, drip=0.5), "/never": Page(delay=3600.0)}) as site:
        began = time.monotonic()
        assert len(client.get(site.url("/drip"), headers={"accept-encoding": "identity"}).text) == 100
        assert time.monotonic() - began > 0.4
        host, port = site.host.split(":")
        waiting = socket.create_connection((host, int(port)))
        waiting.sendall(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n")
        eventually(lambda: site.in_flight["/never"], every=0.01)
        ending = time.monotonic()
    assert time.monotonic() - ending < 2
    assert waiting.recv(1) == b""
    waiting.close()


def test_requests_are_counted_while_they_are_answered() -> None:
    with Site({"/never": Page(delay=3600.0)}) as site, ExitStack() as closing:
        host, port = site.host.split(":")
        for name in "abc":
            connection = closing.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(f"GET /never HTTP/1.1\r\nhost: x\r\nUser-Agent: {name}\r\n\r\n".encode())
        eventually(lambda: site.in_flight["/never"] == 3, every=0.01)
    assert site.most_in_flight == {"/never": 3}
    assert (site.most_at_once, site.in_flight["/never"]) == (3, 0)
    assert sorted(visit.headers["user-agent"] for visit in site.log) == ["a", "b", "c"]


def test_robots_and_sitemaps_come_as_they_do_elsewhere(site: Site, client: httpx.Client) -> None:
    site.pages |= {
        "/robots.txt": robots("User-agent: *\nDisallow: /x\n"),
        "/sitemap.xml": sitemap_index([site.url("/1.xml.gz")]),
        "/1.xml.gz": gz_file(sitemap({site.url("/a?b=1&c=2"): "2026-01-02"})),
    }
    assert client.get(site.url("/robots.txt")).headers["content-type"] == "text/plain"
    assert f"<sitemap><loc>{site.url('/1.xml.gz')}</loc></sitemap>" in client.get(site.url("/sitemap.xml")).text
    packed = client.get(site.url("/1.xml.gz"))
    assert "content-encoding" not in packed.headers
    assert b"/a?b=1&amp;c=2</loc><lastmod>2026-01-02</lastmod>" in gzip.decompress(packed.content)


def test_the_pages_of_a_folder_are_read_as_they_are_now(tmp_path: Path, client: httpx.Client) -> None:
    (tmp_path / "sub dir").mkdir()
    file = tmp_path / "sub dir" / "one.html"
    file.write_bytes("<p>Привет".encode("cp1251"))
    with Site(folder_pages(tmp_path, "/docs/")) as site:
        assert client.get(site.url("/docs/sub%20dir/one.html")).content == "<p>Привет".encode("cp1251")
        file.write_bytes(b"now")
        assert client.get(site.url("/docs/sub dir/one.html")).text == "now"


def test_a_page_that_cannot_be_answered_fails_the_test(tmp_path: Path, client: httpx.Client) -> None:
    with (
        pytest.raises(ExceptionGroup, match="failed to answer") as raised,
        Site({"/a": Page(tmp_path / "gone.html")}) as site,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        client.get(site.url("/a"))
    assert raised.group_contains(FileNotFoundError)


@pytest.mark.system
def test_debian_s_documentation_is_a_site_of_many_pages(client: httpx.Client) -> None:
    with debian_site() as site:
        listed = re.findall("<loc>(.+?)</loc>", client.get(site.url("/sitemap.xml")).text)
        assert len(listed) == len(set(listed)) >= 300
        for url in listed[::50]:
            page = client.get(url)
            assert (page.status_code, "</html>" in page.text) == (200, True), url
