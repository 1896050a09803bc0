"""What `nightmill doctor` looks at of what is served and told to others: ports, telemetry, webhooks, notifications."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nightmill.cli.checks import Finding, State, has_database
from nightmill.errors import NotConfigured

if TYPE_CHECKING:
    from nightmill.assembly import Assembly
    from nightmill.settings import Settings

_ANSWERS_WITHIN = 2.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened on
_OPEN_LOOKED_AT = 1_000


def examine_serving(settings: Settings) -> Iterator[Finding]:
    """Yield the findings about ports and telemetry."""
    own = settings.worker
    yield _port("health port", own.host, own.health_port, "NIGHTMILL_WORKER__HEALTH_PORT", "/healthz", settings)
    yield _port("metrics port", own.host, own.metrics_port, "NIGHTMILL_WORKER__METRICS_PORT", "/metrics", settings)
    if settings.encryption_key is not None or settings.encryption_old_keys:
        yield from _codec(settings)
    if any(settings.provider(name).webhook_secret for name in ("openai", "google")):
        yield _receiver(settings)
    yield from _telemetry()


def examine_notices(assembly: Assembly) -> Iterator[Finding]:
    """Yield whether hosts and operators can be told."""
    settings = assembly.settings
    yield _webhooks(assembly)
    try:
        assembly.notifier  # noqa: B018 - it looks at every address when it is made
    except NotConfigured as error:
        fix = "correct NIGHTMILL_NOTIFY__URLS or NIGHTMILL_NOTIFY__CHANNELS: a JSON list, a JSON object"
        yield Finding("notifications", State.FAIL, str(error), fix)
        return
    urls = [url.get_secret_value() for url in settings.notify.urls]
    if not urls:
        fix = 'set NIGHTMILL_NOTIFY__URLS, as `["mailto:desk@example.org"]`'
        yield Finding("notifications", State.OK, "nobody is told of what needs attention", fix)
    elif settings.webhook.secret is None and any(url.startswith("https:") for url in urls):
        message = "posts by https: are signed, and there is no secret to sign them with"
        yield Finding("notifications", State.FAIL, message, "set NIGHTMILL_WEBHOOK__SECRET")
    else:
        yield Finding("notifications", State.OK, f"to {len(urls)} addresses")


def _port(name: str, host: str, port: int, variable: str, path: str, settings: Settings) -> Finding:
    if port == 0:
        return Finding(name, State.OK, f"none, as {variable} says")
    reason = _taken(host, port)
    if reason is None:
        return Finding(name, State.OK, f"{host}:{port} is free: no worker serves it on this machine now")
    status, body = _asked(host, port, path)
    marks = (b'"uptime"', b"nightmill_", b"temporal_")
    if status == http.client.OK and any(mark in body for mark in marks):
        return Finding(name, State.OK, f"a worker answers at {host}:{port}")
    field = variable.rpartition("__")[2].lower()
    if field in settings.worker.model_fields_set:
        message = f"{host}:{port}: {reason}; no worker starts like this"
        return Finding(name, State.FAIL, message, f"set {variable} to another port, or free this one: `ss -ltnp`")
    message = f"{host}:{port}: {reason}; workers run on without it"
    return Finding(name, State.WARN, message, f"set {variable} to another port, or to 0")


def _codec(settings: Settings) -> Iterator[Finding]:
    from nightmill.client.codec_server import is_loopback

    host, port, token = settings.codec.host, settings.codec.port, settings.codec.token
    if not is_loopback(host) and (token is None or not token.get_secret_value()):
        message = f"listens on {host} without a token: it does not start like this"
        yield Finding(
            "codec server", State.FAIL, message, "set NIGHTMILL_CODEC__TOKEN, or NIGHTMILL_CODEC__HOST=127.0.0.1"
        )
        return
    yield _beside(
        "codec server", host, port, "NIGHTMILL_CODEC__PORT", "`nightmill codec-server`, to read payloads in the UI"
    )


def _receiver(settings: Settings) -> Finding:
    given = settings.events
    start = "`nightmill events`, so that batches are asked for as soon as they have ended"
    return _beside("events receiver", given.host, given.port, "NIGHTMILL_EVENTS__PORT", start)


def _beside(name: str, host: str, port: int, variable: str, start: str) -> Finding:
    """Return whether something that runs beside workers, here or elsewhere, answers on this machine."""
    reason = _taken(host, port)
    if reason is None:
        return Finding(name, State.OK, f"not on this machine: {host}:{port} is free", start)
    if _asked(host, port, "/healthz")[0] == http.client.OK:
        return Finding(name, State.OK, f"answers at {host}:{port}")
    message = f"{host}:{port}: {reason}, and what is there does not answer as ours does"
    return Finding(name, State.WARN, message, f"set {variable} to another port, or free this one: `ss -ltnp`")


def _taken(host: str, port: int) -> str | None:
    """Return why a port cannot be listened on, None if it can."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _asked(host: str, port: int, path: str) -> tuple[int, bytes]:
    """Return status and beginning of what a server on this machine answers; 0 where it speaks no HTTP."""
    connection = http.client.HTTPConnection(_ANY.get(host, host), port, timeout=_ANSWERS_WITHIN)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(200_000)
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def _telemetry() -> Iterator[Finding]:
    from nightmill.telemetry.environment import Exporter, asked_of

    try:
        asked = asked_of(os.environ)
    except NotConfigured as error:
        yield Finding("telemetry", State.FAIL, str(error), "no worker starts like this")
        return
    signals = [name for name in ("traces", "metrics", "logs") if Exporter.OTLP in getattr(asked, name)]
    if asked.disabled or not signals:
        yield Finding("telemetry", State.OK, "nothing is sent, as the OTEL_ variables say; Prometheus may ask")
        return
    targets = {name: _endpoint(name) for name in signals}
    away = {}
    for url in set(targets.values()):
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                away[url] = "is not http://HOST:PORT"
                continue
            socket.create_connection((parts.hostname, port), _ANSWERS_WITHIN).close()
        except ValueError:
            away[url] = "is not http://HOST:PORT"
        except OSError as error:
            away[url] = error.strerror or str(error)
    for url, reason in away.items():
        which = ", ".join(name for name, target in targets.items() if target == url)
        message = f"{_without_user(url)} takes no {which}: {reason}"
        yield Finding("telemetry", State.WARN, message, "start the collector, or see OTEL_EXPORTER_OTLP_ENDPOINT")
    if not away:
        yield Finding("telemetry", State.OK, f"{', '.join(signals)} go to a collector that listens")


def _endpoint(signal: str) -> str:
    for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        if value := os.environ.get(name, "").strip():
            return value
    return "http://localhost:4318"


def _without_user(url: str) -> str:
    return url.split("?")[0].rpartition("@")[2]


def _waiting_webhooks(assembly: Assembly) -> int:
    """Return how many open batches are to be told by webhook; 0 where the database is away, which is said elsewhere."""
    from sqlalchemy import text

    from nightmill.storage.models import BATCH_IS_OPEN

    # The kind is looked at here: the two databases read JSON in different ways.
    query = f"SELECT completion_handler FROM batches WHERE {BATCH_IS_OPEN} LIMIT {_OPEN_LOOKED_AT}"  # noqa: S608
    try:
        with assembly.database.reading() as session:
            rows = session.connection().execute(text(query)).scalars().all()
    except Exception:  # noqa: BLE001 - that the database is away, or has no tables yet, has been said already
        return 0
    return sum('"webhook"' in str(row).replace("'", '"') for row in rows)


def _webhooks(assembly: Assembly) -> Finding:
    from nightmill.webhooks import signed

    settings = assembly.settings
    if settings.webhook.secret is None:
        waiting = _waiting_webhooks(assembly) if has_database(settings) else 0
        if waiting:
            message = f"no signing secret, and {waiting:,} open batches are to be told by webhook: they will not be"
            return Finding("webhooks", State.FAIL, message, "set NIGHTMILL_WEBHOOK__SECRET, and restart the workers")
        message = "no signing secret: completion webhooks cannot be sent"
        return Finding("webhooks", State.WARN, message, "set NIGHTMILL_WEBHOOK__SECRET, if you use them")
    try:
        signed(b"{}", message_id="doctor", secret=settings.webhook.secret)
    except NotConfigured as error:
        return Finding("webhooks", State.FAIL, str(error), "set NIGHTMILL_WEBHOOK__SECRET")
    if settings.webhook.allow_private_addresses:
        message = "signed; private addresses may be called, which is for tests only"
        return Finding("webhooks", State.WARN, message, "unset NIGHTMILL_WEBHOOK__ALLOW_PRIVATE_ADDRESSES")
    return Finding("webhooks", State.OK, "signed")
