"""What of a trace Temporal gets to see."""

from __future__ import annotations

from opentelemetry import baggage, context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from nightmill.client.converter import DATA_CONVERTER
from nightmill.client.tracing import Tracing


def test_headers_hold_the_ids_of_a_trace_and_no_baggage() -> None:
    span = NonRecordingSpan(SpanContext(17, 4, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
    token = context.attach(baggage.set_baggage("customer", "canary", trace.set_span_in_context(span)))
    try:
        [payload] = Tracing()._context_to_headers({}).values()
    finally:
        context.detach(token)
    [carrier] = DATA_CONVERTER.payload_converter.from_payloads([payload])
    assert carrier == {"traceparent": f"00-{17:032x}-{4:016x}-01"}
