"""The receiver of providers' batch events: whoever polls the batch is told to ask now.

An event must come from the provider, and even so is not believed: what became of the batch is for a poll to find out.
So an event that is lost costs the wait for the next poll, and one that comes twice costs a poll at most.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from nightmill.asking import body_of, healthy
from nightmill.errors import InvalidInput, InvalidSignature, StorageUnavailable, TemporalUnreachable
from nightmill.events.endpoints import PROVIDERS, Endpoint, path_of
from nightmill.events.reading import read_event
from nightmill.storage.event_reads import EventReads
from nightmill.telemetry.events import EventOutcome, record_event

LARGEST = 64 * 1024
"""Bytes of an event at most; theirs have some hundred."""

ANSWERED_WITHIN = timedelta(seconds=6)
"""From an event's first byte to the answer: providers wait for a few seconds."""

SIGNALED_WITHIN = timedelta(seconds=4)
"""For Temporal, tries of the SDK included."""

AT_ONCE = 16
"""Events that use the database or Temporal at once; more wait for their turn, in the time that they have."""

COME_BACK_AFTER = 30
"""Seconds, where Temporal or the database is away."""

TOLD_EVERY = 60.0
"""Seconds between two log lines on refused events of one path: anybody can send some."""

_SHOWN = re.compile(r"[!-~]{1,100}")

_logger = logging.getLogger("nightmill.events")


@dataclass
class EventReceiver:
    """Answers providers; run by `nightmill.serving.served` with what `app` returns.

    Attributes:
        temporal: Where the workflows are.
        reads: Knows whose a provider batch is.
        endpoints: By their paths.
    """

    temporal: Client
    reads: EventReads
    endpoints: Mapping[str, Endpoint]
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    _refused: dict[tuple[str, int], int] = field(default_factory=dict)
    _told_at: dict[tuple[str, int], float] = field(default_factory=dict)

    def app(self) -> Starlette:
        """Return the application: `POST /openai`, `/google`, and each with `/ACCOUNT`; `GET /healthz`."""
        app = Starlette(
            routes=[
                Route("/healthz", healthy, methods=["GET"]),
                Route("/{provider}", self._receive, methods=["POST"]),
                Route("/{provider}/{account}", self._receive, methods=["POST"]),
            ]
        )
        app.router.redirect_slashes = False  # a redirect is a failure to those who send
        return app

    async def _receive(self, request: Request) -> Response:
        provider = request.path_params["provider"]
        path = path_of(provider, request.path_params.get("account"))
        if provider not in PROVIDERS:
            return Response(status_code=HTTPStatus.NOT_FOUND)
        endpoint = self.endpoints.get(path)
        if endpoint is None:
            # One line for all of them: paths that do not exist are without number.
            return self._refuse(provider, path_of(provider, None), HTTPStatus.NOT_FOUND, "no secret for this path")
        try:
            async with asyncio.timeout(ANSWERED_WITHIN.total_seconds()):
                body = await body_of(request, LARGEST)
        except TimeoutError:
            return self._refuse(provider, path, HTTPStatus.REQUEST_TIMEOUT, "it does not come to its end")
        except ClientDisconnect:
            return self._refuse(provider, path, HTTPStatus.BAD_REQUEST, "it does not come to its end")
        if body is None:
            return self._refuse(provider, path, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {LARGEST} bytes")
        try:
            endpoint.verify(request.headers, body)
        except InvalidSignature as error:
            return self._refuse(provider, path, HTTPStatus.UNAUTHORIZED, str(error))
        return await self._take(endpoint, request.headers.get("webhook-id", ""), body)

    async def _take(self, endpoint: Endpoint, webhook_id: str, body: bytes) -> Response:
        """Pass a verified event on."""
        try:
            event = read_event(body)
        except InvalidInput as error:
            return self._refuse(endpoint.provider, endpoint.path, HTTPStatus.BAD_REQUEST, str(error))
        facts: dict[str, object] = {
            "provider": endpoint.provider,
            "account": endpoint.account,
            "type": event.type,
            "webhook_id": webhook_id if _SHOWN.fullmatch(webhook_id) else None,
        }
        outcome, batch_id = EventOutcome.UNKNOWN, None
        if event.provider_batch_id is not None:
            try:
                async with asyncio.timeout(ANSWERED_WITHIN.total_seconds()), self._turns:
                    outcome, batch_id = await self._pass_on(endpoint, event.provider_batch_id)
            except (TimeoutError, StorageUnavailable, TemporalUnreachable) as error:
                record_event(endpoint.provider, EventOutcome.UNAVAILABLE)
                _logger.warning("provider event put off", extra={**facts, "error": str(error) or "no answer in time"})
                later = {"Retry-After": str(COME_BACK_AFTER)}
                return Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE, headers=later)
        record_event(endpoint.provider, outcome)
        level = logging.WARNING if outcome is EventOutcome.STOPPED else logging.INFO
        _logger.log(level, "provider event", extra={**facts, "outcome": outcome.value, "batch": batch_id})
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def _pass_on(self, endpoint: Endpoint, provider_batch_id: str) -> tuple[EventOutcome, str | None]:
        """Have the batch polled; return what came of it, and the batch.

        Raises:
            StorageUnavailable: The database does not answer.
            TemporalUnreachable: Temporal does not.
        """
        found = await asyncio.to_thread(self.reads.find, endpoint.provider, provider_batch_id)
        if found is None or not endpoint.owns(found.account):
            return EventOutcome.UNKNOWN, None
        if found.settled:
            return EventOutcome.ENDED, found.batch_id
        handle = self.temporal.get_workflow_handle(found.workflow_id)
        try:
            await handle.signal("poll_now", rpc_timeout=SIGNALED_WITHIN)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return EventOutcome.STOPPED, found.batch_id
            raise TemporalUnreachable(
                f"workflow {found.workflow_id}: Temporal answered {error.message!r} to the signal"
            ) from error
        return EventOutcome.ACCEPTED, found.batch_id

    def _refuse(self, provider: str, path: str, status: HTTPStatus, why: str) -> Response:
        """Answer with a status and nothing more; the log has a line a minute at most."""
        record_event(provider, EventOutcome.REFUSED)
        kind = (path, status.value)
        self._refused[kind] = self._refused.get(kind, 0) + 1
        now = asyncio.get_running_loop().time()
        if now - self._told_at.get(kind, float("-inf")) >= TOLD_EVERY:
            self._told_at[kind] = now
            facts = {"path": path, "status": status.value, "why": why, "refused": self._refused[kind]}
            _logger.warning("provider event refused", extra=facts)
        return Response(status_code=status)
