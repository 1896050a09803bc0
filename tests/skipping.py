"""A Temporal server that skips time, with a worker in this process. One a test: a shared one would leak its clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.testing import WorkflowEnvironment

from nightmill.client.converter import DATA_CONVERTER
from nightmill.client.nightmill import Nightmill
from tests.stack import Stack, beside_python
from worker import build_workers
from worker import running as running_workers
from workflows.story import SEARCH_ATTRIBUTES


@asynccontextmanager
async def running(stack: Stack) -> AsyncIterator[tuple[WorkflowEnvironment, Nightmill]]:
    """Run server and worker; time is skipped only while somebody sleeps on the server."""
    environment = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=beside_python("temporal-test-server"), data_converter=DATA_CONVERTER
    )
    async with environment:
        await environment.client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=environment.client.namespace,
                search_attributes={key.name: int(key.indexed_value_type) for key in SEARCH_ATTRIBUTES},  # type: ignore[misc]
            )
        )
        with stack.assembly() as assembly:
            async with running_workers(build_workers(environment.client, assembly)):
                yield environment, Nightmill(environment.client, assembly)
