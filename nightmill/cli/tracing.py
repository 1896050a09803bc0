"""A span of each command that asks for something, so that its work is one trace from the command on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_TRACED = frozenset({"account", "batch", "document", "prune", "reconcile", "repairs", "schedules", "slice"})
"""The others are servers, which trace what they do themselves, or look at the set-up."""

_NOUNS = frozenset({"account", "batch", "document", "schedules", "slice"})


@contextmanager
def command_traced(arguments: Sequence[str]) -> Iterator[None]:
    """Run a command within a span, if OpenTelemetry's variables ask for traces.

    Raises:
        NotConfigured: They ask for what is not there.
    """
    given = [argument for argument in arguments[:2] if not argument.startswith("-")]
    if not given or given[0] not in _TRACED or not any(name.startswith("OTEL_") for name in os.environ):
        yield
        return
    from opentelemetry import trace

    from nightmill.telemetry.providers import start_telemetry

    started = start_telemetry("nightmill", only_traces=True)
    try:
        tracer = trace.get_tracer("nightmill")
        with tracer.start_as_current_span(_name(given), record_exception=False, set_status_on_exception=False):
            yield
    finally:
        started.stop()


def _name(given: Sequence[str]) -> str:
    """Return the command without its arguments, which may be anything, such as an address with a password."""
    verbs = [word for word in given[1:] if given[0] in _NOUNS and re.fullmatch("[a-z-]{1,20}", word)]
    return " ".join(["nightmill", given[0], *verbs])
