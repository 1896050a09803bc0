"""The official openai package against the sandbox."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, get_args

import openai
import pytest
from openai.types.webhooks import (
    BatchCancelledWebhookEvent,
    BatchCompletedWebhookEvent,
    BatchExpiredWebhookEvent,
    BatchFailedWebhookEvent,
)

from nightmill.errors import InvalidSignature
from nightmill.events.reading import ProviderEvent, read_event
from nightmill.sandbox import Fault, Profile, Sandbox
from nightmill.webhooks import verify_delivery
from tests.events import SECRET
from tests.stack import WebhookSink

pytestmark = pytest.mark.conformance


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="key", base_url=sandbox.base_urls["openai"], max_retries=0) as client:
        yield client


def upload(client: openai.OpenAI, count: int = 5, url: str = "/v1/responses", **body: Any) -> str:
    asked = {"model": "gpt-5-mini", "input": "hello", "messages": [{"role": "user", "content": "hello"}], **body}
    lines = [{"custom_id": f"r{n}", "method": "POST", "url": url, "body": asked} for n in range(count)]
    content = "\n".join(map(json.dumps, lines)).encode()
    return client.files.create(file=("batch.jsonl", content), purpose="batch").id


def create(client: openai.OpenAI, file_id: str, endpoint: Any = "/v1/responses", **more: Any) -> Any:
    return client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window="24h", **more)


def test_a_whole_batch_of_responses_succeeds(client: openai.OpenAI, wait: Any) -> None:
    file_id = upload(client)
    batch = create(client, file_id, metadata={"job": "7"})
    assert batch.status == "validating"
    ended = wait(lambda: client.batches.retrieve(batch.id), lambda one: one.status == "completed")
    assert (ended.request_counts.total, ended.request_counts.completed, ended.metadata) == (5, 5, {"job": "7"})
    lines = [json.loads(line) for line in client.files.content(ended.output_file_id).text.splitlines()]
    assert {line["custom_id"] for line in lines} == {f"r{n}" for n in range(5)}
    answer = openai.types.responses.Response.model_validate(lines[0]["response"]["body"], strict=False)
    assert answer.output_text == "You said: hello"
    assert answer.usage is not None
    assert answer.usage.output_tokens_details.reasoning_tokens > 0
    assert client.files.delete(file_id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file_id)


def test_chat_completions_and_embeddings_parse_as_the_sdks_types(client: openai.OpenAI, wait: Any) -> None:
    for endpoint, kind in (
        ("/v1/chat/completions", openai.types.chat.ChatCompletion),
        ("/v1/embeddings", openai.types.CreateEmbeddingResponse),
    ):
        batch = create(client, upload(client, 1, endpoint), endpoint)
        ended = wait(lambda batch=batch: client.batches.retrieve(batch.id), lambda one: one.status == "completed")
        line = json.loads(client.files.content(ended.output_file_id).text)
        kind.model_validate(line["response"]["body"])


def test_structured_output_satisfies_the_schema_that_was_asked_for(client: openai.OpenAI, wait: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 18}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    text = {"format": {"type": "json_schema", "name": "person", "schema": schema, "strict": True}}
    batch = create(client, upload(client, 1, text=text))
    ended = wait(lambda: client.batches.retrieve(batch.id), lambda one: one.status == "completed")
    line = json.loads(client.files.content(ended.output_file_id).text)
    said = openai.types.responses.Response.model_validate(line["response"]["body"]).output_text
    assert json.loads(said) == {"name": "text", "age": 18}


def test_a_batch_can_be_canceled(client: openai.OpenAI, sandbox: Sandbox, wait: Any) -> None:
    sandbox.set_profile(finish_after=None, cancelling_for=0.1)
    batch = create(client, upload(client))
    wait(lambda: client.batches.retrieve(batch.id), lambda one: one.status == "in_progress")
    assert client.batches.cancel(batch.id).status == "cancelling"
    ended = wait(lambda: client.batches.retrieve(batch.id), lambda one: one.status == "cancelled")
    assert ended.output_file_id is None
    lines = client.files.content(ended.error_file_id).text.splitlines()
    assert {json.loads(line)["error"]["code"] for line in lines} == {"batch_cancelled"}


def test_a_bad_file_fails_with_its_line(client: openai.OpenAI, wait: Any) -> None:
    file = client.files.create(file=("batch.jsonl", b"{not json}\n"), purpose="batch")
    batch = create(client, file.id)
    failed = wait(lambda: client.batches.retrieve(batch.id), lambda one: one.status == "failed")
    (error,) = failed.errors.data
    assert (error.code, error.line) == ("invalid_json_line", 1)


def test_batches_and_files_are_listed_through_the_sdks_pages(client: openai.OpenAI) -> None:
    file_id = upload(client, 1)
    made = [create(client, file_id).id for _ in range(3)]
    assert [one.id for one in client.batches.list(limit=2)] == made[::-1]
    assert [one.id for one in client.files.list(purpose="batch", limit=1)] == [file_id]


def test_errors_are_the_sdks_own_types(client: openai.OpenAI, sandbox: Sandbox) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="invalid").files.list()
    with pytest.raises(openai.PermissionDeniedError):
        client.with_options(api_key="forbidden").files.list()
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_nobody")
    with pytest.raises(openai.BadRequestError, match="No such File"):
        create(client, "file-nobody")
    sandbox.add_faults(Fault("status", status=429, retry_after=2), Fault("status", status=520, skip=1))
    with pytest.raises(openai.RateLimitError) as limited:
        client.batches.list()
    assert limited.value.response.headers["retry-after"] == "2"
    with pytest.raises(openai.InternalServerError):
        client.batches.list()


def test_azure_clients_are_served_too(sandbox: Sandbox) -> None:
    with openai.AzureOpenAI(
        api_key="azure", api_version="2025-04-01-preview", base_url=sandbox.base_urls["openai"], max_retries=0
    ) as client:
        file_id = upload(client, 1)
        assert create(client, file_id).status == "validating"
    assert {entry["query"].get("api-version") for entry in sandbox.log()} == {"2025-04-01-preview"}


def test_the_sdk_takes_the_events_that_the_sandbox_sends_and_we_take_what_it_takes(client: openai.OpenAI) -> None:
    heard = WebhookSink()
    try:
        with Sandbox(profile=Profile(finish_after=0.1, events_url=heard.url, events_secret=SECRET)) as sandbox:
            with client.with_options(base_url=sandbox.base_urls["openai"]) as other:
                batch = create(other, upload(other))
            deadline = time.monotonic() + 10
            while not heard.received:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    finally:
        heard.close()
    ((headers, body),) = heard.received
    event = client.webhooks.unwrap(body, headers, secret=SECRET)
    assert isinstance(event, BatchCompletedWebhookEvent)
    assert event.data.id == batch.id
    verify_delivery(headers, body, secret=SECRET)
    assert read_event(body) == ProviderEvent(event.type, event.data.id)
    for wrong in (headers | {"webhook-id": "wh_other"}, headers | {"webhook-timestamp": "1"}):
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(body, wrong, secret=SECRET)
        with pytest.raises(InvalidSignature):
            verify_delivery(wrong, body, secret=SECRET)


def test_every_end_of_a_batch_that_the_sdk_knows_is_read() -> None:
    for kind in (
        BatchCompletedWebhookEvent, BatchFailedWebhookEvent, BatchExpiredWebhookEvent, BatchCancelledWebhookEvent,
    ):  # fmt: skip
        (word,) = get_args(kind.model_fields["type"].annotation)
        event = kind(id="evt_1", created_at=1, type=word, data={"id": "batch_1"}, object="event")
        assert read_event(event.to_json().encode()) == ProviderEvent(word, "batch_1")
