"""What OpenTelemetry's own variables ask for; read without OpenTelemetry, so that it costs nothing to find: nothing.

`OTEL_SDK_DISABLED`, `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER`, `OTEL_LOGS_EXPORTER` and what begins with
`OTEL_EXPORTER_OTLP_` mean what opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables says (read
2026-11), but for one thing: a signal goes nowhere unless its exporter or an endpoint is named, else every worker would
call a collector that is not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from nightmill.errors import NotConfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROTOCOL = "http/protobuf"


class Exporter(StrEnum):
    """Where a signal goes."""

    OTLP = "otlp"
    CONSOLE = "console"
    """To standard error: standard output belongs to the commands."""


@dataclass(frozen=True)
class Asked:
    """What to export.

    Attributes:
        disabled: Nothing is measured or recorded at all, not for Prometheus either.
        traces: Where spans go.
        metrics: Where metrics go, besides the worker's own `/metrics`.
        logs: Where logs go, besides standard error.
    """

    disabled: bool = False
    traces: frozenset[Exporter] = frozenset()
    metrics: frozenset[Exporter] = frozenset()
    logs: frozenset[Exporter] = frozenset()


def asked_of(environ: Mapping[str, str]) -> Asked:
    """Return what the variables ask for.

    Raises:
        NotConfigured: One of them asks for what is not there; the message says what is.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Asked(disabled=True)
    return Asked(
        traces=_exporters(environ, "TRACES"),
        metrics=_exporters(environ, "METRICS", also=frozenset({"prometheus"})),
        logs=_exporters(environ, "LOGS"),
    )


def _exporters(environ: Mapping[str, str], signal: str, *, also: frozenset[str] = frozenset()) -> frozenset[Exporter]:
    """Return where a signal goes.

    Args:
        environ: The variables.
        signal: `TRACES`, `METRICS` or `LOGS`.
        also: What may be asked for and needs nothing to be done: the worker answers Prometheus anyway.
    """
    variable = f"OTEL_{signal}_EXPORTER"
    given = environ.get(variable, "").strip()
    if given:
        names = {name.strip().lower() for name in given.split(",")} - {""}
    else:
        names = {"otlp"} if _first(environ, "ENDPOINT", signal)[1] else set()
    if unknown := names - {"none", *Exporter} - also:
        raise NotConfigured(f"{variable}={','.join(sorted(unknown))}: give otlp, console or none")
    found = frozenset(Exporter(name) for name in names if name in set(Exporter))
    if Exporter.OTLP in found:
        protocol_variable, protocol = _first(environ, "PROTOCOL", signal)
        if protocol not in ("", _PROTOCOL):
            raise NotConfigured(
                f"{protocol_variable}={protocol}: only {_PROTOCOL} is spoken; set it so, and the endpoint to the port "
                "at which the collector takes HTTP, 4318 by default"
            )
    return found


def _first(environ: Mapping[str, str], name: str, signal: str) -> tuple[str, str]:
    """Return the variable that decides, the signal's own before the one for all, and its value; empty if none does."""
    for variable in (f"OTEL_EXPORTER_OTLP_{signal}_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
        if value := environ.get(variable, "").strip():
            return variable, value
    return "", ""
