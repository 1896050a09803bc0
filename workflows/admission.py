"""Refuses a workflow that was started with the wrong number of inputs, at once and in a line."""

from __future__ import annotations

import inspect
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)


class AdmissionInterceptor(Interceptor):
    """Checks the inputs of every workflow before it runs."""

    def workflow_interceptor_class(
        self,
        input: WorkflowInterceptorClassInput,  # noqa: A002 - the SDK's name
    ) -> type[WorkflowInboundInterceptor]:
        """See `temporalio.worker.Interceptor.workflow_interceptor_class`."""
        return _Admission


class _Admission(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:  # noqa: A002 - the SDK's name
        try:
            inspect.signature(input.run_fn).bind(None, *input.args)  # None stands for self
        except TypeError as error:
            raise ApplicationError(
                f"{workflow.info().workflow_type}: {error}; got {len(input.args)} input(s)",
                type="InvalidInput",
                non_retryable=True,
            ) from None
        return await super().execute_workflow(input)
