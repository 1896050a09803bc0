"""The connection to Temporal, by the SDK's own environment configuration."""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client, Interceptor
from temporalio.envconfig import ClientConfigProfile, ClientConnectConfig
from temporalio.service import RPCError, RPCStatusCode

from nightmill.client.converter import data_converter
from nightmill.concealing import keep_secret
from nightmill.errors import NotConfigured, TemporalUnreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from temporalio.common import SearchAttributeKey
    from temporalio.runtime import Runtime

    from nightmill.settings import Settings

logger = logging.getLogger("nightmill.connection")

DEFAULT_ADDRESS = "localhost:7233"

_TLS_VARIABLES = (
    "TEMPORAL_TLS_SERVER_CA_CERT_PATH",
    "TEMPORAL_TLS_SERVER_NAME",
    "TEMPORAL_TLS_CLIENT_CERT_PATH",
)
_TLS_TROUBLE = re.compile(r"(?:InvalidCertificate|AlertReceived)\((\w+)")
"""How the SDK's core (1.35) names what TLS failed of; the rest of its text is a tree of its own types."""


async def connect(settings: Settings, *, runtime: Runtime | None = None) -> Client:
    """Connect as `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_TLS_*` and profiles say.

    Raises:
        TemporalUnreachable: No server answers.
        NotConfigured: A profile or the encryption key cannot be used.
    """
    try:
        profile = ClientConfigProfile.load()
        config = profile.to_client_connect_config()
    except Exception as error:  # noqa: BLE001 - files, TOML and names fail in ways of their own
        # Below its first line an error of TOML shows the line where it stands, which may be that of the API key.
        raise NotConfigured(f"Temporal profile: {str(error).partition(chr(10))[0]}") from None
    keep_secret(filter(None, (profile.api_key, profile.grpc_meta.get("authorization"))))
    config.setdefault("target_host", DEFAULT_ADDRESS)
    converter = data_converter(settings.encryption_key, settings.encryption_old_keys)
    try:
        return await Client.connect(
            **config,
            data_converter=converter,
            runtime=runtime,
            interceptors=interceptors(),
        )
    except RuntimeError as error:
        raise TemporalUnreachable(_unreachable(config, str(error))) from error


def _unreachable(config: ClientConnectConfig, said: str) -> str:
    """Return the line that says why there is no connection; `said` is the core's own text."""
    where = config["target_host"]
    found = _TLS_TROUBLE.search(said)
    if config.get("tls") or found:
        why = f" ({found[1]})" if found else ""
        return f"no Temporal server at {where} by TLS{why}: see TEMPORAL_ADDRESS, {', '.join(_TLS_VARIABLES)}"
    return f"no Temporal server at {where}: set TEMPORAL_ADDRESS, or start one with `nightmill dev`"


def interceptors() -> list[Interceptor]:
    """Return what traces a client's calls and its workers, where this process has a tracer provider by now.

    Without one, nothing would come of it but a third of a second until the first call.
    """
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return []
    from nightmill.client.tracing import Tracing

    return [Tracing()]


async def register_search_attributes(client: Client, keys: Sequence[SearchAttributeKey[Any]]) -> None:
    """Make the search attributes known to the namespace; what is there already stays.

    Where they may not even be listed (a key of Temporal Cloud, an authorizer of one's own), an operator has made them,
    or has to: a line in the log names them, and the worker goes on.

    Raises:
        NotConfigured: One exists with another type, or may not be added; the message says how an operator does it.
        TemporalUnreachable: Temporal does not answer.
    """
    wanted = {key.name: IndexedValueType.ValueType(key.indexed_value_type) for key in keys}
    known = None
    try:
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
        for name, kind in wanted.items():
            if known.custom_attributes.get(name, kind) != kind:
                raise NotConfigured(f"search attribute {name} exists with another type: remove or rename it")
        missing = {name: kind for name, kind in wanted.items() if name not in known.custom_attributes}
        if missing:
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing)
            )
    except RPCError as error:
        if error.status is RPCStatusCode.ALREADY_EXISTS:
            return
        if is_away(error):
            raise TemporalUnreachable(f"search attributes: Temporal answered {error.message!r}") from error
        names = ", ".join(f"{name}={IndexedValueType.Name(kind)}" for name, kind in wanted.items())
        if known is None and is_withheld(error):
            logger.warning(
                "search attributes cannot be listed: they must be there",
                extra={"needed": names, "error": error.message},
            )
            return
        raise NotConfigured(f"search attributes could not be registered ({error.message}): add {names}") from error


def is_away(error: RPCError) -> bool:
    """Return whether Temporal did not answer, rather than refuse."""
    return error.status in (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED)


def is_withheld(error: RPCError) -> bool:
    """Return whether Temporal does not let these credentials ask this, or has nobody who would answer it."""
    return error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED)


def temporal_address() -> str:
    """Return the address that `connect` would use, for messages."""
    return os.environ.get("TEMPORAL_ADDRESS", DEFAULT_ADDRESS)
