from __future__ import annotations

import gzip
import itertools
import logging
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest

from nightmill.errors import (
    AnswerLost,
    BodyTooLarge,
    ForeignHost,
    NightmillError,
    NotConfigured,
    NotFound,
    ProviderUnavailable,
    ProviderUnreachable,
    RateLimited,
    RequestRefused,
)
from nightmill.web.client import HttpClient, Timeouts
from tests.nightmill.web.loopback import Loopback, Received, Script, answer, json_answer, loopback

KEY = "sk-test-AbCdEfGhIjKlMnOp"
SHORT = Timeouts(
    connect=timedelta(seconds=1),
    read=timedelta(seconds=0.5),
    total=timedelta(seconds=1),
    upload_answer=timedelta(seconds=1),
)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback() as server:
        yield server


@pytest.fixture
def client(server: Loopback) -> Iterator[HttpClient]:
    with HttpClient(f"{server.url}/v1", auth_headers={"Authorization": f"Bearer {KEY}"}, timeouts=SHORT) as client:
        yield client


def read_all(client: HttpClient, *, max_bytes: int = 10_000_000, deadline: float = 5) -> bytes:
    with client.download("GET", "/file", deadline=timedelta(seconds=deadline), max_bytes=max_bytes) as download:
        return b"".join(download)


def sends(*parts: bytes, pause: float = 0, then_close: bool = True) -> Script:
    def script(_: Received, peer: socket.socket) -> None:
        for part in parts:
            peer.sendall(part)
            time.sleep(pause)
        if then_close:
            peer.shutdown(socket.SHUT_RDWR)

    return script


def test_json_goes_out_and_comes_back(server: Loopback, client: HttpClient) -> None:
    server.script = json_answer({"id": "batch_1"}, headers={"X-Request-Id": "r1"})
    got = client.request_json("POST", "/batches", json={"a": "ü"}, params={"limit": 2}, headers={"X-Extra": "1"})
    assert (got.status, got.body, got.headers["x-request-id"]) == (200, {"id": "batch_1"}, "r1")
    sent = server.received[0]
    assert (sent.method, sent.target, sent.body) == ("POST", "/v1/batches?limit=2", b'{"a":"\xc3\xbc"}')
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.headers["content-type"] == "application/json"
    assert sent.headers["accept-encoding"] == "gzip, identity"
    assert sent.headers["x-extra"] == "1"


def test_a_url_of_the_same_origin_is_taken_as_it_is(server: Loopback, client: HttpClient) -> None:
    client.request_json("GET", f"{server.url}/other/results?x=1")
    assert server.received[0].target == "/other/results?x=1"


@pytest.mark.parametrize(
    "address",
    [
        "https://127.0.0.1:{port}/x",
        "http://127.0.0.1:1/x",
        "http://127.0.0.1/x",
        "http://localhost:{port}/x",
        "http://127.0.0.1:{port}@evil.example/x",
        "http://user:pw@127.0.0.1:{port}/x",
        "HTTP://evil.example/x",
        "//evil.example/x",
        "@evil.example/x",
        ".evil.example/x",
        "file:///etc/passwd",
        "http://[::1/x",
        "http://127.0.0.1:{port}\\@evil.example/x",
        "",
    ],
)
def test_the_key_does_not_travel_to_another_origin(server: Loopback, client: HttpClient, address: str) -> None:
    address = address.format(port=server.port)
    with pytest.raises(ForeignHost) as caught:
        client.request_json("GET", address)
    with pytest.raises(ForeignHost):
        client.download("GET", address, deadline=timedelta(seconds=1), max_bytes=10)
    with pytest.raises(ForeignHost):
        client.stream_upload("POST", address, content=[b"x"], length=1)
    assert "pw" not in str(caught.value)
    assert server.connections == 0


def test_a_redirect_is_refused_and_not_followed(server: Loopback, client: HttpClient) -> None:
    with loopback() as elsewhere:
        server.script = answer(b"", status="302 Found", headers={"Location": f"{elsewhere.url}/?token=geheim"})
        with pytest.raises(NightmillError, match=r"GET /v1/x: status 302: redirects to http://127") as caught:
            client.request_json("GET", "/x")
        assert elsewhere.connections == 0
        assert "geheim" not in str(caught.value)
    server.script = answer(b"", status="302 Found", headers={"Location": "mailto:x"})
    with pytest.raises(RequestRefused, match=r"^GET /v1/x: redirects to something that is no address$"):
        client.request_json("GET", "/x")


def test_an_error_answer_becomes_its_class_with_the_providers_message(server: Loopback, client: HttpClient) -> None:
    body = {"error": {"message": f"slow down {KEY}", "code": "rate_limit_exceeded"}}
    server.script = json_answer(body, status="429 Too Many Requests", headers={"Retry-After": "3"})
    with pytest.raises(RateLimited) as caught:
        client.request_json("GET", "/batches?after=geheim")
    assert str(caught.value) == "GET /v1/batches: status 429 (rate_limit_exceeded): slow down [redacted]"
    assert caught.value.retry_after == timedelta(seconds=3)
    server.script = json_answer({"error": {"message": "no file"}}, status="404 Not Found")
    with pytest.raises(NotFound, match=r"^GET /v1/file: status 404: no file$"):
        read_all(client)


@pytest.mark.parametrize("body", [b"", b"  \r\n", b"<html>hi</html>", b"[1]", b'"x"', b'{"a":', b"NaN", b"\xff\xfe"])
def test_a_good_status_with_a_body_that_is_no_object_is_transient(
    server: Loopback, client: HttpClient, body: bytes
) -> None:
    server.script = answer(body)
    with pytest.raises(ProviderUnavailable) as caught:
        client.request_json("GET", "/batches")
    assert caught.value.http_status == 200
    assert str(caught.value).isprintable()


def test_a_blank_answer_is_fine_where_it_is_expected(server: Loopback, client: HttpClient) -> None:
    server.script = answer(b"", headers={"X-Goog-Upload-URL": "there"})
    got = client.request_json("POST", "/start", json={}, blank_ok=True)
    assert (got.body, got.headers["x-goog-upload-url"]) == ({}, "there")

    def no_content(_: Received, peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    server.script = no_content
    assert client.request_json("DELETE", "/files/1").body == {}


def test_a_refused_connection_certainly_had_no_effect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        HttpClient(f"http://127.0.0.1:{port}", auth_headers={}) as client,
        pytest.raises(ProviderUnreachable, match=r"^POST /x: no connection \(ConnectError"),
    ):
        client.request_json("POST", "/x", json={})


@pytest.mark.parametrize(
    "script",
    [
        sends(),
        sends(b"HTTP/1.1 200 OK\r\nContent-Le"),
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}"),
        sends(b"SSH-2.0-OpenSSH\r\n\r\n"),
        sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}"),
        sends(then_close=False),
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}", then_close=False),
    ],
    ids=["closed", "half a header", "half a body", "not http", "half a chunk", "silent", "silent in the body"],
)
def test_an_answer_that_does_not_come_whole_is_lost_and_its_effect_unknown(
    server: Loopback, client: HttpClient, script: Script
) -> None:
    server.script = script
    with pytest.raises(AnswerLost) as caught:
        client.request_json("POST", "/batches", json={})
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("drip_headers", [True, False], ids=["headers", "body"])
def test_a_slow_drip_ends_at_the_total_deadline(server: Loopback, client: HttpClient, drip_headers: bool) -> None:
    def drip(_: Received, peer: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n" + (b"X: " if drip_headers else b"\r\n")
        with suppress(OSError):
            peer.sendall(head)
            for _count in range(100):
                peer.sendall(b"x")
                time.sleep(0.1)

    server.script = drip
    started = time.monotonic()
    with pytest.raises(AnswerLost):
        client.request_json("GET", "/x")
    with pytest.raises(AnswerLost):
        read_all(client, deadline=1)
    assert time.monotonic() - started < 3.5


def test_the_callers_own_time_between_two_pieces_does_not_count(server: Loopback, client: HttpClient) -> None:
    server.script = answer(b"x" * 500_000)
    with client.download("GET", "/file", deadline=timedelta(seconds=0.5), max_bytes=10**6) as download:
        total = len(next(download))
        time.sleep(0.8)
        assert total + sum(map(len, download)) == 500_000


@pytest.mark.parametrize("encoding", [None, "identity", "gzip", "GZIP"])
def test_a_download_yields_the_decoded_body(server: Loopback, client: HttpClient, encoding: str | None) -> None:
    body = bytes(range(256)) * 20_000
    packed = gzip.compress(body[:1000]) + gzip.compress(body[1000:]) if (encoding or "").lower() == "gzip" else body
    server.script = answer(packed, headers={"Content-Encoding": encoding} if encoding else {})
    assert read_all(client, max_bytes=len(body)) == body
    with pytest.raises(BodyTooLarge, match=r"^GET /v1/file: the body is larger than"):
        read_all(client, max_bytes=len(body) - 1)


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip", ",".join(["gzip"] * 3000)])
def test_an_encoding_that_cannot_be_bounded_is_refused(server: Loopback, client: HttpClient, encoding: str) -> None:
    server.script = answer(b"x", headers={"Content-Encoding": encoding})
    with pytest.raises(ProviderUnavailable, match="not asked for"):
        read_all(client)


def test_a_compression_bomb_ends_at_the_cap_in_flat_memory(server: Loopback, client: HttpClient) -> None:
    bomb = gzip.compress(bytes(200_000_000), 9)
    server.script = answer(bomb, headers={"Content-Encoding": "gzip"})
    tracemalloc.start()
    with (
        pytest.raises(BodyTooLarge),
        client.download("GET", "/file", deadline=timedelta(seconds=5), max_bytes=50_000_000) as download,
    ):
        for _ in download:
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


@pytest.mark.parametrize("cut", [1, 9, 100, 400])
def test_a_body_cut_short_is_noticed_with_and_without_compression(
    server: Loopback, client: HttpClient, cut: int
) -> None:
    body = b"".join(b"%d\n" % number for number in range(1000))
    packed = gzip.compress(body)
    server.script = answer(body[:-cut], length=len(body), close=True)
    with pytest.raises(AnswerLost):
        read_all(client)
    server.script = answer(packed[:-cut], length=len(packed), headers={"Content-Encoding": "gzip"}, close=True)
    with pytest.raises(AnswerLost):
        read_all(client)
    # Without any length only the compression itself tells.
    server.script = sends(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + packed[:-cut])
    with pytest.raises(AnswerLost, match="middle of its gzip"):
        read_all(client)


def test_a_forgotten_or_half_read_download_gives_its_connection_back(server: Loopback) -> None:
    server.script = answer(b"x" * 3_000_000)
    with HttpClient(server.url, auth_headers={}, max_connections=1, timeouts=SHORT) as client:
        client.download("GET", "/", deadline=timedelta(seconds=5), max_bytes=10**7)
        next(client.download("GET", "/", deadline=timedelta(seconds=5), max_bytes=10**7))
        with client.download("GET", "/", deadline=timedelta(seconds=5), max_bytes=10**7) as download:
            next(download)
        assert len(read_all(client)) == 3_000_000


def test_an_upload_streams_with_an_exact_length(server: Loopback, client: HttpClient) -> None:
    server.script = json_answer({"id": "file-1"})
    lines = [b"%d\n" % number for number in range(200_000)]
    got = client.stream_upload("POST", "/files", content=iter(lines), length=sum(map(len, lines)))
    assert got.body == {"id": "file-1"}
    assert server.received[0].body == b"".join(lines)
    assert "transfer-encoding" not in server.received[0].headers


def test_an_upload_holds_no_more_than_a_few_blocks_in_memory() -> None:
    handed = 0

    def endless() -> Iterator[bytes]:
        nonlocal handed
        for _ in range(100_000):
            handed += 1
            yield b"x" * 1000

    waits = Timeouts(write=timedelta(seconds=0.3))
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        HttpClient(f"http://127.0.0.1:{deaf.getsockname()[1]}", auth_headers={}, timeouts=waits) as client,
        pytest.raises(AnswerLost),
    ):
        client.stream_upload("POST", "/files", content=endless(), length=100_000_000)
    assert handed < 10_000  # the rest, if not taken by the kernel, was never asked for


def test_a_multipart_upload_has_its_fields_first_and_the_file_last(server: Loopback, client: HttpClient) -> None:
    server.script = json_answer({"id": "file-1"})
    content = [b'{"custom_id": "a"}\n', b'{"custom_id": "b"}\n']
    client.upload_multipart(
        "/files",
        fields={"purpose": "batch", "naïve\r\n": 'v"1'},
        file_name='nm"x\r\n.jsonl',
        content_type="application/jsonl",
        content=iter(content),
        length=sum(map(len, content)),
    )
    sent = server.received[0]
    kind, _, boundary = sent.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/form-data"
    assert int(sent.headers["content-length"]) == len(sent.body)
    assert "transfer-encoding" not in sent.headers
    parts = sent.body.split(f"--{boundary}".encode())
    assert parts[1] == b'\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    assert b'name="na\xc3\xafve%0D%0A"\r\n\r\nv"1\r\n' in parts[2]
    assert b'name="file"; filename="nm%22x%0D%0A.jsonl"\r\nContent-Type: application/jsonl\r\n\r\n' in parts[3]
    assert parts[3].endswith(b"\r\n\r\n" + b"".join(content) + b"\r\n")
    assert parts[4] == b"--\r\n"


@pytest.mark.parametrize("content", [[b"12345"], [b"1234", b"5678", b"90a"]], ids=["too short", "too long"])
def test_a_body_of_another_length_than_announced_never_arrives_whole(
    server: Loopback, client: HttpClient, content: list[bytes]
) -> None:
    with pytest.raises(ValueError, match="announced"):
        client.stream_upload("POST", "/files", content=content, length=10)
    assert server.received == []


def test_what_reading_the_upload_raises_is_passed_on(server: Loopback, client: HttpClient) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 1_000_000
        raise NotFound("gone")

    with pytest.raises(NotFound, match="gone"):
        client.stream_upload("POST", "/files", content=broken(), length=2_000_000)
    assert server.received == []


def test_a_refusal_in_mid_upload_is_read_and_not_taken_for_a_lost_answer(client: HttpClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def refuse() -> None:
            peer, _ = listener.accept()
            peer.recv(1000)
            peer.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            peer.shutdown(socket.SHUT_WR)
            with suppress(OSError):
                while peer.recv(1_000_000):
                    pass
            peer.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        with (
            HttpClient(f"http://127.0.0.1:{port}", auth_headers={}) as client,
            pytest.raises(NightmillError, match="status 401"),
        ):
            client.stream_upload("POST", "/files", content=itertools.repeat(b"x" * 1000, 5000), length=5_000_000)
        thread.join()


def test_many_threads_share_one_client_within_its_bound_of_connections(server: Loopback) -> None:
    server.script = json_answer({"ok": True})
    with HttpClient(server.url, auth_headers={}, max_connections=4) as client, ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: client.request_json("GET", "/x").body, range(1000)))
    assert answers == [{"ok": True}] * 1000
    assert server.connections <= 4


def test_a_pool_without_a_free_connection_certainly_had_no_effect(server: Loopback) -> None:
    server.script = answer(b"x" * 5_000_000)
    waits = Timeouts(pool=timedelta(seconds=0.1))
    with (
        HttpClient(server.url, auth_headers={}, max_connections=1, timeouts=waits) as client,
        client.download("GET", "/", deadline=timedelta(seconds=5), max_bytes=10**7),
        pytest.raises(ProviderUnreachable, match="connections are in use"),
    ):
        client.request_json("GET", "/x")


def test_cookies_are_not_kept(server: Loopback, client: HttpClient) -> None:
    server.script = json_answer({}, headers={"Set-Cookie": "a=b; Path=/"})
    client.request_json("GET", "/x")
    client.request_json("GET", "/x")
    assert "cookie" not in server.received[1].headers


def test_no_url_and_no_key_is_logged_even_where_everything_is(
    server: Loopback, client: HttpClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client.request_json("GET", "/x", params={"key": "geheim"})
    assert server.received[0].target == "/v1/x?key=geheim"
    assert "geheim" not in caplog.text
    assert KEY not in caplog.text


def test_nothing_is_taken_from_the_environment(
    server: Loopback, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with HttpClient(server.url, auth_headers={}) as fresh:
        assert fresh.request_json("GET", "/x").status == 200


@pytest.mark.parametrize(
    "make",
    [
        lambda: HttpClient("ftp://x", auth_headers={}),
        lambda: HttpClient("api.openai.com/v1", auth_headers={}),
        lambda: HttpClient("https://user:geheim@x/v1", auth_headers={}),
        lambda: HttpClient("https://x/v1?key=geheim", auth_headers={}),
        lambda: HttpClient("https://x", auth_headers={"x-api-key": "geheim\n"}),
        lambda: HttpClient("https://x", auth_headers={"x-api-key": "geheim\r\nX: y"}),
        lambda: HttpClient("https://x", auth_headers={"x-api-key": "gehéim"}),
        lambda: HttpClient("https://[::1", auth_headers={}),
    ],
)
def test_a_base_url_or_key_that_cannot_work_is_refused_at_once_without_being_quoted(
    make: Callable[[], HttpClient],
) -> None:
    with pytest.raises(NotConfigured) as caught:
        make()
    assert "geh" not in str(caught.value)
