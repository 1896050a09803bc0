"""P7: does a small account wait for a large one? The order in which syncs end that a sweep has queued.

    .venv/bin/python -m bench.p7_fairness [--noisy 10000] [--quick] [--watch 150]

The documents of one account are queued, all of them, then ten of another; only then a worker is started. Each sync is
a real one, of a small page on a host of its own. Once on a Temporal server that minds fairness keys, once on one as it
comes, which is first come first served. Printed are the places of the ten among all that end; where they are not among
the first `--watch`, that is all that is said, for the rest of the queue would take an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from sqlmodel import col, select
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.common import Priority
from temporalio.service import RPCError

from bench.system import AS_DEPLOYED, cpu, start_worker
from bench.web import Web, add_documents, web
from nightmill import ids
from nightmill.assembly import Assembly
from nightmill.contracts import DocumentSyncInput, Trigger
from nightmill.sandbox import Sandbox
from nightmill.storage import schema
from nightmill.storage.document_models import DocumentRow
from tests.stack import Stack, TemporalServer

QUIET = 10
TARGET = 30
AT_ONCE = 50
PATIENCE = 300.0


async def settled(stack: Stack, assembly: Assembly) -> None:
    """Wait until the server knows its namespace, which on a busy machine comes later than its first answers."""
    client = (await stack.nightmill(assembly)).temporal
    for _ in range(100):
        with suppress(RPCError):
            await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
            return
        await asyncio.sleep(0.2)


async def queue(stack: Stack, assembly: Assembly, account: str, document_ids: list[str]) -> None:
    """Start syncs as a sweep does."""
    client = (await stack.nightmill(assembly)).temporal
    room = asyncio.Semaphore(AT_ONCE)

    async def start(document_id: str) -> None:
        async with room:
            await client.start_workflow(
                "DocumentSync",
                DocumentSyncInput(document_id=document_id, trigger=Trigger.SWEEP),
                id=ids.document_workflow_id(document_id),
                task_queue=stack.task_queue,
                priority=Priority(priority_key=Trigger.SWEEP.priority, fairness_key=ids.fairness_key(account)),
            )

    await asyncio.gather(*map(start, document_ids))


def ended(assembly: Assembly) -> list[str]:
    """Return the ids of the documents that were synced, in the order in which that ended."""
    at = col(DocumentRow.last_synced_at)
    with assembly.database.reading() as session:
        return list(session.exec(select(DocumentRow.id).where(at.is_not(None)).order_by(at)))


def places(fair: bool, folder: Path, site: Web, noisy: int, watch: int) -> list[int]:
    """Return the places, from 1, of the quiet account's documents among those that ended."""
    folder.mkdir()
    server = TemporalServer(fair=fair, log=folder / "server.log")
    server.start()
    with Sandbox() as sandbox:
        url = f"sqlite:///{folder}/nightmill.db"
        stack = Stack(folder, server, sandbox, url, "bench", extra=AS_DEPLOYED)
        try:
            with stack.assembly() as assembly:
                schema.upgrade(assembly.database)
                loud = add_documents(assembly, "noisy", [site.url("kept", n, 1) for n in range(noisy)])
                quiet = add_documents(assembly, "quiet", [site.url("kept", n, 2) for n in range(QUIET)])
                asyncio.run(settled(stack, assembly))
                start = time.monotonic()
                asyncio.run(queue(stack, assembly, "noisy", loud))
                asyncio.run(queue(stack, assembly, "quiet", quiet))
                assert server.process
                used = cpu(server.process.pid)
                print(
                    f"{'with' if fair else 'without'} fairness: {noisy + QUIET:,} queued in "
                    f"{time.monotonic() - start:.0f} s, server {used:.0f} CPU-s",
                    flush=True,
                )
                start_worker(stack)
                start = time.monotonic()
                found: list[str] = []
                while len(found) < watch and not set(quiet) <= set(found) and time.monotonic() - start < PATIENCE:
                    time.sleep(0.5)
                    found = ended(assembly)
                print(f"    {len(found)} ended in {time.monotonic() - start:.0f} s of the worker", flush=True)
                return [place for place, each in enumerate(found, 1) if each in set(quiet)]
        finally:
            stack.stop()
            server.stop()


def main() -> None:
    """Queue and watch, with the server's fairness on and off."""
    parser = argparse.ArgumentParser(description="P7: a small account behind a large one.")
    parser.add_argument("--noisy", type=int, default=10_000, help="documents of the large account")
    parser.add_argument("--quick", action="store_true", help="1,000 documents")
    parser.add_argument("--only", choices=("with", "without"), help="only the one kind of server")
    parser.add_argument("--watch", type=int, default=150, help="how many syncs are waited for at most")
    asked = parser.parse_args()
    noisy = 1_000 if asked.quick else asked.noisy
    with tempfile.TemporaryDirectory(prefix="nightmill-bench-") as name:
        folder = Path(name)
        with web(folder, paragraphs=5) as site:
            for fair in (True, False):
                if asked.only not in (None, "with" if fair else "without"):
                    continue
                found = places(fair, folder / f"fair-{fair}", site, noisy, asked.watch)
                first = f"places {', '.join(map(str, found))}" if found else "none of the ten ended"
                met = len(found) == QUIET and found[-1] <= TARGET
                print(f"    {first}: {len(found)} of {QUIET} (target: all among the first {TARGET}), ", end="")
                print("met" if met else "missed", flush=True)


if __name__ == "__main__":
    main()
