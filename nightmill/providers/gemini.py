"""Gemini's `generateContent`: requests written, entries of batch results read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from nightmill.completions.neutral import TextPart
from nightmill.providers.base import Entry, MalformedEntry, Usage
from nightmill.providers.chat import single_prompt
from nightmill.providers.entries import RAW, Count, ToolCall, decode, id_pattern, rpc_error, savable, tool_calls_json
from nightmill.providers.wire import image_data

if TYPE_CHECKING:
    from nightmill.completions.neutral import ImagePart, NeutralRequest

_ID_IN_LINE = id_pattern("key", last_in="metadata")


class _Call(msgspec.Struct):
    id: str | None = None
    name: str | None = None
    args: msgspec.Raw = RAW


class _Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    function_call: _Call | None = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, rename="camel"):
    prompt_token_count: Count | None = None
    tool_use_prompt_token_count: Count | None = None
    candidates_token_count: Count | None = None
    thoughts_token_count: Count | None = None
    cached_content_token_count: Count | None = None


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Response(msgspec.Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    usage_metadata: _Usage | None = None
    model_version: str | None = None
    prompt_feedback: _Feedback | None = None


class _Metadata(msgspec.Struct):
    key: str | None = None


class _Line(msgspec.Struct):
    key: str | None = None
    metadata: _Metadata | None = None
    response: _Response | None = None
    error: Any = None
    status: Any = None


_LINE = msgspec.json.Decoder(_Line)


def generate_content_body(request: NeutralRequest) -> dict[str, Any]:
    """Return the body for `generateContent`."""
    system: list[dict[str, Any]] = [] if request.system is None else [{"text": request.system}]
    contents: list[dict[str, Any]] = []
    for message in request.messages:
        content = message.content
        parts = [{"text": content}] if isinstance(content, str) else [_part(part) for part in content]
        if message.role in ("system", "developer"):  # Gemini knows no such turn
            system += parts
        else:
            contents.append({"role": "model" if message.role == "assistant" else "user", "parts": parts})
    if request.prompt is not None:
        contents.append({"role": "user", "parts": [{"text": single_prompt(request)}]})
    body: dict[str, Any] = {"contents": contents}
    if system:
        body["systemInstruction"] = {"parts": system}
    config: dict[str, Any] = {}
    if request.max_output_tokens is not None:
        config["maxOutputTokens"] = request.max_output_tokens
    if request.temperature is not None:
        config["temperature"] = request.temperature
    if request.response_schema is not None:
        config |= {"responseMimeType": "application/json", "responseJsonSchema": request.response_schema}
    if config:
        body["generationConfig"] = config
    if request.tools:
        declared = [
            {
                "name": tool.name,
                **({"description": tool.description} if tool.description else {}),
                "parametersJsonSchema": tool.parameters,
            }
            for tool in request.tools
        ]
        body["tools"] = [{"functionDeclarations": declared}]
    return body


def _part(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"text": part.text}
    data = image_data(part.image_url.url)
    if data is None:
        return {"fileData": {"fileUri": part.image_url.url}}
    return {"inlineData": {"mimeType": data[0], "data": data[1]}}


def read_gemini_entry(line: bytes) -> Entry:
    """Read one entry, inline or of a file.

    Raises:
        MalformedEntry: It cannot be read, or has no key: by its place it must not be matched, for the order changes.
    """
    found = decode(_LINE, line, _ID_IN_LINE)
    key = found.metadata.key if found.metadata is not None and found.metadata.key else found.key
    if not key:
        raise MalformedEntry("the entry has no key")
    entry = Entry(wire_id=key)
    if found.response is not None and not found.error:
        _read_response(entry, found.response)
    else:
        error = next((e for e in (found.error, found.status) if isinstance(e, dict)), {})
        code = error.get("code")
        entry.error = rpc_error(
            error.get("message"),
            default=f"Google batch entry failed (code: {code if code is not None else 'unknown'})",
            code=code,
            status=error.get("status"),
        )
    return savable(entry, line)


def _read_response(entry: Entry, response: _Response) -> None:
    entry.model = response.model_version
    if response.candidates:
        candidate = response.candidates[0]
        entry.finish_reason = candidate.finish_reason
        parts = (candidate.content.parts if candidate.content is not None else None) or []
        texts = [part.text for part in parts if part.text is not None and not part.thought]
        entry.text = "".join(texts) if texts else None  # one text may come in several parts, as when it streams
        calls = [part.function_call for part in parts if part.function_call is not None]
        if calls:
            entry.tool_calls = tool_calls_json(ToolCall(call.id, call.name, call.args or None) for call in calls)
    elif response.prompt_feedback is not None:
        entry.finish_reason = response.prompt_feedback.block_reason
    usage = response.usage_metadata
    if usage is not None and (usage.prompt_token_count is not None or usage.candidates_token_count is not None):
        thoughts = usage.thoughts_token_count or 0
        entry.usage = Usage(
            input=(usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0),
            output=(usage.candidates_token_count or 0) + thoughts,
            cached=usage.cached_content_token_count or 0,
            reasoning=thoughts,
        )
