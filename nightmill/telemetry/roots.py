"""The trace of a workflow that nobody's span started: by a schedule, the Temporal CLI or UI.

A workflow keeps no span of its own: it may run for days, and each worker that takes it up must find the same trace
again. So its trace is made of what Temporal gives it for life, the id of its first run.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator


class SpanIds(NamedTuple):
    """What names a span, and through it a trace."""

    trace: int
    span: int


def root_of(first_run_id: str) -> SpanIds:
    """Return the ids of the first span of a workflow's trace; the trace id is the run id without its hyphens."""
    span = hashlib.sha256(first_run_id.encode()).digest()[:8]
    return SpanIds(uuid.UUID(first_run_id).int, int.from_bytes(span, "big") or 1)


_CHOSEN: ContextVar[SpanIds | None] = ContextVar("nightmill_span_ids", default=None)


class ChosenIds(RandomIdGenerator):
    """Random ids, but for a span that begins under `chosen`."""

    def generate_trace_id(self) -> int:
        """See `IdGenerator.generate_trace_id`."""
        ids = _CHOSEN.get()
        return super().generate_trace_id() if ids is None else ids.trace

    def generate_span_id(self) -> int:
        """See `IdGenerator.generate_span_id`."""
        ids = _CHOSEN.get()
        return super().generate_span_id() if ids is None else ids.span


@contextmanager
def chosen(ids: SpanIds) -> Iterator[None]:
    """Give these ids to the one span that begins within the block."""
    token = _CHOSEN.set(ids)
    try:
        yield
    finally:
        _CHOSEN.reset(token)
