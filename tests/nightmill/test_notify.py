from __future__ import annotations

import json
import logging
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from pydantic import SecretStr

from nightmill.errors import (
    InvalidInput,
    NotConfigured,
    NotificationFailed,
    NotificationRefused,
    PermanentError,
    RequestRefused,
    TransientError,
)
from nightmill.notify import Notification, Notifier, PostSigned, SmtpServer, shown
from nightmill.web.guard import guarded_client
from nightmill.webhooks import signed, verify_delivery
from tests.nightmill.mail_server import Inbox, mail_server
from tests.nightmill.web.certificates import Authority
from tests.nightmill.web.loopback import Loopback, answer, loopback

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TOLD = Notification("Batch b-1\r\nBcc: evil@example.org needs attention", "Key refused.\nPläse fix.", "batches", "b-1")


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def smtp(inbox: Inbox) -> Iterator[SmtpServer]:
    with mail_server(inbox) as settings:
        yield settings


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def server(authority: Authority) -> Iterator[Loopback]:
    with loopback(tls=authority.server_context("localhost")) as server:
        yield server


def hook(server: Loopback, path: str) -> str:
    return f"https://localhost:{server.port}{path}"


@pytest.fixture
def web(authority: Authority) -> Iterator[PostSigned]:
    with guarded_client(allow_private=True, allowed_ports=None, ssl_context=authority.client_context()) as client:

        def post_signed(url: str, message_id: str, body: bytes) -> None:
            headers = signed(body, message_id=message_id, secret=SecretStr(SECRET))
            client.post(url, headers=headers, content=body)

        yield post_signed


def test_a_mail_arrives_whole_and_a_subject_cannot_add_headers(smtp: SmtpServer, web: PostSigned, inbox: Inbox) -> None:
    Notifier(["mailto:a@example.org,b%2Bx@example.net"], smtp, post_signed=web).notify(TOLD)
    [(recipients, mail)] = inbox.mails
    assert recipients == ["a@example.org", "b+x@example.net"]
    assert mail["From"] == "nightmill@example.org"
    assert mail["Subject"] == "Batch b-1 Bcc: evil@example.org needs attention"
    assert mail["Bcc"] is None
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Message-ID"].endswith("@example.org>")
    assert mail.get_content().splitlines() == [
        "Key refused.",
        "Pläse fix.",
        "",
        "-- ",
        "Component: batches",
        "Batch: b-1",
    ]


def test_a_mail_says_which_document_it_is_about(smtp: SmtpServer, web: PostSigned, inbox: Inbox) -> None:
    told = Notification("Document d-1 needs attention", "It is gone.", "documents", document_id="d-1")
    Notifier(["mailto:a@example.org"], smtp, post_signed=web).notify(told)
    [(_, mail)] = inbox.mails
    assert mail.get_content().splitlines()[-2:] == ["Component: documents", "Document: d-1"]


def test_odd_characters_do_not_lose_a_mail(smtp: SmtpServer, web: PostSigned, inbox: Inbox) -> None:
    odd = Notification("ü\ud800" + "x" * 500, "a\ud800b\0c" + "y" * 5000 + "\n.\nend", "batches")
    Notifier(["mailto:a@example.org"], smtp, post_signed=web).notify(odd)
    [(_, mail)] = inbox.mails
    assert len(mail["Subject"]) == 200
    assert mail.get_content().startswith("a?b?cyyyy")
    assert "\r\n.\r\nend\r\n" in mail.get_content()


def test_a_refused_recipient_is_a_failure_and_the_others_get_the_mail(
    smtp: SmtpServer, web: PostSigned, inbox: Inbox
) -> None:
    with pytest.raises(NotificationFailed, match="refuses 1 of 2 recipients"):
        Notifier(["mailto:a@example.org,nobody@example.org"], smtp, post_signed=web).notify(TOLD)
    assert [recipients for recipients, _ in inbox.mails] == [["a@example.org"]]
    with pytest.raises(NotificationFailed, match=r"mailto:example.org: .*SMTPRecipientsRefused"):
        Notifier(["mailto:nobody@example.org"], smtp, post_signed=web).notify(TOLD)


def test_a_mail_server_that_is_away_is_a_failure(web: PostSigned) -> None:
    smtp = SmtpServer(host="127.0.0.1", port=1)
    with pytest.raises(NotificationFailed, match="Connection refused"):
        Notifier(["mailto:a@example.org"], smtp, post_signed=web).notify(TOLD)
    broken = replace(smtp, sender="a\nb@example.org")
    with pytest.raises(NotificationFailed, match="ValueError"):
        Notifier(["mailto:a@example.org"], broken, post_signed=web).notify(TOLD)


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_mail_goes_encrypted_with_a_login_and_a_wrong_password_is_not_told(
    web: PostSigned, inbox: Inbox, authority: Authority, tls: Literal["starttls", "tls"]
) -> None:
    context = authority.server_context("localhost")

    def check(server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth: Any) -> AuthResult:
        assert isinstance(auth, LoginPassword)
        return AuthResult(success=auth.password == b"right", handled=False)

    options: dict[str, Any] = {"tls_context": context, "require_starttls": True, "auth_required": True}
    if tls == "tls":
        options = {"ssl_context": context, "auth_require_tls": False}
    with mail_server(inbox, authenticator=check, **options) as plain:
        smtp = replace(
            plain,
            host="localhost",
            tls=tls,
            user="me",
            password=SecretStr("right"),
            ssl_context=authority.client_context(),
        )
        Notifier(["mailto:a@example.org"], smtp, post_signed=web).notify(TOLD)
        assert len(inbox.mails) == 1
        with pytest.raises(NotificationFailed, match=r"says 535 \(SMTPAuthenticationError\)") as caught:
            Notifier(["mailto:a@example.org"], replace(smtp, password=SecretStr("geheim")), post_signed=web).notify(
                TOLD
            )
        assert "geheim" not in str(caught.value)
        with pytest.raises(NotificationFailed, match="mail could not be sent"):
            Notifier(["mailto:a@example.org"], replace(smtp, ssl_context=None), post_signed=web).notify(TOLD)
    assert len(inbox.mails) == 1
    assert "right" not in repr(smtp)


def test_a_webhook_arrives_signed(server: Loopback, web: PostSigned) -> None:
    notifier = Notifier([hook(server, "/hook")], SmtpServer(), post_signed=web)
    notifier.notify(TOLD)
    notifier.notify(TOLD)
    sent = server.received[0]
    verify_delivery(sent.headers, sent.body, secret=SECRET)
    body = json.loads(sent.body)
    assert body["type"] == "nightmill.notification"
    assert body["data"] == {
        "subject": TOLD.subject,
        "body": TOLD.body,
        "component": "batches",
        "batch_id": "b-1",
        "document_id": None,
    }
    assert server.received[1].headers["webhook-id"] != sent.headers["webhook-id"]


def test_one_channel_that_fails_does_not_keep_the_others_from_being_told(
    smtp: SmtpServer, web: PostSigned, inbox: Inbox, server: Loopback
) -> None:
    server.script = answer(b"T0K3N geheim", status="500 Oops")
    urls = [hook(server, "/services/T0K3N?key=geheim"), "mailto:a@example.org", "mailto:nobody@example.org"]
    with pytest.raises(NotificationFailed, match=r"^2 of 3 notifications failed: https://localhost: POST") as caught:
        Notifier(urls, smtp, post_signed=web).notify(TOLD)
    assert len(inbox.mails) == 1
    assert "T0K3N" not in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_without_urls_nothing_happens(web: PostSigned) -> None:
    Notifier([], SmtpServer(host="127.0.0.1", port=1), post_signed=web).notify(TOLD)


@pytest.mark.parametrize(
    "url",
    [
        "mailto:",
        "mailto:geheim",
        "mailto:a@example.org?bcc=geheim@example.org",
        "mailto:a@example.org%0ABcc:geheim@example.org",
        "mailto:a@exa mple.geheim",
        "https:",
        "https:///geheim",
        "https://[::geheim",
        "geheim",
        "geheim@example.org",
        "",
    ],
)
def test_a_url_that_cannot_work_is_refused_at_the_start_without_being_quoted(web: PostSigned, url: str) -> None:
    with pytest.raises(NotConfigured) as caught:
        Notifier([url], SmtpServer(), post_signed=web)
    assert "geheim" not in str(caught.value)


def test_a_webhook_needs_a_secret_and_https(server: Loopback, web: PostSigned) -> None:
    with pytest.raises(NotConfigured, match="use https:"):
        Notifier(["http://hooks.example.org/x"], SmtpServer(), post_signed=web)

    def unsigned(url: str, message_id: str, body: bytes) -> None:
        signed(body, message_id=message_id, secret=None)

    with pytest.raises(NotificationFailed, match="NIGHTMILL_WEBHOOK__SECRET"):
        Notifier([hook(server, "/")], SmtpServer(), post_signed=unsigned).notify(TOLD)


def test_other_schemes_need_the_extra_and_the_error_names_it(
    web: PostSigned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not (Path(path) / "apprise").exists()])
    monkeypatch.delitem(sys.modules, "apprise", raising=False)
    with pytest.raises(NotConfigured, match=r"tgram: notifications need an extra: pip install 'nightmill\[apprise\]'"):
        Notifier(["tgram://geheim/1"], SmtpServer(), post_signed=web)


# What apprise does at this boundary, in few lines: the package itself is optional and its channels are far away.
STAND_IN = """
import logging
told = []
class Apprise:
    def add(self, url):
        logging.getLogger("apprise").error("Unparseable URL %s", url)
        self.url = url
        return "bad" not in url
    def notify(self, title, body):
        if "crash" in self.url:
            raise TypeError(self.url)
        told.append((title, body))
        return "fails" not in self.url
"""


def test_other_schemes_go_through_the_extra_and_their_urls_are_not_logged(
    web: PostSigned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "apprise.py").write_text(textwrap.dedent(STAND_IN))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "apprise", raising=False)
    try:
        Notifier(["tgram://geheim/1"], SmtpServer(), post_signed=web).notify(TOLD)
        assert sys.modules["apprise"].told == [(TOLD.subject, f"{TOLD.body}\n\nComponent: batches")]
        for host in ("bad", "fails", "crash"):
            with pytest.raises(NotificationFailed, match="1 of 1 notifications failed: tgram: apprise") as caught:
                Notifier([f"tgram://geheim.{host}/1"], SmtpServer(), post_signed=web).notify(TOLD)
            assert "geheim" not in str(caught.value)
        assert "geheim" not in caplog.text
    finally:
        sys.modules.pop("apprise", None)
        logging.getLogger("apprise").setLevel(logging.NOTSET)


ENDED = Notification(
    "Nightmill: g.pdf is sliced",
    "g.pdf was cut into 3 slices.",
    "slicing",
    slicing="ab/gazette",
    level="success",
    link="https://app.example.org/g?x=1",
    details={"slices": 3},
    message_id="nm-slice-ab-1-0",
)


def test_an_owners_mail_has_the_same_id_each_time_and_says_where_to_look(
    smtp: SmtpServer, web: PostSigned, inbox: Inbox
) -> None:
    notifier = Notifier([], replace(smtp, sender="Nightmill <nightmill@example.org>"), post_signed=web)
    notifier.send("mailto:a@example.org", ENDED)
    notifier.send("mailto:a@example.org", ENDED)
    mails = [mail for _, mail in inbox.mails]
    assert [mail["Message-ID"] for mail in mails] == ["<nm-slice-ab-1-0@example.org>"] * 2
    assert mails[0].get_content().splitlines() == [
        "g.pdf was cut into 3 slices.",
        "",
        "https://app.example.org/g?x=1",
        "",
        "-- ",
        "Component: slicing",
        "Slicing: ab/gazette",
    ]


def test_a_message_id_is_not_folded_or_encoded_however_long(smtp: SmtpServer, web: PostSigned, inbox: Inbox) -> None:
    domain = f"{'m' * 60}.example.org"
    notifier = Notifier([], replace(smtp, sender=f"n@{domain}"), post_signed=web)
    notifier.send("mailto:a@example.org", replace(ENDED, message_id="x" * 150))
    [(_, mail)] = inbox.mails
    assert mail["Message-ID"] == f"<{'x' * 150}@{domain}>"


@pytest.mark.parametrize("message_id", ["", "a b", "a>\r\nBcc: evil@example.org", "é", "x" * 151])
def test_a_message_id_that_could_add_headers_is_a_bug(message_id: str) -> None:
    with pytest.raises(ValueError, match="message id"):
        replace(ENDED, message_id=message_id)


def test_an_owners_webhook_has_the_same_id_each_time_and_carries_the_details(server: Loopback, web: PostSigned) -> None:
    notifier = Notifier([], SmtpServer(), post_signed=web)
    notifier.send(hook(server, "/hook"), ENDED)
    notifier.send(hook(server, "/hook"), ENDED)
    assert [sent.headers["webhook-id"] for sent in server.received] == ["msg_nm-slice-ab-1-0"] * 2
    verify_delivery(server.received[0].headers, server.received[0].body, secret=SECRET)
    data = json.loads(server.received[0].body)["data"]
    assert data["slicing"] == "ab/gazette"
    assert data["level"] == "success"
    assert data["link"] == ENDED.link
    assert data["details"] == {"slices": 3}


def test_an_owner_is_told_by_a_channel_of_the_operators_choice_and_by_no_other(
    smtp: SmtpServer, web: PostSigned, inbox: Inbox
) -> None:
    channels = {"desk": "mailto:desk@example.org"}
    notifier = Notifier(["mailto:ops@example.org"], smtp, post_signed=web, channels=channels)
    notifier.send("channel:desk", ENDED)
    assert [recipients for recipients, _ in inbox.mails] == [["desk@example.org"]]
    with pytest.raises(NotConfigured, match=r"channel 'none': known are desk; NIGHTMILL_NOTIFY__CHANNELS"):
        notifier.send("channel:none", ENDED)
    with pytest.raises(NotConfigured):
        Notifier([], smtp, post_signed=web, channels={"desk": "geheim"})


@pytest.mark.parametrize(
    "target",
    [
        "mailto:",
        "mailto:geheim",
        "mailto:a@example.org?bcc=geheim@example.org",
        "mailto:a@example.org%0ABcc:geheim@example.org",
        "http://localhost/geheim",
        "slack://geheim/x",
        "file:///etc/geheim",
        "geheim",
        "",
    ],
)
def test_an_owners_target_that_cannot_work_is_refused_for_good_without_being_quoted(
    smtp: SmtpServer, web: PostSigned, inbox: Inbox, target: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        Notifier([], smtp, post_signed=web).send(target, ENDED)
    assert "geheim" not in str(caught.value)
    assert not inbox.mails


def test_plain_http_is_posted_to_only_where_private_addresses_are_allowed(web: PostSigned) -> None:
    with loopback() as plain:
        url = f"http://localhost:{plain.port}/hook"
        with pytest.raises(InvalidInput, match="https:"):
            Notifier([], SmtpServer(), post_signed=web).send(url, ENDED)
        assert plain.received == []
        Notifier([], SmtpServer(), post_signed=web, allow_http=True).send(url, ENDED)
        assert len(plain.received) == 1


def test_what_is_refused_is_told_from_what_may_go_later(
    smtp: SmtpServer, web: PostSigned, server: Loopback, inbox: Inbox
) -> None:
    notifier = Notifier([], smtp, post_signed=web)
    with pytest.raises(NotificationRefused, match="SMTPRecipientsRefused"):
        notifier.send("mailto:nobody@example.org", ENDED)
    with pytest.raises(NotificationFailed):
        notifier.send("mailto:later@example.org", ENDED)
    with pytest.raises(NotificationRefused, match="refuses 1 of 2 recipients"):
        notifier.send("mailto:a@example.org,nobody@example.org", ENDED)
    with pytest.raises(NotificationFailed, match="refuses 2 of 3 recipients"):
        notifier.send("mailto:a@example.org,nobody@example.org,later@example.org", ENDED)
    with pytest.raises(NotificationFailed):
        Notifier([], replace(smtp, port=1), post_signed=web).send("mailto:a@example.org", ENDED)
    server.script = answer(b"", status="422 No")
    with pytest.raises(RequestRefused):
        notifier.send(hook(server, "/"), ENDED)
    server.script = answer(b"", status="503 Later")
    with pytest.raises(TransientError):
        notifier.send(hook(server, "/"), ENDED)


def test_a_webhook_without_a_secret_to_sign_it_is_not_tried_again() -> None:
    def unsigned(url: str, message_id: str, body: bytes) -> None:
        signed(body, message_id=message_id, secret=None)

    with pytest.raises(PermanentError, match="NIGHTMILL_WEBHOOK__SECRET"):
        Notifier([], SmtpServer(), post_signed=unsigned).send("https://example.org/", ENDED)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("mailto:a@example.org", "mailto:a@example.org"),
        ("channel:desk", "channel:desk"),
        ("https://hooks.example.org/T0K3N?key=geheim", "https://hooks.example.org"),
        ("https://user:geheim@hooks.example.org/", "https://hooks.example.org"),
        ("https://[::geheim", "https://…"),
    ],
)
def test_of_a_webhooks_address_only_scheme_and_host_are_shown(target: str, expected: str) -> None:
    assert shown(target) == expected
