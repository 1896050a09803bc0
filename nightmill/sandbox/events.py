"""The providers' word that a batch has ended: signed events, sent again until somebody takes them.

Signed here by hand, so that a receiver is not tested by what it is made of.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from nightmill.sandbox.model import Batch, Phase

OPENAI = {
    Phase.COMPLETED: "batch.completed",
    Phase.FAILED: "batch.failed",
    Phase.EXPIRED: "batch.expired",
    Phase.CANCELLED: "batch.cancelled",
}
GOOGLE = {**OPENAI, Phase.COMPLETED: "batch.succeeded"}
WORDS = {"openai": OPENAI, "google": GOOGLE}
"""Anthropic and xAI tell nobody."""

LOOKS_EVERY = 0.05
PATIENCE = 10.0
LONGEST_PAUSE = 30.0


class EventSender:
    """Watches batches on a thread of its own, which lives while there is something to tell.

    Attributes:
        lock: What batches are read under.
        refresh: Brings a batch up to now.
    """

    def __init__(self, lock: threading.RLock, refresh: Callable[[Batch], None]) -> None:
        self.lock, self.refresh = lock, refresh
        self._watched: dict[str, _Message] = {}
        self._thread: threading.Thread | None = None

    def watch(self, batch: Batch) -> None:
        """Tell of a batch's end, where its provider does and its profile says to whom."""
        if batch.profile.events_url is None or batch.provider not in WORDS:
            return
        with self.lock:
            self._watched[batch.id] = _Message(batch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="nightmill-sandbox-events", daemon=True)
                self._thread.start()

    def forget(self) -> None:
        """Tell nothing more of the batches so far."""
        with self.lock:
            self._watched.clear()

    def _run(self) -> None:
        while True:
            with self.lock:
                if not self._watched:
                    self._thread = None
                    return
                due = [message for message in self._watched.values() if self._is_due(message)]
            for message in due:
                if message.send():
                    with self.lock:
                        self._watched.pop(message.batch.id, None)
            time.sleep(LOOKS_EVERY)

    def _is_due(self, message: _Message) -> bool:
        self.refresh(message.batch)
        return message.batch.phase.is_terminal and time.monotonic() >= message.not_before


class _Message:
    """One event; its id stays the same each time it is sent."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.id = f"wh_{secrets.token_hex(16)}"
        self.not_before = 0.0
        self.tries = 0

    def send(self) -> bool:
        """Send it once; return whether it was taken. A second one later, two, four, up to half a minute."""
        profile, body = self.batch.profile, json.dumps(event_of(self.batch)).encode()
        self.tries += 1
        self.not_before = time.monotonic() + min(2.0 ** (self.tries - 1), LONGEST_PAUSE)
        to = urlsplit(f"{(profile.events_url or '').rstrip('/')}/{self.batch.provider}")
        kind = http.client.HTTPSConnection if to.scheme == "https" else http.client.HTTPConnection
        headers = sign(self.id, int(time.time()), body, profile.events_secret or "")
        try:
            with closing(kind(to.hostname or "", to.port, timeout=PATIENCE)) as connection:
                connection.request("POST", to.path, body, {"Content-Type": "application/json", **headers})
                return connection.getresponse().status // 100 == 2
        except (OSError, http.client.HTTPException):  # nobody listens, or does not speak HTTP: told again
            return False


def event_of(batch: Batch) -> dict[str, Any]:
    """Return what a provider says of a batch that has ended.

    platform.openai.com/docs/api-reference/webhook-events and ai.google.dev/gemini-api/docs/webhooks (read 2026-11).
    """
    word, at = WORDS[batch.provider][batch.phase], batch.since[batch.phase]
    if batch.provider == "openai":
        event_id = f"evt_{secrets.token_hex(12)}"
        return {"object": "event", "id": event_id, "type": word, "created_at": int(at), "data": {"id": batch.id}}
    data = {"id": f"batches/{batch.id}"}
    if batch.phase is Phase.FAILED:
        data |= {"error_code": "INVALID_ARGUMENT", "error_message": batch.reason}
    when = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": word, "version": "v1", "timestamp": when, "data": data}


def sign(message_id: str, at: int, body: bytes, secret: str) -> dict[str, str]:
    """Return the headers of a signed message: HMAC-SHA256 over id, time and body (standardwebhooks.com)."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{message_id}.{at}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
