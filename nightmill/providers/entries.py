"""Reading one line of results: strictly, quickly, and so that one poisoned line harms no other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from nightmill.concealing import concealed
from nightmill.contracts import ErrorCode
from nightmill.providers.base import Entry, EntryError, MalformedEntry

if TYPE_CHECKING:
    from collections.abc import Iterable

Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
"""A number of tokens; more than the database's integer takes is no number of tokens."""

RAW = msgspec.Raw(b"")

MAX_MESSAGE = 1_000

# What our own retry of a single request may mend: the provider was busy or broken, not the request wrong.
_RETRYABLE_STATUSES = frozenset({408, 409, 425, 429})
_RETRYABLE_WORDS = re.compile(
    r"overloaded|api_error|rate_limit|server_error|internal|timeout|timed_out|unavailable|resource_exhausted|"
    r"deadline_exceeded|aborted|expired",
    re.IGNORECASE,
)
# gRPC: unknown, deadline exceeded, resource exhausted, aborted, internal, unavailable; see grpc.io
_RETRYABLE_GRPC = frozenset({2, 4, 8, 10, 13, 14})
_CANCELED_GRPC = 1
_EXPIRED = frozenset({"batch_expired", "expired"})
_CANCELED = frozenset({"batch_cancelled", "batch_canceled", "cancelled", "canceled"})

_T = TypeVar("_T")


def decode(decoder: msgspec.json.Decoder[_T], line: bytes, where_id: re.Pattern[bytes]) -> _T:
    """Return the decoded line.

    Args:
        decoder: Made for the provider's entry.
        line: One line of results.
        where_id: Made by `id_pattern`.

    Raises:
        MalformedEntry: It is no strict JSON (NaN, half a surrogate pair, too deep) or of another shape.
    """
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEntry(str(error)[:300], _find_id(line, where_id)) from None


def id_pattern(name: str, *, last_in: str | None = None) -> re.Pattern[bytes]:
    """Return a pattern that finds the wire id in a line that cannot be decoded.

    The member is looked for only where it is the entry's own: after nothing but simple members from the begin of the
    line, never inside an answer, which may hold a member of the same name.

    Args:
        name: The member that holds the id.
        last_in: An object that may hold it at the very end of the line instead.
    """
    simple = r'\s*"[^"\\]*"\s*:\s*(?:"(?:[^"\\]|\\.)*+"|[^\s"{}\[\],]++)\s*,'
    own = rf'"{name}"\s*:\s*("(?:[^"\\]|\\.)*+")'
    pattern = rf"\A\s*+\{{(?:{simple})*?\s*+{own}"
    if last_in is not None:
        pattern += rf'|"{last_in}"\s*+:\s*+\{{\s*+{own}\s*+\}}\s*+\}}\s*+\Z'
    return re.compile(pattern.encode(), re.DOTALL)


def _find_id(line: bytes, pattern: re.Pattern[bytes]) -> str | None:
    match = pattern.search(line)
    if match is None:
        return None
    try:
        found: str = msgspec.json.decode(match[match.lastindex or 0], type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return found if "\x00" not in found else None


def savable(entry: Entry, line: bytes) -> Entry:
    """Return the entry if databases can store it.

    Raises:
        MalformedEntry: A text has a NUL character, which PostgreSQL cannot store.
    """
    if b"\\u0000" in line:  # a raw NUL is no valid JSON, so only its escape can have got here
        texts = [entry.wire_id, entry.text, entry.finish_reason, entry.model]
        if entry.error is not None:
            texts += [entry.error.message, entry.error.provider_type, entry.error.provider_code]
        if any(text is not None and "\x00" in text for text in texts):
            wire_id = entry.wire_id if entry.wire_id and "\x00" not in entry.wire_id else None
            raise MalformedEntry("the entry has a NUL character, which databases cannot store", wire_id)
    return entry


def entry_error(
    message: Any,
    *,
    default: str,
    kind: Any = None,
    code: Any = None,
    http_status: int | None = None,
    retryable: bool | None = None,
) -> EntryError:
    """Return the error of one request, classified by status and by the provider's words.

    Args:
        message: The provider's explanation, if it is a text.
        default: What to say where there is none.
        kind: The provider's type of the error.
        code: The provider's code.
        http_status: Status of this one request.
        retryable: Says so outright; None: derived.
    """
    code_text = str(code)[:200] if isinstance(code, str | int) and not isinstance(code, bool) and code != "" else None
    kind_text = kind[:200] if isinstance(kind, str) and kind else None
    words = {word for word in (code_text, kind_text) if word}
    ours = ErrorCode.PROVIDER_ERROR
    if words & _EXPIRED:
        ours = ErrorCode.EXPIRED
    elif words & _CANCELED:
        ours = ErrorCode.CANCELED
    if retryable is None:
        by_status = http_status is not None and (http_status in _RETRYABLE_STATUSES or 500 <= http_status <= 599)
        # A clear refusal stays one, whatever its words ("server_error" with 400 has been seen in examples).
        refused = http_status is not None and 400 <= http_status < 500 and not by_status
        retryable = by_status or (not refused and any(_RETRYABLE_WORDS.search(word) for word in words))
    return EntryError(
        code=ours,
        message=one_line(message) if isinstance(message, str) and message.strip() else default,
        provider_type=kind_text,
        provider_code=code_text,
        http_status=http_status,
        retryable=retryable,
    )


def rpc_error(message: Any, *, default: str, code: Any, status: Any = None) -> EntryError:
    """Return the error of a request whose code is a gRPC one (0 to 16) or an HTTP status, as Google and xAI mix them.

    Args:
        message: The provider's explanation, if it is a text.
        default: What to say where there is none.
        code: The number.
        status: The word, such as `RESOURCE_EXHAUSTED`.
    """
    number = int(code) if isinstance(code, int | str) and str(code).isdecimal() else None
    if number is None:
        return entry_error(message, default=default, kind=status, code=code)
    if 100 <= number <= 599:
        return entry_error(message, default=default, kind=status, code=code, http_status=number)
    error = entry_error(message, default=default, kind=status, code=code)
    error.retryable = error.retryable or number in _RETRYABLE_GRPC
    if number == _CANCELED_GRPC:
        error.code, error.retryable = ErrorCode.CANCELED, False
    return error


def one_line(text: str) -> str:
    """Return the text on one line, at most `MAX_MESSAGE` characters long, without secrets of ours that it quotes."""
    text = concealed(" ".join(text[: 4 * MAX_MESSAGE].split()))
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


class ToolCall(msgspec.Struct, frozen=True):
    """A tool call as it is stored, the same for every provider; `arguments` is JSON, or a text that is none."""

    id: str | None
    name: str | None
    arguments: Any


def tool_calls_json(calls: Iterable[ToolCall]) -> str | None:
    """Return the calls as a JSON array, None if there are none."""
    found = list(calls)
    return msgspec.json.encode(found).decode() if found else None


def arguments_of(text: Any) -> Any:
    """Return arguments that came as JSON in a string; the string itself where it is no JSON."""
    if not isinstance(text, str):
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return text
