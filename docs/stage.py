"""What the pictures of Temporal's UI show: one of each job, brought to where it has something to tell."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

from nightmill import ids
from nightmill.cli.demo_site import DemoSite
from nightmill.cli.loopback import MODELS, started, variables_of
from nightmill.cli.receiver import WebhookReceiver
from nightmill.cli.stack import PROVIDERS, LocalStack, free_port
from nightmill.client.nightmill import Nightmill
from nightmill.slicer.samples import SampleOptions, make_sample
from nightmill.webhooks import new_secret

ACCOUNT = "acme"
GAZETTE = 1
"""The seed of the gazette that is sliced."""

PATIENCE = timedelta(minutes=2)
LONG = 3_600.0
"""Seconds that a provider takes for a batch which is to be seen under way."""


@dataclass(frozen=True)
class Stage:
    """A stack with a worker, and whom its jobs speak to.

    Attributes:
        stack: The stack; `stack.ui_url` is Temporal's UI.
        nightmill: A client of it.
        receiver: The host application.
        site: Its pages are the documents.
    """

    stack: LocalStack
    nightmill: Nightmill
    receiver: WebhookReceiver
    site: DemoSite

    def page(self, path: str) -> str:
        """Return the address of a page of the UI, of the one namespace."""
        return f"{self.stack.ui_url}/namespaces/default/{path}".rstrip("/")

    async def run_of(self, workflow_id: str) -> str:
        """Return the path of the page of a workflow's present run."""
        described = await self.nightmill.temporal.get_workflow_handle(workflow_id).describe()
        return f"workflows/{quote(workflow_id, safe='')}/{described.run_id}"

    def providers(self, **profile: Any) -> None:
        """Let the sandbox handle the batches created from now on so; fields of `nightmill.sandbox.Profile`."""
        self._tell("profile", profile)

    def fault(self, **fault: Any) -> None:
        """Let something go wrong; fields of `nightmill.sandbox.Fault`."""
        self._tell("faults", fault)

    def _tell(self, what: str, body: dict[str, Any]) -> None:
        asked = Request(f"{self.stack.sandbox_url}/_sandbox/{what}", json.dumps(body).encode(), method="POST")  # noqa: S310 - our own address
        with urlopen(asked, timeout=30) as answer:  # noqa: S310 - see above
            answer.read()


@asynccontextmanager
async def staged(folder: Path) -> AsyncIterator[Stage]:
    """Start everything in a folder, and stop it at the end."""
    stack = LocalStack(
        folder,
        port=free_port(),
        ui_port=free_port(),
        sandbox_port=free_port(),
        working_folder=folder,
        environment=_plain_environment(),
        in_memory=True,
    )
    with stack, WebhookReceiver(new_secret()) as receiver, DemoSite() as site:
        variables = variables_of(stack, receiver.secret) | {
            "NIGHTMILL_OPENAI__MAX_REQUESTS": "400",  # a batch of three parts needs no 100,000 requests
            **{f"NIGHTMILL_ACCOUNTS__{ACCOUNT.upper()}__{name.upper()}__API_KEY": "of-acme" for name in PROVIDERS},
            # Another word than what messages speak of: keys are redacted in them.
            **{f"NIGHTMILL_{name.upper()}__API_KEY": "of-nobody" for name in PROVIDERS},
            "NIGHTMILL_WORKER__HEALTH_PORT": "0",
            "NIGHTMILL_WORKER__METRICS_PORT": "0",
            "NIGHTMILL_DOCUMENTS__SWEEP": "true",
            "NIGHTMILL_SLICING__CANARY": "true",
            "NIGHTMILL_RECONCILER__GRACE": "0",
        }
        nightmill, _ = await started(stack, variables)
        yield Stage(stack, nightmill, receiver, site)


async def play_all(stage: Stage) -> dict[str, str]:
    """Bring one of each job to where it has something to tell; return the paths of their runs by what they are."""
    found = {"ended": await play_ended_batch(stage), "running": await play_running_batch(stage)}
    found |= {"part": ids.part_workflow_id(found["running"].removeprefix("batch/"), 0, 0)}
    found |= {"waiting": await play_waiting_batch(stage)}
    found |= await _play_documents(stage)
    found |= await _play_slicings(stage)
    found |= {"repaired": await _play_recovery(stage)}
    return {name: await stage.run_of(workflow_id) for name, workflow_id in found.items()}


async def play_ended_batch(stage: Stage) -> str:
    """Run a batch of which some requests fail, and tell the host application; return its workflow id."""
    stage.providers(finish_after=1.0, fail_share=0.04)
    hook = {"kind": "webhook", "url": stage.receiver.url}
    await _submit(stage, "anthropic", "reviews-2026-11", 500, poll_schedule=[2], completion_handler=hook)
    await stage.nightmill.wait("reviews-2026-11", timeout=PATIENCE)
    return "batch/reviews-2026-11"


async def play_running_batch(stage: Stage) -> str:
    """Leave a batch of three parts between two polls; return its workflow id."""
    stage.providers(finish_after=LONG, fail_share=0.0)
    await _submit(stage, "openai", "catalogue-41", 1_000, poll_schedule=[2, 600])
    await _until(lambda: _polls(stage, "catalogue-41", 3))
    return "batch/catalogue-41"


async def play_waiting_batch(stage: Stage) -> str:
    """Leave a batch whose provider refuses the key; return its workflow id."""
    stage.providers(finish_after=LONG)
    stage.fault(action="status", provider="xai", operation="batches.get", status=401)
    await _submit(stage, "xai", "tickets-7", 120, poll_schedule=[1])
    await _until(lambda: _needs_attention(stage, "tickets-7"))
    return "batch/tickets-7"


async def _play_documents(stage: Stage) -> dict[str, str]:
    """Crawl, sweep, change a page, and sync it with somebody who wants to know."""
    documents = stage.nightmill.documents
    await documents.add_account(ACCOUNT, "daily", change_handler={"kind": "webhook", "url": stage.receiver.url})
    crawl_id = await documents.crawl(stage.site.url("/"), account=ACCOUNT, collection="harbour")
    await documents.wait_crawl(crawl_id)
    listed = [stored.row for stored in await documents.listed(limit=100)]
    async for _ in documents.sync_many([row.id for row in listed[1:]]):
        pass
    sweep = await documents.start_sweep(account=ACCOUNT)
    await documents.wait_sweep(sweep)
    prices = next(row.id for row in listed if row.external_link.endswith("/prices"))
    stage.site.raise_price("/prices")
    async for _ in documents.sync_many([prices]):
        pass
    return {"crawl": f"crawl/{crawl_id}", "sweep": sweep, "document": f"document/{prices}"}


async def _play_slicings(stage: Stage) -> dict[str, str]:
    """Slice a gazette, and what is none."""
    slicings, folder = stage.nightmill.slicings, stage.stack.folder
    gazette, broken = folder / "la-gaceta-212.pdf", folder / "half-uploaded.pdf"
    gazette.write_bytes(make_sample(SampleOptions(seed=GAZETTE, pages=40)).pdf)
    broken.write_bytes(gazette.read_bytes()[:900])
    made = [await slicings.slice(path) for path in (gazette, broken)]
    for one in made:
        await slicings.wait(one, timeout=PATIENCE)
    return dict(zip(("sliced", "unsliced"), (f"slice/{one}/gazette" for one in made), strict=True))


async def _play_recovery(stage: Stage) -> str:
    """Terminate a batch's workflow, as nobody should, and let the reconciler bring it back; return the latter's id."""
    stage.providers(finish_after=LONG)
    await _submit(stage, "google", "lost-and-found", 50, poll_schedule=[1, 2, 600])
    await _until(lambda: _polls(stage, "lost-and-found", 1))
    handle = stage.nightmill.temporal.get_workflow_handle("batch/lost-and-found")
    await handle.terminate("somebody meant another one")
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not (await stage.nightmill.recovery.reconcile(timeout=PATIENCE)).repaired:
            await asyncio.sleep(0.5)
    return ids.by_hand_workflow_id(ids.RECONCILER_SCHEDULE, ids.TASK_QUEUE, dry_run=False)


async def _submit(stage: Stage, provider: str, batch_id: str, count: int, **options: Any) -> None:
    given = (
        {"custom_id": f"{provider}-{n:04}", "prompt": f"Name one fact about the number {n}.", "max_output_tokens": 100}
        for n in range(count)
    )
    await stage.nightmill.submit(
        given, provider=provider, model=MODELS[provider], batch_id=batch_id, account=ACCOUNT, **options
    )


async def _polls(stage: Stage, batch_id: str, count: int) -> bool:
    progress = await stage.nightmill.progress(batch_id)
    return progress.next_poll_at is not None and progress.polls >= count


async def _needs_attention(stage: Stage, batch_id: str) -> bool:
    return bool((await stage.nightmill.progress(batch_id)).needs_attention)


async def _until(check: Any) -> None:
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not await check():
            await asyncio.sleep(0.2)


def _plain_environment() -> dict[str, str]:
    """Return this process's environment without settings of its owner's: the pictures are the same everywhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("NIGHTMILL_", "TEMPORAL_"))}
