from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook

from nightmill.errors import (
    AddressRefused,
    AnswerLost,
    InvalidSignature,
    NotConfigured,
    ProviderUnavailable,
    RequestRefused,
)
from nightmill.web.guard import GuardedClient, guarded_client
from nightmill.webhooks import Delivery, build_delivery, new_secret, signed, verify_delivery
from tests.nightmill.web.loopback import Loopback, answer, loopback

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback() as server:
        yield server


@pytest.fixture
def client() -> Iterator[GuardedClient]:
    with guarded_client(allow_private=True, allowed_ports=None) as client:
        yield client


def post(
    client: GuardedClient,
    url: str,
    *,
    secret: str | None = SECRET,
    deadline: timedelta = timedelta(seconds=5),
) -> int:
    body = b'{"batch_id": "b-1"}'
    headers = signed(body, message_id="b-1", secret=None if secret is None else SecretStr(secret))
    return client.post(url, headers=headers, content=body, deadline=deadline)


def delivery(*, secret: str = SECRET, now: datetime | None = None, body: bytes = b'{"a": "\xc3\xbc"}') -> Delivery:
    return build_delivery(message_id="b-1", body=body, secret=secret, now=now or datetime.now(UTC))


def test_a_delivery_is_signed_as_the_scheme_says() -> None:
    # The vector of the scheme's own documentation.
    sent = build_delivery(
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        body=b'{"test": 2432232314}',
        secret=SECRET,
        now=datetime.fromtimestamp(1614265330, UTC),
    )
    assert sent.headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert sent.headers["webhook-timestamp"] == "1614265330"
    assert sent.headers["webhook-id"] == "msg_p5jXN8AQM9LWM0D4loKWxJek"


def test_the_signature_covers_id_time_and_body_wherever_the_clock_is() -> None:
    now = datetime(2026, 11, 22, 12, 0, 0, 900_000, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    sent = delivery(now=now)
    stamp = sent.headers["webhook-timestamp"]
    assert int(stamp) == int(now.timestamp())
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = hmac.new(key, f"b-1.{stamp}.".encode() + sent.body, hashlib.sha256).digest()
    assert sent.headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()


def test_what_is_signed_is_verified_also_by_the_library_of_the_receiver() -> None:
    sent = delivery()
    verify_delivery(sent.headers, sent.body, secret=SECRET)
    verify_delivery({name.upper(): value for name, value in sent.headers.items()}, sent.body, secret=SECRET)
    assert Webhook(SECRET).verify(sent.body, dict(sent.headers)) == {"a": "ü"}


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "b-2"},
        {"webhook-id": ""},
        {"webhook-timestamp": "0"},
        {"webhook-timestamp": "soon"},
        {"webhook-timestamp": "inf"},
        {"webhook-timestamp": "-1e400"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,ü"},
        {"webhook-signature": "v1,abc"},
        {"webhook-signature": "v1,a,b"},
        {"webhook-signature": "v1,AAAA"},
    ],
)
def test_a_forged_or_broken_header_is_refused(change: dict[str, str]) -> None:
    sent = delivery()
    with pytest.raises(InvalidSignature):
        verify_delivery({**sent.headers, **change}, sent.body, secret=SECRET)


def test_another_body_another_secret_and_another_time_are_refused() -> None:
    sent = delivery()
    for body in (sent.body + b" ", b"", b"\xff"):
        with pytest.raises(InvalidSignature):
            verify_delivery(sent.headers, body, secret=SECRET)
    with pytest.raises(InvalidSignature):
        verify_delivery(sent.headers, sent.body, secret=new_secret())
    with pytest.raises(InvalidSignature):
        verify_delivery({}, sent.body, secret=SECRET)
    for minutes in (-6, 6):
        late = delivery(now=datetime.now(UTC) + timedelta(minutes=minutes))
        with pytest.raises(InvalidSignature):
            verify_delivery(late.headers, late.body, secret=SECRET)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_!!!!", "whsec_c2hvcnQ=", "geheim geheim", SECRET + "!", "whsec_" + "A" * 100]
)
def test_a_secret_that_is_none_is_refused_without_being_quoted(secret: str) -> None:
    with pytest.raises(NotConfigured) as caught:
        delivery(secret=secret)
    assert not secret.removeprefix("whsec_") or secret.removeprefix("whsec_") not in str(caught.value)


def test_new_secrets_work_and_differ() -> None:
    one, other = new_secret(), new_secret()
    assert one != other
    sent = delivery(secret=one)
    verify_delivery(sent.headers, sent.body, secret=one)


def test_a_post_arrives_signed_and_any_2xx_is_success(server: Loopback, client: GuardedClient) -> None:
    server.script = answer(b"", status="202 Accepted")
    assert post(client, f"{server.url}/hook?x=1") == 202
    sent = server.received[0]
    assert (sent.method, sent.target, sent.headers["content-type"]) == ("POST", "/hook?x=1", "application/json")
    assert sent.headers["webhook-id"] == "b-1"
    verify_delivery(sent.headers, sent.body, secret=SECRET)


@pytest.mark.parametrize(
    ("status", "kind"),
    [("500 Oops", ProviderUnavailable), ("302 Found", RequestRefused), ("400 Bad", RequestRefused)],
)
def test_any_other_answer_is_no_delivery(
    server: Loopback, client: GuardedClient, status: str, kind: type[Exception]
) -> None:
    server.script = answer(b"", status=status, headers={"Location": "/elsewhere"})
    with pytest.raises(kind):
        post(client, server.url)
    assert len(server.received) == 1


def test_a_receiver_that_hangs_ends_at_the_deadline(server: Loopback, client: GuardedClient) -> None:
    server.script = lambda *_: None
    with pytest.raises(AnswerLost):
        post(client, server.url, deadline=timedelta(seconds=0.3))


def test_nothing_is_posted_to_an_inner_address_and_nothing_unsigned(server: Loopback, client: GuardedClient) -> None:
    with guarded_client(allow_private=False, allowed_ports=None) as strict, pytest.raises(AddressRefused):
        post(strict, server.url)
    with pytest.raises(NotConfigured, match="NIGHTMILL_WEBHOOK__SECRET"):
        post(client, server.url, secret=None)
    assert server.connections == 0
