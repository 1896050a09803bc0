"""The official google-genai package against the sandbox."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from nightmill.sandbox import Sandbox

pytestmark = pytest.mark.conformance

MODEL = "gemini-2.5-flash"


def client_of(sandbox: Sandbox, key: str = "key", **options: Any) -> genai.Client:
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=sandbox.base_urls["google"], **options))


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[genai.Client]:
    client = client_of(sandbox)
    yield client
    client.close()


def create(client: genai.Client, count: int = 3, **config: Any) -> types.BatchJob:
    src = [
        {
            "contents": [{"parts": [{"text": f"hello {n}"}], "role": "user"}],
            "metadata": {"key": f"r{n}"},
            "config": config or None,
        }
        for n in range(count)
    ]
    return client.batches.create(model=MODEL, src=src, config={"display_name": "job-7"})


def ended(client: genai.Client, wait: Any, name: str | None) -> types.BatchJob:
    return wait(lambda: client.batches.get(name=name), lambda job: job.done)


def test_a_whole_inline_batch_succeeds(client: genai.Client, wait: Any) -> None:
    job = create(client)
    assert (job.state, job.display_name, job.model) == (types.JobState.JOB_STATE_PENDING, "job-7", f"models/{MODEL}")
    done = ended(client, wait, job.name)
    assert done.state is types.JobState.JOB_STATE_SUCCEEDED
    said = {one.metadata["key"]: one.response.text for one in done.dest.inlined_responses}
    assert said == {f"r{n}": f"You said: hello {n}" for n in range(3)}
    usage = done.dest.inlined_responses[0].response.usage_metadata
    assert (
        usage.total_token_count == usage.prompt_token_count + usage.candidates_token_count + usage.thoughts_token_count
    )
    client.batches.delete(name=job.name)
    with pytest.raises(errors.ClientError):
        client.batches.get(name=job.name)


def test_a_whole_batch_in_file_mode_succeeds(client: genai.Client, wait: Any) -> None:
    lines = [{"key": f"r{n}", "request": {"contents": [{"parts": [{"text": f"hi {n}"}]}]}} for n in range(3)]
    content = io.BytesIO("\n".join(map(json.dumps, lines)).encode())
    file = client.files.upload(file=content, config={"display_name": "in", "mime_type": "jsonl"})
    assert (file.size_bytes, file.state, file.display_name) == (len(content.getvalue()), types.FileState.ACTIVE, "in")
    job = client.batches.create(model=MODEL, src=file.name, config={"display_name": "job-8"})
    done = ended(client, wait, job.name)
    assert done.dest.inlined_responses is None
    answers = [json.loads(line) for line in client.files.download(file=done.dest.file_name).splitlines()]
    assert {one["key"]: one["response"]["candidates"][0]["content"]["parts"][0]["text"] for one in answers} == {
        f"r{n}": f"You said: hi {n}" for n in range(3)
    }
    client.files.delete(name=file.name)
    with pytest.raises(errors.ClientError):
        client.files.get(name=file.name)


def test_an_upload_in_several_pieces_arrives_whole(client: genai.Client) -> None:
    content = b"x" * (8 * 1024 * 1024 + 3)  # the SDK cuts at 8 MiB
    file = client.files.upload(file=io.BytesIO(content), config={"mime_type": "jsonl", "name": "big-one"})
    assert (file.name, file.size_bytes) == ("files/big-one", len(content))
    assert [one.name for one in client.files.list(config={"page_size": 1})] == ["files/big-one"]


def test_the_beta_version_of_the_api_is_served_too(sandbox: Sandbox, wait: Any) -> None:
    client = client_of(sandbox, api_version="v1beta")
    assert len(ended(client, wait, create(client).name).dest.inlined_responses) == 3
    client.close()


def test_structured_output_satisfies_the_schema_that_was_asked_for(client: genai.Client, wait: Any) -> None:
    schema = {
        "type": "OBJECT",
        "properties": {"n": {"type": "INTEGER"}, "s": {"type": "STRING"}},
        "required": ["n", "s"],
    }
    job = create(client, 1, response_mime_type="application/json", response_schema=schema)
    (one,) = ended(client, wait, job.name).dest.inlined_responses
    assert json.loads(one.response.text) == {"n": 0, "s": "text"}


def test_failed_requests_carry_an_error(client: genai.Client, sandbox: Sandbox, wait: Any) -> None:
    sandbox.set_profile(fail_ids=["r1"], failure="rate_limit")
    done = ended(client, wait, create(client).name)
    failed = [one for one in done.dest.inlined_responses if one.error is not None]
    assert [(one.metadata["key"], one.error.code) for one in failed] == [("r1", 8)]


def test_a_canceled_batch_has_no_results(client: genai.Client, sandbox: Sandbox) -> None:
    sandbox.set_profile(finish_after=None)
    job = create(client)
    client.batches.cancel(name=job.name)
    canceled = client.batches.get(name=job.name)
    assert (canceled.state, canceled.dest) == (types.JobState.JOB_STATE_CANCELLED, None)


def test_batches_are_listed_through_the_sdks_pages(client: genai.Client) -> None:
    made = [create(client, 1).name for _ in range(3)]
    assert [job.name for job in client.batches.list(config={"page_size": 2})] == made[::-1]


def test_errors_are_the_sdks_own_types(client: genai.Client, sandbox: Sandbox) -> None:
    for key, code in (("invalid", 401), ("forbidden", 403)):
        other = client_of(sandbox, key)
        with pytest.raises(errors.ClientError) as refused:
            create(other)
        assert refused.value.code == code
        other.close()
    with pytest.raises(errors.ClientError) as missing:
        client.batches.get(name="batches/nobody")
    assert (missing.value.code, missing.value.status) == (404, "NOT_FOUND")
    sandbox.set_profile(inline_max_bytes=100)
    with pytest.raises(errors.ClientError, match="exceeds the limit"):
        create(client)
    assert sandbox.batches() == []
