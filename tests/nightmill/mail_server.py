"""A mail server on loopback that keeps what it gets, parsed."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from nightmill.notify import SmtpServer


class Inbox:
    """Keeps mails; refuses recipients that begin with `no` for good, and those that begin with `later` for now."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], EmailMessage]] = []

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("no"):
            return "550 no such user"
        if address.startswith("later"):
            return "451 try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - as above
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.mails.append((list(envelope.rcpt_tos), message))
        return "250 OK"


class AnyPort(Controller):
    """Listens to a port of the system's choice, and takes its own TLS context for a server's."""

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.port), 5) as plain:
            if not self.ssl_context:
                plain.recv(100)
                return
            with trusting.wrap_socket(plain) as encrypted:
                encrypted.recv(100)


@contextmanager
def mail_server(inbox: Inbox, **options: Any) -> Iterator[SmtpServer]:
    controller = AnyPort(inbox, hostname="127.0.0.1", port=0, **options)
    controller.start()
    yield SmtpServer(
        host="127.0.0.1", port=controller.port, sender="nightmill@example.org", timeout=timedelta(seconds=3)
    )
    controller.stop()
