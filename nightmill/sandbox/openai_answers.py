"""Bodies of OpenAI's endpoints, which xAI's follow: responses, chat completions, embeddings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nightmill.sandbox.answers import Answer, ToolCall, answer, text_of
from nightmill.sandbox.schemas import instance_of

RESPONSES = "/v1/responses"
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"

DIMENSIONS = 8  # instead of 1,536: nobody computes with them
THINKERS = re.compile(r"o\d|gpt-[5-9]|grok-(3-mini|[4-9])")


def body_of(
    url: str, body: Mapping[str, Any], digest: bytes, created: int, *, chars: int | None = None, text: str | None = None
) -> dict[str, Any]:
    """Return the answer body of an endpoint; `text` replaces what the model would have said."""
    if url == EMBEDDINGS:
        return _embeddings(body, digest)
    given = answer(
        digest,
        _prompt(url, body),
        schema=_schema(url, body),
        tool=_forced_tool(url, body),
        thinks=bool(THINKERS.match(str(body.get("model", ""))) or "reasoning" in body or "reasoning_effort" in body),
        chars=chars,
    )
    if text is not None:
        given = Answer(text, None, given.usage, digest)
    return (_responses if url == RESPONSES else _chat)(body, given, created)


def usage_of(url: str, body: Mapping[str, Any], given: Answer) -> dict[str, Any]:
    """Return a usage object in the words of the endpoint; output counts hold the reasoning, but for xAI's chat."""
    usage = given.usage
    output = usage.visible + usage.reasoning
    if url == RESPONSES:
        return {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.prompt + output,
        }
    grok = str(body.get("model", "")).startswith("grok")
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.visible if grok else output,
        "total_tokens": usage.prompt + output,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def problem_of(url: str, body: Any) -> str | None:
    """Return what the endpoint would refuse in a body, or None."""
    if not isinstance(body, Mapping):
        return "Missing required parameter: 'body'."
    if not body.get("model"):
        return "you must provide a model parameter"
    needed = "messages" if url == CHAT else "input"
    if needed not in body and not (url == RESPONSES and "prompt" in body):
        return f"Missing required parameter: '{needed}'."
    if body.get("stream"):
        return "Streaming is not supported in the Batch API."
    return None


def _prompt(url: str, body: Mapping[str, Any]) -> str:
    said = body.get("messages") if url == CHAT else body.get("input")
    if isinstance(said, list):
        said = next((one for one in reversed(said) if not isinstance(one, Mapping) or one.get("role") == "user"), said)
    return text_of(said)


def _schema(url: str, body: Mapping[str, Any]) -> Any:
    asked = (body.get("text") or {}).get("format") if url == RESPONSES else body.get("response_format")
    if not isinstance(asked, Mapping):
        return None
    if asked.get("type") == "json_object":
        return {"type": "object"}
    return (asked.get("json_schema") or asked).get("schema") if asked.get("type") == "json_schema" else None


def _forced_tool(url: str, body: Mapping[str, Any]) -> ToolCall | None:
    choice, tools = body.get("tool_choice"), body.get("tools") or []
    functions = [tool.get("function", tool) for tool in tools if tool.get("type") == "function"]
    if not functions or not (isinstance(choice, Mapping) or choice == "required"):
        return None
    wanted = (choice.get("function") or choice).get("name") if isinstance(choice, Mapping) else None
    tool = next((one for one in functions if one.get("name") == wanted), functions[0])
    return ToolCall(tool["name"], instance_of(tool.get("parameters") or {"type": "object"}))


def _chat(body: Mapping[str, Any], given: Answer, created: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": given.text, "refusal": None, "annotations": []}
    if given.tool is not None:
        message["content"] = None
        function = {"name": given.tool.name, "arguments": given.tool.arguments_json}
        message["tool_calls"] = [{"id": given.identifier("call_"), "type": "function", "function": function}]
    finish = "tool_calls" if given.tool else "stop"
    return {
        "id": given.identifier("chatcmpl-", 29),
        "object": "chat.completion",
        "created": created,
        "model": body.get("model"),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": usage_of(CHAT, body, given),
        "service_tier": "default",
        "system_fingerprint": "fp_" + given.digest.hex()[:10],
    }


def _responses(body: Mapping[str, Any], given: Answer, created: int) -> dict[str, Any]:
    output: list[dict[str, Any]] = []
    if given.usage.reasoning:
        output.append({"id": given.identifier("rs_", 32), "type": "reasoning", "summary": []})
    if given.tool is not None:
        output.append(
            {
                "id": given.identifier("fc_", 32),
                "type": "function_call",
                "status": "completed",
                "call_id": given.identifier("call_"),
                "name": given.tool.name,
                "arguments": given.tool.arguments_json,
            }
        )
    else:
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": given.text}
        message = {"id": given.identifier("msg_", 32), "type": "message", "status": "completed"}
        output.append({**message, "role": "assistant", "content": [part]})
    return {
        "id": given.identifier("resp_", 32),
        "object": "response",
        "created_at": created,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": body.get("model"),
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": body.get("reasoning") or {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": usage_of(RESPONSES, body, given),
        "metadata": body.get("metadata") or {},
    }


def _embeddings(body: Mapping[str, Any], digest: bytes) -> dict[str, Any]:
    said = body.get("input")
    texts = said if isinstance(said, list) and said and isinstance(said[0], str | list) else [said]
    dimensions = int(body.get("dimensions") or DIMENSIONS)
    tokens = sum(len(text) // 4 + 1 if isinstance(text, str) else len(text or ()) for text in texts)
    vectors = [
        [(digest[(position + index) % len(digest)] - 128) / 256 for position in range(dimensions)]
        for index in range(len(texts))
    ]
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)],
        "model": body.get("model"),
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
