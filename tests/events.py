"""What providers send, made by hand: signed events, and whatever else somebody may post."""

from __future__ import annotations

import asyncio
import http.client
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from standardwebhooks.webhooks import Webhook
from temporalio.client import Client

from nightmill.client.events import EventReceiver
from nightmill.events.endpoints import endpoints_of
from nightmill.serving import served
from nightmill.settings import Settings
from nightmill.storage.engine import Database
from nightmill.storage.event_reads import EventReads

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
GOOGLE_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
ACME_SECRET = "whsec_plJ3nmyCDGBKInavdOK15jsl8Z3vvF2e"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def event(provider_batch_id: str, type_: str = "batch.completed") -> bytes:
    return json.dumps({"object": "event", "type": type_, "created_at": 1, "data": {"id": provider_batch_id}}).encode()


def signed(body: bytes, secret: str = SECRET, *, ago: timedelta = timedelta(0), **changed: str) -> dict[str, str]:
    """Return the headers that go with a body; `changed` ones by their names with `_`."""
    at, message_id = datetime.now(UTC) - ago, f"wh_{secrets.token_hex(4)}"
    headers = {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, at, body.decode()),
    }
    return headers | {name.replace("_", "-"): value for name, value in changed.items()}


def send(url: str, body: Any, headers: dict[str, str], method: str = "POST") -> Answer:
    to = urlsplit(url)
    with closing(http.client.HTTPConnection(to.hostname or "", to.port, timeout=20)) as connection:
        connection.request(method, to.path, body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


async def post(url: str, body: Any, headers: dict[str, str] | None = None, method: str = "POST") -> Answer:
    """Send a body as it stands; without headers it is signed by `SECRET`."""
    return await asyncio.to_thread(send, url, body, signed(body) if headers is None else headers, method)


@asynccontextmanager
async def receiving(temporal: Client, database: Database, settings: Settings) -> AsyncIterator[str]:
    """Run a receiver on a free port, and give its address."""
    receiver = EventReceiver(temporal, EventReads(database), endpoints_of(settings))
    async with served(receiver.app(), "127.0.0.1", 0, setting="NIGHTMILL_EVENTS__PORT") as address:
        yield address
