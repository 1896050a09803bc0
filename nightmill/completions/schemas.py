"""JSON schemas of answers, compiled once each, and checked in bounded time however hostile they are.

Three things could be used against us and are taken away: `$ref` to another document is refused and nothing is ever
fetched; regular expressions run in Rust's engine, whose time grows with the length of the text only (patterns that it
cannot run, with look-around or back-references, are refused); and one check may take a fixed number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import msgspec
from jsonschema import exceptions, validators
from jsonschema.protocols import Validator
from pydantic_core import SchemaError, SchemaValidator, core_schema
from referencing import Registry
from referencing.exceptions import Unresolvable

from nightmill.errors import InvalidInput

MAX_SCHEMA_BYTES = 256 * 1024
MAX_STEPS = 100_000
"""Applied keywords in one check; an answer of 1,000 records with 20 fields needs about 23,000."""

_DRAFTS: Mapping[str, Any] = {
    "": validators.Draft202012Validator,
    "http://json-schema.org/draft-07/schema": validators.Draft7Validator,
    "https://json-schema.org/draft/2019-09/schema": validators.Draft201909Validator,
    "https://json-schema.org/draft/2020-12/schema": validators.Draft202012Validator,
}
# jsonschema evaluates these by a recursion of its own that no count of steps reaches.
_UNSUPPORTED = ("unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef")

_steps_left: ContextVar[int] = ContextVar("steps_left", default=MAX_STEPS)


class _TooManySteps(Exception):
    pass


class AnswerSchema:
    """A compiled schema. May be used from many threads."""

    def __init__(self, schema: dict[str, Any], validator: Validator) -> None:
        self.schema = schema
        self._validator = validator

    def complaint(self, value: Any) -> str | None:
        """Return in one line why the value violates the schema, or None if it does not."""
        token = _steps_left.set(MAX_STEPS)
        try:
            error = next(iter(self._validator.iter_errors(value)), None)
        except _TooManySteps:
            return f"not checked to the end after {MAX_STEPS:,} steps"
        except RecursionError:
            return "nested too deeply to be checked"
        except Unresolvable as error_:
            return f"the schema's $ref cannot be resolved: {error_}"[:300]
        except ArithmeticError:
            return "a number is too large to be checked"
        finally:
            _steps_left.reset(token)
        return None if error is None else f"at {error.json_path}: {_one_line(error.message)}"


@lru_cache(maxsize=256)
def compile_schema(text: str) -> AnswerSchema:
    """Return the compiled schema; the same text is compiled once.

    Raises:
        InvalidInput: It is no JSON schema, or one that cannot be checked safely.
    """
    if len(text) > MAX_SCHEMA_BYTES:
        raise InvalidInput(f"response_schema: {len(text):,} characters; at most {MAX_SCHEMA_BYTES:,}")
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"response_schema: invalid JSON: {error}") from None
    if not isinstance(schema, dict):
        raise InvalidInput("response_schema: a JSON schema is an object")
    named = str(schema.get("$schema", "")).rstrip("#")
    draft = _DRAFTS.get(named)
    if draft is None:
        raise InvalidInput(f"response_schema: $schema {named[:80]!r} is not known; use draft 2020-12, 2019-09 or 7")
    try:
        _refuse_unsafe(schema)
        draft.check_schema(schema)
    except exceptions.SchemaError as error:
        raise InvalidInput(f"response_schema: at {error.json_path}: {_one_line(error.message)}") from None
    except RecursionError:
        raise InvalidInput("response_schema: nested too deeply") from None
    # An empty registry retrieves nothing; the default one would fetch a `$ref` over the network.
    return AnswerSchema(schema, _counted(draft)(schema, registry=Registry()))


def _refuse_unsafe(schema: Any) -> None:
    if isinstance(schema, list):
        for part in schema:
            _refuse_unsafe(part)
        return
    if not isinstance(schema, dict):
        return
    for name in _UNSUPPORTED:
        if name in schema:
            raise InvalidInput(f"response_schema: {name} is not supported")
    reference = schema.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise InvalidInput(f"response_schema: $ref {reference[:80]!r}: only references within the schema (#…) work")
    for pattern in (schema.get("pattern"), *_keys(schema.get("patternProperties"))):
        if isinstance(pattern, str):
            _regex(pattern)
    for part in schema.values():
        _refuse_unsafe(part)


def _keys(value: Any) -> list[str]:
    return list(value) if isinstance(value, dict) else []


@lru_cache(maxsize=1024)
def _regex(pattern: str) -> SchemaValidator:
    """Return a matcher that searches in linear time; Rust's engine also bounds its own size, to 10 MB."""
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError:
        raise InvalidInput(
            f"response_schema: pattern {pattern[:80]!r} cannot be checked in bounded time "
            "(look-around, back-references and huge repetitions do not work)"
        ) from None


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[exceptions.ValidationError]:
    if isinstance(instance, str) and not _regex(pattern).isinstance_python(instance):
        yield exceptions.ValidationError(f"{instance[:80]!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, dict):
        for pattern, part in patterns.items():
            regex = _regex(pattern)
            for name, value in instance.items():
                if regex.isinstance_python(name):
                    yield from validator.descend(value, part, path=name, schema_path=pattern)


def _additional_properties(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(instance, dict) or rule is True:
        return
    known = schema.get("properties", {})
    regexes = [_regex(pattern) for pattern in schema.get("patternProperties", {})]
    for name, value in instance.items():
        if name in known or any(regex.isinstance_python(name) for regex in regexes):
            continue
        if rule is False:
            yield exceptions.ValidationError(f"{name[:80]!r} is not an expected property")
        else:
            yield from validator.descend(value, rule, path=name)


def _unique_items(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[exceptions.ValidationError]:
    # jsonschema compares every pair where items cannot be sorted; one canonical text per item is linear.
    if rule and isinstance(instance, list):
        texts = {msgspec.json.encode(item, order="deterministic") for item in instance}
        if len(texts) < len(instance):
            yield exceptions.ValidationError("the items are not unique")


_REPLACED: Mapping[str, Any] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
}


@lru_cache(maxsize=len(_DRAFTS))
def _counted(draft: Any) -> Any:
    """Return the draft with our own keywords, each application of a keyword counted as a step."""
    keywords = {**draft.VALIDATORS, **_REPLACED}
    return validators.extend(draft, {name: _counting(check) for name, check in keywords.items()})


def _counting(check: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def counted(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
        left = _steps_left.get()
        if left <= 0:
            raise _TooManySteps
        _steps_left.set(left - 1)
        yield from check(validator, rule, instance, schema) or ()

    return counted


def _one_line(text: str) -> str:
    text = " ".join(text[:2_000].split())
    return text if len(text) <= 300 else text[:299] + "…"
