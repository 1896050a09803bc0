"""The smallest value that a JSON schema accepts, for answers to requests that ask for structured output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 24

FORMATS = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "email": "miller@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "hostname": "example.com",
}


def instance_of(schema: Any) -> Any:
    """Return a minimal instance of a JSON schema, or of Gemini's dialect of it (upper-case types, `nullable`).

    Patterns are not solved: a string with a `pattern` is only right if the pattern accepts it by chance.
    """
    return _instance(schema, schema, 0)


def _instance(schema: Any, root: Any, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return None
    if "$ref" in schema:
        return _instance(_resolve(schema["$ref"], root), root, depth + 1)
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    if schema.get("enum"):
        return schema["enum"][0]
    for keyword in ("anyOf", "oneOf", "any_of"):
        if schema.get(keyword):
            # null ends recursive schemas; it is taken only once the answer is deep enough
            options = schema[keyword]
            flat = [option for option in options if isinstance(option, Mapping) and option.get("type") == "null"]
            return _instance(flat[0] if flat and depth > 4 else options[0], root, depth + 1)
    if schema.get("allOf"):
        return _instance(_merged(schema["allOf"], root), root, depth + 1)
    return _typed(schema, root, depth)


def _typed(schema: Mapping[str, Any], root: Any, depth: int) -> Any:
    match _type_of(schema):
        case "object":
            properties = schema.get("properties") or {}
            return {name: _instance(properties.get(name, {}), root, depth + 1) for name in schema.get("required") or ()}
        case "array":
            items = schema.get("prefixItems") or []
            least = int(schema.get("minItems") or 0)
            fixed = [_instance(item, root, depth + 1) for item in items]
            return fixed + [_instance(schema.get("items", {}), root, depth + 1) for _ in range(least - len(fixed))]
        case "string":
            text = FORMATS.get(str(schema.get("format")), "text")
            text = text.ljust(int(schema.get("minLength") or 0), "x")
            return text[: int(schema["maxLength"])] if "maxLength" in schema else text
        case "integer":
            return int(_number(schema, 1))
        case "number":
            return _number(schema, 0.5)
        case "boolean":
            return True
        case _:
            return None


def _type_of(schema: Mapping[str, Any]) -> str:
    named = schema.get("type")
    if isinstance(named, list):
        named = next((one for one in named if one != "null"), "null")
    if isinstance(named, str):
        return named.lower()
    for keyword, implied in (
        ("properties", "object"),
        ("required", "object"),
        ("items", "array"),
        ("minLength", "string"),
    ):
        if keyword in schema:
            return implied
    return "string" if not schema else "null"


def _number(schema: Mapping[str, Any], step: float) -> float:
    low = schema.get("minimum")
    if isinstance(schema.get("exclusiveMinimum"), int | float):
        low = schema["exclusiveMinimum"] + step
    high = schema.get("maximum")
    if isinstance(schema.get("exclusiveMaximum"), int | float):
        high = schema["exclusiveMaximum"] - step
    value: float = low if low is not None else min(0, high) if high is not None else 0
    if schema.get("multipleOf"):
        value = math.ceil(value / schema["multipleOf"]) * schema["multipleOf"]
    return math.ceil(value) if step == 1 else value


def _resolve(reference: Any, root: Any) -> Any:
    node = root
    for part in str(reference).removeprefix("#").strip("/").split("/"):
        if part:
            node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
    return node


def _merged(schemas: list[Any], root: Any) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for schema in schemas:
        one = _resolve(schema["$ref"], root) if "$ref" in schema else schema
        properties = {**merged.get("properties", {}), **(one.get("properties") or {})}
        required = [*merged.get("required", []), *(one.get("required") or [])]
        merged = {**merged, **one, "properties": properties, "required": required}
    return merged
