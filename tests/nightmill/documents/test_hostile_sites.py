"""Sites that mean harm: every one ends by its deadline, in little memory, with an error that a document can have."""

from __future__ import annotations

import functools
import gzip
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest

from nightmill.documents.fetching import FetchedPage, PageFetcher, open_page_client
from nightmill.errors import PageBlocked, PageFetchFailed, PageRefused, PageTimeout, PageTooLarge, PageUnavailable
from nightmill.settings import DocumentSettings
from nightmill.web.guard import GuardedClient
from nightmill.web.resolver import Resolver
from tests.nightmill.web.internet import PUBLIC, Internet, names
from tests.nightmill.web.loopback import Loopback, Received, Script, answer, loopback

DEADLINE = timedelta(seconds=0.8)
HTML = {"Content-Type": "text/html"}
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
SITES = {"site.example": [PUBLIC], "other.example": [PUBLIC]}
CAP = 1024 * 1024


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback(answer(b"<p>Fine", headers=HTML)) as server:
        yield server


@pytest.fixture
def client(server: Loopback) -> Iterator[GuardedClient]:
    resolver = Resolver(names(SITES))
    with open_page_client(DocumentSettings(), resolver=resolver, connector=Internet(server)) as client:
        yield client


@pytest.fixture
def fetcher(client: GuardedClient) -> PageFetcher:
    return PageFetcher(client, user_agent="Nightmill", fetch_timeout=DEADLINE, max_body=CAP)


@pytest.fixture
def patient(client: GuardedClient) -> PageFetcher:
    return PageFetcher(client, user_agent="Nightmill", fetch_timeout=timedelta(seconds=60), max_body=CAP)


def endless(first: bytes, again: Callable[[int], bytes], pause: float = 0) -> Script:
    def script(_: Received, peer: socket.socket) -> None:
        with suppress(OSError):
            peer.sendall(first)
            number = 0
            while True:
                peer.sendall(again(number))
                number += 1
                time.sleep(pause)

    return script


def numbered_header(number: int) -> bytes:
    return b"".join(b"X-%d-%d: y\r\n" % (number, part) for part in range(1_000))


DRIPS: dict[str, Script] = {
    "slow body": endless(OK + b"Content-Length: 9999\r\n\r\n", lambda _: b"x", 0.02),
    "slow header": endless(OK + b"X: ", lambda _: b"y", 0.02),
    "slow headers": endless(OK, lambda number: b"X-%d: y\r\n" % number, 0.02),
    "slow 1xx": endless(b"", lambda _: b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.02),
    "slow chunk extension": endless(
        OK + b"Transfer-Encoding: chunked\r\n\r\n", lambda _: b"1;" + b"e" * 50 + b"\r\nx\r\n", 0.02,
    ),
    "slow trailers": endless(
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", lambda number: b"X-%d: y\r\n" % number, 0.02,
    ),
    "nothing": endless(b"", lambda _: b"", 0.1),
}  # fmt: skip

FLOODS: dict[str, tuple[Script, type[PageRefused | PageUnavailable]]] = {
    "1xx flood": (endless(b"", lambda _: b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 500), PageFetchFailed),
    "header flood": (endless(OK, numbered_header), PageFetchFailed),
    "header without end": (endless(OK + b"X: ", lambda _: b"y" * 65_536), PageFetchFailed),
    "cookie flood": (endless(OK, lambda _: b"Set-Cookie: a=b\r\n" * 1_000), PageFetchFailed),
    "chunk extension without end": (
        endless(OK + b"Transfer-Encoding: chunked\r\n\r\n1;", lambda _: b"e" * 65_536),
        PageFetchFailed,
    ),
    "endless body": (endless(OK + b"\r\n", lambda _: b"x" * 65_536), PageTooLarge),
    "trailer flood": (endless(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", numbered_header), PageFetchFailed),
}  # fmt: skip


@pytest.mark.parametrize("name", DRIPS)
def test_a_drip_ends_by_the_deadline(server: Loopback, fetcher: PageFetcher, name: str) -> None:
    server.script = DRIPS[name]
    started = time.monotonic()
    with pytest.raises(PageTimeout):
        fetcher.fetch("http://site.example/")
    assert time.monotonic() - started < DEADLINE.total_seconds() + 1


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_by_its_size_in_little_memory_long_before_the_deadline(
    server: Loopback, patient: PageFetcher, name: str
) -> None:
    server.script, kind = FLOODS[name]
    tracemalloc.start()
    started = time.monotonic()
    with pytest.raises(kind):
        patient.fetch("http://site.example/")
    took = time.monotonic() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took < 20  # about 0.2
    assert peak < 16 * 1024 * 1024


@pytest.mark.parametrize(
    "again",
    [b"1\r\nx\r\n" * 5_000, (b"1;" + b"e" * 90_000 + b"\r\nx\r\n")],
    ids=["chunks of a byte", "chunk extensions"],
)
def test_a_body_of_little_but_wrapping_ends_by_the_deadline(
    server: Loopback, fetcher: PageFetcher, again: bytes
) -> None:
    server.script = endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", lambda _: again)
    started = time.monotonic()
    with pytest.raises((PageTimeout, PageTooLarge)):
        fetcher.fetch("http://site.example/")
    assert time.monotonic() - started < DEADLINE.total_seconds() + 1


def test_as_many_headers_as_an_answer_may_have_cost_little(server: Loopback, patient: PageFetcher) -> None:
    for name in (b"a:b\r\n", b"Set-Cookie: a=b; Expires=Sun, 22 Nov 2026 10:00:00 GMT\r\n", b"Location: /\r\n"):
        head = OK + name * (90_000 // len(name)) + b"Content-Length: 2\r\n\r\nhi"
        server.script = lambda _, peer, head=head: peer.sendall(head)  # type: ignore[misc]
        started = time.process_time()
        patient.fetch("http://site.example/")
        assert time.process_time() - started < 2


@functools.cache
def bomb(rounds: int) -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    packed = b"".join(packer.compress(b"<" * 1024 * 1024) for _ in range(64)) + packer.flush()
    for _ in range(rounds - 1):
        packed = gzip.compress(packed)
    return packed


@pytest.mark.parametrize(
    ("encoding", "rounds", "kind"),
    [
        ("gzip", 1, PageTooLarge),
        ("gzip, gzip", 2, PageFetchFailed),
        ("gzip, gzip, gzip", 3, PageFetchFailed),
        ("br", 1, PageFetchFailed),
        ("zstd", 1, PageFetchFailed),
        ("deflate", 1, PageFetchFailed),
        (", ".join(["gzip"] * 3_000), 1, PageFetchFailed),
    ],
    ids=["gzip", "gzip twice", "gzip thrice", "br", "zstd", "deflate", "3,000 times"],
)
def test_a_bomb_never_goes_off(
    server: Loopback, patient: PageFetcher, encoding: str, rounds: int, kind: type[PageRefused | PageUnavailable]
) -> None:
    server.script = answer(bomb(rounds), headers={**HTML, "Content-Encoding": encoding})
    tracemalloc.start()
    with pytest.raises(kind) as caught:
        patient.fetch("http://site.example/")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 1024 * 1024
    if kind is PageFetchFailed:
        assert caught.value.reason == "encoding"


@pytest.mark.parametrize("growing", [False, True])
def test_redirects_end_after_five_and_take_no_credential_along(
    server: Loopback, fetcher: PageFetcher, growing: bool
) -> None:
    def around(request: Received, peer: socket.socket) -> None:
        host = "other" if request.headers["host"].startswith("site") else "site"
        path = request.target + "x" * 100 if growing else "/"
        headers = {"Location": f"http://{host}.example{path}", "Set-Cookie": "session=1", "WWW-Authenticate": "Basic"}
        answer(b"", status="302 Found", headers=headers)(request, peer)

    server.script = around
    with pytest.raises(PageFetchFailed) as caught:
        fetcher.fetch("http://site.example/")
    assert caught.value.reason == "redirects"
    assert len(server.received) == 6
    assert not any({"cookie", "authorization", "referer"} & set(request.headers) for request in server.received)


def test_redirects_share_one_deadline(server: Loopback, fetcher: PageFetcher) -> None:
    def slow(request: Received, peer: socket.socket) -> None:
        time.sleep(0.3)
        answer(b"", status="302 Found", headers={"Location": "/"})(request, peer)

    server.script = slow
    started = time.monotonic()
    with pytest.raises(PageTimeout):
        fetcher.fetch("http://site.example/a")
    assert time.monotonic() - started < DEADLINE.total_seconds() + 1
    assert len(server.received) < 5


def test_what_the_caller_takes_between_two_hops_is_not_the_sites_fault(server: Loopback, fetcher: PageFetcher) -> None:
    page = fetcher.fetch("http://site.example/a", allowed=lambda _: time.sleep(DEADLINE.total_seconds() + 0.1))
    assert isinstance(page, FetchedPage)


@pytest.mark.parametrize("use", ["fetch", "fetch_text"])
def test_nothing_that_redirects_inwards_is_followed(server: Loopback, fetcher: PageFetcher, use: str) -> None:
    get = fetcher.fetch if use == "fetch" else functools.partial(fetcher.fetch_text, max_bytes=1_000)
    with loopback() as secret:
        for host in ("127.0.0.1", "localhost", "127.1", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]"):
            server.script = answer(b"", status="302 Found", headers={"Location": f"http://{host}:{secret.port}/"})
            with pytest.raises(PageBlocked):
                get("http://site.example/")
        assert secret.connections == 0


def test_names_that_never_resolve_do_not_hold_up_a_healthy_site(server: Loopback) -> None:
    stalled = threading.Event()

    def lookup(host: str) -> Sequence[str]:
        if host.startswith("stall"):
            stalled.wait(20)
            raise OSError("no answer")
        return [PUBLIC]

    client = open_page_client(DocumentSettings(), resolver=Resolver(lookup), connector=Internet(server))
    fetcher = PageFetcher(client, user_agent="Nightmill", fetch_timeout=timedelta(seconds=10), max_body=CAP)
    with client, ThreadPoolExecutor(12) as threads:
        try:
            waiting = [threads.submit(fetcher.fetch, f"http://stall{number}.example/") for number in range(12)]
            time.sleep(0.1)
            started = time.monotonic()
            fetcher.fetch("http://healthy.example/")
            assert time.monotonic() - started < 1  # the others take 3 s, the life of a lookup
            for held in waiting:
                with pytest.raises(PageTimeout) as caught:
                    held.result(timeout=10)
                assert caught.value.reason == "dns"
        finally:
            stalled.set()
