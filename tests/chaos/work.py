"""What users do in a run: they submit, cancel, publish, sync and slice, and try again where they are told to."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from nightmill.errors import BatchConflict, BatchNotFound, NightmillError, TransientError
from nightmill.slicer.samples import SampleOptions, Truth, make_sample
from tests.chaos.plan import BatchJob, DocumentJob, SlicingJob
from tests.chaos.scene import HOST_QUEUE, Scene
from tests.lanes import MODELS
from tests.pages import article
from tests.site import failure
from tests.small_pdfs import body, text_pdf

T = TypeVar("T")

ACCOUNT = "acme"
SMALL_PAGES = 3


def prompt(custom_id: str) -> str:
    """Return the prompt of a request, which no other request has; the sandbox's answer repeats it."""
    return f"Say {hashlib.sha256(custom_id.encode()).hexdigest()[:20]}"


@dataclass
class Work:
    """What was asked for.

    Attributes:
        accepted: Batches that Nightmill has taken: they must end.
        canceled: Batches of which a cancel was taken.
        documents: Ids by number.
        published: How many contents of each page were published.
        slicings: SHA-256 and profile by number.
        truths: What is in the gazettes.
        surprises: Errors that no user should see.
        retries: How often a call was made again, by the error.
    """

    scene: Scene
    accepted: set[str] = field(default_factory=set)
    canceled: set[str] = field(default_factory=set)
    documents: dict[int, str] = field(default_factory=dict)
    published: Counter[int] = field(default_factory=Counter)
    slicings: dict[int, tuple[str, str]] = field(default_factory=dict)
    truths: dict[int, Truth] = field(default_factory=dict)
    surprises: list[str] = field(default_factory=list)
    retries: Counter[str] = field(default_factory=Counter)

    async def do(self, began: float) -> None:
        """Ask for everything that is planned, at its seconds after `began` of the event loop's clock."""
        plan = self.scene.plan
        if plan.documents:
            handler = {"kind": "webhook", "url": self.scene.host.url("changes")}
            documents = self.scene.nightmill.documents
            await self._insist(lambda: documents.add_account(ACCOUNT, "daily", change_handler=handler))
        async with asyncio.TaskGroup() as group:
            for batch in plan.batches:
                group.create_task(self.guarded(self._batch(batch, began), batch.id))
            for document in plan.documents:
                group.create_task(self.guarded(self._document(document, began), f"document {document.number}"))
            for slicing in plan.slicings:
                group.create_task(self.guarded(self._slicing(slicing, began), f"slicing {slicing.number}"))

    async def guarded(self, job: Awaitable[T], name: str) -> T | None:
        """Return what a job returns; what it raises is a surprise, for users try again what is worth another try."""
        try:
            return await job
        except Exception as error:
            self.surprises.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
            return None

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what a call returns, made again for as long as something is away."""
        while True:
            try:
                return await call()
            except TransientError as error:
                self.retries[type(error).__name__] += 1
                await asyncio.sleep(1)

    @staticmethod
    async def _until(at: float) -> None:
        await asyncio.sleep(at - asyncio.get_running_loop().time())

    async def _batch(self, job: BatchJob, began: float) -> None:
        nightmill = self.scene.nightmill
        handlers: dict[str, dict[str, Any]] = {
            "webhook": {"kind": "webhook", "url": self.scene.host.url("batches")},
            "workflow": {"kind": "workflow", "type": "HostDone", "task_queue": HOST_QUEUE},
            "activity": {"kind": "activity", "type": "host_done", "task_queue": HOST_QUEUE},
        }
        requests = [
            {"custom_id": custom_id, "prompt": prompt(custom_id), "max_output_tokens": 50}
            for part in job.parts
            for custom_id in part
        ]
        await self._until(began + job.at)

        async def submit() -> None:
            try:
                await nightmill.submit(
                    requests, provider=job.provider, model=MODELS[job.provider], batch_id=job.id,
                    completion_handler=handlers[job.handler],
                )  # fmt: skip
            except BatchConflict:  # an earlier call has stored it, and could not tell, or not start it
                await nightmill.start(job.id)

        await self._insist(submit)
        self.accepted.add(job.id)
        if job.cancel_after is not None:
            await asyncio.sleep(job.cancel_after)
            try:
                await self._insist(lambda: nightmill.cancel(job.id))
            except (BatchConflict, BatchNotFound):  # it has ended
                return
            self.canceled.add(job.id)

    async def _document(self, job: DocumentJob, began: float) -> None:
        documents = self.scene.nightmill.documents
        site, path = self.scene.site_of(job.number)
        for edition, at in enumerate(job.at, start=1):
            await self._until(began + at)
            site.pages[path] = article(job.number, edition=edition)
            self.published[job.number] = edition
            if job.refused[edition - 1]:
                site.answers[path] = [failure(503)]
            if edition == 1:
                self.documents[job.number] = await self._insist(
                    lambda: documents.add(site.url(path), account=ACCOUNT, collection="chaos", sync=False)
                )
            await self._insist(lambda: documents.sync_now(self.documents[job.number]))

    async def _slicing(self, job: SlicingJob, began: float) -> None:
        pdf = await asyncio.to_thread(self._print, job)
        await self._until(began + job.at)
        await self._insist(lambda: self.slice(job.number, pdf, job.gazette))

    async def slice(self, number: int, pdf: Path, gazette: bool) -> None:
        """Let a PDF be sliced."""
        profile = "gazette" if gazette else "cut"
        found = await self.scene.nightmill.slicings.slice(pdf, profile=profile, notify="mailto:owner@example.org")
        self.slicings[number] = found, profile

    def _print(self, job: SlicingJob) -> Path:
        """Write the PDF, whose content no other one has."""
        pdf = self.path_of(job.number)
        if job.gazette:
            sample = make_sample(SampleOptions(seed=job.number, acts=3, pages=6))
            pdf.write_bytes(sample.pdf)
            self.truths[job.number] = sample.truth
        else:
            text_pdf(pdf, [[f"# {job.number}", *body(3)]] * SMALL_PAGES)
        return pdf

    def path_of(self, number: int) -> Path:
        """Return where a PDF is."""
        return self.scene.folder / f"{number}.pdf"


async def settled(check: Callable[[], Awaitable[bool]], patience: float) -> bool:
    """Return whether this came true in time; what cannot be asked for now is not true."""
    deadline = asyncio.get_running_loop().time() + patience
    while asyncio.get_running_loop().time() < deadline:
        try:
            if await check():
                return True
        except NightmillError:
            pass
        await asyncio.sleep(1)
    return False
