from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from nightmill.errors import (
    AccessDenied,
    NightmillError,
    NotFound,
    ProviderUnavailable,
    RateLimited,
    RequestRefused,
)
from nightmill.web.classify import RETRIABLE_STATUSES, Redactor, error_for_answer, parse_retry_after, read_message

NOW = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
KEY = "sk-live-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"
REDACT = Redactor(frozenset({KEY}))


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("7", timedelta(seconds=7)),
        (" 7 ", timedelta(seconds=7)),
        ("0", timedelta(0)),
        ("1.5", timedelta(seconds=1.5)),
        ("999999999", timedelta(seconds=999999999)),
        ("Sun, 22 Nov 2026 10:02:00 GMT", timedelta(minutes=2)),
        ("Sun, 22 Nov 2026 10:02:00 -0000", timedelta(minutes=2)),
        ("Sun, 22 Nov 2026 09:00:00 GMT", timedelta(0)),
        ("Sunday, 22-Nov-26 10:02:00 GMT", timedelta(minutes=2)),
        (None, None),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("1e3", None),
        ("nan", None),
        ("٣", None),
        ("9" * 40, None),
        ("Sun, 99 Nov 2026 10:02:00 GMT", None),
        ("Sun, 22 Nov 99999 10:02:00 GMT", None),
        ("\x00", None),
    ],
)
def test_retry_after_is_read_from_seconds_and_dates_and_from_nothing_else(
    value: str | None, wait: timedelta | None
) -> None:
    assert parse_retry_after(value, NOW) == wait


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[(status, ProviderUnavailable) for status in (408, 409, 425, 500, 502, 503, 504, 520, 529, 599)],
        (429, RateLimited),
        (401, AccessDenied),
        (403, AccessDenied),
        (404, NotFound),
        (410, NotFound),
        *[(status, RequestRefused) for status in (302, 400, 402, 413, 422, 451)],
    ],
)
def test_a_status_decides_the_class_of_the_error(status: int, kind: type[NightmillError]) -> None:
    error = error_for_answer(status, {}, b"", where="GET /x", redact=REDACT)
    assert type(error) is kind
    assert error.http_status == status  # type: ignore[attr-defined]


def test_which_statuses_are_worth_another_try_is_a_setting() -> None:
    fewer = RETRIABLE_STATUSES - {429, 503} | {404}

    def kind(status: int) -> type[NightmillError]:
        return type(error_for_answer(status, {}, b"", where="GET /x", redact=REDACT, retriable_statuses=fewer))

    assert kind(404) is ProviderUnavailable
    assert kind(429) is RequestRefused
    assert kind(503) is RequestRefused


@pytest.mark.parametrize(
    ("body", "text", "code", "kind"),
    [
        ({"error": {"message": "m", "type": "t", "code": "c"}}, "m", "c", "t"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, "m", None, "overloaded_error"),
        ({"error": {"type": "error", "error": {"type": "t", "message": "m"}}}, "m", None, "t"),
        ({"error": {"code": 400, "message": "m", "status": "INVALID_ARGUMENT"}}, "m", None, "INVALID_ARGUMENT"),
        ([{"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}}], "m", None, "RESOURCE_EXHAUSTED"),
        (
            {"code": "Client specified an invalid argument", "error": "m"},
            "m",
            "Client specified an invalid argument",
            None,
        ),
        ({"message": "m"}, "m", None, None),
        ({"detail": "m"}, "m", None, None),
        ({"error": {"message": 7, "code": None}}, None, None, None),
        ({"error": None}, None, None, None),
        ([], None, None, None),
        ("text", None, None, None),
        (None, None, None, None),
    ],
)
def test_the_providers_own_words_are_found_in_every_known_shape(
    body: object, text: str | None, code: str | None, kind: str | None
) -> None:
    said = read_message(body)
    assert (said.text, said.code, said.type) == (text, code, kind)


def test_the_message_says_where_and_what_on_one_bounded_line_and_keeps_the_codes() -> None:
    body = json.dumps({"error": {"message": "too\n many\trequests " + "x" * 9000, "code": "rate", "type": "limit"}})
    error = error_for_answer(429, {"retry-after": "3"}, body.encode(), where="POST /v1/batches", redact=REDACT, now=NOW)
    assert isinstance(error, RateLimited)
    assert str(error).startswith("POST /v1/batches: status 429 (limit rate): too many requests xxx")
    assert len(str(error)) == 500
    assert "\n" not in str(error)
    assert (error.provider_code, error.provider_type, error.retry_after) == ("rate", "limit", timedelta(seconds=3))


@pytest.mark.parametrize(
    "said",
    [
        f"Incorrect API key provided: {KEY}.",
        f"key={KEY}&x",
        f"Authorization: Bearer {KEY}",
        f"…{KEY[4:20]}…",
        "Incorrect API key provided: sk-live-Ab******6789.",
        "Incorrect API key provided: sk****6789.",
        "another key sk-proj-ZZZZZZZZZZZZ here",
        "xai-ZZZZZZZZZZZZ and AIzaSyZZZZZZZZ",
        "see https://user:geheim99@example.org/path?token=geheim99#geheim99",
        "x" * 490 + KEY,
    ],
)
def test_a_key_that_the_provider_echoes_is_redacted(said: str) -> None:
    body = json.dumps({"error": {"message": said, "code": said, "type": said}}).encode()
    error = error_for_answer(401, {}, body, where="GET /v1/models", redact=REDACT)
    for text in (str(error), error.provider_code, error.provider_type):  # type: ignore[attr-defined]
        for leak in (KEY[4:12], "6789", "ZZZZ", "geheim"):
            assert leak not in text


def test_the_redactor_leaves_ordinary_words_alone_and_does_not_show_its_secrets() -> None:
    text = "The batch batch_9f8e7d6c5b4a has 3 requests (see docs.example.org/errors); contact support*"
    assert REDACT(text) == text
    assert KEY not in repr(REDACT)


def test_an_html_page_is_quoted_shortly() -> None:
    error = error_for_answer(502, {}, b"<html>Bad gateway" + b"x" * 5000, where="GET /x", redact=REDACT)
    assert str(error).startswith("GET /x: status 502: <html>Bad gateway")
    assert len(str(error)) < 260
