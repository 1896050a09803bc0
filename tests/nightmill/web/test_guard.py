from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import httpcore
import httpx
import pytest

from nightmill.errors import (
    AddressRefused,
    AnswerLost,
    BodyTooLarge,
    NightmillError,
    NotFound,
    ProviderUnreachable,
    RequestRefused,
)
from nightmill.web.guard import GuardedClient, guarded_client
from nightmill.web.resolver import Resolver
from tests.nightmill.web.certificates import Authority
from tests.nightmill.web.internet import PUBLIC, Internet, names
from tests.nightmill.web.loopback import Loopback, Received, answer, loopback


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback() as server:
        yield server


@pytest.fixture
def secret() -> Iterator[Loopback]:
    """What must not be reached."""
    with loopback() as secret:
        yield secret


@pytest.fixture
def internet(server: Loopback) -> Internet:
    return Internet(server)


@pytest.fixture
def client(internet: Internet) -> Iterator[GuardedClient]:
    table = {
        "site.example": [PUBLIC],
        "other.example": [PUBLIC],
        "inner.example": ["127.0.0.1"],
        "mixed.example": [PUBLIC, "127.0.0.1"],
        "mixed6.example": [PUBLIC, "::1"],
        "scoped.example": ["fe80::1%1"],
        "mapped.example": ["::ffff:127.0.0.1"],
    }
    with guarded_client(
        allow_private=False, allowed_ports=None, resolver=Resolver(names(table)), connector=internet
    ) as client:
        yield client


HOSTS = [
    "127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "0.0.0.0", "[::1]", "[::]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "169.254.169.254",
    "LOCALHOST", "127.0.0.1.", "inner.example", "mixed.example", "mixed6.example", "scoped.example", "mapped.example",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_no_connection_is_made_to_an_inner_address_directly_or_by_redirect(
    client: GuardedClient, internet: Internet, server: Loopback, secret: Loopback, host: str
) -> None:
    target = f"http://{host}:{secret.port}/latest/meta-data"
    for use in (client.fetch, lambda url: client.post(url, headers={}, content=b"x")):
        with pytest.raises((AddressRefused, ProviderUnreachable)) as caught:
            use(target)
        assert "127.0.0.1" not in str(caught.value).replace(host.strip("[]"), "")
    assert internet.asked == []
    server.script = answer(b"", status="302 Found", headers={"Location": target})
    with pytest.raises(NightmillError):
        client.fetch("http://site.example/")
    assert internet.asked == [(PUBLIC, 80)]
    assert secret.connections == 0


def test_the_secret_server_would_be_reached_if_nobody_guarded_it(secret: Loopback) -> None:
    with guarded_client(allow_private=True, allowed_ports=None) as client:
        for host in ("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001"):
            assert b"".join(client.fetch(f"http://{host}:{secret.port}/")) == b"{}"
    assert secret.connections == 5


@pytest.mark.parametrize("start", [0, 1])
def test_a_name_that_changes_its_mind_gains_nothing(server: Loopback, secret: Loopback, start: int) -> None:
    answers = itertools.islice(itertools.cycle([[PUBLIC], ["127.0.0.1"]]), start, None)
    lookups = 0

    def rebinding(_: str) -> Sequence[str]:
        nonlocal lookups
        lookups += 1
        return next(answers)

    internet = Internet(server)
    with guarded_client(
        allow_private=False, allowed_ports=None, resolver=Resolver(rebinding), connector=internet
    ) as client:
        for number in range(start, start + 20):
            if number % 2:
                with pytest.raises(AddressRefused):
                    client.fetch(f"http://rebind.example:{secret.port}/")
            else:
                assert b"".join(client.fetch(f"http://rebind.example:{secret.port}/")) == b"{}"
    assert lookups == 20  # one a connection: what was judged is what is used
    assert {host for host, _ in internet.asked} == {PUBLIC}
    assert secret.connections == 0


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://site.example:22/", "port 22"),
        ("http://site.example:8080/", "port 8080"),
        ("https://site.example:6379/", "port 6379"),
        ("http://user:geheim@site.example/", "user or a password"),
        ("http://user@site.example/", "user or a password"),
        ("ftp://site.example/", "only http"),
        ("file:///etc/passwd", "only http"),
        ("gopher://127.0.0.1:6379/_x", "only http"),
        ("//site.example/", "only http"),
        ("site.example", "only http"),
        ("http:///path", "only http"),
        ("", "only http"),
        ("http://site.example/" + "x" * 9000, "longer than"),
        ("http://[::1", "not a valid address"),
        ("http://site.example/\r\nX: y", "not a valid address"),
    ],
)
def test_a_url_that_is_not_plain_web_is_refused(internet: Internet, url: str, reason: str) -> None:
    with guarded_client(
        allow_private=False, resolver=Resolver(names({"site.example": [PUBLIC]})), connector=internet
    ) as client:
        for use in (client.fetch, lambda url: client.post(url, headers={}, content=b"x")):
            with pytest.raises(AddressRefused, match=reason) as caught:
                use(url)
            assert "geheim" not in str(caught.value)
    assert internet.asked == []


def test_private_networks_can_be_allowed_but_metadata_services_not(server: Loopback) -> None:
    with guarded_client(allow_private=True, allowed_ports=None) as client:
        assert client.post(server.url, headers={}, content=b"x") == 200
        for host in ("169.254.169.254", "[fd00:ec2::254]", "100.100.100.200"):
            with pytest.raises(AddressRefused):
                client.fetch(f"http://{host}/")


def test_redirects_are_followed_recorded_and_counted(client: GuardedClient, server: Loopback) -> None:
    def hops(request: Received, peer: socket.socket) -> None:
        number = int(request.target.strip("/") or 0)
        if number == 5:
            answer(b"there")(request, peer)
        else:
            answer(b"", status="307 Temporary Redirect", headers={"Location": f"/{number + 1}"})(request, peer)

    server.script = hops
    with client.fetch("http://site.example/") as page:
        assert b"".join(page) == b"there"
        assert page.url == "http://site.example/5"
        assert page.redirects == ("http://site.example/", *(f"http://site.example/{number}" for number in range(1, 5)))
    server.received.clear()
    with pytest.raises(RequestRefused, match="more than 4 redirects"):
        client.fetch("http://site.example/", max_redirects=4)
    assert len(server.received) == 5


@pytest.mark.parametrize(
    "location",
    [
        "/",
        "http://[::1",
        "ftp://x/",
        "http://u:p@site.example/",
        "//",
        "http://\x7f/",
        "mailto:x@site.example",
        "http:x",
    ],
)
def test_a_redirect_that_leads_nowhere_ends(client: GuardedClient, server: Loopback, location: str) -> None:
    server.script = answer(b"", status="301 Moved", headers={"Location": location})
    with pytest.raises(NightmillError):
        client.fetch("http://site.example/")
    assert len(server.received) <= 6


def test_credentials_stay_with_the_origin_they_are_for(client: GuardedClient, server: Loopback) -> None:
    steps = iter(["http://site.example/b", "http://other.example/c", "http://site.example/d"])

    def step(request: Received, peer: socket.socket) -> None:
        location = next(steps, None)
        cookie = {"Set-Cookie": "a=b"}
        if location:
            answer(b"", status="302 Found", headers={"Location": location, **cookie})(request, peer)
        else:
            answer(b"x", headers=cookie)(request, peer)

    server.script = step
    client.fetch("http://site.example/a", headers={"Authorization": "k", "X-Key": "k", "Accept": "text/html"}).close()
    sent = [(got.target, got.headers.get("authorization"), got.headers.get("x-key")) for got in server.received]
    assert sent == [("/a", "k", "k"), ("/b", "k", "k"), ("/c", None, None), ("/d", None, None)]
    assert all(got.headers["accept"] == "text/html" for got in server.received)
    assert not any("cookie" in got.headers for got in server.received)


def test_a_conditional_request_may_answer_not_modified_and_errors_are_classified(
    client: GuardedClient, server: Loopback
) -> None:
    server.script = answer(b"", status="304 Not Modified", headers={"ETag": '"1"'})
    with client.fetch("http://site.example/", headers={"If-None-Match": '"1"'}) as page:
        assert (page.status, list(page)) == (304, [])
    server.script = answer(b"gone", status="404 Not Found")
    with pytest.raises(NotFound, match=r"^GET http://site.example/x: status 404: gone$"):
        client.fetch("http://site.example/x?token=geheim")


def test_a_webhook_does_not_follow_redirects_and_its_path_stays_secret(client: GuardedClient, server: Loopback) -> None:
    server.script = answer(b"", status="302 Found", headers={"Location": "http://other.example/services/T0K3N"})
    with pytest.raises(RequestRefused) as caught:
        client.post("http://site.example/services/T0K3N?key=geheim", headers={"A": "1"}, content=b"body")
    assert [got.body for got in server.received] == [b"body"]
    assert str(caught.value).startswith("POST http://site.example: status 302")
    server.script = answer(b"no hook /services/T0K3N?key=geheim, T0K3N geheim", status="500 Oops")
    with pytest.raises(NightmillError) as echoed:
        client.post("http://site.example/services/T0K3N?key=geheim", headers={}, content=b"body")
    for text in (str(caught.value), str(echoed.value)):
        assert "T0K3N" not in text
        assert "geheim" not in text


def test_the_next_address_is_tried_when_the_first_does_not_answer(server: Loopback) -> None:
    internet = Internet(server, PUBLIC)
    resolver = Resolver(names({"two.example": [PUBLIC, "93.184.216.35"], "one.example": [PUBLIC]}))
    with guarded_client(allow_private=False, resolver=resolver, connector=internet) as client:
        client.fetch("http://two.example/").close()
        with pytest.raises(ProviderUnreachable):
            client.fetch("http://one.example/")
    assert internet.asked == [(PUBLIC, 80), ("93.184.216.35", 80), (PUBLIC, 80)]


def test_tls_checks_the_name_and_not_the_address(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    table = {"right.example": [PUBLIC], "wrong.example": [PUBLIC]}
    with loopback(tls=authority.server_context("right.example")) as server:
        internet = Internet(server)
        resolver = Resolver(names(table))
        with guarded_client(
            allow_private=False, resolver=resolver, connector=internet, ssl_context=authority.client_context()
        ) as client:
            assert b"".join(client.fetch("https://right.example/")) == b"{}"
            for url in ("https://wrong.example/", f"https://{PUBLIC}/"):
                with pytest.raises(ProviderUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
                    client.fetch(url)
        with (
            guarded_client(allow_private=False, resolver=resolver, connector=internet) as strict,
            pytest.raises(ProviderUnreachable, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            strict.fetch("https://right.example/")
    assert len(server.received) == 1


def test_name_servers_that_never_answer_do_not_hold_up_a_healthy_host(server: Loopback) -> None:
    stalled = threading.Event()

    def lookup(host: str) -> Sequence[str]:
        if host.startswith("stall"):
            stalled.wait(20)
            raise OSError("no answer")
        return [PUBLIC]

    resolver = Resolver(lookup, lifetime=timedelta(seconds=1))
    with (
        guarded_client(allow_private=False, resolver=resolver, connector=Internet(server)) as client,
        ThreadPoolExecutor(24) as threads,
    ):
        try:
            waiting = [threads.submit(client.fetch, f"http://stall{number % 12}.example/") for number in range(24)]
            time.sleep(0.1)
            running = sum(thread.name.startswith("lookup stall") for thread in threading.enumerate())
            started = time.monotonic()
            client.fetch("http://healthy.example/").close()
            assert time.monotonic() - started < 0.5
            for held in waiting:
                with pytest.raises(ProviderUnreachable, match="not resolved in time"):
                    held.result(timeout=5)
            assert time.monotonic() - started < 3
            assert running <= 12  # never two lookups of one name
        finally:
            stalled.set()


def test_the_number_of_running_lookups_is_bounded() -> None:
    stalled = threading.Event()

    def lookup(_: str) -> Sequence[str]:
        stalled.wait(20)
        return [PUBLIC]

    resolver = Resolver(lookup, lifetime=timedelta(seconds=0.05), max_running=3)
    try:
        for number in range(3):
            with pytest.raises(httpcore.ConnectTimeout):
                resolver.addresses(f"{number}.example", None)
        with pytest.raises(httpcore.ConnectError, match="too many"):
            resolver.addresses("4.example", None)
    finally:
        stalled.set()
    time.sleep(0.1)
    assert resolver.addresses("5.example", None) == [PUBLIC]


@pytest.mark.parametrize("host", ["nowhere.invalid", "x" * 64 + ".example", "a..b"])
def test_a_name_that_does_not_resolve_is_unreachable(host: str) -> None:
    with guarded_client(allow_private=False) as client, pytest.raises((ProviderUnreachable, AddressRefused)):
        client.fetch(f"http://{host}/", deadline=timedelta(seconds=5))


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"e" * 50 + b"\r\nx\r\n"),
    ],
    ids=["body", "header", "1xx flood", "chunk extensions"],
)
def test_a_hostile_server_ends_at_the_deadline(
    client: GuardedClient, server: Loopback, first: bytes, again: bytes
) -> None:
    def drip(_: Received, peer: socket.socket) -> None:
        with suppress(OSError):
            peer.sendall(first)
            while True:
                peer.sendall(again)
                time.sleep(0.02)

    server.script = drip
    started = time.monotonic()
    with pytest.raises(AnswerLost):
        b"".join(client.fetch("http://site.example/", deadline=timedelta(seconds=0.7)))
    assert time.monotonic() - started < 1.7


def test_an_endless_body_ends_at_the_cap(client: GuardedClient, server: Loopback) -> None:
    def endless(_: Received, peer: socket.socket) -> None:
        with suppress(OSError):
            peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                peer.sendall(b"x" * 100_000)

    server.script = endless
    with pytest.raises(BodyTooLarge):
        b"".join(client.fetch("http://site.example/"))


def test_the_seam_by_which_httpx_takes_our_network_backend_has_not_moved(internet: Internet) -> None:
    """httpx offers none: we replace a private attribute. If this fails, nothing guards outgoing connections."""
    transport = httpx.HTTPTransport()
    assert isinstance(transport._pool, httpcore.ConnectionPool)
    transport.close()
    with guarded_client(
        allow_private=False, resolver=Resolver(names({"site.example": [PUBLIC]})), connector=internet
    ) as client:
        client.fetch("http://site.example/").close()
    assert internet.asked == [(PUBLIC, 80)]
