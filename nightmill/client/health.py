"""A worker's health: served from its start to its end, with what it needs looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.service import RPCError, RPCStatusCode

from nightmill.errors import AccessDenied, SchemaOutdated, StorageUnavailable, TemporalUnreachable
from nightmill.health.readiness import PATIENCE, Check, Health
from nightmill.serving import served_if_free
from nightmill.storage import schema

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from temporalio.client import Client
    from temporalio.worker import Worker

    from nightmill.settings import Settings
    from nightmill.storage.engine import Database

_REFUSED = (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED)
_ANSWERED = (RPCStatusCode.UNIMPLEMENTED, RPCStatusCode.RESOURCE_EXHAUSTED)
"""Neither says that work stands: the SDK's worker goes on without this answer, and tries again where it is limited."""


@asynccontextmanager
async def health_served(settings: Settings, build: str) -> AsyncIterator[Health]:
    """Answer `/healthz` and `/readyz` within the block; the caller says how far the worker is, and what it needs.

    Raises:
        NotConfigured: The port that was set cannot be listened on.
    """
    health = Health(version=_version(), build=build)

    def app() -> ASGIApp:
        from nightmill.health.app import health_app

        return health_app(health)

    own = settings.worker
    chosen = "health_port" in own.model_fields_set
    variable = "NIGHTMILL_WORKER__HEALTH_PORT"
    async with served_if_free(app, own.host, own.health_port, setting=variable, chosen=chosen):
        yield health


def checks_of(client: Client, workers: Sequence[Worker], database: Database) -> list[Check]:
    """Return the looks at what a worker needs to work: Temporal, its own pollers, the database in the right version."""
    needed = schema.head_revision()
    # A thread of its own: where those of the event loop are all busy, the database would look as if it were away.
    thread = ThreadPoolExecutor(1, thread_name_prefix="health")

    async def temporal() -> None:
        """Ask for the namespace, as the SDK does before a worker's first poll: where it is refused, none starts.

        So whoever works may ask this, and a refusal means that the key was good once, and has been revoked or has
        expired. gRPC's own health check names no namespace, and a key that is good for one only (Temporal Cloud's) may
        not ask it.
        """
        asked = DescribeNamespaceRequest(namespace=client.namespace)
        try:
            await client.workflow_service.describe_namespace(asked, timeout=timedelta(seconds=PATIENCE))
        except RPCError as error:
            if error.status in _REFUSED:
                raise AccessDenied(f"Temporal refuses the credentials of this worker: {error.message}") from error
            if error.status not in _ANSWERED:
                raise TemporalUnreachable(f"Temporal answered {error.message!r}") from error

    async def polling() -> None:
        # Not by the server's list of pollers: it keeps those that are gone for five minutes, and lacks one whose slots
        # are all in use. What the list could add, the way to Temporal, is looked at anyway.
        stopped = [worker.task_queue for worker in workers if not worker.is_running]
        if stopped:
            raise TemporalUnreachable(f"nobody polls {', '.join(stopped)} any more")

    async def storage() -> None:
        await asyncio.get_running_loop().run_in_executor(thread, _look_at, database, needed)

    return [Check("temporal", temporal), Check("workers", polling), Check("database", storage)]


def _look_at(database: Database, needed: str) -> None:
    if database.dialect == "sqlite" and not Path(str(database.engine.url.database)).exists():
        # Connections that are open go on with the file that was moved or deleted, and what they write is lost.
        raise StorageUnavailable("the database file is gone")
    current = schema.current_revision(database)
    if current != needed:
        raise SchemaOutdated(f"the database has version {current}, this worker needs {needed}")


def _version() -> str | None:
    try:
        return version("nightmill")
    except PackageNotFoundError:  # run from a folder that is not installed
        return None
