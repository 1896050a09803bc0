"""Reading single entries, with every trap that the providers' notes and issues name."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from nightmill.providers.base import BatchProvider, Entry, MalformedEntry
from nightmill.providers.config import ProviderConfig
from nightmill.providers.registry import PROVIDER_NAMES, open_provider

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(scope="module")
def providers() -> Iterator[dict[str, BatchProvider]]:
    config = ProviderConfig(api_key=SecretStr("key"), base_url="http://127.0.0.1:1")
    opened = {name: open_provider(name, config) for name in PROVIDER_NAMES}
    yield opened
    for provider in opened.values():
        provider.close()


def chat(content: Any = "Hi", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more}
    return {"model": "m-1", "choices": [{"message": message, "finish_reason": "stop"}]}


def answered(name: str, text: Any) -> dict[str, Any]:
    """Return a successful entry for `a` with this text."""
    return {
        "openai": {"custom_id": "a", "response": {"status_code": 200, "body": chat(text)}, "error": None},
        "xai": {"batch_request_id": "a", "batch_result": {"response": {"chat_get_completion": chat(text)}}},
        "anthropic": {
            "custom_id": "a",
            "result": {"type": "succeeded", "message": {"content": [{"type": "text", "text": text}]}},
        },
        "google": {"key": "a", "response": {"candidates": [{"content": {"parts": [{"text": text}]}}]}},
    }[name]


def openai_line(body: Any, status: int | None = 200, error: Any = None) -> dict[str, Any]:
    return {"id": "x", "custom_id": "a", "response": {"status_code": status, "body": body}, "error": error}


@pytest.fixture
def read(providers: dict[str, BatchProvider]) -> Any:
    def reader(name: str, value: Any) -> Entry:
        return providers[name].read_entry(value if isinstance(value, bytes) else msgspec.json.encode(value))

    return reader


# success


def test_openai_chat_answers(read: Any) -> None:
    body = chat() | {
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 7,
            "total_tokens": 17,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 3},
        }
    }
    entry = read("openai", openai_line(body))
    assert (entry.wire_id, entry.text, entry.finish_reason, entry.model) == ("a", "Hi", "stop", "m-1")
    assert (entry.usage.input, entry.usage.output, entry.usage.cached, entry.usage.reasoning) == (10, 7, 4, 3)


def test_openai_responses_join_all_output_texts_by_newline(read: Any) -> None:
    parts = [{"type": "output_text", "text": "one"}, {"type": "refusal", "refusal": "no"}]
    output = [
        {"type": "reasoning", "summary": []},
        {"type": "message", "content": parts},
        {"type": "function_call", "call_id": "c1", "name": "look_up", "arguments": '{"q": 1}'},
        {"type": "message", "content": [{"type": "output_text", "text": "two"}]},
    ]
    usage = {
        "input_tokens": 9,
        "output_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens_details": {"reasoning_tokens": 1},
    }
    entry = read("openai", openai_line({"status": "completed", "output": output, "usage": usage}))
    assert entry.text == "one\ntwo"
    assert entry.finish_reason == "completed"
    assert msgspec.json.decode(entry.tool_calls) == [{"id": "c1", "name": "look_up", "arguments": {"q": 1}}]
    assert (entry.usage.input, entry.usage.output, entry.usage.cached, entry.usage.reasoning) == (9, 5, 2, 1)


def test_a_truncated_response_says_what_cut_it_short(read: Any) -> None:
    body = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []}
    entry = read("openai", openai_line(body))
    assert (entry.error, entry.text, entry.finish_reason) == (None, None, "max_output_tokens")


def test_embeddings_are_kept_as_json(read: Any) -> None:
    body = {"data": [{"index": 0, "embedding": [0.25, 1e-3]}], "model": "e", "usage": {"prompt_tokens": 3}}
    entry = read("openai", openai_line(body))
    assert msgspec.json.decode(entry.output)[0]["embedding"] == [0.25, 0.001]
    assert (entry.usage.input, entry.usage.output) == (3, 0)


def test_a_missing_status_counts_as_200(read: Any) -> None:
    assert read("openai", openai_line(chat(), status=None)).text == "Hi"


def test_anthropic_counts_cached_tokens_beside_the_input(read: Any) -> None:
    message = {
        "model": "claude",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "Hi "},
            {"type": "text", "text": "there"},
            {"type": "tool_use", "id": "t1", "name": "look_up", "input": {"q": [1]}},
        ],
        "stop_reason": "tool_use",
        "usage": {
            "input_tokens": 3,
            "output_tokens": 4,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 50,
        },
    }
    entry = read("anthropic", {"custom_id": "a", "result": {"type": "succeeded", "message": message}})
    assert (entry.text, entry.finish_reason, entry.model) == ("Hi there", "tool_use", "claude")
    assert msgspec.json.decode(entry.tool_calls) == [{"id": "t1", "name": "look_up", "arguments": {"q": [1]}}]
    usage = entry.usage
    assert (usage.input, usage.output, usage.cached, usage.cache_write) == (3, 4, 100, 50)


def test_google_counts_thoughts_as_output_and_tool_prompts_as_input(read: Any) -> None:
    usage = {
        "promptTokenCount": 10,
        "toolUsePromptTokenCount": 5,
        "candidatesTokenCount": 7,
        "thoughtsTokenCount": 20,
        "cachedContentTokenCount": 4,
        "totalTokenCount": 42,
    }
    parts = [{"text": "hidden", "thought": True}, {"text": "Hi "}, {"text": "there"}]
    response = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}], "usageMetadata": usage}
    entry = read("google", {"metadata": {"key": "a"}, "response": response})
    assert (entry.wire_id, entry.text, entry.finish_reason) == ("a", "Hi there", "STOP")
    assert (entry.usage.input, entry.usage.output, entry.usage.cached, entry.usage.reasoning) == (15, 27, 4, 20)


def test_a_prompt_that_google_blocks_is_an_answer_without_text(read: Any) -> None:
    entry = read("google", {"key": "a", "response": {"promptFeedback": {"blockReason": "SAFETY"}}})
    assert (entry.error, entry.text, entry.finish_reason) == (None, None, "SAFETY")


def test_xai_reasoning_tokens_come_on_top(read: Any) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 9}}
    entry = read(
        "xai",
        {"batch_request_id": "a", "batch_result": {"response": {"chat_get_completion": chat() | {"usage": usage}}}},
    )
    assert (entry.usage.output, entry.usage.reasoning) == (11, 9)


@pytest.mark.parametrize("name", PROVIDER_NAMES)
def test_line_separators_within_a_text_are_text(read: Any, name: str) -> None:
    text = "a\u2028b\u2029c\u0085d"
    assert read(name, answered(name, text)).text == text


# failure


OUTER = {"message": "outer", "code": "c"}
NOTHING = {"custom_id": "a", "response": None, "error": None}
FAILED = {"status": "failed", "output": [], "error": {"code": "server_error", "message": "x"}}
UNKNOWN = "OpenAI batch entry failed (status: unknown)"


@pytest.mark.parametrize(
    ("line", "message", "code", "retryable", "status"),
    [
        (openai_line({"error": {"message": "bad", "type": "invalid_request_error"}}, 400), "bad", None, False, 400),
        (openai_line({"error": {"message": "busy"}}, 429), "busy", None, True, 429),
        (openai_line({"error": {"message": "down", "type": "server_error"}}, 500), "down", None, True, 500),
        (openai_line("<html>", 502), "<html>", None, True, 502),
        (openai_line(None, 404), "OpenAI batch entry failed (status: 404)", None, False, 404),
        (openai_line({"error": {"message": "inner"}}, 400, OUTER), "outer", "c", False, 400),
        (NOTHING, UNKNOWN, None, False, None),
        (openai_line(FAILED), "x", "server_error", True, None),
    ],
)
def test_openai_failures(
    read: Any, line: dict[str, Any], message: str, code: str | None, retryable: bool, status: int | None
) -> None:
    error = read("openai", line).error
    assert (error.message, error.provider_code, error.retryable, error.http_status) == (
        message,
        code,
        retryable,
        status,
    )
    assert error.code == "provider_error"


@pytest.mark.parametrize(
    ("code", "ours", "retryable"), [("batch_expired", "expired", True), ("batch_cancelled", "canceled", False)]
)
def test_openai_requests_that_were_never_run(read: Any, code: str, ours: str, retryable: bool) -> None:
    error = read("openai", {"custom_id": "a", "response": None, "error": {"code": code, "message": "m"}}).error
    assert (error.code, error.provider_code, error.retryable) == (ours, code, retryable)


@pytest.mark.parametrize(
    "error",
    [
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "r"},
        {"type": "overloaded_error", "message": "Overloaded"},
    ],
)
def test_anthropic_errors_are_read_nested_and_flat(read: Any, error: dict[str, Any]) -> None:
    found = read("anthropic", {"custom_id": "a", "result": {"type": "errored", "error": error}}).error
    assert (found.message, found.provider_type, found.retryable) == ("Overloaded", "overloaded_error", True)


@pytest.mark.parametrize(("kind", "retryable"), [("canceled", False), ("expired", True)])
def test_anthropic_requests_that_were_never_run(read: Any, kind: str, retryable: bool) -> None:
    error = read("anthropic", {"custom_id": "a", "result": {"type": kind}}).error
    assert (error.code, error.retryable) == (kind, retryable)


@pytest.mark.parametrize(
    "result", [None, {}, {"type": "succeeded"}, {"type": "new_word"}, {"type": "errored", "error": "x"}]
)
def test_anthropic_results_of_no_known_kind_fail(read: Any, result: Any) -> None:
    assert read("anthropic", {"custom_id": "a", "result": result}).error.code == "provider_error"


@pytest.mark.parametrize(
    ("entry", "code", "retryable"),
    [
        ({"error": {"code": 3, "message": "bad"}}, "3", False),
        ({"error": {"code": 8, "message": "quota"}}, "8", True),
        ({"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED"}}, "429", True),
        ({"status": {"code": 13, "message": "broken"}}, "13", True),
        ({"error": {"code": 400, "message": "bad"}, "response": {}}, "400", False),
        ({}, None, False),
    ],
)
def test_google_failures(read: Any, entry: dict[str, Any], code: str | None, retryable: bool) -> None:
    error = read("google", {"key": "a"} | entry).error
    assert (error.provider_code, error.retryable) == (code, retryable)


def test_a_google_entry_without_a_key_is_matched_to_nothing(read: Any) -> None:
    for line in ({"response": {}}, {"metadata": {}, "response": {}}, {"key": "", "response": {}}):
        with pytest.raises(MalformedEntry, match="no key") as caught:
            read("google", line)
        assert caught.value.wire_id is None


NO_COMPLETION = "xAI batch entry without a completion"


@pytest.mark.parametrize(
    ("entry", "message", "code", "ours", "retryable"),
    [
        ({"batch_result": {"error": {"code": 3, "message": "bad"}}}, "bad", "3", "provider_error", False),
        ({"batch_result": {"error": {"code": 13, "message": "oops"}}}, "oops", "13", "provider_error", True),
        ({"batch_result": {"error": {"code": 1, "message": "cancelled"}}}, "cancelled", "1", "canceled", False),
        ({"batch_result": {"error": "flat"}}, "flat", None, "provider_error", False),
        ({"error": {"message": "outer"}}, "outer", None, "provider_error", False),
        ({"error_message": "only this"}, "only this", None, "provider_error", False),
        ({"batch_result": {"response": {"responses": {}}}}, NO_COMPLETION, None, "provider_error", False),
        ({}, NO_COMPLETION, None, "provider_error", False),
    ],
)
def test_xai_failures(
    read: Any, entry: dict[str, Any], message: str, code: str | None, ours: str, retryable: bool
) -> None:
    error = read("xai", {"batch_request_id": "a"} | entry).error
    assert (error.message, error.provider_code, error.code, error.retryable) == (message, code, ours, retryable)


def test_an_xai_error_code_of_zero_means_success(read: Any) -> None:
    result = {"response": {"chat_get_completion": chat()}, "error": {"code": 0, "message": ""}}
    assert read("xai", {"batch_request_id": "a", "batch_result": result}).error is None


# poison


def with_text(name: str, text: str) -> bytes:
    """Return a successful entry for `a` with this JSON text, which may be no JSON, in place of the answer."""
    return msgspec.json.encode(answered(name, "TEXT")).replace(b'"TEXT"', text.encode("utf-8", "surrogatepass"))


POISON = {
    "nan": "NaN",
    "inf": "Infinity",
    "half a pair": '"\\ud800"',
    "half a pair, raw": '"\ud800"',
    "nul": '"a\\u0000b"',
    "nul, raw": '"raw \x00"',
    "control": '"\x01"',
    "deep": DEEP,
    "cut": '"cut off',
    "open": "{",
    "number": "17",
    "word": "tru",
}


@pytest.mark.parametrize("name", PROVIDER_NAMES)
@pytest.mark.parametrize("text", POISON.values(), ids=POISON.keys())
def test_a_poisoned_entry_is_malformed_and_still_names_its_request(read: Any, name: str, text: str) -> None:
    with pytest.raises(MalformedEntry) as caught:
        read(name, with_text(name, text))
    assert caught.value.wire_id == "a"


@pytest.mark.parametrize("name", PROVIDER_NAMES)
@pytest.mark.parametrize("line", [b"", b"null", b"[]", b"7", b'"x"', b"\xff\xfe", b"not JSON", b"{}{}"])
def test_what_is_no_entry_at_all_is_malformed(read: Any, name: str, line: bytes) -> None:
    with pytest.raises(MalformedEntry) as caught:
        read(name, line)
    assert caught.value.wire_id is None


@pytest.mark.parametrize("tokens", [-1, 2**31, 1.5, "7"])
def test_impossible_token_counts_make_an_entry_malformed(read: Any, tokens: Any) -> None:
    with pytest.raises(MalformedEntry):
        read("openai", openai_line(chat() | {"usage": {"prompt_tokens": tokens}}))


def test_a_key_inside_an_answer_is_not_taken_for_the_entrys_own(read: Any) -> None:
    line = b'{"response":{"candidates":[{"content":{"parts":[{"functionCall":{"args":{"key":"b"}}}]}}]},"x":NaN}'
    with pytest.raises(MalformedEntry) as caught:
        read("google", line)
    assert caught.value.wire_id is None


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_an_id_inside_a_broken_answer_is_not_taken_for_the_entrys_own(read: Any, name: str) -> None:
    with pytest.raises(MalformedEntry) as caught:
        read(name, b'{"id":"x","response":{"body":{"metadata":{"custom_id":"b"}}},"y":NaN}')
    assert caught.value.wire_id is None


def test_an_inline_entry_names_its_request_at_the_end(read: Any) -> None:
    with pytest.raises(MalformedEntry) as caught:
        read("google", b'{"response":{"x":NaN},"metadata":{"key":"b"}}')
    assert caught.value.wire_id == "b"


def test_long_messages_are_cut_and_put_on_one_line(read: Any) -> None:
    error = read("openai", openai_line({"error": {"message": "a\nb" + "x" * 10_000}}, 400)).error
    assert error.message.startswith("a bxxx")
    assert len(error.message) == 1000
