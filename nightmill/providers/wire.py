"""What the adapters share on the way to the provider and back: lines joined, lists paged, fields read with care."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from nightmill.contracts import BatchStatus
from nightmill.errors import AnswerLost, InvalidInput, NotFound, ProviderUnavailable, RequestRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from nightmill.completions.neutral import NeutralRequest
    from nightmill.providers.base import ProviderStatus
    from nightmill.web.client import HttpClient, JsonAnswer

BLOCK_BYTES = 256 * 1024
"""Lines are joined into blocks of this size; handing them on one by one costs twice the time at 1 KB a line."""


def joined(
    lines: Iterable[bytes], separator: bytes, *, begin: bytes = b"", end: bytes = b"", cut: tuple[int, int] = (0, 0)
) -> Iterator[bytes]:
    """Yield `begin`, the lines with the separator between them, and `end`, in blocks.

    Args:
        lines: The lines, without line end.
        separator: What stands between two lines.
        begin: What comes first.
        end: What comes last.
        cut: Bytes to leave out at the begin and at the end of every line.
    """
    head, tail = cut
    held: list[bytes] = []
    size = 0
    lead = begin
    for line in lines:
        held.append(line[head : len(line) - tail] if head or tail else line)
        size += len(line)
        if size >= BLOCK_BYTES:
            yield lead + separator.join(held)
            held.clear()
            size, lead = 0, separator
    if held:
        yield lead + separator.join(held)
    elif lead is begin:
        yield begin
    yield end


def pages(
    client: HttpClient,
    path: str,
    *,
    params: Mapping[str, str | int],
    cursor: str,
    next_cursor: Callable[[Mapping[str, Any]], str | None],
) -> Iterator[dict[str, Any]]:
    """Yield the pages of a list until there is no next cursor.

    Raises:
        ProviderUnavailable: A cursor comes a second time, which would make the list endless.
    """
    seen: set[str] = set()
    query = dict(params)
    while True:
        body = client.request_json("GET", path, params=query).body
        yield body
        token = next_cursor(body)
        if not token:
            return
        if token in seen:
            raise ProviderUnavailable(f"GET {path}: the list repeats the page after {token[:60]!r}")
        seen.add(token)
        query[cursor] = token


def objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a JSON array, and nothing where it is none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text_of(value: Any) -> str | None:
    """Return a text that is not blank, or None."""
    return value if isinstance(value, str) and value.strip() else None


def count_of(value: Any) -> int | None:
    """Return a count, which Google sends as a string; None for what is no count."""
    if isinstance(value, bool) or not isinstance(value, int | str | float):
        return None
    try:
        return max(0, int(value))
    except (ValueError, OverflowError):
        return None


def time_of(value: Any) -> datetime | None:
    """Return a time given as seconds since 1970 or in ISO 8601, None where it is neither; without a zone it is UTC."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            time = datetime.fromisoformat(value)
            return time if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def required_id(body: Mapping[str, Any], *names: str, what: str) -> str:
    """Return the id of something just made.

    Raises:
        AnswerLost: The answer has none: something was made, and we do not know what it is called.
    """
    for name in names:
        if found := text_of(body.get(name)):
            return found
    raise AnswerLost(f"{what}: the answer has no {names[0]}")


def delete_quietly(client: HttpClient, path: str) -> None:
    """Delete something; that it is gone already is no error."""
    try:
        client.request_json("DELETE", path, blank_ok=True)
    except NotFound:
        return


def cancel(
    ask: Callable[[], JsonAnswer],
    look: Callable[[], ProviderStatus],
    read: Callable[[Mapping[str, Any]], ProviderStatus],
) -> ProviderStatus | None:
    """Ask for a cancel and return what the answer tells; that there is nothing left to cancel is no error.

    Args:
        ask: Makes the call.
        look: Reads the status, to find out why the provider refuses.
        read: Reads the status from the call's answer.
    """
    try:
        body = ask().body
    except (RequestRefused, ProviderUnavailable) as error:
        if error.http_status not in (400, 409):  # how they say that it has ended already
            raise
        status = look()
        if not status.status.is_terminal and status.status is not BatchStatus.CANCELING:
            raise
        return status
    return read(body) if body else None


def splice(request: NeutralRequest, build: Callable[[], dict[str, Any]]) -> bytes:
    """Return the body as JSON: the native one untouched, or a built one with the provider options merged into it."""
    if request.native_body is not None:
        return request.native_body
    return msgspec.json.encode(merged(build(), request.provider_options))


def merged(body: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body with the options laid over it: objects member by member, everything else replaced."""
    for name, value in options.items():
        mine = body.get(name)
        body[name] = merged(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return body


def image_data(url: str) -> tuple[str, str] | None:
    """Return media type and base64 text of a `data:` URL; None for an address.

    Raises:
        InvalidInput: It is neither.
    """
    if url.startswith("data:"):
        head, _, data = url[5:].partition(",")
        kind, _, coding = head.rpartition(";")
        if coding != "base64" or not kind:
            raise InvalidInput("messages: an image's data URL must be data:<media type>;base64,…")
        return kind, data
    if not url.startswith(("https://", "http://", "gs://")):
        raise InvalidInput("messages: an image is given by an https address or a data URL")
    return None


def is_strict(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes the schema: every object closed, all its properties required.

    https://platform.openai.com/docs/guides/structured-outputs (read 2026-11). Others are sent without `strict`, which
    the provider then follows as well as it can; the answer is validated in any case.
    """
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if isinstance(properties, dict) or schema.get("type") == "object":
        required = schema.get("required", [])
        names = properties if isinstance(properties, dict) else {}
        if schema.get("additionalProperties") is not False or not isinstance(required, list):
            return False
        if set(names) != {name for name in required if isinstance(name, str)}:
            return False
    return all(map(is_strict, schema.values()))


def refuse(request: NeutralRequest, names: Sequence[str], why: str) -> None:
    """Raise `InvalidInput` if the request uses one of these fields."""
    for name in names:
        if getattr(request, name):
            raise InvalidInput(f"{name}: {why}")
