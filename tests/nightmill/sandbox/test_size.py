"""Files at the providers' limits pass through without living in memory."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

REQUESTS = 50_000
PROMPT = "x" * 3_800  # makes 195 MB, just below OpenAI's limit
GROWTH = 60 * 1024  # KiB; the index of 50,000 requests and the buffers, not the 195 MB
PIECE = 1 << 18


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "-m",
        "nightmill.sandbox",
        "--port",
        "0",
        "--finish-after",
        "0",
        "--answer-chars",
        "3000",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.terminate()


def pieces(lines: Iterator[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for line in lines:
        held += line
        if len(held) > PIECE:
            yield bytes(held)
            held.clear()
    yield bytes(held)


def form() -> Iterator[bytes]:
    yield b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="b.jsonl"\r\n\r\n'
    for number in range(REQUESTS):
        body = {"model": "gpt-5-mini", "input": PROMPT}
        line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/responses", "body": body}
        yield json.dumps(line).encode() + b"\n"
    yield b"\r\n--b--\r\n"


def message_batch() -> Iterator[bytes]:
    yield b'{"requests": ['
    for number in range(REQUESTS):
        params = {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": PROMPT}]}
        yield (b"," if number else b"") + json.dumps({"custom_id": f"r{number}", "params": params}).encode()
    yield b"]}"


@pytest.mark.slow
def test_two_hundred_megabytes_each_way_leave_memory_flat(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    base = urlsplit(re.findall(r"http://\S+", process.stdout.readline())[0])
    connection = http.client.HTTPConnection(base.hostname or "", base.port, timeout=60)

    def ask(method: str, path: str, body: object = None, **headers: str) -> http.client.HTTPResponse:
        keys = {"Authorization": "Bearer k", "x-api-key": "k", "anthropic-version": "2023-06-01"}
        connection.request(method, path, body, keys | headers, encode_chunked=False)  # type: ignore[arg-type]
        return connection.getresponse()

    def length(answer: http.client.HTTPResponse) -> int:
        return sum(len(piece) for piece in iter(lambda: answer.read(PIECE), b""))

    def memory() -> int:  # without what is only mapped from files
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(re.findall(r"RssAnon:\s+(\d+)", status)[0])

    before = memory()
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    file = json.load(ask("POST", "/openai/v1/files", pieces(form()), **kind))
    assert 190_000_000 < file["bytes"] < 200_000_000
    asked = {"input_file_id": file["id"], "endpoint": "/v1/responses", "completion_window": "24h"}
    made = json.load(ask("POST", "/openai/v1/batches", json.dumps(asked)))
    ended = json.load(ask("GET", f"/openai/v1/batches/{made['id']}"))
    assert ended["request_counts"]["completed"] == REQUESTS
    assert length(ask("GET", f"/openai/v1/files/{ended['output_file_id']}/content")) > 200_000_000
    assert memory() - before < GROWTH
    made = json.load(ask("POST", "/anthropic/v1/messages/batches", pieces(message_batch())))
    assert made["request_counts"]["processing"] == REQUESTS
    assert length(ask("GET", f"/anthropic/v1/messages/batches/{made['id']}/results")) > 150_000_000
    assert memory() - before < GROWTH
    connection.close()
