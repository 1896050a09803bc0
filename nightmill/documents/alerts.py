"""What people are told about documents: each thing once, however often it is found."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightmill.errors import DocumentNotFound, NotificationFailed
from nightmill.notify import Notification

if TYPE_CHECKING:
    from nightmill.notify import Notifier
    from nightmill.storage.document_syncs import SyncRepository

logger = logging.getLogger(__name__)

_QUIET = 3600.0  # seconds in which the same fault of ours is told once by a worker


@dataclass(frozen=True)
class Alerts:
    """Tells operators; any thread may use it.

    Attributes:
        syncs: Keeps what a document needs, so that it is told once.
        notifier: Sends it.
    """

    syncs: SyncRepository
    notifier: Notifier
    _told: dict[str, float] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def document(self, document_id: str, account: str | None, message: str | None) -> None:
        """Store what a document needs and notify where it is new; None clears it."""
        try:
            is_new = self.syncs.set_attention(document_id, message)
        except DocumentNotFound:
            return
        if not is_new or message is None:
            return
        logger.warning("needs attention", extra={"document": document_id, "account": account, "reason": message})
        self._send(
            Notification(
                subject=f"Nightmill: document {document_id} needs attention",
                body=f"Account: {account}\n{message}",
                component="documents",
                document_id=document_id,
            )
        )

    def operator_fault(self, component: str, message: str, *, key: str | None = None) -> None:
        """Tell of a fault in our own set-up, which no document is to be blamed for; once an hour and worker.

        Args:
            component: Which part speaks.
            message: What is wrong.
            key: What makes it the same fault; None: the message.
        """
        with self._lock:
            told = self._told.get(key or message)
            if told is not None and time.monotonic() - told < _QUIET:
                return
            self._told[key or message] = time.monotonic()
        logger.error("operator fault", extra={"component": component, "reason": message})
        self._send(Notification(subject="Nightmill: a worker cannot do its work", body=message, component=component))

    def _send(self, notification: Notification) -> None:
        """Send; a notification that is lost costs the notification only."""
        try:
            self.notifier.notify(notification)
        except NotificationFailed as error:
            logger.warning("notification failed", extra={"error": str(error)})
