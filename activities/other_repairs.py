"""What repairs documents and slicings. Each repair may run more than once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from activities.sweeps import start_sync
from nightmill import ids
from nightmill.recovery.documents import DocumentRecovery
from nightmill.recovery.slicings import SlicingRecovery
from nightmill.threads import in_thread

if TYPE_CHECKING:
    from nightmill.assembly import Assembly
    from nightmill.recovery.model import Candidate


@dataclass(frozen=True)
class OtherRepairs:
    """Repairs what is no batch.

    Attributes:
        client: Temporal.
        documents: Says which sync a document needs.
        slicings: Says what a slicing needs, and ends it.
        task_queue: Where syncs run.
        slicing_queue: Where slicings run.
    """

    client: Client
    documents: DocumentRecovery
    slicings: SlicingRecovery
    task_queue: str
    slicing_queue: str

    @classmethod
    def of(cls, client: Client, assembly: Assembly) -> Self:
        """Return the repairs of a Nightmill."""
        settings, slicing = assembly.settings, assembly.slicing
        return cls(
            client=client,
            documents=DocumentRecovery(assembly.documents, assembly.syncs, settings.documents.plans),
            slicings=SlicingRecovery(slicing.slicings, slicing.jobs, slicing.notices),
            task_queue=settings.worker.task_queue,
            slicing_queue=settings.slicing.task_queue,
        )

    async def start_document(self, candidate: Candidate) -> str | None:
        """Start a document's sync and return its run, or the run of one that goes on already.

        None where there is none to start: the document was deleted, or it is switched off and rests now.

        Raises:
            RPCError: Temporal did not take it, or its answer was lost; a second call finds out.
        """
        lost = await in_thread(self.documents.lost_sync, candidate.id)
        if lost is None:
            return None
        handle = await start_sync(
            self.client,
            lost.document_id,
            account=lost.account,
            weight=lost.weight,
            trigger=lost.trigger,
            task_queue=self.task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary=lost.link[:200],
        )
        return handle.result_run_id

    async def start_slicing(self, candidate: Candidate) -> str | None:
        """Start a document's slicing again and return its run, or the run of one that goes on already.

        The new run takes the row over, and finds the PDF in the file storage. None where there is none to start: the
        document was deleted, or it has ended, and then whoever was not told yet is told here.

        Raises:
            RPCError: Temporal did not take it, or its answer was lost; a second call finds out.
            TransientError: Somebody could not be told now.
        """
        sha256, profile = ids.slicing_of(candidate.workflow_id)
        given = await in_thread(self.slicings.lost_run, sha256, profile)
        if given is None:
            await in_thread(self.slicings.tell, sha256, profile)
            return None
        handle = await self.client.start_workflow(
            "DocumentSlicing",
            given.model_dump(exclude_unset=True),
            id=candidate.workflow_id,
            task_queue=self.slicing_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=f"{given.source[:150]} by {profile}, again",
        )
        return handle.result_run_id

    async def close_slicing(self, candidate: Candidate, reason: str, *, canceled: bool) -> None:
        """Write that a slicing failed, or was canceled, and tell its owner; a second call changes nothing.

        Where another run has begun since the candidate was found, nothing happens.

        Raises:
            TransientError: The end is written, and somebody could not be told now; or nothing is written.
        """
        sha256, profile = ids.slicing_of(candidate.workflow_id)
        run_id = candidate.facts.get("run_id")
        await in_thread(
            self.slicings.close,
            sha256,
            profile,
            run_id=None if run_id is None else str(run_id),
            reason=reason,
            canceled=canceled,
        )
