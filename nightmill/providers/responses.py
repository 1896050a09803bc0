"""OpenAI's `/v1/responses`: requests written, answers read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from nightmill.completions.neutral import ImagePart, TextPart
from nightmill.providers.base import Entry, Usage
from nightmill.providers.chat import SCHEMA_NAME, Details, single_prompt
from nightmill.providers.entries import Count, ToolCall, arguments_of, tool_calls_json
from nightmill.providers.wire import is_strict

if TYPE_CHECKING:
    from nightmill.completions.neutral import Message, NeutralRequest

__all__ = ["Count", "Details", "Incomplete", "Item", "finish_reason", "read_items", "responses_body", "responses_usage"]


class _Part(msgspec.Struct):
    type: str | None = None
    text: str | None = None


class Item(msgspec.Struct):
    """One item of the output: a message, a tool call, reasoning and others."""

    type: str | None = None
    content: list[_Part] | str | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: Any = None
    input: Any = None


class Incomplete(msgspec.Struct):
    """Why an answer stopped early."""

    reason: str | None = None


def responses_body(request: NeutralRequest, model: str) -> dict[str, Any]:
    """Return the body for `/v1/responses`."""
    body: dict[str, Any] = {"model": model}
    if request.prompt is not None:
        body["input"] = single_prompt(request)
    else:
        body["input"] = [_turn(message) for message in request.messages]
    if request.system is not None:
        body["instructions"] = request.system
    if request.max_output_tokens is not None:
        body["max_output_tokens"] = request.max_output_tokens
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.response_schema is not None:
        schema = request.response_schema
        form = {"type": "json_schema", "name": SCHEMA_NAME, "schema": schema, "strict": is_strict(schema)}
        body["text"] = {"format": form}
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                **({"description": tool.description} if tool.description else {}),
                "parameters": tool.parameters,
                "strict": is_strict(tool.parameters),  # true is the default here, and refuses most schemas
            }
            for tool in request.tools
        ]
    return body


def _turn(message: Message) -> dict[str, Any]:
    content = message.content
    if isinstance(content, str):
        return {"role": message.role, "content": content}
    text = "output_text" if message.role == "assistant" else "input_text"
    return {"role": message.role, "content": [_part(part, text) for part in content]}


def _part(part: TextPart | ImagePart, text: str) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": text, "text": part.text}
    detail = part.image_url.detail
    return {"type": "input_image", "image_url": part.image_url.url, **({"detail": detail} if detail else {})}


def finish_reason(status: str | None, incomplete: Incomplete | None) -> str | None:
    """Return why the answer stopped: the status, or what cut it short."""
    if status == "incomplete" and incomplete is not None and incomplete.reason:
        return incomplete.reason
    return status


def read_items(entry: Entry, items: list[Item]) -> None:
    """Put the text of all messages, joined by newline, and the tool calls into the entry."""
    texts: list[str] = []
    calls: list[ToolCall] = []
    for item in items:
        if item.type == "message" and isinstance(item.content, list):
            texts += [part.text for part in item.content if part.type == "output_text" and part.text is not None]
        elif item.type == "function_call":
            calls.append(ToolCall(item.call_id or item.id, item.name, arguments_of(item.arguments)))
        elif item.type == "custom_tool_call":
            calls.append(ToolCall(item.call_id or item.id, item.name, item.input))
    entry.text = "\n".join(texts) if texts else None
    if calls:
        entry.tool_calls = tool_calls_json(calls)


def responses_usage(
    given: int | None, made: int | None, given_details: Details | None, made_details: Details | None
) -> Usage | None:
    """Return the tokens as billed, None where the provider does not say."""
    if given is None and made is None:
        return None
    return Usage(
        input=given or 0,
        output=made or 0,
        cached=(given_details.cached_tokens if given_details else None) or 0,
        reasoning=(made_details.reasoning_tokens if made_details else None) or 0,
    )
