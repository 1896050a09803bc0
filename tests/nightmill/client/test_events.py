"""The receiver of providers' events, over HTTP: what it refuses, and what it answers while others are away."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from temporalio.client import Client

from nightmill.client import events as receiver
from nightmill.settings import DatabaseSettings, Settings, load_settings
from nightmill.storage.engine import Database, open_database
from nightmill.storage.models import BatchRow, ProviderBatchRow
from tests.events import ACME_SECRET, GOOGLE_SECRET, SECRET, Answer, event, post, receiving, signed
from tests.stack import free_port

BODY = event("pb-of-nobody")


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """Three secrets, and an account without one."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "OPENAI__WEBHOOK_SECRET": SECRET,
        "GOOGLE__WEBHOOK_SECRET": GOOGLE_SECRET,
        "ACCOUNTS__ACME__OPENAI__API_KEY": "key",
        "ACCOUNTS__ACME__OPENAI__WEBHOOK_SECRET": ACME_SECRET,
        "ACCOUNTS__POOR__OPENAI__API_KEY": "key",
    }.items():
        monkeypatch.setenv(f"NIGHTMILL_{name}", value)
    return load_settings()


@pytest.fixture
def lite(sqlite_url: str) -> Any:
    db = open_database(sqlite_url, DatabaseSettings())
    yield db
    db.close()


def store(database: Database, **columns: Any) -> None:
    """Store a batch whose provider batch is `pb`."""
    given: dict[str, Any] = {"provider": "openai", "model": "m"}
    batch = BatchRow(id="b1", poll_schedule=[1.0], max_age=1.0, created_at=datetime.now(UTC), **given)
    with database.transaction() as session:
        session.add(batch)
        session.flush()
        part = ProviderBatchRow(
            batch_key=batch.key, first=0, last=0, requests=1, bytes=1, provider_batch_id="pb", **given | columns
        )
        session.add(part)


async def no_temporal() -> Client:
    """Return a client of a server that is not there."""
    return await Client.connect(f"127.0.0.1:{free_port()}", lazy=True)


def asked(database: Database, settings: Settings, *calls: Any) -> list[Answer]:
    """Return the answers to calls that are made one after the other, each given the receiver's address."""

    async def run() -> list[Answer]:
        async with receiving(await no_temporal(), database, settings) as address:
            return [await call(address) for call in calls]

    return asyncio.run(run())


def posting(path: str, body: Any, sign: Callable[[], dict[str, str]] | None = None, method: str = "POST") -> Any:
    """Make a call; it is signed when it is made, as signatures last for minutes only."""

    def call(address: str) -> Coroutine[Any, Any, Answer]:
        return post(address + path, body, sign and sign(), method)

    return call


def signing(body: bytes = BODY, secret: str = SECRET, **changed: Any) -> Callable[[], dict[str, str]]:
    return partial(signed, body, secret, **changed)


STALE, EARLY = timedelta(minutes=5, seconds=5), -timedelta(minutes=5, seconds=30)


def renewed() -> dict[str, str]:
    """An old signature under a time of today."""
    return signed(BODY, ago=STALE, webhook_timestamp=str(int(time.time())))


REFUSED: dict[str, tuple[Any, int]] = {
    "another's secret": (posting("/openai", BODY, signing(secret=GOOGLE_SECRET)), 401),
    "an account's secret for the default key": (posting("/openai", BODY, signing(secret=ACME_SECRET)), 401),
    "the default secret for an account": (posting("/openai/acme", BODY, signing()), 401),
    "stale": (posting("/openai", BODY, signing(ago=STALE)), 401),
    "from the future": (posting("/openai", BODY, signing(ago=EARLY)), 401),
    "stale, under a time of today": (posting("/openai", BODY, renewed), 401),
    "another body": (posting("/openai", event("pb-other"), signing()), 401),
    "another id": (posting("/openai", BODY, signing(webhook_id="wh_other")), 401),
    "no headers": (posting("/openai", BODY, dict), 401),
    "half a signature": (posting("/openai", BODY, signing(webhook_signature="v1")), 401),
    "a signature of another version": (posting("/openai", BODY, signing(webhook_signature="v2,aGVsbG8=")), 401),
    "an endless time": (posting("/openai", BODY, signing(webhook_timestamp="inf")), 401),
    "bytes that are no text": (posting("/openai", b"\xff\xfe", signing(b"{}")), 401),
    "no JSON": (posting("/openai", b"hello"), 400),
    "no batch": (posting("/openai", b'{"type": "batch.completed"}'), 400),
    "an id that no database takes": (posting("/openai", b'{"type": "batch.failed", "data": {"id": "\\u0000"}}'), 400),
    "nobody's path": (posting("/", BODY), 404),
    "a provider without events": (posting("/anthropic", BODY), 404),
    "another provider without events": (posting("/xai", BODY), 404),
    "an account without a secret": (posting("/openai/poor", BODY), 404),
    "no such account": (posting("/openai/nobody", BODY), 404),
    "an account of another provider": (posting("/google/acme", BODY), 404),
    "a slash too many": (posting("/openai/", BODY), 404),
    "a longer path": (posting("/openai/acme/x", BODY), 404),
    "a read": (posting("/openai", None, dict, "GET"), 405),
    "a change": (posting("/google", BODY, dict, "PUT"), 405),
    "too large": (posting("/openai", b" " * (receiver.LARGEST + 1)), 413),
    "much too large, unsigned": (posting("/openai", b" " * 5_000_000, dict), 413),
}


def test_what_does_not_come_from_the_provider_is_refused_without_a_word(
    lite: Database, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    answers = asked(lite, settings, *[call for call, _ in REFUSED.values()])
    got = dict(zip(REFUSED, answers, strict=True))
    assert {name: answer.status for name, answer in got.items()} == {name: code for name, (_, code) in REFUSED.items()}
    ours = {name: answer.body for name, answer in got.items() if answer.status in (400, 401, 413)}
    assert set(ours.values()) == {b""}
    lines = [record for record in caplog.records if record.name == "nightmill.events"]
    assert len(lines) < 8  # a line a minute for each path and kind, whoever sends how much
    assert "hello" not in caplog.text


def test_what_is_signed_and_none_of_ours_is_taken(lite: Database, settings: Settings) -> None:
    store(lite)
    full = event("pb-of-nobody").ljust(receiver.LARGEST)
    other = b'{"type": "response.completed", "data": {"id": "pb"}}'
    about_ours = event("pb")

    def two() -> dict[str, str]:
        """As while a secret is changed."""
        once = signed(BODY)
        return once | {"webhook-signature": f"v1,{'A' * 43}= {once['webhook-signature']}"}

    answers = asked(
        lite, settings,
        posting("/openai", BODY), posting("/google", BODY, signing(secret=GOOGLE_SECRET)),
        posting("/openai/ACME", BODY, signing(secret=ACME_SECRET)), posting("/openai", full), posting("/openai", other),
        posting("/openai", BODY, two),
        # The batch is the default key's, and Google's id may be the same by chance.
        posting("/openai/acme", about_ours, signing(about_ours, ACME_SECRET)),
        posting("/google", about_ours, signing(about_ours, GOOGLE_SECRET)),
    )  # fmt: skip
    assert [answer.status for answer in answers] == [204] * 8


def test_a_batch_whose_results_are_stored_asks_nothing_of_temporal(lite: Database, settings: Settings) -> None:
    store(lite, settled_at=datetime.now(UTC))
    assert [answer.status for answer in asked(lite, settings, posting("/openai", event("pb")))] == [204]


@pytest.mark.parametrize("url", ["postgresql://nightmill@/none?host=/nowhere", "postgresql://u:p@127.0.0.1:{port}/d"])
def test_while_the_database_is_away_the_provider_is_to_send_again(settings: Settings, url: str) -> None:
    away = open_database(url.format(port=free_port()), DatabaseSettings())
    answers = asked(away, settings, posting("/openai", event("pb")), posting("/openai", b"no JSON"))
    away.close()
    assert [answer.status for answer in answers] == [503, 400]
    assert answers[0].headers["retry-after"] == str(receiver.COME_BACK_AFTER)


def test_a_database_that_swallows_everything_delays_the_answer_only_so_long(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "ANSWERED_WITHIN", timedelta(seconds=0.5))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/d"
        mute = open_database(url, DatabaseSettings(connect_timeout=timedelta(seconds=2)))
        began = time.monotonic()

        async def run() -> tuple[list[Answer], float]:
            async with receiving(await no_temporal(), mute, settings) as address:
                one = [post(f"{address}/openai", event("pb")) for _ in range(3)]
                return await asyncio.gather(*one), time.monotonic() - began

        answers, took = asyncio.run(run())
        mute.close()
    assert [answer.status for answer in answers] == [503] * 3
    assert took < 2


def test_a_body_that_never_ends_is_not_waited_for(
    lite: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "ANSWERED_WITHIN", timedelta(seconds=0.3))

    async def run() -> bytes:
        async with receiving(await no_temporal(), lite, settings) as address:
            to = urlsplit(address)
            reader, writer = await asyncio.open_connection(to.hostname, to.port)
            writer.write(b"POST /openai HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{")
            answer = await asyncio.wait_for(reader.readline(), 5)
            writer.close()
            return answer

    assert asyncio.run(run()).startswith(b"HTTP/1.1 408 ")


def test_chunks_without_a_length_are_bounded_too(lite: Database, settings: Settings) -> None:
    def endless() -> Any:
        for _ in range(1_000):
            yield b"x" * 8_192

    (answer,) = asked(lite, settings, posting("/openai", endless(), signing(b"{}")))
    assert answer.status == 413


def test_the_log_names_what_an_operator_looks_for_and_nothing_of_the_body(
    lite: Database, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store(lite, settled_at=datetime.now(UTC))
    body = json.dumps({"type": "batch.failed", "data": {"id": "pb", "error_message": "canary in the body"}}).encode()
    headers = signed(body)
    asked(lite, settings, posting("/openai", body, lambda: headers))
    (line,) = [record for record in caplog.records if record.name == "nightmill.events"]
    fields = {name: getattr(line, name) for name in ("provider", "account", "type", "webhook_id", "outcome", "batch")}
    assert fields == {
        "provider": "openai", "account": None, "type": "batch.failed", "webhook_id": headers["webhook-id"],
        "outcome": "ended", "batch": "b1",
    }  # fmt: skip
    assert "canary" not in str(vars(line))
