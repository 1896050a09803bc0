"""Answers are the same for the same request, and fit the schema that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from nightmill.sandbox import Profile, Sandbox
from nightmill.sandbox.answers import answer, text_of
from nightmill.sandbox.schemas import instance_of
from nightmill.sandbox.splitting import split

SCHEMAS: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": "string", "minLength": 9, "maxLength": 12},
    {"type": "string", "maxLength": 2},
    {"type": "string", "format": "date-time"},
    {"type": "integer", "minimum": 3, "multipleOf": 5},
    {"type": "integer", "exclusiveMinimum": 3},
    {"type": "number", "exclusiveMaximum": 0},
    {"type": "number", "minimum": 0.5, "maximum": 0.75},
    {"type": ["null", "boolean"]},
    {"enum": ["red", "green"]},
    {"const": {"a": 1}},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2},
    {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "string"}, "minItems": 3},
    {"anyOf": [{"type": "string"}, {"type": "null"}]},
    {"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"type": "object", "required": ["b"]}]},
    {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/leaf"}, "b": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["a", "b"],
        "additionalProperties": False,
        "$defs": {"leaf": {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}},
    },
    {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
                "required": ["next"],
            }
        },
    },
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_the_instance_of_a_schema_is_valid(schema: dict[str, Any]) -> None:
    jsonschema.validate(instance_of(schema), schema, jsonschema.Draft202012Validator)


def test_geminis_dialect_is_understood() -> None:
    schema = {"type": "OBJECT", "properties": {"a": {"type": "STRING", "nullable": True}}, "required": ["a"]}
    assert instance_of(schema) == {"a": "text"}


def test_text_is_found_in_every_shape_of_content() -> None:
    assert text_of("a") == "a"
    assert text_of([{"type": "input_text", "text": "a"}, {"type": "image"}, {"parts": [{"text": "b"}]}]) == "a b"


def test_answers_can_be_padded_to_a_length() -> None:
    assert len(answer(bytes(16), "hello", chars=500).text) == 500
    assert answer(bytes(16), "hello", chars=3).text == "You"


def test_half_of_the_requests_read_from_the_cache_and_only_thinkers_think() -> None:
    cold, warm = answer(bytes(16), "x" * 400).usage, answer(b"\x01" * 16, "x" * 400, thinks=True).usage
    assert (cold.cached, cold.reasoning) == (0, 0)
    assert 0 < warm.cached < warm.prompt
    assert warm.reasoning > 0


def test_two_sandboxes_with_one_seed_give_the_same_answers(connect: Any) -> None:
    def run() -> bytes:
        with Sandbox(profile=Profile(finish_after=0, fail_share=0.3), seed=5) as sandbox:
            client = connect(sandbox)
            batch = client("GET", f"/openai/v1/batches/{client.openai_batch(20)['id']}").json
            return bytes(client("GET", f"/openai/v1/files/{batch['error_file_id']}/content").body)

    assert run() == run()


def test_a_retry_of_the_same_requests_draws_its_luck_anew(client: Any, sandbox: Any) -> None:
    sandbox.set_profile(fail_share=0.5)

    def failed() -> frozenset[str]:
        batch = client("GET", f"/openai/v1/batches/{client.openai_batch(30)['id']}").json
        lines = client("GET", f"/openai/v1/files/{batch['error_file_id']}/content").lines
        return frozenset(line["custom_id"] for line in lines)

    assert failed() != failed()


def test_requests_that_are_never_reached_make_the_batch_expire(client: Any, sandbox: Any) -> None:
    sandbox.set_profile(expire_share=0.3)
    batch = client("GET", f"/openai/v1/batches/{client.openai_batch(50)['id']}").json
    assert batch["status"] == "expired"
    done = client("GET", f"/openai/v1/files/{batch['output_file_id']}/content").lines
    rest = client("GET", f"/openai/v1/files/{batch['error_file_id']}/content").lines
    assert len(done) + len(rest) == 50
    assert {line["error"]["code"] for line in rest} == {"batch_expired"}


@pytest.mark.parametrize(
    ("text", "elements", "rest"),
    [
        (b'{"a": [{"x": "]"}, {"y": "\\"]}"}], "b": 1}', [{"x": "]"}, {"y": '"]}'}], {"a": [], "b": 1}),
        (b'{"b": {"a": [1]}, "a": [\n{"x":\r\n1}\n]}', [{"x": 1}], {"b": {"a": [1]}, "a": []}),
        (b'{"c": ["a", {"a": [2]}], "a": []}', [], {"c": ["a", {"a": [2]}], "a": []}),
        (b'{"b": "a"}', [], {"b": "a"}),
        (b'{"c": ["x", "b", [{}]]}', [], {"c": ["x", "b", [{}]]}),
        (b'{"c": {"x": 1, "b": [{}]}}', [{}], {"c": {"x": 1, "b": []}}),
    ],
)
def test_an_array_is_cut_out_of_the_object_around_it(
    tmp_path: Path, text: bytes, elements: list[Any], rest: dict[str, Any]
) -> None:
    body, lines = tmp_path / "body", tmp_path / "lines"
    body.write_bytes(text)
    assert split(body, lines, {("a",), ("c", "b")}) == rest
    assert [orjson.loads(line) for line in lines.read_bytes().splitlines()] == elements
