import json
import time
from typing import Any

import pytest

from nightmill.completions.output import judge
from nightmill.completions.schemas import compile_schema
from nightmill.errors import InvalidInput
from nightmill.providers.base import Entry

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": "^[A-Z]"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


def complaint(schema: Any, value: Any) -> str | None:
    return compile_schema(json.dumps(schema)).complaint(value)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ('{"name": "Ada", "age": 36}', None, ""),
        (' {"name": "Ada"}\n', None, ""),
        ('{"name": "Ada", "age": -1}', "invalid_output", "at $.age: -1 is less than the minimum of 0"),
        ('{"name": "ada"}', "invalid_output", "at $.name: 'ada' does not match '^[A-Z]'"),
        ('{"age": 3}', "invalid_output", "'name' is a required property"),
        ('{"name": "Ada", "x": 1}', "invalid_output", "'x' is not an expected property"),
        ('{"name": "Ada"', "invalid_output", "no JSON"),
        ("I am sorry", "invalid_output", "no JSON"),
        ('{"name": "Ada", "age": NaN}', "invalid_output", "no JSON"),
        ("[" * 100_000, "invalid_output", "no JSON"),
        ("", "empty_output", "neither text nor a tool call"),
        (" \n", "empty_output", "neither text nor a tool call"),
        (None, "empty_output", "neither text nor a tool call"),
    ],
)
def test_answers_are_checked_against_the_schema(text: str | None, code: str | None, words: str) -> None:
    output, error = judge(Entry(wire_id="a", text=text), json.dumps(PERSON))
    if code is None:
        assert error is None
        assert output is not None
        assert json.loads(output)["name"] == "Ada"
    else:
        assert error is not None
        assert (error.code, output) == (code, None)
        assert words in error.message


def test_tool_calls_and_embeddings_count_as_output() -> None:
    assert judge(Entry(wire_id="a", tool_calls="[{}]"), None) == (None, None)
    assert judge(Entry(wire_id="a", tool_calls="[{}]"), json.dumps(PERSON)) == (None, None)
    assert judge(Entry(wire_id="a", output="[[0.5]]"), None) == ("[[0.5]]", None)


def test_free_text_is_left_alone() -> None:
    assert judge(Entry(wire_id="a", text="Hi"), None) == (None, None)


@pytest.mark.parametrize(("reason", "retryable"), [("length", False), ("SAFETY", False), ("stop", True), (None, True)])
def test_what_would_end_the_same_way_again_is_not_retried(reason: str | None, retryable: bool) -> None:
    _, error = judge(Entry(wire_id="a", finish_reason=reason), None)
    assert error is not None
    assert error.retryable is retryable
    assert (reason is None) or reason in error.message


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "wizard"}, "at $.type"),
        ({"$ref": "https://example.com/schema"}, "only references within the schema"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "only references within the schema"),
        ({"properties": {"a": {"pattern": "(?=x)x"}}}, "cannot be checked in bounded time"),
        ({"properties": {"a": {"pattern": r"(a)\1"}}}, "cannot be checked in bounded time"),
        ({"patternProperties": {"(?<=x)": {}}}, "cannot be checked in bounded time"),
        ({"pattern": "(((a{1000}){1000}){1000})"}, "cannot be checked in bounded time"),
        ({"unevaluatedProperties": False}, "not supported"),
        ({"$schema": "https://example.com/mine"}, "is not known"),
        ([1], "is an object"),
        ({"enum": ["x" * 300_000]}, "at most"),
    ],
)
def test_schemas_that_cannot_be_checked_safely_are_refused(schema: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        compile_schema(json.dumps(schema))
    assert words in str(caught.value)


def test_a_deeply_nested_schema_is_refused() -> None:
    with pytest.raises(InvalidInput):
        compile_schema('{"not":' * 5_000 + "true" + "}" * 5_000)


def doubling(levels: int) -> dict[str, Any]:
    """Return a schema that evaluates 2^levels times what it says once."""
    steps = {f"n{n}": {"allOf": [{"$ref": f"#/$defs/n{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/n0", "$defs": steps | {f"n{levels}": {"type": ["object", "integer"]}}}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "pattern": "^(a+)+$"}, "a" * 100_000 + "b"),
        ({"type": "string", "pattern": "(.*a){25}$"}, "a" * 5_000 + "b"),
        (doubling(30), 1),
        ({"$ref": "#"}, 1),
        ({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}, 1),
        ({"anyOf": [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}]}, 1),
        ({"$ref": "#/nowhere"}, 1),
        ({"uniqueItems": True}, [{"a": n} for n in range(20_000)]),
        ({"multipleOf": 1e-300}, 1e300),
    ],
    ids=["regex", "regex 2", "doubling", "itself", "itself twice", "either", "nowhere", "unique", "huge"],
)
def test_hostile_schemas_end_in_time(schema: Any, value: Any) -> None:
    started = time.process_time()
    complaint(schema, value)
    assert time.process_time() - started < 5


def test_an_honest_large_answer_is_checked_to_the_end() -> None:
    record = {"type": "object", "properties": {f"f{n}": {"type": "string"} for n in range(20)}}
    value = [{f"f{n}": "x" for n in range(20)} for _ in range(1_000)]
    assert complaint({"type": "array", "items": record}, value) is None
    value[-1]["f19"] = 7  # type: ignore[assignment]
    assert complaint({"type": "array", "items": record}, value) == "at $[999].f19: 7 is not of type 'string'"


@pytest.mark.parametrize(
    ("schema", "value", "fine"),
    [
        ({"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False}, {"x1": 1}, True),
        ({"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False}, {"x1": "a"}, False),
        ({"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False}, {"y": 1}, False),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}, {"a": 1, "b": "s"}, True),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}, {"b": 1}, False),
        ({"uniqueItems": True}, [{"a": 1, "b": 2}, {"b": 2, "a": 1}], False),
        ({"uniqueItems": True}, [1, "1", True], True),
        ({"$defs": {"n": {"type": "integer"}}, "items": {"$ref": "#/$defs/n"}}, [1, "x"], False),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "integer"}]}, ["x"], False),
    ],
)
def test_our_own_keywords_mean_what_the_standard_says(schema: Any, value: Any, fine: bool) -> None:
    assert (complaint(schema, value) is None) is fine
