"""What a provider-neutral request becomes in each provider's words."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from nightmill.completions.requests import read_request_objects
from nightmill.errors import InvalidInput
from nightmill.providers.base import BatchProvider
from nightmill.providers.config import ProviderConfig
from nightmill.providers.registry import PROVIDER_NAMES, open_provider

MODEL = {"openai": "gpt-5-mini", "anthropic": "claude-sonnet-4-5", "google": "gemini-2.5-flash", "xai": "grok-4"}
CHAT = "/v1/chat/completions"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


@pytest.fixture(scope="module")
def providers() -> Iterator[dict[str, BatchProvider]]:
    config = ProviderConfig(api_key=SecretStr("key"), base_url="http://127.0.0.1:1")
    opened = {name: open_provider(name, config) for name in PROVIDER_NAMES}
    yield opened
    for provider in opened.values():
        provider.close()


@pytest.fixture
def openai(providers: dict[str, BatchProvider]) -> BatchProvider:
    return providers["openai"]


def rendered(provider: BatchProvider, request: dict[str, Any], **given: Any) -> dict[str, Any]:
    """Return the body that a request is rendered to."""
    stored = list(read_request_objects([request], provider=provider, model=MODEL[provider.name], **given))
    line = json.loads(stored[0].line)
    return next(line[name] for name in ("body", "params", "request") if name in line)  # type: ignore[no-any-return]


FULL = {
    "custom_id": "a",
    "system": "Be brief",
    "messages": [
        {"role": "developer", "content": "In French"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "A cat"}]},
    ],
    "max_output_tokens": 5,
    "temperature": 0.5,
    "response_schema": SCHEMA,
    "tools": [{"name": "f", "description": "d", "parameters": SCHEMA}],
}


def test_openai_responses_bodies(openai: BatchProvider) -> None:
    options = {"text": {"verbosity": "low"}, "top_p": 1}
    body = rendered(openai, FULL | {"provider_options": options})
    assert body == {
        "model": "gpt-5-mini",
        "input": [
            {"role": "developer", "content": "In French"},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is it?"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
                ],
            },
            {"role": "assistant", "content": [{"type": "output_text", "text": "A cat"}]},
        ],
        "instructions": "Be brief",
        "max_output_tokens": 5,
        "temperature": 0.5,
        "text": {
            "format": {"type": "json_schema", "name": "response", "schema": SCHEMA, "strict": True},
            "verbosity": "low",
        },
        "tools": [{"type": "function", "name": "f", "description": "d", "parameters": SCHEMA, "strict": True}],
        "top_p": 1,
    }


@pytest.mark.parametrize("name", ["openai", "xai"])
def test_chat_bodies(providers: dict[str, BatchProvider], name: str) -> None:
    body = rendered(providers[name], FULL, endpoint=CHAT)
    assert [message["role"] for message in body["messages"]] == ["system", "developer", "user", "assistant"]
    assert body["messages"][2]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,AAAA"},
    }
    assert body["response_format"]["json_schema"] == {"name": "response", "schema": SCHEMA, "strict": True}
    assert body["tools"][0] == {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
    assert (body["max_completion_tokens"], body["temperature"], "stream" in body) == (5, 0.5, False)


def test_anthropic_bodies(providers: dict[str, BatchProvider]) -> None:
    body = rendered(providers["anthropic"], FULL)
    image = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    assert body == {
        "model": "claude-sonnet-4-5",
        "max_tokens": 5,
        "system": "Be brief\n\nIn French",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image", "source": image}]},
            {"role": "assistant", "content": [{"type": "text", "text": "A cat"}]},
        ],
        "temperature": 0.5,
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
    }
    assert rendered(providers["anthropic"], {"custom_id": "a", "prompt": "x"})["max_tokens"] > 0


def test_google_bodies(providers: dict[str, BatchProvider]) -> None:
    options = {"generationConfig": {"topP": 1}}
    body = rendered(providers["google"], FULL | {"provider_options": options})
    assert body == {
        "contents": [
            {
                "role": "user",
                "parts": [{"text": "What is it?"}, {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}],
            },
            {"role": "model", "parts": [{"text": "A cat"}]},
        ],
        "systemInstruction": {"parts": [{"text": "Be brief"}, {"text": "In French"}]},
        "generationConfig": {
            "maxOutputTokens": 5,
            "temperature": 0.5,
            "responseMimeType": "application/json",
            "responseJsonSchema": SCHEMA,
            "topP": 1,
        },
        "tools": [{"functionDeclarations": [{"name": "f", "description": "d", "parametersJsonSchema": SCHEMA}]}],
    }


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (SCHEMA, True),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, False),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": False}, False),
        ({"type": "array", "items": {"type": "object", "properties": {}}}, False),
        ({"type": "array", "items": SCHEMA}, True),
    ],
)
def test_strict_mode_is_asked_for_only_where_openai_takes_it(
    openai: BatchProvider, schema: dict[str, Any], strict: bool
) -> None:
    line = {"custom_id": "a", "prompt": "x", "response_schema": schema}
    assert rendered(openai, line)["text"]["format"]["strict"] is strict


def test_embeddings_take_a_prompt_and_nothing_else(openai: BatchProvider) -> None:
    body = rendered(openai, {"custom_id": "a", "prompt": ["x", "y"]}, endpoint="/v1/embeddings")
    assert body == {"model": "gpt-5-mini", "input": ["x", "y"]}
    with pytest.raises(InvalidInput, match="system: /v1/embeddings takes a prompt and provider_options only"):
        rendered(openai, {"custom_id": "a", "prompt": "x", "system": "y"}, endpoint="/v1/embeddings")
