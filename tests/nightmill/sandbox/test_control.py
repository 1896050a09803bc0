"""The sandbox's own API, and its life as a process."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from typing import Any

import pytest

from nightmill.sandbox import Profile, Sandbox


def test_everything_can_be_scripted_over_http(client: Any) -> None:
    assert client("GET", "/_sandbox/health").json["base_urls"]["openai"].endswith("/openai/v1")
    assert client("POST", "/_sandbox/profile", {"finish_after": None, "fail_ids": ["r1"]}).json["fail_ids"] == ["r1"]
    rule = {"action": "status", "operation": "batches.list", "status": 503}
    assert client("POST", "/_sandbox/faults", [rule]).json[0]["struck"] == 0
    assert client("GET", "/openai/v1/batches").status == 503
    assert client("DELETE", "/_sandbox/faults").status == 200
    batch = client.openai_batch(2, metadata={"job": "7"})
    (seen,) = client("GET", "/_sandbox/batches").json
    assert (seen["id"], seen["tag"], seen["requests"], seen["state"]) == (batch["id"], "7", 2, "in_progress")
    advanced = client("POST", f"/_sandbox/batches/{batch['id']}/advance", {"state": "expired"})
    assert advanced.json["state"] == "expired"
    assert [file["purpose"] for file in client("GET", "/_sandbox/files").json] == ["batch", "batch_output"]
    operations = [entry["operation"] for entry in client("GET", "/_sandbox/log").json]
    assert operations == ["batches.list", "files.create", "batches.create"]
    (created,) = client("GET", "/_sandbox/log?operation=batches.create").json
    assert (created["effect"], created["status"], created["batch_id"]) == (True, 200, batch["id"])
    assert "key" not in created["key_hash"]
    assert client("POST", "/_sandbox/reset").status == 200
    assert client("GET", "/_sandbox/batches").json == client("GET", "/_sandbox/log").json == []
    assert client("GET", "/_sandbox/profile").json["finish_after"] == 0


def test_mistakes_in_control_requests_are_answered_in_words(client: Any) -> None:
    for method, path, body, status in (
        ("POST", "profile", {"finish": 1}, 400),
        ("POST", "profile", {"fail_share": 2}, 400),
        ("POST", "faults", {"action": "explode"}, 400),
        ("POST", "batches/nobody/advance", {"state": "failed"}, 404),
        ("GET", "nothing", None, 404),
    ):
        answer = client(method, f"/_sandbox/{path}", body)
        assert (answer.status, bool(answer.json["error"])) == (status, True)


def test_a_batch_that_has_ended_cannot_be_advanced(client: Any, sandbox: Any) -> None:
    batch = client.openai_batch(1)
    with pytest.raises(ValueError, match="ended already"):
        sandbox.advance(batch["id"], "cancelled")


def test_an_operator_can_reject_a_batch_with_a_reason(client: Any, sandbox: Any) -> None:
    sandbox.set_profile(finish_after=None)
    batch = client.openai_batch(1)
    sandbox.advance(batch["id"], "failed", message="Against the rules.", code="rejected")
    (error,) = client("GET", f"/openai/v1/batches/{batch['id']}").json["errors"]["data"]
    assert (error["code"], error["message"]) == ("rejected", "Against the rules.")


def test_shares_are_drawn_from_the_seed_and_the_requests(connect: Any) -> None:
    def failed(seed: int) -> list[int]:
        with Sandbox(profile=Profile(finish_after=0, fail_share=0.3), seed=seed) as sandbox:
            client = connect(sandbox)
            made = [client.openai_batch(100)["id"] for _ in range(2)]
            return [client("GET", f"/openai/v1/batches/{one}").json["request_counts"]["failed"] for one in made]

    first = failed(1)
    assert failed(1) == first
    assert all(15 < count < 45 for count in first)
    assert failed(2) != first


def test_a_connection_serves_many_requests(sandbox: Sandbox) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=5)
    connection.connect()
    before = connection.sock
    for _ in range(3):
        connection.request("GET", "/openai/v1/batches", headers={"Authorization": "Bearer key"})
        assert json.loads(connection.getresponse().read())["data"] == []
    assert connection.sock is before
    connection.close()


def test_bodies_may_come_in_chunks_and_after_a_hundred_continue(sandbox: Sandbox) -> None:
    connection = socket.create_connection(("127.0.0.1", sandbox.port), timeout=5)
    connection.sendall(
        b"POST /_sandbox/profile HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    )
    assert connection.recv(100).startswith(b"HTTP/1.1 100")
    connection.sendall(b'b;x=y\r\n{"finish_af\r\na\r\nter": 123}\r\n0\r\nTrailer: x\r\n\r\n')
    assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert sandbox.profile.finish_after == 123
    connection.sendall(b"GET /_sandbox/health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    connection.close()


def test_stopping_ends_idle_connections_at_once(sandbox: Sandbox) -> None:
    connection = socket.create_connection(("127.0.0.1", sandbox.port), timeout=5)
    connection.sendall(b"GET /_sandbox/health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.recv(1000)
    began = time.monotonic()
    sandbox.stop()
    assert connection.recv(1000) == b""
    assert time.monotonic() - began < 1
    connection.close()


def test_hundreds_of_clients_at_once_are_served(sandbox: Sandbox) -> None:
    statuses: list[int] = []

    def ask() -> None:
        request = urllib.request.Request(f"{sandbox.base_urls['openai']}/batches", headers={"api-key": "k"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            statuses.append(answer.status)

    threads = [threading.Thread(target=ask) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 200
    assert len({entry["seq"] for entry in sandbox.log()}) == 200


def test_a_stopped_sandbox_comes_back_on_the_same_port_with_its_batches(connect: Any) -> None:
    sandbox = Sandbox(profile=Profile(finish_after=0)).start()
    port = sandbox.port
    batch = connect(sandbox).openai_batch(1)
    sandbox.stop()
    with pytest.raises(ConnectionRefusedError):
        connect(sandbox)("GET", "/openai/v1/batches")
    with sandbox:
        assert sandbox.port == port
        assert connect(sandbox)("GET", f"/openai/v1/batches/{batch['id']}").json["status"] == "completed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_told_to_stop(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "nightmill.sandbox", "--port", "0", "--finish-after", "0", "--fail-share", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address is not None
        with urllib.request.urlopen(f"{address[0]}/_sandbox/profile", timeout=5) as answer:
            assert json.load(answer)["fail_share"] == 1
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(5) == 0
        assert time.monotonic() - began < 3
        assert process.stderr is not None
        assert process.stderr.read() == ""
