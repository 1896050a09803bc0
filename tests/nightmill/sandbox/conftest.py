"""A sandbox a test, and a client of few lines on the standard library."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from nightmill.sandbox import Profile, Sandbox

BOUNDARY = "conftest-boundary"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


class Client:
    """Sends requests to one sandbox, each on its own connection, with a key every provider takes."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def __call__(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 10
    ) -> Answer:
        base = urlsplit(self.sandbox.base_url)
        connection = http.client.HTTPConnection(base.hostname or "", base.port, timeout=timeout)
        sent = {"Authorization": "Bearer key", "x-api-key": "key", "x-goog-api-key": "key", **(headers or {})}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def upload(self, content: bytes, prefix: str = "/openai/v1", **fields: str) -> Answer:
        form = [(f'name="{name}"', value.encode()) for name, value in ({"purpose": "batch"} | fields).items()]
        form.append(('name="file"; filename="batch.jsonl"\r\nContent-Type: application/jsonl', content))
        body = b"".join(
            f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + value + b"\r\n"
            for head, value in form
        )
        body += f"--{BOUNDARY}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self("POST", f"{prefix}/files", body, kind)

    def openai_batch(self, lines: list[dict[str, Any]] | int = 3, **fields: Any) -> dict[str, Any]:
        content = b"\n".join(json.dumps(one).encode() for one in (requests(lines) if isinstance(lines, int) else lines))
        file_id = self.upload(content).json["id"]
        asked = {"input_file_id": file_id, "endpoint": "/v1/responses", "completion_window": "24h", **fields}
        answer = self("POST", "/openai/v1/batches", asked)
        assert answer.status == 200, answer.body
        return dict(answer.json)

    def until(self, path: str, done: Callable[[Any], bool]) -> Any:
        deadline = time.monotonic() + 10
        while not done(body := self("GET", path).json):
            assert time.monotonic() < deadline, body
            time.sleep(0.01)
        return body


def requests(count: int) -> list[dict[str, Any]]:
    return [
        {
            "custom_id": f"r{n}",
            "method": "POST",
            "url": "/v1/responses",
            "body": {"model": "gpt-5-mini", "input": f"hi {n}"},
        }
        for n in range(count)
    ]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox whose batches end at their first status read."""
    with Sandbox(profile=Profile(finish_after=0)) as running:
        yield running


@pytest.fixture
def connect() -> type[Client]:
    """Makes a client of a sandbox that a test started itself."""
    return Client


@pytest.fixture
def client(sandbox: Sandbox) -> Client:
    return Client(sandbox)
