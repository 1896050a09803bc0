"""One trace through Temporal: from who starts a workflow, over the workflow, to each of its activities.

The SDK's `TracingInterceptor` carries it, in headers that a workflow keeps for life; its spans of workflows have no
length and appear at once, while those of the newer plugin appear when the workflow ends, for a batch a day later. Here
its spans get the ids that people search by, say nothing of errors but their type, as messages may quote what was sent,
and belong together also where nobody's span started the workflow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.propagators.textmap import CarrierT, Setter, default_setter
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from temporalio import workflow
from temporalio.contrib.opentelemetry import TracingInterceptor, TracingWorkflowInboundInterceptor
from temporalio.converter import CompositePayloadConverter, JSONPlainPayloadConverter
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from nightmill import ids
from nightmill.telemetry.roots import SpanIds, chosen, root_of

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind
    from temporalio.api.common.v1 import Payload
    from temporalio.worker import WorkflowInboundInterceptor, WorkflowInterceptorClassInput

_WORKFLOW_ID = "temporalWorkflowID"
_IDS = "traceparent"


class IdsAlone(TraceContextTextMapPropagator):
    """Writes a trace's ids, without baggage and `tracestate`, which are anybody's data.

    Temporal keeps headers in clear. Encrypted, a host that traces as the SDK does by default could not read them, and
    the tasks of its handlers would fail without end.
    """

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        """See `TextMapPropagator.inject`."""
        written: dict[str, str] = {}
        super().inject(written, context)
        if _IDS in written:
            setter.set(carrier, _IDS, written[_IDS])


class Headers(CompositePayloadConverter):
    """Reads a trace's ids in headers, and nothing where there is anything else.

    Hosts may encrypt their headers, or write into them what they like: no trace is worth a task that fails without end.
    """

    def __init__(self) -> None:
        super().__init__(JSONPlainPayloadConverter())

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """See `PayloadConverter.from_payloads`."""
        return [_ids_in(payload) for payload in payloads]


def _ids_in(payload: Payload) -> dict[str, str]:
    if payload.metadata.get("encoding") != b"json/plain":
        return {}
    try:
        found = json.loads(payload.data)
    except ValueError:
        return {}
    parent = found.get(_IDS) if isinstance(found, dict) else None
    return {_IDS: parent} if isinstance(parent, str) else {}


class _WorkflowTracing(TracingWorkflowInboundInterceptor):
    """Traces within a workflow."""

    def __init__(self, following: WorkflowInboundInterceptor) -> None:
        super().__init__(following)
        self.payload_converter = Headers()


class Tracing(TracingInterceptor):
    """Traces the calls of a client, and the workflows and activities of its workers."""

    def __init__(self) -> None:
        super().__init__(trace.get_tracer("nightmill"))
        self.text_map_propagator = IdsAlone()
        self.payload_converter = Headers()

    def workflow_interceptor_class(
        self,
        input: WorkflowInterceptorClassInput,  # noqa: A002 - the SDK's name
    ) -> type[TracingWorkflowInboundInterceptor]:
        """See `TracingInterceptor.workflow_interceptor_class`."""
        super().workflow_interceptor_class(input)
        return _WorkflowTracing

    @contextmanager
    def _start_as_current_span(
        self,
        name: str,
        *,
        attributes: Any,
        input_with_headers: Any = None,
        input_with_ctx: Any = None,
        kind: SpanKind,
        context: Context | None = None,
    ) -> Iterator[None]:
        """Begin the span of a client's call or of an activity; see the class that it is of."""
        if input_with_ctx is not None:  # of Nexus, which nothing of ours uses
            with super()._start_as_current_span(
                name, attributes=attributes, input_with_ctx=input_with_ctx, kind=kind, context=context
            ):
                yield
            return
        with self.tracer.start_as_current_span(
            name,
            context=context,
            kind=kind,
            attributes=_with_subject(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            if input_with_headers is not None:
                input_with_headers.headers = self._context_to_headers(input_with_headers.headers)
            try:
                yield
            except Exception as error:
                kind_of_error = _type_of(error)
                span.set_attribute("error.type", kind_of_error)
                is_noise = isinstance(error, ApplicationError) and error.category == ApplicationErrorCategory.BENIGN
                if not is_noise:
                    span.set_status(Status(StatusCode.ERROR, kind_of_error))
                raise

    def _completed_workflow_span(self, params: Any) -> Any:
        """Make a span of something that a workflow did; runs outside of the workflow's sandbox."""
        attributes = _with_subject(params.attributes)
        if params.exception is not None:
            attributes["error.type"] = _type_of(params.exception)
        params = replace(params, attributes=attributes, exception=None)
        if not params.parent_missing:
            return super()._completed_workflow_span(params)
        info = workflow.info()
        root = root_of(info.first_execution_run_id)
        if params.name.startswith("RunWorkflow:") and info.run_id == info.first_execution_run_id:
            with chosen(root):
                return super()._completed_workflow_span(replace(params, parent_missing=False))
        carrier: dict[str, Any] = {}
        self.text_map_propagator.inject(carrier, _within(root))
        return super()._completed_workflow_span(replace(params, context=carrier, parent_missing=False))


def _within(root: SpanIds) -> Context:
    """Return a context in which `root` is the parent, sampled as it was itself: samplers decide by the trace id."""
    sampler = getattr(trace.get_tracer_provider(), "sampler", None)
    is_sampled = sampler is None or sampler.should_sample(None, root.trace, "").decision.is_sampled()
    flags = TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT)
    parent = SpanContext(root.trace, root.span, is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(parent))


def _with_subject(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Add the id of the batch, document, crawl or slicing that the workflow is of."""
    found = ids.subject_of(str(attributes.get(_WORKFLOW_ID, "")))
    return {**attributes, f"nightmill.{found[0]}.id": found[1]} if found else dict(attributes)


def _type_of(error: BaseException) -> str:
    return (error.type if isinstance(error, ApplicationError) else None) or type(error).__name__
