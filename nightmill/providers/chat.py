"""Chat completions, the format that OpenAI and xAI share: requests written, answers read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from nightmill.completions.neutral import ImagePart, TextPart
from nightmill.errors import InvalidInput
from nightmill.providers.base import Entry, Usage
from nightmill.providers.entries import Count, ToolCall, arguments_of, tool_calls_json
from nightmill.providers.wire import is_strict

if TYPE_CHECKING:
    from nightmill.completions.neutral import NeutralRequest

SCHEMA_NAME = "response"


class Details(msgspec.Struct):
    """What a count of tokens consists of."""

    cached_tokens: Count | None = None
    reasoning_tokens: Count | None = None


class ChatUsage(msgspec.Struct):
    """Tokens of a chat completion."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None


class _Part(msgspec.Struct):
    text: str | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _ToolCall(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None
    tool_calls: list[_ToolCall] | None = None


class Choice(msgspec.Struct):
    """One of the answers; only the first is read."""

    message: _Message | None = None
    finish_reason: str | None = None


def chat_body(request: NeutralRequest, model: str) -> dict[str, Any]:
    """Return the body for `/v1/chat/completions`."""
    messages: list[dict[str, Any]] = []
    if request.system is not None:
        messages.append({"role": "system", "content": request.system})
    if request.prompt is not None:
        messages.append({"role": "user", "content": single_prompt(request)})
    for message in request.messages:
        content: Any = message.content
        if not isinstance(content, str):
            content = [_part(part) for part in content]
        messages.append({"role": message.role, "content": content})
    body: dict[str, Any] = {"model": model, "messages": messages}
    if request.max_output_tokens is not None:
        body["max_completion_tokens"] = request.max_output_tokens
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.response_schema is not None:
        schema = {"name": SCHEMA_NAME, "schema": request.response_schema, "strict": is_strict(request.response_schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    **({"description": tool.description} if tool.description else {}),
                    "parameters": tool.parameters,
                },
            }
            for tool in request.tools
        ]
    return body


def _part(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image_url", "image_url": part.image_url}


def single_prompt(request: NeutralRequest) -> str:
    """Return the prompt, which may be a list for embeddings only.

    Raises:
        InvalidInput: It is a list.
    """
    if not isinstance(request.prompt, str):
        raise InvalidInput("prompt: several texts in one request work for /v1/embeddings only")
    return request.prompt


def read_choices(entry: Entry, choices: list[Choice]) -> None:
    """Put text, tool calls and finish reason of the first choice into the entry."""
    if not choices:
        return
    entry.finish_reason = choices[0].finish_reason
    message = choices[0].message
    if message is None:
        return
    content = message.content
    if isinstance(content, list):
        content = "\n".join(part.text for part in content if part.text is not None)
    entry.text = content
    if message.tool_calls:
        entry.tool_calls = tool_calls_json(
            ToolCall(call.id, call.function.name, arguments_of(call.function.arguments))
            for call in message.tool_calls
            if call.function is not None
        )


def chat_usage(usage: ChatUsage | None, *, reasoning_is_extra: bool) -> Usage | None:
    """Return the tokens as billed, None where the provider does not say.

    Args:
        usage: As the provider reports it.
        reasoning_is_extra: Whether reasoning tokens come on top of the completion's (xAI).
    """
    if usage is None or (usage.prompt_tokens is None and usage.completion_tokens is None):
        return None
    reasoning = (usage.completion_tokens_details.reasoning_tokens if usage.completion_tokens_details else None) or 0
    cached = (usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None) or 0
    return Usage(
        input=usage.prompt_tokens or 0,
        output=(usage.completion_tokens or 0) + (reasoning if reasoning_is_extra else 0),
        cached=cached,
        reasoning=reasoning,
    )
