"""`nightmill events`: a process of its own, from its start to SIGTERM."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.events import SECRET, event, send, signed
from tests.nightmill.cli.conftest import Cli
from tests.stack import free_port


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A server's logs go where its process says; here that is the tests' process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_without_a_secret_there_is_nothing_to_listen_for(cli: Cli) -> None:
    ended = cli("events")
    assert (ended.code, ended.out) == (2, "")
    assert "set NIGHTMILL_OPENAI__WEBHOOK_SECRET" in ended.message


def test_without_temporal_it_ends_and_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_OPENAI__WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("NIGHTMILL_WORKER__METRICS_PORT", "0")
    assert cli("events", "--port", "0").code == 5


@pytest.mark.server
@pytest.mark.slow
def test_it_listens_until_sigterm_and_counts_what_comes(
    temporal_server: Any, start_process: Any, sqlite_url: str, tmp_path: Path
) -> None:
    metrics = free_port()
    variables = {
        "NIGHTMILL_DATABASE_URL": sqlite_url,
        "NIGHTMILL_OPENAI__WEBHOOK_SECRET": SECRET,
        "NIGHTMILL_WORKER__METRICS_PORT": str(metrics),
        "TEMPORAL_ADDRESS": temporal_server.address,
    }
    with start_process("events", "--port", "0", variables=variables, folder=tmp_path) as running:
        words = ""
        while "Listening" not in words:
            words = running.stderr.readline()
            assert words, "it ended"
        url = words.split()[-1]
        assert url.endswith("/openai")
        body = event("pb-of-nobody")
        headers = signed(body)
        assert send(url, body, headers).status == 204
        assert send(url, body, {}).status == 401
        assert send(url.replace("/openai", "/healthz"), None, {}, "GET").status == 200
        series = send(f"http://127.0.0.1:{metrics}/metrics", None, {}, "GET").body.decode()
        counted = [line for line in series.splitlines() if line.startswith("nightmill_events_total{")]
        assert len(counted) == 2
        assert any('outcome="unknown"' in line and 'provider="openai"' in line for line in counted)
        assert any('outcome="refused"' in line for line in counted)
        began = time.monotonic()
        running.send_signal(signal.SIGTERM)
        assert running.wait(15) == 0
        assert time.monotonic() - began < 5
        log = running.stderr.read()
    assert headers["webhook-id"] in log
    assert "Traceback" not in log
    assert SECRET not in log


def test_a_port_that_is_taken_is_named_by_its_setting(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, temporal_server: Any
) -> None:
    monkeypatch.setenv("NIGHTMILL_OPENAI__WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("NIGHTMILL_WORKER__METRICS_PORT", "0")
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
    ended = cli("events", "--port", str(temporal_server.port))
    assert ended.code == 2
    assert "NIGHTMILL_EVENTS__PORT" in ended.err.splitlines()[-1]
