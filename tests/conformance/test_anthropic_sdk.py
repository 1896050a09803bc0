"""The official anthropic package against the sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from nightmill.sandbox import Sandbox

pytestmark = pytest.mark.conformance


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key="key", base_url=sandbox.base_urls["anthropic"], max_retries=0) as client:
        yield client


def create(client: anthropic.Anthropic, count: int = 4, **params: Any) -> Any:
    said = {
        "model": "claude-haiku-4-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "hello"}],
        **params,
    }
    return client.messages.batches.create(requests=[{"custom_id": f"r{n}", "params": said} for n in range(count)])


def test_a_whole_batch_succeeds(client: anthropic.Anthropic, wait: Any) -> None:
    batch = create(client)
    assert (batch.processing_status, batch.request_counts.processing, batch.results_url) == ("in_progress", 4, None)
    ended = wait(lambda: client.messages.batches.retrieve(batch.id), lambda one: one.processing_status == "ended")
    assert (ended.request_counts.succeeded, ended.request_counts.processing) == (4, 0)
    results = list(client.messages.batches.results(batch.id))
    assert {one.custom_id for one in results} == {"r0", "r1", "r2", "r3"}
    message = results[0].result.message
    assert (message.content[0].text, message.stop_reason) == ("You said: hello", "end_turn")
    assert message.usage.output_tokens > 0
    assert client.messages.batches.delete(batch.id).id == batch.id
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(batch.id)


def test_bad_params_come_back_as_errored_entries(client: anthropic.Anthropic, wait: Any) -> None:
    batch = create(client, 1, max_tokens=0)
    ended = wait(lambda: client.messages.batches.retrieve(batch.id), lambda one: one.processing_status == "ended")
    assert ended.request_counts.errored == 1
    (entry,) = client.messages.batches.results(batch.id)
    assert (entry.result.type, entry.result.error.error.type) == ("errored", "invalid_request_error")
    assert "max_tokens" in entry.result.error.error.message


def test_a_canceled_batch_ends_with_canceled_entries(client: anthropic.Anthropic, sandbox: Sandbox, wait: Any) -> None:
    sandbox.set_profile(validating_for=0, finish_after=None, partial_share=0.5, cancelling_for=0.1)
    batch = create(client)
    assert client.messages.batches.cancel(batch.id).processing_status == "canceling"
    ended = wait(lambda: client.messages.batches.retrieve(batch.id), lambda one: one.processing_status == "ended")
    assert (ended.request_counts.succeeded, ended.request_counts.canceled) == (2, 2)
    types = [entry.result.type for entry in client.messages.batches.results(batch.id)]
    assert sorted(types) == ["canceled", "canceled", "succeeded", "succeeded"]


def test_an_old_batch_ends_with_expired_entries(client: anthropic.Anthropic, sandbox: Sandbox, wait: Any) -> None:
    sandbox.set_profile(finish_after=None, expires_after=0.1)
    batch = create(client)
    wait(lambda: client.messages.batches.retrieve(batch.id), lambda one: one.processing_status == "ended")
    assert {entry.result.type for entry in client.messages.batches.results(batch.id)} == {"expired"}


def test_a_forced_tool_is_called_with_input_that_fits_it(client: anthropic.Anthropic, wait: Any) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    choice = {"type": "tool", "name": "save"}
    batch = create(client, 1, tools=[{"name": "save", "input_schema": schema}], tool_choice=choice)
    wait(lambda: client.messages.batches.retrieve(batch.id), lambda one: one.processing_status == "ended")
    (entry,) = client.messages.batches.results(batch.id)
    (block,) = entry.result.message.content
    assert (block.type, block.name, block.input) == ("tool_use", "save", {"n": 0})


def test_batches_are_listed_through_the_sdks_pages(client: anthropic.Anthropic) -> None:
    made = [create(client, 1).id for _ in range(3)]
    assert [one.id for one in client.messages.batches.list(limit=2)] == made[::-1]
    earlier = client.messages.batches.list(before_id=made[0], limit=1)
    assert [one.id for one in earlier.data] == [made[1]]


def test_errors_are_the_sdks_own_types(client: anthropic.Anthropic, sandbox: Sandbox) -> None:
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="invalid").messages.batches.list()
    with pytest.raises(anthropic.PermissionDeniedError):
        client.with_options(api_key="forbidden").messages.batches.list()
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve("msgbatch_nobody")
    said = {"model": "m", "max_tokens": 1, "messages": []}
    for ids in (["a b"], ["x" * 65], ["a", "a"], []):
        with pytest.raises(anthropic.BadRequestError):
            client.messages.batches.create(requests=[{"custom_id": one, "params": said} for one in ids])
    assert sandbox.batches() == []
