"""Tell operators what needs them, and owners how their work ended.

By mail, by signed webhook, and through `apprise` by a hundred other channels that operators set up.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import smtplib
import ssl
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid, parseaddr
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from nightmill.errors import InvalidInput, NightmillError, NotConfigured, NotificationFailed, NotificationRefused

if TYPE_CHECKING:
    from pydantic import SecretStr

_MAX_SUBJECT = 200  # characters
_MAX_MESSAGE = 500
_CHANNEL = "channel:"
_FIXED_ID = re.compile(r"[A-Za-z0-9_-]{1,150}")
_ADDRESS = re.compile(r"[^\s@,;<>()\[\]\\\"]{1,64}@[A-Za-z0-9.-]{1,253}")

PostSigned = Callable[[str, str, bytes], None]
"""Posts (url, message id, body), signed; returns after a 2xx answer, raises `nightmill.errors` otherwise."""

_Send = Callable[["Notification"], None]


@dataclass(frozen=True)
class Notification:
    """What an operator or an owner is told.

    Attributes:
        subject: One line.
        body: Some lines of plain text, without secrets, prompts or completions.
        component: Which part speaks: `batches`, `reconciler`, …
        batch_id: The batch it is about, if it is about one.
        document_id: The document it is about, if it is about one.
        slicing: The sliced document it is about, as `<SHA-256>/<profile>`.
        level: How it ended, where something ended.
        link: Where to look.
        details: The same for programs, as JSON; part of webhooks only.
        message_id: Makes the same notification known when it comes again: letters, digits, `_` and `-`. None: a new
            one each time.

    Raises:
        ValueError: The message id holds something else.
    """

    subject: str
    body: str
    component: str
    batch_id: str | None = None
    document_id: str | None = None
    slicing: str | None = None
    level: Literal["success", "warning", "error"] | None = None
    link: str | None = None
    details: Mapping[str, Any] | None = None
    message_id: str | None = None

    def __post_init__(self) -> None:
        if self.message_id is not None and not _FIXED_ID.fullmatch(self.message_id):
            raise ValueError("a message id is made of letters, digits, '_' and '-'")  # it becomes part of headers


@dataclass(frozen=True, kw_only=True)
class SmtpServer:
    """How mails are sent.

    Attributes:
        host: Its name.
        port: Its port: 25, 587 with `starttls`, 465 with `tls`.
        user: Its user, if it asks for one.
        password: And the password.
        tls: How the connection is encrypted.
        sender: Sender of mails.
        timeout: For each step of the conversation.
        ssl_context: Other roots than the usual ones.
    """

    host: str = "localhost"
    port: int = 25
    user: str | None = None
    password: SecretStr | None = None
    tls: Literal["none", "starttls", "tls"] = "none"
    sender: str = "nightmill@localhost"
    timeout: timedelta = timedelta(seconds=10)
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)


class Notifier:
    """Sends notifications to operators, who have configured URLs, and to owners; for many threads at once.

    URLs: `mailto:a@example.org,b@example.org`; `https://…`, posted as a signed webhook of the type
    `nightmill.notification`; any other scheme that `apprise` knows. The last ones bypass our guard of outgoing
    connections: they are the operator's own setting, never a user's input. URLs hold credentials and therefore appear
    in no message: a channel is named by its scheme and host.
    """

    def __init__(
        self,
        urls: Sequence[str],
        smtp: SmtpServer,
        *,
        post_signed: PostSigned,
        channels: Mapping[str, str] | None = None,
        allow_http: bool = False,
    ) -> None:
        """Check the URLs; nothing is connected to.

        Args:
            urls: Where operators are told; without any they are not.
            smtp: The mail server for `mailto:`.
            post_signed: Posts webhooks for `https:`.
            channels: URLs that owners may be told by, by name: `channel:NAME`.
            allow_http: Whether owners may be told by `http:`, which is for private networks.

        Raises:
            NotConfigured: A URL cannot be used, or the extra for its scheme is not installed.
        """
        self._smtp = smtp
        self._post_signed = post_signed
        self._allow_http = allow_http
        self._channels: list[tuple[str, _Send]] = [self._channel(url) for url in urls]
        self._named = {name: self._channel(url)[1] for name, url in (channels or {}).items()}

    def notify(self, notification: Notification) -> None:
        """Tell everybody. One channel that fails does not keep the others from being told. Not idempotent.

        Raises:
            NotificationFailed: At least one channel failed; the message says which and why.
        """
        failures = []
        for name, send in self._channels:
            try:
                send(notification)
            except NightmillError as error:
                failures.append(f"{name}: {error}")
        if failures:
            text = f"{len(failures)} of {len(self._channels)} notifications failed: {'; '.join(failures)}"
            raise NotificationFailed(text[:_MAX_MESSAGE])

    def send(self, target: str, notification: Notification) -> None:
        """Tell one owner. Sent again with the same message id, it is the same message for whoever keeps such ids.

        Args:
            target: `mailto:name@host[,name@host…]`; `https://…`, a signed webhook; or `channel:NAME`. A user's input:
                it leads to no address that the guard refuses, and to no channel that operators have not set up.
            notification: What to tell.

        Raises:
            InvalidInput: The target is none.
            NotConfigured: There is no such channel, or no secret to sign webhooks with.
            TransientError: The receiver is away, or too busy: `NotificationFailed` and others.
            PermanentError: The receiver refuses: `NotificationRefused` and others.
        """
        scheme = target.partition(":")[0].lower()
        if scheme == "channel":
            self._by_name(target[len(_CHANNEL) :])(notification)
        elif scheme == "mailto":
            recipients = _recipients(target)
            if recipients is None:
                raise InvalidInput("notify: a mail address is written mailto:name@host[,name@host…]")
            self._mail(recipients, notification)
        elif scheme == "https" or (scheme == "http" and self._allow_http):
            self._webhook(target, notification)
        elif scheme == "http":
            raise InvalidInput("notify: webhooks go to https: addresses")
        else:
            raise InvalidInput("notify: use mailto:…, https://… or channel:NAME")

    def _by_name(self, name: str) -> _Send:
        found = self._named.get(name)
        if found is None:
            known = ", ".join(sorted(self._named)) or "none"
            raise NotConfigured(f"notification channel {name[:80]!r}: known are {known}; NIGHTMILL_NOTIFY__CHANNELS")
        return found

    def _channel(self, url: str) -> tuple[str, _Send]:
        scheme = url.partition(":")[0].lower()
        if scheme == "mailto":
            recipients = _recipients(url)
            if recipients is None:
                raise NotConfigured("a mailto: notification URL must be mailto:name@host[,name@host…]")
            domains = sorted({recipient.rpartition("@")[2] for recipient in recipients})
            return f"mailto:{','.join(domains)}", lambda notification: self._mail(recipients, notification)
        if scheme == "https":
            return _host_of(url), lambda notification: self._webhook(url, notification)
        if scheme == "http":
            raise NotConfigured("notifications are not posted over http:, use https:")
        if not re.fullmatch(r"[a-z][a-z0-9+-]{0,30}", scheme) or "://" not in url:
            raise NotConfigured("a notification URL must begin with mailto:, https:// or a scheme that apprise knows")
        if importlib.util.find_spec("apprise") is None:
            raise NotConfigured(f"{scheme}: notifications need an extra: pip install 'nightmill[apprise]'")
        return scheme, lambda notification: _apprise(url, notification)

    def _mail(self, recipients: Sequence[str], notification: Notification) -> None:
        smtp = self._smtp
        domain = _domain_of(smtp.sender)
        wait = smtp.timeout.total_seconds()
        try:
            message = _mail(smtp.sender, recipients, notification)
            # Our own name is given: smtplib would look it up, and wait where no name server answers.
            with (
                smtplib.SMTP_SSL(smtp.host, smtp.port, domain, timeout=wait, context=self._tls())
                if smtp.tls == "tls"
                else smtplib.SMTP(smtp.host, smtp.port, domain, timeout=wait)
            ) as server:
                if smtp.tls == "starttls":
                    server.starttls(context=self._tls())
                if smtp.user is not None:
                    server.login(smtp.user, smtp.password.get_secret_value() if smtp.password else "")
                refused = server.send_message(message)
        except smtplib.SMTPResponseException as error:
            # The server's own text could quote what we sent it, the password included.
            raise _answered([error.smtp_code], f"says {error.smtp_code} ({type(error).__name__})") from None
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            raise _answered(codes, f"refuses all recipients ({type(error).__name__})") from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise NotificationFailed(f"the mail could not be sent ({_reason(error)})") from None
        if refused:
            codes = [code for code, _ in refused.values()]
            raise _answered(codes, f"refuses {len(refused)} of {len(recipients)} recipients")

    def _tls(self) -> ssl.SSLContext:
        return self._smtp.ssl_context or ssl.create_default_context()

    def _webhook(self, url: str, notification: Notification) -> None:
        data: dict[str, Any] = {
            "subject": notification.subject,
            "body": notification.body,
            "component": notification.component,
            "batch_id": notification.batch_id,
            "document_id": notification.document_id,
        }
        for name in ("slicing", "level", "link", "details"):
            if getattr(notification, name) is not None:
                data[name] = getattr(notification, name)
        body = {"type": "nightmill.notification", "timestamp": datetime.now(UTC).isoformat(), "data": data}
        self._post_signed(url, f"msg_{notification.message_id or uuid.uuid4().hex}", json.dumps(body).encode())


def shown(target: str) -> str:
    """Return an owner's target as it may be stored and logged: of a webhook only scheme and host.

    Its path and query are often the secret that lets one post there.
    """
    if target.lower().startswith(("http://", "https://")):
        try:
            return _host_of(target)
        except NotConfigured:
            return f"{target.partition(':')[0].lower()}://…"
    return target


def _recipients(url: str) -> list[str] | None:
    """Return the recipients of a `mailto:` URL; None where it has others than addresses."""
    recipients = [unquote(part).strip() for part in url[len("mailto:") :].split(",")]
    return recipients if all(_ADDRESS.fullmatch(recipient) for recipient in recipients) else None


def _answered(codes: Sequence[int], what: str) -> NightmillError:
    """Return the error for a mail server's answers: 5xx is final (RFC 5321, section 4.2.1), all else may pass."""
    final = all(500 <= code < 600 for code in codes)
    return (NotificationRefused if final else NotificationFailed)(f"the mail server {what}")


def _domain_of(sender: str) -> str:
    return parseaddr(sender)[1].rpartition("@")[2] or "localhost"


def _mail(sender: str, recipients: Sequence[str], notification: Notification) -> EmailMessage:
    message = EmailMessage()
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Subject"] = _clean(" ".join(notification.subject.split()))[:_MAX_SUBJECT]
    message["Date"] = format_datetime(datetime.now(UTC))
    domain = _domain_of(sender)
    fixed = notification.message_id
    message["Message-ID"] = f"<{fixed}@{domain}>" if fixed else make_msgid(domain=domain)
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    lines = [_clean(notification.body), "", "-- ", f"Component: {notification.component}"]
    if notification.link is not None:
        lines[1:1] = ["", _clean(notification.link)]
    if notification.batch_id is not None:
        lines.append(f"Batch: {notification.batch_id}")
    if notification.document_id is not None:
        lines.append(f"Document: {notification.document_id}")
    if notification.slicing is not None:
        lines.append(f"Slicing: {notification.slicing}")
    message.set_content("\n".join(lines) + "\n")
    return message


def _apprise(url: str, notification: Notification) -> None:
    import apprise

    # It logs URLs with their credentials when it cannot use them.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    link = f"\n\n{notification.link}" if notification.link else ""
    body = f"{notification.body}{link}\n\nComponent: {notification.component}"
    try:
        channels = apprise.Apprise()
        delivered = channels.add(url) and channels.notify(title=notification.subject, body=body)
    except Exception as error:  # noqa: BLE001 - a hundred plugins, none of which may stop a batch
        raise NotificationFailed(f"apprise failed ({type(error).__name__})") from None
    if not delivered:
        raise NotificationFailed("apprise does not understand the URL or could not deliver")


def _host_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host:
        raise NotConfigured("an https: notification URL must name a host")
    return f"{parts.scheme}://{host}"


def _clean(text: str) -> str:
    """Replace what cannot be encoded: a lone surrogate from a provider's message must not lose the mail."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "?")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
