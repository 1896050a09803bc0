"""A mail server on loopback that keeps what operators are told."""

from __future__ import annotations

from typing import Any, Self

from aiosmtpd.controller import Controller

from tests.lanes import Lane
from tests.stack import free_port


class Mailbox:
    """Keeps the mails that it gets, from the start of the block to its end."""

    def __init__(self) -> None:
        self.mails: list[str] = []
        self._smtp = Controller(self, hostname="127.0.0.1", port=free_port())

    def __enter__(self) -> Self:
        self._smtp.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._smtp.stop()

    def notified_by(self, lane: Lane) -> None:
        """Let a lane's workers send their notifications here."""
        lane.set(
            NOTIFY__URLS='["mailto:ops@example.org"]',
            NOTIFY__SMTP_HOST="127.0.0.1",
            NOTIFY__SMTP_PORT=str(self._smtp.port),
        )

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.mails.append(envelope.content.decode())
        return "250 OK"
