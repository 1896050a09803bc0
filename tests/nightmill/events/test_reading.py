"""Which provider batch an event is about."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nightmill.errors import InvalidInput
from nightmill.events.reading import ProviderEvent, read_event

OPENAI = {"object": "event", "id": "evt_1", "type": "batch.expired", "created_at": 1, "data": {"id": "batch_6F-x"}}


@pytest.mark.parametrize(
    ("told", "read"),
    [
        (OPENAI, ProviderEvent("batch.expired", "batch_6F-x")),
        ({"type": "batch.succeeded", "data": {"id": "batches/a1b2"}}, ProviderEvent("batch.succeeded", "a1b2")),
        ({"type": "batch.succeeded", "data": {"id": "a1b2", "name": "x"}}, ProviderEvent("batch.succeeded", "a1b2")),
        ({"type": "batch.failed", "data": {"name": "batches/a1b2"}}, ProviderEvent("batch.failed", "a1b2")),
        ({"type": "batch.something_new", "data": {"id": "b"}}, ProviderEvent("batch.something_new", "b")),
        ({"type": "response.completed", "data": {"id": "resp_1"}}, ProviderEvent("response.completed", None)),
        ({"type": "batch", "data": None}, ProviderEvent("batch", None)),
        ({"message": "ping"}, ProviderEvent("", None)),
        ({"type": "batch.\n\x1b[2J", "data": {"id": "b"}}, ProviderEvent("", None)),
    ],
)
def test_a_batchs_event_names_its_batch_and_all_others_none(told: Any, read: ProviderEvent) -> None:
    assert read_event(json.dumps(told).encode()) == read


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"\xff\xfe",
        b"[1]",
        b'"batch.completed"',
        b"[" * 60_000,
        b'{"type": "batch.completed"}',
        b'{"type": "batch.completed", "data": []}',
        b'{"type": "batch.completed", "data": {"id": ""}}',
        b'{"type": "batch.completed", "data": {"id": 7}}',
        b'{"type": "batch.completed", "data": {"id": "a\\u0000b"}}',
        b'{"type": "batch.completed", "data": {"id": "a\\ud800b"}}',
        b'{"type": "batch.completed", "data": {"id": "batches/"}}',
        b'{"type": "batch.completed", "data": {"id": "a/b"}}',
        b'{"type": "batch.completed", "data": {"id": "%s"}}' % (b"x" * 301),
    ],
    ids=lambda body: body[:40].decode("ascii", "replace"),
)
def test_what_names_no_batch_is_refused_in_a_line(body: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^event: "):
        read_event(body)
