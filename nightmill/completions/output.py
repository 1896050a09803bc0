"""What becomes of an answer that the provider counts as a success: checked output, or a failure of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from nightmill.completions.schemas import compile_schema
from nightmill.contracts import ErrorCode
from nightmill.errors import InvalidInput
from nightmill.providers.base import EntryError

if TYPE_CHECKING:
    from nightmill.providers.base import Entry

# The same request would end the same way: cut off at its own limit, or refused.
_FINAL_REASONS = frozenset(
    {"length", "max_tokens", "max_output_tokens", "model_context_window_exceeded", "content_filter", "refusal"}
    | {"safety", "recitation", "prohibited_content", "blocklist", "spii", "image_safety"}
)


def judge(entry: Entry, response_schema: str | None) -> tuple[str | None, EntryError | None]:
    """Return an answer's output as JSON, and why the answer is a failure, if it is one.

    A tool call counts as output, with a schema too: the model then asks for something before it answers. Checking is
    bounded, see `nightmill.completions.schemas`.

    Args:
        entry: As read by the provider, without an error.
        response_schema: JSON schema as text, None for free text.
    """
    text = entry.text.strip() if entry.text else ""
    if not text:
        if entry.tool_calls is None and entry.output is None:
            return None, _error(entry, ErrorCode.EMPTY_OUTPUT, "the answer has neither text nor a tool call")
        return entry.output, None
    if response_schema is None:
        return entry.output, None
    complaint = _complaint(text, response_schema)
    if complaint is None:
        return text, None
    return None, _error(entry, ErrorCode.INVALID_OUTPUT, f"the answer violates the response schema: {complaint}")


def _complaint(text: str, response_schema: str) -> str | None:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return f"no JSON: {error}"
    try:
        return compile_schema(response_schema).complaint(value)
    except InvalidInput as error:  # stored by a version that took it
        return str(error)


def _error(entry: Entry, code: ErrorCode, message: str) -> EntryError:
    reason = entry.finish_reason
    return EntryError(
        code=code,
        message=message + (f" (finish reason: {reason})" if reason else ""),
        retryable=reason is None or reason.lower() not in _FINAL_REASONS,
    )
