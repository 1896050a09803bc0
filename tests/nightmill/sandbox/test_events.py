"""The sandbox tells that batches have ended, as OpenAI and Gemini do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from nightmill.sandbox import Profile, Sandbox
from tests.events import SECRET
from tests.stack import WebhookSink


@pytest.fixture(scope="module")
def listening() -> Iterator[WebhookSink]:
    sink = WebhookSink()
    yield sink
    sink.close()


@pytest.fixture
def sink(listening: WebhookSink) -> Iterator[WebhookSink]:
    """Somebody who has not been told anything yet."""
    yield listening
    listening.received.clear()
    listening.on_request = None


@pytest.fixture
def sandbox(sink: WebhookSink) -> Iterator[Sandbox]:
    with Sandbox(profile=Profile(finish_after=0.1, events_url=sink.url, events_secret=SECRET)) as running:
        yield running


def received(sink: WebhookSink, count: int = 1) -> list[Any]:
    """What came, verified by the scheme's own library."""
    deadline = time.monotonic() + 10
    while len(sink.received) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [Webhook(SECRET).verify(body, headers) for headers, body in sink.received]


def test_a_batch_that_nobody_polls_is_told_of_when_it_has_ended(client: Any, sink: WebhookSink) -> None:
    batch = client.openai_batch(2)
    (event,) = received(sink)
    assert (event["object"], event["type"], event["data"]) == ("event", "batch.completed", {"id": batch["id"]})


def test_gemini_has_words_of_its_own(client: Any, sink: WebhookSink) -> None:
    asked = {"contents": [{"parts": [{"text": "hello"}]}]}
    requests = {"requests": [{"request": asked, "metadata": {"key": "a"}}]}
    body = {"batch": {"display_name": "job", "input_config": {"requests": requests}}}
    made = client("POST", "/google/v1beta/models/gemini-2.5-flash:batchGenerateContent", body)
    assert made.status == 200, made.body
    (event,) = received(sink)
    assert (event["type"], event["version"], event["data"]) == ("batch.succeeded", "v1", {"id": made.json["name"]})


@pytest.mark.parametrize("state", ["failed", "expired", "cancelled"])
def test_a_bad_end_is_told_of_too(client: Any, sandbox: Sandbox, sink: WebhookSink, state: str) -> None:
    sandbox.set_profile(finish_after=None)
    sandbox.advance(client.openai_batch(1)["id"], state)
    assert [event["type"] for event in received(sink)] == [f"batch.{state}"]


def test_it_is_sent_again_under_the_same_id_until_it_is_taken(client: Any, sink: WebhookSink) -> None:
    ids: list[str] = []
    sink.answers[:] = [503]
    sink.on_request = lambda: ids.append("asked")
    client.openai_batch(1)
    received(sink)
    time.sleep(0.2)
    assert (len(ids), len(sink.received)) == (2, 1)


def test_after_a_reset_nobody_is_told(client: Any, sandbox: Sandbox, sink: WebhookSink) -> None:
    sandbox.set_profile(finish_after=0.3)
    client.openai_batch(1)
    sandbox.reset()
    time.sleep(0.5)
    assert sink.received == []


def test_an_address_without_a_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="events_secret"):
        Profile(events_url="http://127.0.0.1:1")


def test_a_profile_of_events_can_be_given_as_json(sink: WebhookSink) -> None:
    changes = json.loads(json.dumps({"events_url": sink.url, "events_secret": SECRET}))
    assert Profile().merged(changes).events_url == sink.url
