"""The composition root: settings -> dependencies -> workers. Started by `python -m worker` or `nightmill worker`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHistory
from temporalio.converter import DataConverter
from temporalio.runtime import Runtime
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from activities import wiring
from activities.heartbeats import HeartbeatInterceptor
from activities.sightings import worker_identity
from nightmill import ids
from nightmill.assembly import Assembly, assembled
from nightmill.cli.ending import exit_code_of, finish
from nightmill.client import deployment
from nightmill.client.connection import connect, register_search_attributes
from nightmill.client.deployment import Deployment
from nightmill.client.health import checks_of, health_served
from nightmill.client.runtime import worker_runtime
from nightmill.client.schedules import PLANNED, apply_schedule
from nightmill.concealing import concealed
from nightmill.errors import NightmillError, NotConfigured
from nightmill.health.readiness import Health, Phase
from nightmill.settings import Settings, WorkerSettings, load_settings
from nightmill.storage import schema
from nightmill.telemetry.logs import set_up_logging
from nightmill.telemetry.observing import observe
from workflows.admission import AdmissionInterceptor
from workflows.batch_completion import ModelCompletionBatch
from workflows.document_slicing import DocumentSlicing
from workflows.document_sync import DocumentSync
from workflows.document_sync_sweep import DocumentSyncSweep
from workflows.expiry_sweep import ExpirySweep
from workflows.provider_audit import ProviderAudit
from workflows.provider_batch import ProviderBatch
from workflows.reconciler import Reconciler
from workflows.rehearsal import Rehearsal
from workflows.replaying import replays_with
from workflows.site_crawl import SiteCrawl
from workflows.slicer_health import SlicerHealth
from workflows.story import SEARCH_ATTRIBUTES

logger = logging.getLogger("nightmill.worker")

STICKY_TIMEOUT = timedelta(seconds=3)
"""How long a workflow task waits for the worker that has the workflow cached. The default, 10 s, is most of what
recovery from a killed worker takes; much less, and a busy worker's tasks are replayed elsewhere."""

WORKFLOWS = [
    ModelCompletionBatch,
    ProviderBatch,
    DocumentSync,
    DocumentSyncSweep,
    SiteCrawl,
    Reconciler,
    ExpirySweep,
    ProviderAudit,
]
SLICING_WORKFLOWS = [DocumentSlicing, SlicerHealth]

SLICING_ACTIVITIES_AT_ONCE = 10
"""Short steps of slicings at once; programs have slots of their own."""


def queues_of(settings: Settings) -> frozenset[str]:
    """Return the task queues that this worker serves: those that it was given, or both.

    Raises:
        NotConfigured: One of them is not Nightmill's.
    """
    known = {settings.worker.task_queue, settings.slicing.task_queue}
    asked = known if settings.worker.queues is None else set(settings.worker.queues)
    if not asked or asked - known:
        wrong = ", ".join(sorted(asked - known)) or "none"
        raise NotConfigured(f"NIGHTMILL_WORKER__QUEUES: {wrong}; known are {', '.join(sorted(known))}")
    return frozenset(asked)


def own_deployment() -> Deployment:
    """Return what this process tells the server of itself; it reads the code, so whoever needs it is given it.

    Raises:
        NotConfigured: See `deployment_of`.
    """
    named = os.environ.get(deployment.BUILD_ID)
    return deployment.deployment_of(os.environ, named or deployment.hash_of_code(Path(__file__).parent))


def build_workers(client: Client, assembly: Assembly, own: Deployment | None = None) -> list[Worker]:
    """Return workers for the task queues that the settings name; the caller runs them.

    Args:
        client: The connection to Temporal.
        assembly: What their activities are made of.
        own: What they tell the server of themselves; None: `own_deployment`.

    Raises:
        NotConfigured: A task queue is not known, or programs cannot be isolated as the settings ask for.
    """
    settings = assembly.settings
    own = own or own_deployment()
    queues = queues_of(settings)
    found = []
    if settings.worker.task_queue in queues:
        found.append(_general_worker(client, assembly, own))
    if settings.slicing.task_queue in queues:
        found += [_slicing_worker(client, assembly, own), _programs_worker(client, assembly, own)]
    return found


@asynccontextmanager
async def running(workers: Sequence[Worker]) -> AsyncIterator[None]:
    """Run workers within the block; at its end they stop, what they do then gets its grace.

    All stop at once: one after the other, the last would take new work for as long as the others' graces last, and the
    graces would add up to more than whoever sent SIGTERM waits.
    """
    async with AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker)
        try:
            yield
        finally:  # what a worker died of is raised by its own end, which comes next
            await asyncio.gather(*(worker.shutdown() for worker in workers))


def _general_worker(client: Client, assembly: Assembly, own: Deployment) -> Worker:
    limits = assembly.settings.worker
    return Worker(
        client,
        task_queue=limits.task_queue,
        workflows=WORKFLOWS,
        activities=[
            *wiring.of_batches(assembly),
            *wiring.of_documents(assembly),
            *wiring.of_audits(assembly),
            *wiring.of_recovery(client, assembly, replays=_replays(client), build=own.build),
        ],
        activity_executor=ThreadPoolExecutor(limits.max_activities, thread_name_prefix="activity"),
        max_concurrent_activities=limits.max_activities,
        max_heartbeat_throttle_interval=timedelta(seconds=2),
        **_for_workflows(limits),
        **_for_all(limits, own),
    )


def _slicing_worker(client: Client, assembly: Assembly, own: Deployment) -> Worker:
    limits = assembly.settings.worker
    return Worker(
        client,
        task_queue=assembly.settings.slicing.task_queue,
        workflows=SLICING_WORKFLOWS,
        activities=wiring.of_slicings(assembly),
        activity_executor=ThreadPoolExecutor(SLICING_ACTIVITIES_AT_ONCE, thread_name_prefix="slicing"),
        max_concurrent_activities=SLICING_ACTIVITIES_AT_ONCE,
        max_heartbeat_throttle_interval=timedelta(seconds=2),
        **_for_workflows(limits),
        **_for_all(limits, own),
    )


def _programs_worker(client: Client, assembly: Assembly, own: Deployment) -> Worker:
    """Return a worker of the slots for programs; its throttle is how soon a program hears of a cancel."""
    slicing = assembly.settings.slicing
    return Worker(
        client,
        task_queue=ids.programs_queue(slicing.task_queue),
        activities=wiring.of_programs(assembly),
        max_concurrent_activities=slicing.concurrency,
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        default_heartbeat_throttle_interval=timedelta(seconds=1),
        **_for_all(assembly.settings.worker, own),
    )


def _replays(client: Client) -> Callable[[WorkflowHistory], Awaitable[bool | None]]:
    return replays_with([*WORKFLOWS, *SLICING_WORKFLOWS], client)


def rehearsal(converter: DataConverter, namespace: str = "default") -> Rehearsal:
    """Return what replays workflows with the code that is installed here, for those who ask before it is deployed."""
    return Rehearsal([*WORKFLOWS, *SLICING_WORKFLOWS], converter, namespace)


def _for_workflows(limits: WorkerSettings) -> dict[str, Any]:
    return {
        # Off by default: it is a fifth of a worker's CPU, and what it refuses the tests have refused before (ADR 6).
        "workflow_runner": SandboxedWorkflowRunner() if limits.workflow_sandbox else UnsandboxedWorkflowRunner(),
        "max_cached_workflows": limits.max_cached_workflows,
        "sticky_queue_schedule_to_start_timeout": STICKY_TIMEOUT,
    }


def _for_all(limits: WorkerSettings, own: Deployment) -> dict[str, Any]:
    return {
        "graceful_shutdown_timeout": limits.shutdown_grace,
        "interceptors": [HeartbeatInterceptor(), AdmissionInterceptor()],
        "deployment_config": own.config(),
        "identity": worker_identity(os.getpid(), socket.gethostname(), own.build),
    }


async def run(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT; running activities get `NIGHTMILL_WORKER__SHUTDOWN_GRACE` to end.

    Raises:
        SchemaOutdated: The database is of another version.
        NightmillError: Temporal or the database cannot be used.
    """
    own = own_deployment()
    async with health_served(settings, own.build) as health, worker_runtime(settings, own.build) as runtime:
        await _work(settings, own, health, runtime)


async def _work(settings: Settings, own: Deployment, health: Health, runtime: Runtime) -> None:
    with assembled(settings) as assembly:
        await asyncio.to_thread(schema.check, assembly.database)  # while we wait for it we are alive, and say so
        client = await connect(settings, runtime=runtime)
        await register_search_attributes(client, SEARCH_ATTRIBUTES)
        own.tell_half()
        workers = build_workers(client, assembly, own)  # here: in a thread the workflow sandbox finds no event loop
        queues = [worker.task_queue for worker in workers]
        if settings.slicing.task_queue in queues:
            await asyncio.to_thread(assembly.slicing.scratch.sweep)
        observe(assembly, queues)
        await _make_schedules(client, settings, queues)
        health.checks, health.phase = checks_of(client, workers, assembly.database), Phase.RUNNING
        stop = asyncio.Event()

        def drain() -> None:
            health.phase = Phase.DRAINING
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, drain)
        async with running(workers):
            logger.info("worker ready", extra={"task_queue": ",".join(queues), "namespace": client.namespace})
            programs = ids.programs_queue(settings.slicing.task_queue)
            telling = asyncio.create_task(deployment.tell_share(client, own, queues, programs=programs))
            await stop.wait()
            telling.cancel()
            logger.info("worker stops", extra={"grace": str(settings.worker.shutdown_grace)})


async def _make_schedules(client: Client, settings: Settings, queues: Collection[str]) -> None:
    """Make the schedules that the settings ask for, of the task queues that this worker serves."""
    for planned in PLANNED:
        if planned.is_asked_for(settings) and planned.task_queue(settings) in queues:
            await apply_schedule(client, planned, settings)


def _keep_messages_constant() -> None:
    """Keep the SDK from writing its context into every message; the records' fields have it already."""
    activity.logger.activity_info_on_message = False
    workflow.logger.workflow_info_on_message = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the worker and exit: 0 after a signal, or what `exit_code_of` says of a set-up that cannot work."""
    parser = argparse.ArgumentParser(prog="python -m worker", description="Run Nightmill's workflows and activities.")
    parser.add_argument("--queues", help="task queues to serve, separated by commas: nightmill,nightmill-slicing")
    queues = parser.parse_args(arguments).queues
    if queues is not None:
        os.environ["NIGHTMILL_WORKER__QUEUES"] = queues
    code = 0
    try:
        settings = load_settings()
        set_up_logging(settings)
        _keep_messages_constant()
        asyncio.run(run(settings))
    except NightmillError as error:
        sys.stderr.write(f"nightmill: {concealed(str(error))}\n")
        code = exit_code_of(error)
    finish(code)


if __name__ == "__main__":
    main()
