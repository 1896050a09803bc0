"""One request in any of the shapes that users give it, read into one that every provider can render."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from nightmill.completions.schemas import compile_schema
from nightmill.errors import InvalidInput

_EMPTY = msgspec.Raw(b"")


class TextPart(msgspec.Struct, frozen=True, tag="text", forbid_unknown_fields=True):
    """Text in a message."""

    text: str


class ImageUrl(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where an image is: an address or a `data:` URL."""

    url: str
    detail: str | None = None


class ImagePart(msgspec.Struct, frozen=True, tag="image_url", forbid_unknown_fields=True):
    """An image in a message."""

    image_url: ImageUrl


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn. Turns of tools are provider-specific: give a native body for them."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart | ImagePart]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: Its name.
        description: What it does.
        parameters: JSON schema of its arguments.
    """

    name: str
    description: str | None
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NeutralRequest:
    """One request, checked but not yet in any provider's words.

    Attributes:
        custom_id: The user's id.
        messages: The conversation; empty where `prompt` or `native_body` is given.
        prompt: A single user message; for embeddings the text, or several.
        system: Instructions.
        max_output_tokens: Bound on the answer.
        temperature: As the provider understands it.
        response_schema: JSON schema that the answer must satisfy.
        tools: Functions that the model may call.
        provider_options: Merged into the provider's body as they are; objects are merged member by member.
        native_body: A whole body in the provider's own words, sent as it is; everything else is empty then.
        model: The model that the native body or the options name, if they do.
        is_chat: The native body has `messages`, so it is for chat completions or Anthropic.
    """

    custom_id: str
    messages: Sequence[Message] = ()
    prompt: str | list[str] | None = None
    system: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    response_schema: Mapping[str, Any] | None = None
    tools: Sequence[Tool] = ()
    provider_options: Mapping[str, Any] = field(default_factory=dict)
    native_body: bytes | None = None
    model: str | None = None
    is_chat: bool = False


class GivenRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One input line in any of its shapes; which one it is shows by the fields that are set."""

    custom_id: str | None = None
    key: str | None = None
    method: str | None = None
    url: str | None = None
    body: msgspec.Raw = _EMPTY
    params: msgspec.Raw = _EMPTY
    request: msgspec.Raw = _EMPTY
    messages: list[Message] = []
    prompt: str | list[str] | None = None
    system: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    response_schema: msgspec.Raw = _EMPTY
    tools: list[dict[str, Any]] = []
    provider_options: dict[str, Any] = {}


class _NativeBody(msgspec.Struct):
    model: str | None = None
    messages: msgspec.Raw = _EMPTY


_LINE = msgspec.json.Decoder(GivenRequest)
_NATIVE_BODY = msgspec.json.Decoder(_NativeBody)


def decode_line(line: bytes) -> GivenRequest:
    """Return the line's fields, their types checked.

    Raises:
        InvalidInput: It is not strict JSON in UTF-8, has unknown fields or fields of another type.
    """
    try:
        line.decode()  # msgspec checks the encoding only of what it turns into objects
        return _LINE.decode(line)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"invalid JSON: not UTF-8 at byte {error.start}") from None
    except msgspec.ValidationError as error:
        text = str(error)
        if "`array`, got `str` - at `$.messages`" in text:
            text = "messages is a bare string; give a list of messages, or the string as prompt"
        raise InvalidInput(text) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"invalid JSON: {error}") from None


def read_given(given: GivenRequest, custom_id: str) -> NeutralRequest:
    """Return the request, checked as far as that is the same for every provider.

    Raises:
        InvalidInput: Something is missing, contradictory or cannot be used.
    """
    native = given.body or given.params or given.request
    return _native(given, custom_id) if native else _neutral(given, custom_id)


def _native(given: GivenRequest, custom_id: str) -> NeutralRequest:
    bodies = [body for body in (given.body, given.params, given.request) if body]
    neutral = given.messages or given.prompt or given.system or given.tools or given.provider_options
    if len(bodies) > 1 or neutral or given.response_schema:
        raise InvalidInput("give one native body (body, params or request) or provider-neutral fields, not both")
    body = bytes(bodies[0])
    # In valid JSON a carriage return can only stand between tokens; the line must be a single one for everybody.
    body = body.replace(b"\r", b" ") if b"\r" in body else body
    try:
        shape = _NATIVE_BODY.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"native body: {error}") from None
    return NeutralRequest(custom_id=custom_id, native_body=body, model=shape.model, is_chat=bool(shape.messages))


def _neutral(given: GivenRequest, custom_id: str) -> NeutralRequest:
    if bool(given.messages) == bool(given.prompt):
        raise InvalidInput("give either messages or prompt, and not blank")
    if given.url is not None or given.method is not None:
        raise InvalidInput("url and method belong to a native line, which has a body")
    if given.max_output_tokens is not None and given.max_output_tokens < 1:
        raise InvalidInput(f"max_output_tokens is {given.max_output_tokens}; at least 1")
    schema = None
    if given.response_schema:
        schema = compile_schema(bytes(given.response_schema).decode()).schema
    options_model = given.provider_options.get("model")
    return NeutralRequest(
        custom_id=custom_id,
        messages=given.messages,
        prompt=given.prompt,
        system=given.system,
        max_output_tokens=given.max_output_tokens,
        temperature=given.temperature,
        response_schema=schema,
        tools=[_tool(tool) for tool in given.tools],
        provider_options=given.provider_options,
        model=options_model if isinstance(options_model, str) else None,
    )


def _tool(given: Mapping[str, Any]) -> Tool:
    """Read `{name, description, parameters}`, also in OpenAI's and Anthropic's spellings."""
    inner = given.get("function")
    tool = inner if isinstance(inner, dict) else given
    name, about = tool.get("name"), tool.get("description")
    parameters = tool.get("parameters", tool.get("input_schema", {"type": "object", "properties": {}}))
    if not isinstance(name, str) or not name.strip() or given.get("type", "function") not in ("function", "custom"):
        raise InvalidInput("tools: give name, description and parameters; others go into provider_options")
    if not isinstance(parameters, dict) or not isinstance(about, str | None):
        raise InvalidInput(f"tools: {name[:80]!r} needs a text as description and a JSON schema as parameters")
    return Tool(name=name, description=about, parameters=parameters)
