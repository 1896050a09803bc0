"""Which activities there are, made of what stands behind them; the worker registers them by task queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from activities.audit import AuditActivities
from activities.batches import BatchActivities
from activities.changes import ChangeActivities
from activities.crawls import CrawlActivities
from activities.documents import DocumentActivities
from activities.executions import Executions, Replays
from activities.handlers import handler_workflow_finished
from activities.other_repairs import OtherRepairs
from activities.reconciliation import ReconcileActivities
from activities.repairing import Repairer
from activities.slicer_health import HealthActivities
from activities.slicing import SlicingActivities
from activities.slicing_programs import ProgramActivities
from activities.sweeps import SweepActivities

if TYPE_CHECKING:
    from collections.abc import Callable

    from temporalio.client import Client

    from nightmill.assembly import Assembly


def of_batches(assembly: Assembly) -> list[Callable[..., Any]]:
    """Return the activities of batches, and the one that ends a handler's workflow."""
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
        handler_workflow_finished,
    ]


def of_documents(assembly: Assembly) -> list[Callable[..., Any]]:
    """Return the activities of documents, sweeps and crawls."""
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


def of_audits(assembly: Assembly) -> list[Callable[..., Any]]:
    """Return the activities of the audit of providers."""
    audit = AuditActivities(assembly.auditor, assembly.notifier)
    return [audit.find_audit_targets, audit.audit_provider, audit.tell_audit, audit.record_audit]


def of_recovery(client: Client, assembly: Assembly, *, replays: Replays, build: str) -> list[Callable[..., Any]]:
    """Return the activities of the reconciler and the expiry sweep.

    Args:
        client: Leads to the workflows that are looked at.
        assembly: What they are made of.
        replays: Tells whether this build's workflows replay a history.
        build: Of this worker.
    """
    settings, parts = assembly.settings, assembly.recovery
    executions = Executions(
        client,
        replays,
        task_queue=settings.worker.task_queue,
        slicing_queue=settings.slicing.task_queue,
    )
    recovery = ReconcileActivities(
        repairer=Repairer(parts, assembly.batches, executions, OtherRepairs.of(client, assembly)),
        parts=parts,
        executions=executions,
        settings=settings.reconciler,
        build=build,
    )
    return [recovery.look_at_queues, recovery.settle_repairs, recovery.reconcile_page, recovery.record_tick]


def of_slicings(assembly: Assembly) -> list[Callable[..., Any]]:
    """Return the short steps of slicings, and of the watch over slicers."""
    parts = assembly.slicing
    slicing = SlicingActivities(parts.jobs, parts.slicings, parts.breaker, parts.notices)
    health = _health(assembly)
    return [
        slicing.open_slicing,
        slicing.ask_breaker,
        slicing.record_fault,
        slicing.finish_slicing,
        slicing.notify_owner,
        slicing.set_slicing_attention,
        slicing.delete_files,
        health.begin_canary,
        health.judge_canary,
        health.tell_operators,
        health.release_parked,
    ]


def of_programs(assembly: Assembly) -> list[Callable[..., Any]]:
    """Return the steps of slicings that run programs."""
    programs = ProgramActivities(assembly.slicing.steps)
    return [
        programs.inspect_pdf,
        programs.read_pages,
        programs.slice_pdf,
        programs.find_metadata,
        _health(assembly).slice_canary,
    ]


def _health(assembly: Assembly) -> HealthActivities:
    parts = assembly.slicing
    return HealthActivities(parts.canaries, parts.breaker, parts.operator_notices, parts.slicings)
