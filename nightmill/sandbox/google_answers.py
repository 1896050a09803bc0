"""Bodies of Gemini's `generateContent`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nightmill.sandbox.answers import Answer, ToolCall, answer, text_of
from nightmill.sandbox.schemas import instance_of

THINKERS = re.compile(r"(models/)?gemini-(2\.5|[3-9])")


def problem_of(request: Any) -> str | None:
    """Return what `generateContent` would refuse in a request, or None."""
    if not isinstance(request, Mapping):
        return "request is not specified"
    if not isinstance(request.get("contents"), list) or not request["contents"]:
        return "* GenerateContentRequest.contents: contents is not specified"
    return None


def response_of(
    model: str, request: Mapping[str, Any], digest: bytes, chars: int | None = None, text: str | None = None
) -> dict[str, Any]:
    """Return the response to a request; `text` replaces what the model would have said."""
    config = either(request, "generationConfig") or {}
    schema = next(
        (found for name in ("responseJsonSchema", "responseSchema") if (found := either(config, name)) is not None),
        None,
    )
    contents = [one for one in request.get("contents") or [] if isinstance(one, Mapping)]
    said = [one for one in contents if one.get("role", "user") == "user"]
    given = answer(
        digest,
        text_of(said[-1].get("parts")) if said else "",
        schema=schema,
        tool=_forced_tool(request),
        thinks=bool(THINKERS.match(model)),
        chars=chars,
    )
    if text is not None:
        given = Answer(text, None, given.usage, digest)
    part: dict[str, Any] = {"text": given.text}
    if given.tool is not None:
        part = {"functionCall": {"name": given.tool.name, "args": given.tool.arguments}}
    content = {"parts": [part], "role": "model"}
    return {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
        "usageMetadata": _usage(given),
        "modelVersion": model.removeprefix("models/"),
        "responseId": given.identifier("", 22),
    }


def either(value: Mapping[str, Any], name: str) -> Any:
    """Return a field under its camelCase name or its snake_case one; Google's servers take both."""
    if name in value:
        return value[name]
    return value.get(re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), name))


def _usage(given: Answer) -> dict[str, Any]:
    usage = given.usage
    counts: dict[str, Any] = {
        "promptTokenCount": usage.prompt,
        "candidatesTokenCount": usage.visible,
        "totalTokenCount": usage.prompt + usage.visible + usage.reasoning,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.prompt}],
    }
    if usage.cached:
        counts["cachedContentTokenCount"] = usage.cached
    if usage.reasoning:
        counts["thoughtsTokenCount"] = usage.reasoning
    return counts


def _forced_tool(request: Mapping[str, Any]) -> ToolCall | None:
    config = either(either(request, "toolConfig") or {}, "functionCallingConfig") or {}
    if config.get("mode") != "ANY":
        return None
    allowed = either(config, "allowedFunctionNames") or []
    for tool in request.get("tools") or []:
        for function in either(tool, "functionDeclarations") or []:
            if not allowed or function.get("name") in allowed:
                schema = either(function, "parametersJsonSchema") or function.get("parameters")
                return ToolCall(function["name"], instance_of(schema or {"type": "object"}))
    return None
