"""What a worker shows of the work on the task queues that it serves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from nightmill.documents.plans import plan_of
from nightmill.slicing.profiles import profile_names
from nightmill.storage.gauge_reads import DueDocuments, GaugeReads
from nightmill.telemetry import gauges
from nightmill.telemetry.audits import begin_audits
from nightmill.telemetry.batches import begin_batches
from nightmill.telemetry.looks import Looks
from nightmill.telemetry.recovery import begin_repairs
from nightmill.telemetry.slicings import begin_slicings
from nightmill.telemetry.syncs import begin_syncs

if TYPE_CHECKING:
    from collections.abc import Collection

    from nightmill.assembly import Assembly


def observe(assembly: Assembly, queues: Collection[str]) -> None:
    """Show how the work on these task queues stands, and let the counts of it begin; called once a process."""
    settings, looks = assembly.settings, Looks()
    gauges.observe_process()
    if settings.worker.task_queue in queues:
        _observe_general(assembly, looks)
    if settings.slicing.task_queue in queues:
        _observe_slicing(assembly, looks)


def _observe_general(assembly: Assembly, looks: Looks) -> None:
    reads, plans = GaugeReads(assembly.database), assembly.settings.documents.plans
    providers = {name for name, _ in assembly.settings.keys_given()}

    def due() -> DueDocuments:
        return reads.documents(datetime.now(UTC), has_interval=lambda name: plan_of(name, plans).interval is not None)

    batches, documents = looks.kept(reads.batches), looks.kept(due)
    gauges.observe_batches(batches, providers=providers)
    gauges.observe_documents(documents)
    gauges.observe_accounts(batches, documents)
    begin_batches(providers)
    begin_syncs()
    begin_repairs()
    begin_audits()


def _observe_slicing(assembly: Assembly, looks: Looks) -> None:
    parts, reads = assembly.slicing, GaugeReads(assembly.database)
    profiles = profile_names(assembly.settings.slicing)

    def oldest() -> tuple[timedelta | None]:
        return (parts.slicings.oldest_running(datetime.now(UTC)),)

    gauges.observe_slicings(
        oldest_running=looks.kept(oldest),
        breakers=looks.kept(lambda: {row.profile: row.state for row in parts.breakers.all()}),
        waiting=looks.kept(reads.slicings),
        profiles=profiles,
    )
    begin_slicings(profiles)
