"""Temporal's remote codec over HTTP, by which its UI and CLI show payloads that are encrypted.

`POST /decode` and `POST /encode` take and give `{"payloads": […]}`, Payloads as protobuf writes them in JSON
(docs.temporal.io/codec-server, read 2026-11). Whoever may ask reads everything that Temporal stores: hence the token,
and the origins.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from temporalio.api.common.v1 import Payload, Payloads

from nightmill.asking import body_of, healthy
from nightmill.client.codec import KEY_ID, EncryptionCodec, codec_of
from nightmill.errors import NotConfigured

if TYPE_CHECKING:
    from pydantic import SecretStr

    from nightmill.settings import Settings

LARGEST = 8 * 1024 * 1024
"""Bytes of a question at most. Temporal answers with 4 MiB at most, and base64 makes a third more of it."""

READ_WITHIN = timedelta(seconds=10)
"""From a question's first byte to its last."""

HEADERS = ("Authorization", "Content-Type", "X-Namespace")
"""What Temporal's UI sends, and so a page of an allowed origin may send."""

_logger = logging.getLogger("nightmill.codec")

Work = Callable[[Payload], Payload]


def codec_server(settings: Settings, host: str) -> CodecServer:
    """Return what answers by the keys, the token and the origins of the settings, on a host.

    Raises:
        NotConfigured: There is no key, one cannot be used, or everybody on the network could read what is encrypted.
    """
    codec = codec_of(settings.encryption_key, settings.encryption_old_keys)
    if codec is None:
        raise NotConfigured("NIGHTMILL_ENCRYPTION_KEY: not set, so that nothing is encrypted and nothing to decode")
    token = settings.codec.token
    if (token is None or not token.get_secret_value()) and not is_loopback(host):
        raise NotConfigured(
            f"NIGHTMILL_CODEC__TOKEN: not set, and who reaches {host} could read all payloads: set it, or listen on "
            "127.0.0.1"
        )
    return CodecServer(codec, token, settings.codec.origins)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass
class CodecServer:
    """Answers Temporal's UI and CLI; run by `nightmill.serving.served` with what `app` returns.

    Attributes:
        codec: Decrypts with all keys, encrypts with the present one.
        token: What callers send as `Authorization: Bearer …`; None: they need none.
        origins: The pages whose browsers may ask.
    """

    codec: EncryptionCodec
    token: SecretStr | None
    origins: Sequence[str]
    _told: set[str] = field(default_factory=set)
    _telling: threading.Lock = field(default_factory=threading.Lock)

    def app(self) -> Starlette:
        """Return the application: `POST /decode` and `/encode`, `GET /healthz`."""
        cors = Middleware(
            CORSMiddleware, allow_origins=self.origins, allow_methods=("POST",), allow_headers=HEADERS, max_age=600
        )
        routes = [
            Route("/healthz", healthy, methods=["GET"]),
            Route("/decode", self._answering(self._shown), methods=["POST"]),
            Route("/encode", self._answering(self.codec.encrypted), methods=["POST"]),
        ]
        return Starlette(routes=routes, middleware=[cors])

    def _answering(self, work: Work) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            refused = self._refusal(request)
            if refused is not None:
                return refused
            try:
                async with asyncio.timeout(READ_WITHIN.total_seconds()):
                    body = await body_of(request, LARGEST)
            except (TimeoutError, ClientDisconnect):
                return _refused(HTTPStatus.REQUEST_TIMEOUT, "the question does not come to its end")
            if body is None:
                return _refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {LARGEST} bytes")
            try:
                found = await asyncio.to_thread(_answer_to, body, work)  # the largest take seconds
            except (json_format.ParseError, UnicodeDecodeError):  # its text may hold some of what was sent
                return _refused(HTTPStatus.BAD_REQUEST, 'no {"payloads": […]} of base64 data and metadata')
            return Response(found, media_type="application/json", headers={"Cache-Control": "no-store"})

        return answer

    def _refusal(self, request: Request) -> Response | None:
        origin = request.headers.get("origin")
        # A browser sends this with every POST. That it would not show our answer to the page is one lock; this is
        # another, which also holds where a foreign name leads to this address.
        if origin is not None and origin not in self.origins:
            return _refused(HTTPStatus.FORBIDDEN, "this origin is not in NIGHTMILL_CODEC__ORIGINS")
        if self.token is not None and self.token.get_secret_value():
            expected = f"Bearer {self.token.get_secret_value()}".encode()
            if not hmac.compare_digest(request.headers.get("authorization", "").encode(), expected):
                return _refused(
                    HTTPStatus.UNAUTHORIZED, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"}
                )
        return None

    def _shown(self, payload: Payload) -> Payload:
        """Decrypt; what no key fits stays as it is, so that the rest of a history can be read."""
        try:
            return self.codec.decrypted(payload)
        except NotConfigured as error:
            named = payload.metadata.get(KEY_ID, b"").decode(errors="replace")[:8]
            with self._telling:
                is_new = named not in self._told and len(self._told) < 100  # once a key, not once a payload
                if is_new:
                    self._told.add(named)
            if is_new:
                _logger.warning("payload left encrypted", extra={"reason": str(error)})
            return payload


def _answer_to(body: bytes, work: Work) -> str:
    """Return the answer to a question, as JSON.

    Raises:
        json_format.ParseError: It is none.
        UnicodeDecodeError: It is no text.
    """
    asked = json_format.Parse(body, Payloads(), ignore_unknown_fields=True)
    return json_format.MessageToJson(Payloads(payloads=map(work, asked.payloads)), indent=None)


def _refused(status: HTTPStatus, why: str, headers: dict[str, str] | None = None) -> Response:
    _logger.info("refused", extra={"status": status.value, "why": why})
    return PlainTextResponse(f"{why}\n", status_code=status, headers=headers)
