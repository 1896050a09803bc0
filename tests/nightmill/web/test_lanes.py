from __future__ import annotations

import gc
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import httpcore
import pytest

from nightmill.errors import AddressRefused, AnswerLost, NightmillError, NotFound
from nightmill.web import lanes
from nightmill.web.guard import GuardedClient, guarded_client
from nightmill.web.resolver import Resolver
from tests.nightmill.web.certificates import Authority
from tests.nightmill.web.internet import PUBLIC, Internet, names
from tests.nightmill.web.loopback import Loopback, Received, Script, answer, loopback

SITES = {f"{name}.example": [PUBLIC] for name in ("site", "other", "a", "b", "c", "d", "e")}
URL = "http://site.example/"
FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"


class Seen(Internet):
    """Remembers each connection's socket."""

    def __init__(self, server: Loopback) -> None:
        super().__init__(server)
        self.sockets: list[socket.socket] = []

    def connect_tcp(self, host: str, port: int, *args: object, **kwargs: object) -> httpcore.NetworkStream:
        stream = super().connect_tcp(host, port, *args, **kwargs)
        self.sockets.append(stream.get_extra_info("socket"))
        return stream

    @property
    def open(self) -> int:
        return sum(opened.fileno() != -1 for opened in self.sockets)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback(echo) as server:
        yield server


@pytest.fixture
def internet(server: Loopback) -> Seen:
    return Seen(server)


@pytest.fixture
def client(internet: Seen) -> Iterator[GuardedClient]:
    with guarded_client(
        allow_private=False, allowed_ports=None, resolver=Resolver(names(SITES)), connector=internet, max_kept=3
    ) as client:
        yield client


def echo(request: Received, peer: socket.socket) -> None:
    """Answer with what was asked for."""
    answer(request.target.encode())(request, peer)


def got(client: GuardedClient, path: str = "x", site: str = "site.example", seconds: float = 5) -> bytes:
    return b"".join(client.fetch(f"http://{site}/{path}", deadline=timedelta(seconds=seconds)))


def in_turn(*scripts: Script) -> Script:
    """Answer each request by the next script, and all further ones by the last."""
    left = list(scripts)
    return lambda request, peer: (left.pop(0) if len(left) > 1 else left[0])(request, peer)


def raw(data: bytes, *more: bytes) -> Script:
    def script(_: Received, peer: socket.socket) -> None:
        peer.sendall(data)
        for piece in more:
            time.sleep(0.05)
            peer.sendall(piece)

    return script


def gone(_: Received, peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_RDWR)


def reset(_: Received, peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "script",
    [echo, raw(CHUNKED), answer(b"", status="304 Not Modified"), raw(b"HTTP/1.1 103 Early\r\n\r\n", CHUNKED)],
    ids=["length", "chunked", "no body", "informational"],
)
def test_the_next_request_to_an_origin_uses_its_connection(
    client: GuardedClient, server: Loopback, script: Script
) -> None:
    server.script = script
    for _ in range(4):
        got(client)
    assert (server.connections, len(server.received)) == (1, 4)


def test_no_other_origin_uses_it(client: GuardedClient, internet: Seen, server: Loopback) -> None:
    for site in ("site.example", "other.example", "site.example:8080"):
        got(client, site=site)
    assert internet.asked == [(PUBLIC, 80), (PUBLIC, 80), (PUBLIC, 8080)]
    for site in ("site.example", "other.example", "site.example:8080"):
        got(client, site=site)
    assert server.connections == 3
    assert [request.headers["host"] for request in server.received[3:]] == [
        "site.example",
        "other.example",
        "site.example:8080",
    ]


def test_tls_is_agreed_on_once(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with (
        loopback(echo, tls=authority.server_context("site.example")) as server,
        guarded_client(
            allow_private=False,
            resolver=Resolver(names(SITES)),
            connector=Internet(server),
            ssl_context=authority.client_context(),
            max_kept=3,
        ) as client,
    ):
        for path in ("a", "b", "c"):
            assert b"".join(client.fetch(f"https://site.example/{path}")) == f"/{path}".encode()
        with pytest.raises(NightmillError):
            client.fetch("https://other.example/")
    assert len(server.received) == 3
    assert server.connections == 2


def test_a_name_that_turns_inward_is_refused_once_its_connection_is_gone(server: Loopback) -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    lookups: list[str] = []

    def lookup(host: str) -> Sequence[str]:
        lookups.append(host)
        return next(answers)

    internet = Seen(server)
    with guarded_client(allow_private=False, resolver=Resolver(lookup), connector=internet, max_kept=3) as client:
        assert got(client, "1") == got(client, "1") == b"/1"
        assert len(lookups) == 1
        server.script = in_turn(gone, echo)
        with pytest.raises(AddressRefused):
            got(client, "2")
    assert internet.asked == [(PUBLIC, 80)]


def test_no_more_are_kept_than_allowed_and_the_oldest_goes_first(
    client: GuardedClient, internet: Seen, server: Loopback
) -> None:
    for site in "abcde":
        got(client, site=f"{site}.example")
    assert internet.open == 3
    for site in "cde":
        got(client, site=f"{site}.example")
    assert server.connections == 5
    got(client, site="a.example")
    assert server.connections == 6
    client.close()
    assert internet.open == 0


def test_a_connection_is_kept_for_a_few_seconds_and_not_for_ever(
    client: GuardedClient, internet: Seen, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "_IDLE", 0.2)
    got(client)
    got(client)
    time.sleep(0.3)
    got(client, site="other.example")
    assert internet.open == 1
    got(client)
    assert server.connections == 3
    monkeypatch.setattr(lanes, "_AGE", 0.1)
    time.sleep(0.12)
    got(client)  # it was kept, and is now too old
    assert server.connections == 3
    assert internet.open == 1
    got(client)
    assert server.connections == 4


@pytest.mark.parametrize("end", [gone, reset], ids=["closed", "reset"])
def test_no_fetch_fails_for_a_connection_that_was_closed_meanwhile(
    client: GuardedClient, server: Loopback, end: Script
) -> None:
    server.script = in_turn(echo, end, echo)
    assert got(client, "1") == b"/1"
    assert got(client, "2") == b"/2"
    assert [request.target for request in server.received] == ["/1", "/2", "/2"]
    assert server.connections == 2

    def closing(request: Received, peer: socket.socket) -> None:
        echo(request, peer)
        end(request, peer)

    server.script = closing
    for number in range(5):
        got(client, str(number))


def test_a_request_is_sent_once_more_and_not_again(client: GuardedClient, server: Loopback) -> None:
    server.script = in_turn(echo, gone)
    got(client)
    with pytest.raises(AnswerLost):
        got(client)
    assert len(server.received) == 3
    with pytest.raises(AnswerLost):
        got(client)  # over a new connection: once
    assert len(server.received) == 4


def test_a_request_is_not_sent_again_once_there_is_a_byte_of_an_answer(client: GuardedClient, server: Loopback) -> None:
    def begun(request: Received, peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 2")
        gone(request, peer)

    server.script = in_turn(echo, begun)
    got(client)
    with pytest.raises(AnswerLost):
        got(client)
    assert len(server.received) == 2


BEHIND = {
    "an answer": FORGED,
    "a part of an answer": FORGED[:-30],
    "a head": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n",
    "a head with bare line ends": b"HTTP/1.1 200 OK\nContent-Length: 6\n\nforged",
    "a begun header": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX: ",
    "a status line": b"HTTP/1.1 404 Not Found\r\n",
    "a letter": b"H",
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: http://other.example/\r\nContent-Length: 0\r\n\r\n",
    "an informational answer": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "an informational answer and another": b"HTTP/1.1 103 Early Hints\r\n\r\n" + FORGED,
    "half an informational answer": b"HTTP/1.1 103 Early Hints\r\nLink: <x",
    "empty lines": b"\r\n\r\n",
    "rubbish": b"\0\xff" * 500,
}
BODIES = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    "chunked": CHUNKED,
    "no body": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
}


@pytest.mark.parametrize("more", BEHIND)
@pytest.mark.parametrize("body", BODIES)
def test_what_comes_behind_an_answer_is_never_the_next_one(
    client: GuardedClient, server: Loopback, body: str, more: str
) -> None:
    server.script = in_turn(raw(BODIES[body] + BEHIND[more]), echo)
    assert got(client, "first") in {b"body", b""}
    assert got(client, "second") == b"/second"
    assert got(client, "third") == b"/third"
    assert {request.target for request in server.received} == {"/first", "/second", "/third"}


def test_what_comes_behind_an_answer_later_is_not_the_next_one_either(client: GuardedClient, server: Loopback) -> None:
    server.script = in_turn(raw(BODIES["length"], FORGED), echo)
    assert got(client, "first") == b"body"
    time.sleep(0.15)
    assert got(client, "second") == b"/second"
    assert server.connections == 2


NOT_KEPT: dict[str, Script] = {
    "told to close": answer(b"x", headers={"Connection": "close"}),
    "HTTP/1.0": raw(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx"),
    "unread": answer(b"gone", status="404 Not Found"),
    "error": raw(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
}


@pytest.mark.parametrize("name", NOT_KEPT)
def test_a_connection_is_not_kept_where_it_may_not_or_is_not_at_its_answers_end(
    client: GuardedClient, internet: Seen, server: Loopback, name: str
) -> None:
    server.script = NOT_KEPT[name]
    for _ in range(2):
        with (
            suppress(NightmillError),
            client.get(
                URL, headers={}, deadline=timedelta(seconds=5), max_bytes=9, failure=lambda *_: NotFound("x")
            ) as page,
        ):
            if name != "unread":
                list(page)
    assert internet.open == 0
    assert server.connections == 2


def test_a_post_has_a_connection_of_its_own_and_is_never_sent_again(
    client: GuardedClient, internet: Seen, server: Loopback
) -> None:
    got(client)
    server.script = answer(b"")
    for _ in range(2):
        assert client.post(URL, headers={}, content=b"x") == 200
    assert server.connections == 3
    assert internet.open == 1
    server.script = gone
    with pytest.raises(AnswerLost):
        client.post(URL, headers={}, content=b"x")
    assert [request.method for request in server.received] == ["GET", "POST", "POST", "POST"]


def test_nothing_is_kept_unless_asked_for(server: Loopback) -> None:
    internet = Seen(server)
    with guarded_client(allow_private=False, resolver=Resolver(names(SITES)), connector=internet) as client:
        for _ in range(3):
            got(client)
            assert internet.open == 0
    assert server.connections == 3


@pytest.mark.parametrize(
    "again",
    [b"x", b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 103 E\r\nX: " + b"x" * 50_000 + b"\r\n\r\n"],
    ids=["drip", "1xx", "1xx flood"],
)
def test_deadlines_and_bounds_hold_over_a_kept_connection(
    client: GuardedClient, server: Loopback, again: bytes
) -> None:
    sent = 0

    def hostile(_: Received, peer: socket.socket) -> None:
        nonlocal sent
        with suppress(OSError):
            peer.sendall(b"" if again.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                peer.sendall(again)
                sent += len(again)
                time.sleep(0.01)

    server.script = in_turn(echo, hostile)
    got(client)
    started = time.monotonic()
    with pytest.raises(AnswerLost):
        got(client, seconds=0.5)
    assert time.monotonic() - started < 1.5
    assert sent < 8_000_000  # what the kernel's buffers hold, at most
    assert server.connections == 1


def test_what_is_used_when_the_client_is_closed_or_later_is_not_kept(client: GuardedClient, internet: Seen) -> None:
    page = client.fetch(URL)
    client.close()
    assert internet.open == 0
    with suppress(NightmillError):
        list(page)
    assert got(client) == b"/x"
    assert internet.open == 0


def test_a_forgotten_download_gives_its_lane_back(server: Loopback) -> None:
    internet = Seen(server)
    with guarded_client(
        allow_private=False, resolver=Resolver(names(SITES)), connector=internet, max_connections=1, max_kept=3
    ) as client:
        for _ in range(3):
            client.fetch(URL)
            gc.collect()
        assert got(client) == b"/x"
    assert internet.open == 0


def test_many_threads_get_their_own_answers(client: GuardedClient, internet: Seen, server: Loopback) -> None:
    lots = [(f"{site}.example", f"{site}{number}") for number in range(60) for site in "abcde"]
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda lot: got(client, lot[1], lot[0]), lots))
    assert answers == [f"/{path}".encode() for _, path in lots]
    assert internet.open <= 3
    assert server.connections < len(lots)
