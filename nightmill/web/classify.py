"""From what HTTP said to one of our errors; the one place that decides what is worth trying again."""

from __future__ import annotations

import email.utils
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from nightmill.errors import (
    AccessDenied,
    AnswerLost,
    NightmillError,
    NotFound,
    ProviderUnavailable,
    ProviderUnreachable,
    RateLimited,
    RequestRefused,
)
from nightmill.web.library import httpx
from nightmill.web.resolver import NameStalled, NameUnresolved

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# What the providers' own SDKs retry (openai 3.54, anthropic 2.12), and 425 (RFC 8470).
RETRIABLE_STATUSES = frozenset({408, 409, 425, 429, *range(500, 600)})

LONGEST_RETRY_AFTER = timedelta(hours=1)
"""Who asks for a longer pause is asked again after this long all the same."""

MAX_MESSAGE = 500
"""Longest error message, in characters."""

_REDACTED = "[redacted]"
_MAX_TEXT = 8_000  # read no further than this in a provider's message; MAX_MESSAGE is cut after redaction
_SHARED_RUN = 8  # a word that shares this many characters in a row with a secret is taken for it
_WORD = re.compile(r"[^\s\"'<>(),;]{6,}")
_KEY_LIKE = re.compile(
    r"\b(?:sk|xai|gsk|whsec)[-_][\w*.…-]{6,}|\bAIza[\w*.…-]{6,}|\bBearer\s+[\w*.…~+/=-]{6,}", re.IGNORECASE
)
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_URL_QUERY = re.compile(r"(https?://[^\s?#\"'<>]*)[?#][^\s\"'<>]*")
_SECONDS = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)


@dataclass(frozen=True)
class Redactor:
    """Takes the configured secrets, and what looks like a key, out of texts.

    Attributes:
        secrets: The values that must not appear.
    """

    secrets: frozenset[str] = field(repr=False, default=frozenset())

    def __call__(self, text: str, limit: int = MAX_MESSAGE) -> str:
        """Return `text` on one line, without secrets, at most `limit` characters long."""
        text = " ".join(text[:_MAX_TEXT].split())
        for secret in self.secrets:
            if len(secret) >= 4:
                text = text.replace(secret, _REDACTED)
        text = _URL_QUERY.sub(r"\1", _URL_CREDENTIALS.sub("", text))
        text = _KEY_LIKE.sub(_REDACTED, text)
        if self.secrets:
            text = _WORD.sub(self._word, text)
        text = "".join(char if char.isprintable() else "?" for char in text)
        return text if len(text) <= limit else text[: limit - 1] + "…"

    def _word(self, match: re.Match[str]) -> str:
        word = match[0]
        for secret in self.secrets:
            begin, star, _ = word.partition("*")  # "sk-ab****yz"
            masked = star and len(begin) >= 2 and secret.startswith(begin)
            runs = (secret[at : at + _SHARED_RUN] for at in range(len(secret) - _SHARED_RUN + 1))
            if masked or any(run in word for run in runs):
                return _REDACTED
        return word


@dataclass(frozen=True)
class ProviderMessage:
    """What the provider says about its refusal; every field may be empty."""

    text: str | None = None
    code: str | None = None
    type: str | None = None


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Return how long a `Retry-After` header asks to wait, from seconds or an HTTP date; None for anything else.

    A date in the past is no wait at all. The value is not capped: `error_for_answer` does that.

    Args:
        value: The header as received.
        now: The present, with a time zone.
    """
    if value is None:
        return None
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return timedelta(seconds=float(value))
    try:
        date = email.utils.parsedate_to_datetime(value)
        # "-0000" makes a time without zone; HTTP knows no other zone than GMT (RFC 9110, section 5.6.7).
        wait = (date if date.tzinfo else date.replace(tzinfo=UTC)) - now
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(wait, timedelta(0))


def read_message(body: Any) -> ProviderMessage:
    """Find the provider's own words in the JSON of an error answer, whatever its shape.

    OpenAI and xAI `{"error": {"message", "type", "code"}}` or `{"code", "error": "…"}`, Anthropic `{"error": {"type",
    "message"}}` also once more nested, Google `{"error": {"code", "message", "status"}}` also in a list.
    """
    if isinstance(body, list):
        body = body[0] if body else None
    if not isinstance(body, dict):
        return ProviderMessage()
    outer = body
    for _ in range(3):
        inner = body.get("error")
        if not isinstance(inner, dict):
            break
        body = inner
    text = next((body[key] for key in ("message", "error", "detail") if isinstance(body.get(key), str)), None)
    code = body.get("code") if isinstance(body.get("code"), str) else outer.get("code")
    kind = body.get("type") if isinstance(body.get("type"), str) else body.get("status")
    return ProviderMessage(text=text, code=_text_or_none(code), type=_text_or_none(kind))


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def error_for_answer(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    where: str,
    redact: Redactor,
    retriable_statuses: frozenset[int] = RETRIABLE_STATUSES,
    now: datetime | None = None,
) -> NightmillError:
    """Return the error that an answer other than 2xx means.

    Args:
        status: The status, 300 or above.
        headers: The answer's headers, names in lower case.
        body: The begin of the decoded body.
        where: Method and path without query, the begin of the message.
        redact: Takes secrets out of what the provider says.
        retriable_statuses: Statuses that mean "later"; all others mean "never like this".
        now: The present, for a `Retry-After` that is a date.
    """
    try:
        said = read_message(orjson.loads(body))
    except orjson.JSONDecodeError:
        said = ProviderMessage()
    text = said.text or (_redirect_hint(headers) if status < 400 else _excerpt(body))
    label = " ".join(part for part in (said.type, said.code) if part)
    kind: type[ProviderUnavailable | RequestRefused | AccessDenied | NotFound]
    if status in retriable_statuses:
        kind = RateLimited if status == 429 else ProviderUnavailable
    elif status in {401, 403}:
        kind = AccessDenied
    elif status in {404, 410}:
        kind = NotFound
    else:
        kind = RequestRefused
    pause = parse_retry_after(headers.get("retry-after"), now or datetime.now(UTC))
    return kind(
        redact(f"{where}: status {status}" + (f" ({label})" if label else "") + (f": {text}" if text else "")),
        http_status=status,
        provider_code=redact(said.code, 100) if said.code else None,
        provider_type=redact(said.type, 100) if said.type else None,
        retry_after=None if pause is None else min(pause, LONGEST_RETRY_AFTER),
    )


def unreadable_answer(
    status: int, headers: Mapping[str, str], body: bytes, *, where: str, redact: Redactor
) -> ProviderUnavailable:
    """Return the error of a 2xx answer that is blank or no JSON object."""
    kind = headers.get("content-type", "no content type")
    what = "the answer is blank" if not body.strip() else f"the answer is no JSON object ({kind}): {_excerpt(body)}"
    return ProviderUnavailable(redact(f"{where}: {what}"), http_status=status)


Failure = Callable[[httpx.HTTPError, str], NightmillError]
"""Makes our error of a failed exchange and the place where it failed, the begin of the message."""


def error_for_transport(error: httpx.HTTPError, *, where: str, redact: Redactor) -> NightmillError:
    """Return the error that a failed exchange means: `ProviderUnreachable` only if nothing can have been sent.

    Raise it `from None`: what httpx and h11 say may quote a header, and with it a key.
    """
    if isinstance(error, httpx.PoolTimeout):
        return ProviderUnreachable(redact(f"{where}: all connections are in use"))
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return ProviderUnreachable(redact(f"{where}: no connection ({_reason(error)})"))
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        return RequestRefused(f"{where}: the request cannot be expressed in HTTP ({type(error).__name__})")
    return AnswerLost(redact(f"{where}: the connection was lost, no whole answer came ({_reason(error)})"))


@dataclass(frozen=True)
class Trouble:
    """Why an exchange failed.

    Attributes:
        word: `dns`, `tls`, `connect`, `reset`, `read`, `write`, `protocol`, or `busy` where it never began.
        timed_out: Whether it took too long.
    """

    word: str
    timed_out: bool = False


def trouble_of(error: httpx.HTTPError) -> Trouble:
    """Return why an exchange failed, by the types of the error and its causes."""
    timed_out = isinstance(error, httpx.TimeoutException)
    if isinstance(error, httpx.PoolTimeout):
        return Trouble("busy")
    if any(isinstance(cause, (NameStalled, NameUnresolved)) for cause in _causes(error)):
        return Trouble("dns", timed_out)
    if any(isinstance(cause, ssl.SSLError) for cause in _causes(error)):
        return Trouble("tls", timed_out)
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return Trouble("connect", timed_out)
    if timed_out:
        return Trouble("write" if isinstance(error, httpx.WriteTimeout) else "read", timed_out)
    return Trouble("reset" if isinstance(error, httpx.NetworkError) else "protocol")


def _causes(error: BaseException) -> Iterator[BaseException]:
    at: BaseException | None = error
    for _ in range(10):
        if at is None:
            return
        yield at
        at = at.__cause__ or at.__context__


def _reason(error: httpx.HTTPError) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _excerpt(body: bytes) -> str:
    return body[:200].decode("utf-8", "replace")


def _redirect_hint(headers: Mapping[str, str]) -> str:
    return f"redirects to {headers.get('location', 'nowhere')}, which is not followed; is the address right?"
