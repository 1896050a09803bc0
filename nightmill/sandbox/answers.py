"""What the pretended model says: the same request always gets the same answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from nightmill.sandbox.schemas import instance_of

MAX_ECHO = 200
FILLER = "and so the mill ground on through the night, "


@dataclass(frozen=True)
class Usage:
    """Token counts, about four characters a token.

    Attributes:
        prompt: All input tokens, those read from the cache included.
        cached: Those of the input that were read from the cache.
        visible: Output tokens that can be read.
        reasoning: Output tokens spent on thinking.
    """

    prompt: int
    cached: int
    visible: int
    reasoning: int


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool that the request forced."""

    name: str
    arguments: Any

    @property
    def arguments_json(self) -> str:
        """The arguments as a JSON text, as OpenAI has them."""
        return orjson.dumps(self.arguments).decode()


@dataclass(frozen=True)
class Answer:
    """One model answer, not yet in any provider's words."""

    text: str
    tool: ToolCall | None
    usage: Usage
    digest: bytes

    def identifier(self, prefix: str, length: int = 24) -> str:
        """Return an id that belongs to this answer."""
        return prefix + (self.digest.hex() * 2)[:length]


def answer(
    digest: bytes,
    prompt: str,
    *,
    schema: Any = None,
    tool: ToolCall | None = None,
    thinks: bool = False,
    chars: int | None = None,
) -> Answer:
    """Return the answer to a prompt: an echo, or an instance of the schema that was asked for."""
    if tool is not None:
        text = ""
        spoken = len(tool.arguments_json)
    else:
        text = f"You said: {prompt[:MAX_ECHO]}" if schema is None else orjson.dumps(instance_of(schema)).decode()
        if chars is not None and schema is None:
            text = (text + " " + FILLER * (max(0, chars - len(text)) // len(FILLER) + 1))[:chars]
        spoken = len(text)
    tokens = len(prompt) // 4 + 8
    usage = Usage(
        prompt=tokens,
        cached=tokens // 4 if digest[0] & 1 else 0,  # half of the requests hit the cache with a quarter of the prompt
        visible=spoken // 4 + 1,
        reasoning=16 + digest[1] if thinks else 0,
    )
    return Answer(text, tool, usage, digest)


def text_of(content: Any) -> str:
    """Return all the text in a message's content, whatever the provider calls its parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        for key in ("text", "content", "parts"):
            if key in content:
                return text_of(content[key])
        return ""
    if isinstance(content, Sequence) and not isinstance(content, bytes):
        return " ".join(filter(None, map(text_of, content)))
    return ""
