"""What every provider must do, against the sandbox; one set of tests, run for each of them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from nightmill.completions.requests import StoredRequest, read_request_objects
from nightmill.contracts import BatchStatus
from nightmill.errors import (
    AccessDenied,
    AnswerLost,
    ForeignHost,
    InvalidInput,
    NotConfigured,
    ProviderUnavailable,
    RateLimited,
)
from nightmill.providers import google
from nightmill.providers.base import BatchProvider, Entry, MalformedEntry
from nightmill.providers.config import ProviderConfig
from nightmill.providers.registry import PROVIDER_NAMES, open_provider
from nightmill.sandbox import Fault, Profile, Sandbox

MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-sonnet-4-5", "google": "gemini-2.5-flash", "xai": "grok-4"}
TAG = "nm-batch-0-0-0"


@dataclass
class Lines:
    """`RequestLines` in memory."""

    lines: list[bytes]

    @property
    def count(self) -> int:
        return len(self.lines)

    @property
    def total_bytes(self) -> int:
        return sum(map(len, self.lines))

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.lines)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(profile=Profile(finish_after=0)) as running:
        yield running


@pytest.fixture(params=PROVIDER_NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def connect(name: str, sandbox: Sandbox) -> Iterator[Callable[..., BatchProvider]]:
    with ExitStack() as stack:

        def connected(key: str = "sk-test-key", **changes: Any) -> BatchProvider:
            config = ProviderConfig(api_key=SecretStr(key), base_url=sandbox.base_urls[name], **changes)
            provider = open_provider(name, config)
            stack.callback(provider.close)
            return provider

        yield connected


@pytest.fixture
def provider(connect: Callable[..., BatchProvider]) -> BatchProvider:
    return connect()


def prepare(provider: BatchProvider, requests: list[dict[str, Any]]) -> list[StoredRequest]:
    return list(read_request_objects(requests, provider=provider, model=MODELS[provider.name]))


def prompts(count: int, size: int = 10) -> list[dict[str, Any]]:
    return [{"custom_id": f"r{n}", "prompt": f"{n} " + "x" * size} for n in range(count)]


def submit(provider: BatchProvider, stored: list[StoredRequest], tag: str = TAG) -> tuple[str, str | None]:
    lines = Lines([one.line for one in stored])
    file_id = provider.upload(lines, tag=tag)
    endpoint = provider.endpoints[0] if provider.endpoints else ""
    created = provider.create(lines, tag=tag, file_id=file_id, model=MODELS[provider.name], endpoint=endpoint)
    return created.provider_batch_id, file_id


def entries(provider: BatchProvider, batch_id: str) -> dict[str | None, Entry]:
    refs = provider.status(batch_id).refs
    lines = [
        line
        for source in provider.results(batch_id, refs)
        for line in b"".join(source.chunks).split(b"\n")
        if line.strip()
    ]
    return {entry.wire_id: entry for entry in map(provider.read_entry, lines)}


def test_every_request_comes_back_under_its_own_id(provider: BatchProvider) -> None:
    stored = prepare(provider, prompts(5))
    batch_id, _ = submit(provider, stored)
    status = provider.status(batch_id)
    assert status.status is BatchStatus.ENDED
    assert status.known
    assert (status.counts.total, status.counts.succeeded) == (5, 5)
    found = entries(provider, batch_id)
    assert set(found) == {one.wire_id for one in stored}
    for one in stored:
        entry = found[one.wire_id]
        assert entry.error is None
        assert entry.text is not None
        assert f"{one.custom_id[1:]} xxx" in entry.text
        assert entry.usage is not None
        assert entry.usage.input > 0
        assert entry.usage.output > 0


def test_ids_that_the_provider_would_refuse_are_mapped(provider: BatchProvider) -> None:
    ids = ["ü/ 1", "x" * 300, "nm_mine", "plain"]
    stored = prepare(provider, [{"custom_id": i, "prompt": "hi"} for i in ids])
    assert [one.custom_id for one in stored] == ids
    assert stored[3].wire_id == "plain"
    batch_id, _ = submit(provider, stored)
    assert set(entries(provider, batch_id)) == {one.wire_id for one in stored}


def test_a_batch_is_found_again_by_its_tag_or_its_time(provider: BatchProvider) -> None:
    stored = prepare(provider, prompts(3))
    started = datetime.now(UTC)
    others = [submit(provider, stored, tag=f"other-{n}")[0] for n in range(3)]
    batch_id, file_id = submit(provider, stored)
    found = provider.find(tag=TAG, since=started)
    ids = [candidate.provider_batch_id for candidate in found]
    if provider.keeps_tags:
        assert ids == [batch_id]
        assert found[0].tag == TAG
    else:
        assert set(ids) == {batch_id, *others}
    assert all(candidate.requests == 3 and candidate.ended for candidate in found)
    assert all(candidate.created_at and candidate.created_at >= started - timedelta(seconds=2) for candidate in found)
    assert provider.find_upload(tag=TAG) == file_id
    assert provider.find_upload(tag="nobody's") is None


def test_lists_of_many_pages_are_read_to_the_end(provider: BatchProvider, name: str, sandbox: Sandbox) -> None:
    sandbox.set_profile(page_size=2)
    stored = prepare(provider, prompts(5))
    started = datetime.now(UTC)
    first, _ = submit(provider, stored)
    for n in range(120 if provider.name in ("openai", "anthropic") else 5):
        submit(provider, stored[:1], tag=f"other-{n}")
    assert first in [candidate.provider_batch_id for candidate in provider.find(tag=TAG, since=started)]
    assert len(entries(provider, first)) == 5


def test_a_list_comes_newest_first_page_by_page_and_ends_at_its_time(
    provider: BatchProvider, name: str, sandbox: Sandbox
) -> None:
    stored = prepare(provider, prompts(2))
    made = [submit(provider, stored, tag=f"tag-{n}")[0] for n in range(3)]
    everything = list(provider.listed(since=datetime.now(UTC)))
    assert [one.provider_batch_id for one in everything] == made[::-1]
    assert [one.tag for one in everything] == (["tag-2", "tag-1", "tag-0"] if provider.keeps_tags else [None] * 3)

    for n in range(1_000 if name == "anthropic" else 100):
        sandbox._engine.batches[f"{n}"] = replace(sandbox._engine.batches[made[0]], id=f"old-{n}", created_at=0.0)
    for batch in made:
        sandbox._engine.batches[batch] = sandbox._engine.batches.pop(batch)  # the newest come last there
    asked = len(sandbox.log(operation="batches.list"))
    some = provider.listed(since=datetime(1960, 1, 1, tzinfo=UTC))
    assert next(some).provider_batch_id == made[-1]
    assert len(sandbox.log(operation="batches.list")) == asked + 1, "the second page is not wanted yet"
    assert sum(1 for _ in some) == 2 + (1_000 if name == "anthropic" else 100)
    assert len(sandbox.log(operation="batches.list")) == asked + 2
    for batch in made:
        sandbox._engine.batches.pop(batch)
    list(provider.listed(since=datetime.now(UTC)))
    assert len(sandbox.log(operation="batches.list")) == asked + 3, "a page of old ones is followed by older ones"


def test_failed_requests_say_why_and_whether_to_try_again(provider: BatchProvider, name: str, sandbox: Sandbox) -> None:
    for failure, retryable in (("server_error", True), ("rate_limit", True), ("invalid_request", False)):
        sandbox.set_profile(fail_ids=("r1",), failure=failure)
        batch_id, _ = submit(provider, prepare(provider, prompts(3)))
        found = entries(provider, batch_id)
        assert len(found) == 3
        error = found["r1"].error
        assert error is not None, failure
        assert error.code == "provider_error"
        assert error.retryable is retryable, failure
        assert error.message
        assert found["r0"].error is None


def test_a_canceled_batch_keeps_what_was_finished(provider: BatchProvider, name: str, sandbox: Sandbox) -> None:
    sandbox.set_profile(finish_after=None, partial_share=0.5, cancelling_for=0)
    batch_id, _ = submit(provider, prepare(provider, prompts(10)))
    assert provider.status(batch_id).status is BatchStatus.IN_PROGRESS
    provider.cancel(batch_id)
    assert provider.status(batch_id).status in (BatchStatus.CANCELED, BatchStatus.ENDED)
    found = entries(provider, batch_id)
    assert any(entry.error is None for entry in found.values()) or name == "google"
    provider.cancel(batch_id)  # a second time is no error


def test_an_expired_batch_reads_as_such(provider: BatchProvider, name: str, sandbox: Sandbox) -> None:
    sandbox.set_profile(finish_after=None, expires_after=0.0, partial_share=0.5)
    batch_id, _ = submit(provider, prepare(provider, prompts(10)))
    status = provider.status(batch_id)
    found = entries(provider, batch_id)
    if name == "anthropic":  # ends like any other; its entries tell
        assert status.status is BatchStatus.ENDED
        errors = [entry.error for entry in found.values() if entry.error is not None]
        assert {error.code for error in errors} == {"expired"}
        assert all(error.retryable for error in errors)
    else:
        assert status.status is BatchStatus.EXPIRED


def test_a_batch_that_the_provider_fails_says_why(provider: BatchProvider, name: str, sandbox: Sandbox) -> None:
    words = "Enqueued token limit reached"
    sandbox.add_faults(
        Fault("fail", provider=name, operation="batches.create", code="token_limit_exceeded", message=words)
    )
    batch_id, _ = submit(provider, prepare(provider, prompts(2)))
    status = provider.status(batch_id)
    if name == "anthropic":  # has no failed batches, only failed entries
        assert all(entry.error for entry in entries(provider, batch_id).values())
        return
    assert status.status is BatchStatus.FAILED
    assert status.reason is not None
    assert words in status.reason
    assert status.over_quota is (name == "openai")


def test_an_unknown_status_reads_as_in_progress(provider: BatchProvider, name: str, sandbox: Sandbox) -> None:
    batch_id, _ = submit(provider, prepare(provider, prompts(1)))
    word = {
        "openai": {"status": "pondering"},
        "anthropic": {"processing_status": "pondering"},
        "google": {"metadata": {"state": "BATCH_STATE_PONDERING"}, "done": False},
    }.get(name)
    if word is None:
        pytest.skip("has no status word")
    sandbox.add_faults(Fault("patch", provider=name, operation="batches.get", body=word))
    status = provider.status(batch_id)
    assert status.status is BatchStatus.IN_PROGRESS
    assert not status.known


def test_uploaded_files_are_deleted_once_and_again(provider: BatchProvider, name: str, sandbox: Sandbox) -> None:
    batch_id, file_id = submit(provider, prepare(provider, prompts(1)))
    for _ in range(2):
        provider.clean_up(batch_id, provider.status(batch_id).refs, file_id=file_id)
    assert all(file["deleted"] for file in sandbox.files() if file["id"] == file_id)


def test_a_refused_key_and_a_good_one_are_told_apart(connect: Callable[..., BatchProvider]) -> None:
    connect().check_access()
    with pytest.raises(AccessDenied) as caught:
        connect(key="invalid").check_access()
    assert caught.value.http_status == 401


def test_what_goes_wrong_on_the_wire_keeps_its_kind(provider: BatchProvider, name: str, sandbox: Sandbox) -> None:
    stored = prepare(provider, prompts(1))
    batch_id, _ = submit(provider, stored)
    here: dict[str, Any] = {"provider": name, "operation": "batches.get"}
    sandbox.add_faults(Fault("status", status=429, retry_after=7, **here))
    with pytest.raises(RateLimited) as limited:
        provider.status(batch_id)
    assert limited.value.retry_after == timedelta(seconds=7)
    sandbox.add_faults(Fault("status", status=503, **here))
    with pytest.raises(ProviderUnavailable):
        provider.status(batch_id)
    sandbox.add_faults(Fault("drop", provider=name, operation="batches.create", when="after"))
    before = len(sandbox.batches())
    with pytest.raises(AnswerLost):
        submit(provider, stored, tag="nm-lost")
    assert len(sandbox.batches()) == before + 1


def test_structured_output_and_tools_reach_the_model(provider: BatchProvider) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tool = {"name": "look_up", "description": "Looks up", "parameters": schema}
    stored = prepare(
        provider,
        [
            {"custom_id": "schema", "prompt": "Where?", "system": "Be brief", "response_schema": schema},
            {"custom_id": "tools", "messages": [{"role": "user", "content": "Where?"}], "tools": [tool]},
        ],
    )
    assert stored[0].response_schema is not None
    assert msgspec.json.decode(stored[0].response_schema) == schema
    assert b"look_up" in stored[1].line
    batch_id, _ = submit(provider, stored)
    found = entries(provider, batch_id)
    assert found["schema"].text is not None
    assert set(msgspec.json.decode(found["schema"].text)) == {"city"}
    assert found["tools"].error is None


def test_an_unknown_provider_is_refused_with_the_known_ones(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidInput, match="anthropic, google, openai, xai"):
        open_provider("mistral", ProviderConfig(api_key=SecretStr("k"), base_url="http://127.0.0.1:1"))


def test_rendering_needs_no_key_but_calling_does(name: str, sandbox: Sandbox) -> None:
    provider = open_provider(name, ProviderConfig(api_key=None, base_url=sandbox.base_urls[name]))
    assert len(prepare(provider, prompts(2))) == 2
    with pytest.raises(NotConfigured, match="no API key"):
        provider.check_access()
    provider.close()


def test_a_large_batch_arrives_whole_and_comes_back_whole(provider: BatchProvider, sandbox: Sandbox) -> None:
    stored = prepare(provider, prompts(1_500, size=1_000))  # several blocks of 256 KiB, several pages of results
    batch_id, _ = submit(provider, stored)
    assert set(entries(provider, batch_id)) == {one.wire_id for one in stored}


@pytest.mark.parametrize("name", ["google"])
def test_a_large_google_batch_goes_by_file(
    provider: BatchProvider, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google, "INLINE_BYTES", 1_000)
    stored = prepare(provider, prompts(20))
    batch_id, file_id = submit(provider, stored)
    assert file_id is not None
    assert provider.find_upload(tag=TAG) == file_id
    status = provider.status(batch_id)
    assert status.refs["responses_file"].startswith("files/")
    assert set(entries(provider, batch_id)) == {one.wire_id for one in stored}
    provider.clean_up(batch_id, status.refs, file_id=file_id)
    provider.clean_up(batch_id, status.refs, file_id=file_id)
    assert provider.find_upload(tag=TAG) is None


@pytest.mark.parametrize("name", ["openai"])
def test_azure_takes_its_own_header_and_version(connect: Callable[..., BatchProvider], sandbox: Sandbox) -> None:
    provider = connect(auth_header="api-key", api_version="2024-10-21")
    provider.check_model("my-realtime-deployment")  # a deployment's name says nothing about its model
    batch_id, file_id = submit(provider, prepare(provider, prompts(2)))
    assert len(entries(provider, batch_id)) == 2
    provider.find(tag=TAG, since=datetime.now(UTC))
    provider.clean_up(batch_id, {}, file_id=file_id)
    assert {call["query"].get("api-version") for call in sandbox.log()} == {"2024-10-21"}


@pytest.mark.parametrize("name", ["anthropic"])
def test_the_key_does_not_travel_to_another_host(provider: BatchProvider, sandbox: Sandbox, name: str) -> None:
    batch_id, _ = submit(provider, prepare(provider, prompts(1)))
    elsewhere = {"results_url": "http://127.0.0.1:1/results"}
    sandbox.add_faults(Fault("patch", provider=name, operation="batches.get", body=elsewhere))
    refs = provider.status(batch_id).refs
    assert refs == elsewhere
    with pytest.raises(ForeignHost):
        list(next(provider.results(batch_id, refs)).chunks)


@pytest.mark.parametrize("name", ["xai"])
def test_a_list_that_goes_round_in_circles_is_an_error(provider: BatchProvider, sandbox: Sandbox, name: str) -> None:
    batch_id, _ = submit(provider, prepare(provider, prompts(3)))
    token = {"pagination_token": "MA=="}  # the first page again
    for operation in ("results.get", "batches.list"):
        sandbox.add_faults(Fault("patch", provider=name, operation=operation, times=None, body=token))
    with pytest.raises(ProviderUnavailable, match="repeats the page"):
        list(next(provider.results(batch_id, {})).chunks)
    with pytest.raises(ProviderUnavailable, match="repeats the page"):
        provider.find(tag=TAG, since=datetime.now(UTC))


@pytest.mark.parametrize("kind", ["nul", "surrogate", "bytes", "control", "nan", "infinity", "deep", "malformed"])
def test_one_broken_entry_harms_no_other(provider: BatchProvider, sandbox: Sandbox, name: str, kind: str) -> None:
    if kind == "malformed" and name in ("google", "xai"):
        pytest.skip("the entries are members of one document, which is then broken as a whole")
    batch_id, _ = submit(provider, prepare(provider, prompts(5)))
    action = ("malformed", "") if kind == "malformed" else ("poison", kind)
    sandbox.add_faults(Fault(action[0], provider=name, kind=action[1], times=None, ids=("r2",)))
    good, bad = set(), []
    for source in provider.results(batch_id, provider.status(batch_id).refs):
        for line in filter(bytes.strip, b"".join(source.chunks).split(b"\n")):
            try:
                good.add(provider.read_entry(line).wire_id)
            except MalformedEntry as error:
                bad.append(error.wire_id)
    assert good == {"r0", "r1", "r3", "r4"}
    assert len(bad) == 1


@pytest.mark.parametrize("kind", ["u2028", "emoji"])
def test_strange_but_valid_text_is_text(provider: BatchProvider, sandbox: Sandbox, name: str, kind: str) -> None:
    batch_id, _ = submit(provider, prepare(provider, prompts(3)))
    sandbox.add_faults(Fault("poison", provider=name, kind=kind, times=None, ids=("r1",)))
    found = entries(provider, batch_id)
    assert len(found) == 3
    text = found["r1"].text
    assert text is not None
    assert ("\u2028" if kind == "u2028" else "\u200d") in text
