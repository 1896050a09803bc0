"""The composition root: settings -> dependencies -> worker. Started by `python -m worker` or `nightmill worker`."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

import workflows
from activities.batches import BatchActivities
from activities.changes import ChangeActivities
from activities.crawls import CrawlActivities
from activities.documents import DocumentActivities
from activities.handlers import handler_workflow_finished
from activities.heartbeats import HeartbeatInterceptor
from activities.sweeps import SweepActivities
from nightmill import ids
from nightmill.assembly import Assembly, assembled
from nightmill.cli.ending import exit_code_of, finish
from nightmill.client.connection import connect, register_search_attributes
from nightmill.client.schedules import apply_schedule, sync_sweep
from nightmill.errors import NightmillError
from nightmill.settings import Settings, load_settings
from nightmill.storage import schema
from nightmill.telemetry import set_up_logging
from workflows.admission import AdmissionInterceptor
from workflows.batch_completion import ModelCompletionBatch
from workflows.document_sync import DocumentSync
from workflows.document_sync_sweep import DocumentSyncSweep
from workflows.provider_batch import ProviderBatch
from workflows.site_crawl import SiteCrawl
from workflows.story import SEARCH_ATTRIBUTES

logger = logging.getLogger("nightmill.worker")

STICKY_TIMEOUT = timedelta(seconds=3)
"""How long a workflow task waits for the worker that has the workflow cached. The default, 10 s, is most of what
recovery from a killed worker takes; much less, and a busy worker's tasks are replayed elsewhere."""

WORKFLOWS = [ModelCompletionBatch, ProviderBatch, DocumentSync, DocumentSyncSweep, SiteCrawl]


def build_worker(client: Client, assembly: Assembly) -> Worker:
    """Return a worker for Nightmill's workflows and activities; the caller runs it."""
    limits = assembly.settings.worker
    return Worker(
        client,
        task_queue=limits.task_queue,
        workflows=WORKFLOWS,
        activities=[*_batch_activities(assembly), *_document_activities(assembly), handler_workflow_finished],
        activity_executor=ThreadPoolExecutor(limits.max_activities, thread_name_prefix="activity"),
        max_concurrent_activities=limits.max_activities,
        # Off by default: it is a fifth of a worker's CPU. The tests run with it on (ADR 6).
        workflow_runner=SandboxedWorkflowRunner() if limits.workflow_sandbox else UnsandboxedWorkflowRunner(),
        max_cached_workflows=limits.max_cached_workflows,
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
        max_heartbeat_throttle_interval=timedelta(seconds=2),
        graceful_shutdown_timeout=limits.shutdown_grace,
        interceptors=[HeartbeatInterceptor(), AdmissionInterceptor()],
        deployment_config=_deployment(),
    )


def _batch_activities(assembly: Assembly) -> list[Callable[..., Any]]:
    batches = BatchActivities(
        preparer=assembly.preparer,
        submitter=assembly.submitter,
        poller=assembly.poller,
        settler=assembly.settler,
        deliverer=assembly.deliverer,
        batches=assembly.batches,
        notifier=assembly.notifier,
    )
    return [
        batches.prepare_batch,
        batches.submit_part,
        batches.find_part,
        batches.poll_part,
        batches.cancel_part,
        batches.harvest_part,
        batches.settle_round,
        batches.request_cancel,
        batches.set_attention,
        batches.begin_delivery,
        batches.deliver_webhook,
        batches.record_delivered,
    ]


def _document_activities(assembly: Assembly) -> list[Callable[..., Any]]:
    documents = DocumentActivities(syncer=assembly.syncer, syncs=assembly.syncs, alerts=assembly.alerts)
    changes = ChangeActivities(deliverer=assembly.change_deliverer, alerts=assembly.alerts)
    sweeps = SweepActivities(assembly.sweeper)
    crawls = CrawlActivities(assembly.crawler)
    return [
        documents.sync_document,
        documents.finish_sync,
        documents.abandon_sync,
        changes.begin_change,
        changes.deliver_change,
        changes.record_change_delivered,
        changes.set_document_attention,
        changes.find_change_told,
        sweeps.take_due_documents,
        sweeps.start_document_syncs,
        sweeps.record_sweep,
        crawls.begin_crawl,
        crawls.crawl_pages,
        crawls.end_crawl,
    ]


def _deployment() -> WorkerDeploymentConfig:
    """Name the build; versioning is on only when deployment name and build id are both given (O9)."""
    name = os.environ.get("TEMPORAL_DEPLOYMENT_NAME")
    build = os.environ.get("TEMPORAL_WORKER_BUILD_ID")
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(name or "nightmill", build or _hash_of_workflows()),
        use_worker_versioning=bool(name and build),
        default_versioning_behavior=VersioningBehavior.AUTO_UPGRADE
        if name and build
        else VersioningBehavior.UNSPECIFIED,
    )


def _hash_of_workflows() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(str(workflows.__file__)).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


async def run(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT; running activities get `NIGHTMILL_WORKER__SHUTDOWN_GRACE` to end.

    Raises:
        SchemaOutdated: The database is of another version.
        NightmillError: Temporal or the database cannot be used.
    """
    with assembled(settings) as assembly:
        schema.check(assembly.database)
        client = await connect(settings)
        await register_search_attributes(client, SEARCH_ATTRIBUTES)
        if settings.documents.sweep:
            await apply_schedule(client, ids.SYNC_SWEEP_SCHEDULE, sync_sweep(settings))
        worker = build_worker(client, assembly)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with worker:
            logger.info("worker ready", extra={"task_queue": settings.worker.task_queue, "namespace": client.namespace})
            await stop.wait()
            logger.info("worker stops", extra={"grace": str(settings.worker.shutdown_grace)})


def _keep_messages_constant() -> None:
    """Keep the SDK from writing its context into every message; the records' fields have it already."""
    activity.logger.activity_info_on_message = False
    workflow.logger.workflow_info_on_message = False


def main() -> None:
    """Run the worker and exit: 0 after a signal, or what `exit_code_of` says of a set-up that cannot work."""
    code = 0
    try:
        settings = load_settings()
        set_up_logging(settings)
        _keep_messages_constant()
        asyncio.run(run(settings))
    except NightmillError as error:
        sys.stderr.write(f"nightmill: {error}\n")
        code = exit_code_of(error)
    finish(code)


if __name__ == "__main__":
    main()
