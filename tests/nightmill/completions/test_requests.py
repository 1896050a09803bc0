"""What users may send, and the one message that names everything that is wrong."""

import json
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from nightmill.completions.requests import (
    RequestReader,
    StoredRequest,
    read_request_objects,
    read_requests,
    wire_id_of,
)
from nightmill.errors import InvalidInput
from nightmill.providers.base import BatchProvider
from nightmill.providers.config import ProviderConfig
from nightmill.providers.registry import PROVIDER_NAMES, open_provider

MODEL = {"openai": "gpt-5-mini", "anthropic": "claude-sonnet-4-5", "google": "gemini-2.5-flash", "xai": "grok-4"}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def providers() -> Iterator[dict[str, BatchProvider]]:
    opened = {name: connect(name) for name in PROVIDER_NAMES}
    yield opened
    for provider in opened.values():
        provider.close()


def connect(name: str, **changes: Any) -> BatchProvider:
    return open_provider(name, ProviderConfig(api_key=SecretStr("key"), base_url="http://127.0.0.1:1", **changes))


@pytest.fixture
def openai(providers: dict[str, BatchProvider]) -> BatchProvider:
    return providers["openai"]


def reader(provider: BatchProvider, lines: Iterable[Any], **given: Any) -> RequestReader:
    data = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    return read_requests([data], provider=provider, model=MODEL[provider.name], source="requests.jsonl", **given)


def complaint(provider: BatchProvider, lines: Iterable[Any], **given: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        list(reader(provider, lines, **given))
    return str(caught.value)


def body_of(stored: StoredRequest) -> dict[str, Any]:
    line = json.loads(stored.line)
    return next(line[name] for name in ("body", "params", "request") if name in line)  # type: ignore[no-any-return]


def test_lines_are_found_however_the_bytes_are_cut(openai: BatchProvider) -> None:
    lines = [{"custom_id": f"é{n}", "prompt": "a\u2028b" * n or "x"} for n in range(5)]
    data = b"\xef\xbb\xbf" + "\r\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
    for size in (1, 7, 1000):
        chunks = (data[at : at + size] for at in range(0, len(data), size))
        found = list(read_requests(chunks, provider=openai, model="m", source="x"))
        assert [(one.seq, one.custom_id) for one in found] == [(n, f"é{n}") for n in range(5)]


def test_everything_wrong_is_named_in_one_error(openai: BatchProvider) -> None:
    lines = [
        {"custom_id": "a", "prompt": "fine"},
        {"custom_id": " ", "prompt": "x"},
        b"",
        {"custom_id": "a", "prompt": "x"},
        b'{"custom_id": "b", "prompt": NaN}',
        {"custom_id": "c", "messages": "bare"},
        {"custom_id": "d", "prompt": "x", "max_tokens": 5},
    ]
    text = complaint(openai, lines)
    assert "requests.jsonl:2: blank custom_id" in text
    assert "requests.jsonl:4: duplicate custom_id 'a'" in text
    assert "requests.jsonl:5: invalid JSON" in text
    assert "requests.jsonl:6: messages is a bare string; give a list" in text
    assert "requests.jsonl:7: Object contains unknown field `max_tokens`" in text
    assert "requests.jsonl:1" not in text
    assert "\n" not in text


def test_a_thousand_problems_are_counted_and_twenty_named(openai: BatchProvider) -> None:
    text = complaint(openai, [b"{"] * 1000)
    assert text.count("requests.jsonl:") == 20
    assert text.endswith("and 980 more")


def test_nothing_is_yielded_after_the_first_problem_and_the_end_raises(openai: BatchProvider) -> None:
    found = iter(reader(openai, [{"custom_id": "a", "prompt": "x"}, b"{", {"custom_id": "b", "prompt": "x"}]))
    assert next(found).custom_id == "a"
    with pytest.raises(InvalidInput):
        next(found)


@pytest.mark.parametrize("data", [b"", b"\n\n  \r\n", b"\xef\xbb\xbf"])
def test_no_requests_at_all_are_refused(openai: BatchProvider, data: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"requests\.jsonl: no requests"):
        list(read_requests([data], provider=openai, model="m", source="requests.jsonl"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"prompt":"x"}', "blank custom_id"),
        (b'{"custom_id":7,"prompt":"x"}', "Expected `str | null`, got `int` - at `$.custom_id`"),
        (b'{"custom_id":"a\\u0000b","prompt":"x"}', "NUL character"),
        (b'{"custom_id":"\\ud800","prompt":"x"}', "invalid JSON"),
        (b'{"custom_id":"a","prompt":"\xff"}', "not UTF-8 at byte"),
        (b'{"custom_id":"a","prompt":"x"} {}', "invalid JSON"),
        (b'{"custom_id":"a","body":{"model":"gpt-5-mini","x":' + b"[" * 5000 + b"]" * 5000 + b"}}", "invalid JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"custom_id":"' + b"x" * 513 + b'","prompt":"x"}', "513 characters; 512 at most"),
        (b'{"custom_id":"a"}', "give either messages or prompt"),
        (b'{"custom_id":"a","prompt":""}', "give either messages or prompt"),
        (b'{"custom_id":"a","messages":[]}', "give either messages or prompt"),
        (b'{"custom_id":"a","prompt":"x","messages":[{"role":"user","content":"y"}]}', "give either"),
        (b'{"custom_id":"a","messages":[{"role":"wizard","content":"y"}]}', "Invalid enum value 'wizard'"),
        (b'{"custom_id":"a","prompt":["x","y"]}', "work for /v1/embeddings only"),
        (b'{"custom_id":"a","prompt":"x","max_output_tokens":0}', "max_output_tokens is 0"),
        (b'{"custom_id":"a","prompt":"x","response_schema":{"type":"wizard"}}', "response_schema: at $.type"),
        (b'{"custom_id":"a","prompt":"x","response_schema":"x"}', "a JSON schema is an object"),
        (b'{"custom_id":"a","prompt":"x","response_schema":{"$ref":"http://x/"}}', "only references within"),
        (b'{"custom_id":"a","prompt":"x","tools":[{"type":"web_search"}]}', "tools: give name"),
        (b'{"custom_id":"a","prompt":"x","provider_options":{"model":"o"}}', "mixed models"),
        (b'{"custom_id":"a","body":{"model":"other"}}', "model 'other': mixed models, the batch is for 'gpt-5-mini'"),
        (b'{"custom_id":"a","body":{"input":"x"}}', "native body: model is missing"),
        (b'{"custom_id":"a","body":[1]}', "native body: Expected `object`"),
        (b'{"custom_id":"a","body":{"model":"gpt-5-mini"},"prompt":"x"}', "not both"),
        (b'{"custom_id":"a","url":"/v1/x","body":{"model":"gpt-5-mini"}}', "endpoint '/v1/x': openai takes"),
        (b'{"custom_id":"a","method":"GET","body":{"model":"gpt-5-mini"}}', "batches take POST only"),
        (b'{"custom_id":"a","url":"/v1/responses","prompt":"x"}', "belong to a native line"),
    ],
)
def test_what_is_refused_says_what_is_wrong(openai: BatchProvider, line: bytes, words: str) -> None:
    assert words in complaint(openai, [line])


def test_a_line_that_is_too_long_is_refused_without_being_held(openai: BatchProvider) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"custom_id":"a","prompt":"x"}\n{"custom_id":"b","prompt":"'
        for _ in range(64):
            yield b"x" * 1024 * 1024
        yield b'"}\n{"custom_id":"c","prompt":"x"}'

    tracemalloc.start()
    with pytest.raises(InvalidInput, match=r"x:2: the line is longer than 16,777,216 bytes$"):
        list(read_requests(chunks(), provider=openai, model="m", source="x"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 1024 * 1024


def test_a_request_over_the_providers_limit_is_refused() -> None:
    provider = connect("openai", max_bytes=5_000)
    assert "the request is 9," in complaint(provider, [{"custom_id": "a", "prompt": "x" * 9_000}])
    provider.close()


@pytest.mark.parametrize(("name", "model"), [("xai", "grok-4.5"), ("openai", "gpt-realtime"), ("openai", "whisper-1")])
def test_models_that_cannot_be_batched_are_refused(providers: dict[str, BatchProvider], name: str, model: str) -> None:
    lines = [b'{"custom_id":"a","prompt":"x"}']
    with pytest.raises(InvalidInput, match=f"requests: model '{model}' cannot be used in batches"):
        list(read_requests(lines, provider=providers[name], model=model, source="requests"))


def test_anthropic_and_xai_take_several_models_but_none_that_cannot_be_batched(
    providers: dict[str, BatchProvider],
) -> None:
    for name in ("anthropic", "xai"):
        lines = [{"custom_id": m, "body": {"model": m, "max_tokens": 1, "messages": []}} for m in ("one", "two")]
        assert len(list(reader(providers[name], lines))) == 2
    assert "cannot be used" in complaint(
        providers["xai"], [{"custom_id": "a", "body": {"model": "grok-4.5", "messages": []}}]
    )


@pytest.mark.parametrize(
    ("lines", "given", "endpoint"),
    [
        ([{"custom_id": "a", "prompt": "x"}], None, "/v1/responses"),
        ([{"custom_id": "a", "prompt": "x"}], CHAT, CHAT),
        ([{"custom_id": "a", "url": CHAT, "method": "POST", "body": {"model": "gpt-5-mini"}}], None, CHAT),
        ([{"custom_id": "a", "body": {"model": "gpt-5-mini", "messages": [1]}}], None, CHAT),
        ([{"custom_id": "a", "body": {"model": "gpt-5-mini", "input": "x"}}], None, "/v1/responses"),
        ([{"custom_id": "a", "prompt": ["x", "y"]}], "/v1/embeddings", "/v1/embeddings"),
    ],
)
def test_the_endpoint_is_settled(openai: BatchProvider, lines: list[Any], given: str | None, endpoint: str) -> None:
    read = reader(openai, lines, endpoint=given)
    stored = list(read)
    assert read.endpoint == endpoint
    assert json.loads(stored[0].line)["url"] == endpoint


def test_mixed_endpoints_are_refused(openai: BatchProvider) -> None:
    native = {"custom_id": "n", "url": CHAT, "body": {"model": "gpt-5-mini", "messages": [1]}}
    assert "requests.jsonl:2: url '/v1/chat/completions': mixed endpoints" in complaint(
        openai, [{"custom_id": "a", "prompt": "x"}, native]
    )
    assert "mixed endpoints, the batch is for '/v1/responses'" in complaint(openai, [native], endpoint="/v1/responses")


def test_an_unknown_endpoint_is_refused_for_the_whole_batch(openai: BatchProvider) -> None:
    text = complaint(openai, [{"custom_id": "a", "prompt": "x"}], endpoint="/v1/images")
    assert text.startswith("requests.jsonl: endpoint '/v1/images': openai takes /v1/responses")


def test_an_openai_line_is_refused_where_there_are_no_endpoints(providers: dict[str, BatchProvider]) -> None:
    line = {"custom_id": "a", "url": CHAT, "body": {"model": "claude", "messages": []}}
    assert "anthropic has no choice of endpoints" in complaint(providers["anthropic"], [line])


def test_a_native_body_is_passed_through_byte_for_byte(providers: dict[str, BatchProvider]) -> None:
    body = b'{ "model":"MODEL", "n":1.50, "big":12345678901234567890123, "dup":1, "dup":2, "t":"\\u00e9\xc3\xa9" }'
    envelope = b'{"custom_id":"a","method":"POST","url":"%b","body":%b}'
    shapes = {
        "openai": (b'{"custom_id":"a","body":%b}', envelope % (b"/v1/responses", b"%b")),
        "xai": (b'{"custom_id":"a","body":%b}', envelope % (CHAT.encode(), b"%b")),
        "anthropic": (b'{"custom_id":"a","params":%b}', b'{"custom_id":"a","params":%b}'),
        "google": (b'{"key":"a","request":%b}', b'{"key":"a","request":%b}'),
    }
    for name, (given, expected) in shapes.items():
        mine = body.replace(b"MODEL", MODEL[name].encode())
        assert next(iter(reader(providers[name], [given % mine]))).line == expected % mine


def test_carriage_returns_between_tokens_become_blanks(openai: BatchProvider) -> None:
    stored = list(reader(openai, [b'{"custom_id":"a","body":{\r"model":"gpt-5-mini",\r"t":"\\r"}}']))
    assert b'{ "model":"gpt-5-mini", "t":"\\r"}' in stored[0].line


def test_xai_bodies_lose_their_stream_fields_only(providers: dict[str, BatchProvider]) -> None:
    native = {"model": "grok-4", "messages": [], "stream": True, "stream_options": {}, "n": 1}
    neutral = {"custom_id": "b", "prompt": "x", "provider_options": {"stream": True, "top_p": 0.5}}
    stored = list(reader(providers["xai"], [{"custom_id": "a", "body": native}, neutral]))
    assert body_of(stored[0]) == {"model": "grok-4", "messages": [], "n": 1}
    assert body_of(stored[1])["top_p"] == 0.5
    assert "stream" not in body_of(stored[1])


@pytest.mark.parametrize("name", PROVIDER_NAMES)
def test_wire_ids_are_safe_and_different(providers: dict[str, BatchProvider], name: str) -> None:
    ids = ["plain", "a b", "ü", "x" * 512, 'q"uote', "back\\slash", "nm_mine", "line\nfeed", " padded ", "A", "a"]
    stored = list(
        read_request_objects([{"custom_id": i, "prompt": "x"} for i in ids], provider=providers[name], model="m")
    )
    assert [one.custom_id for one in stored] == ids
    assert len({one.wire_id for one in stored}) == len(ids)
    assert stored[0].wire_id == "plain"
    made = [one.wire_id for one in stored if one.wire_id != one.custom_id]
    assert all(wire_id.startswith("nm_") and len(wire_id) <= 64 for wire_id in made)
    for one in stored:
        line = json.loads(one.line)
        assert one.wire_id in (line.get("custom_id"), line.get("key"))


def test_an_id_that_looks_like_a_made_one_cannot_take_its_place(openai: BatchProvider) -> None:
    made = wire_id_of("line\nfeed", openai)
    assert wire_id_of(made, openai) != made


def test_python_objects_are_read_like_lines(openai: BatchProvider) -> None:
    stored = list(
        read_request_objects(({"custom_id": str(n), "prompt": "é"} for n in range(3)), provider=openai, model="m")
    )
    assert [one.custom_id for one in stored] == ["0", "1", "2"]


@pytest.mark.parametrize("requests", ["a string", b"bytes", {"custom_id": "a", "prompt": "x"}])
def test_a_single_string_or_object_is_not_a_list_of_requests(openai: BatchProvider, requests: Any) -> None:
    with pytest.raises(InvalidInput, match="give a list of requests, not a single"):
        read_request_objects(requests, provider=openai, model="m")


def test_python_objects_that_are_no_json_are_named_by_their_place(openai: BatchProvider) -> None:
    loop: list[Any] = []
    loop.append(loop)
    requests: list[Any] = [
        "a bare string",
        {"custom_id": "a", "prompt": "x", "temperature": float("nan")},
        {"custom_id": "b", "prompt": object()},
        {"custom_id": "c", "prompt": "x", "provider_options": {"loop": loop}},
        {"custom_id": "\ud800", "prompt": "x"},
    ]
    with pytest.raises(InvalidInput) as caught:
        list(read_request_objects(requests, provider=openai, model="m"))
    text = str(caught.value)
    assert "requests[0]: a request is an object, not str" in text
    for place in range(1, 5):
        assert f"requests[{place}]: cannot be expressed as JSON" in text


def test_memory_grows_by_little_more_than_the_ids(openai: BatchProvider) -> None:
    chunks = (b'{"custom_id":"r%d","prompt":"%b"}\n' % (n, b"x" * 500) for n in range(20_000))
    tracemalloc.start()
    for _ in read_requests(chunks, provider=openai, model="m", source="x"):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000 * 250  # half of what was read; the set is at its largest while it grows
