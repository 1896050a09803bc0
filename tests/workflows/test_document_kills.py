"""A worker killed with SIGKILL at every step of documents: every page stored, every change told once, nobody held up.

Every lane is a Nightmill of its own, as in test_kills. For each fail point documents are added, a worker is started
that dies there, and then one that does not. The sites and the sink say what really happened.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nightmill.client.connection import register_search_attributes
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import CrawlProgress, SweepSummary, SyncOutcome, SyncResult, SyncStatus
from nightmill.failpoints import DOCUMENT_POINTS
from nightmill.sandbox import Sandbox
from nightmill.storage.document_models import DocumentRow
from nightmill.storage.documents import DocumentFilter
from tests.pages import article
from tests.site import Page, Site, failure, sitemap
from tests.stack import Stack, TemporalServer, WebhookSink
from workflows.story import SEARCH_ATTRIBUTES

pytestmark = [pytest.mark.server, pytest.mark.kill, pytest.mark.timeout(600)]

LANES = 6
PATIENCE = timedelta(seconds=90)
PAGES = 4
LEASE = 2 * 3.0 + 2.0
"""Seconds that a killed worker's turn at a host lasts, with the fetch timeout of these tests."""

RECOVERY = 40.0
"""Seconds in which the next worker starts, and Temporal notices that tasks went to one that is dead."""

_queues = itertools.count()


@dataclass(frozen=True)
class Case:
    """Where the worker dies, and on which database."""

    point: str
    database: str = "sqlite"

    def __str__(self) -> str:
        return f"{self.point}-{self.database}"

    @property
    def kind(self) -> str:
        return self.point.partition(".")[0]


CASES = [
    *(Case(point) for point in DOCUMENT_POINTS),
    # Where a transaction has just ended, or is open.
    *(Case(point, "postgresql") for point in ("sync.in_transaction", "sweep.taken", "crawl.saved")),
]

# Hardly another state than at the point before or after.
NEIGHBOURS = {"sync.start", "sync.compared", "change.start", "sweep.started", "crawl.begun"}


# On the other database, one of three.
OTHERS = {Case("sweep.taken", "postgresql"), Case("crawl.saved", "postgresql")}


@dataclass
class Recovery:
    """What came of one kill."""

    exit_code: int | None
    rows: list[DocumentRow]
    contents: list[str]
    told: Counter[tuple[str, str]]
    outcomes: list[SyncOutcome] = field(default_factory=list)
    visits: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    late_after: float = 0.0
    left_behind: list[str] = field(default_factory=list)
    sweep: SweepSummary | None = None
    crawl: CrawlProgress | None = None


def recover(case: Case, server: TemporalServer, folder: Path, database_url: str) -> Recovery:
    """Kill a worker at this point and let another one finish."""
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    sink = WebhookSink()
    with Sandbox() as sandbox, _site(case) as site:
        stack = Stack(
            folder=folder,
            server=server,
            sandbox=sandbox,
            database_url=database_url.format(folder=folder),
            task_queue=f"nightmill-document-kill-{next(_queues)}",
            extra={
                "NIGHTMILL_FAIL_MARKER": str(folder / "died"),
                "NIGHTMILL_DOCUMENTS__FETCH_TIMEOUT": "3",
                "NIGHTMILL_DOCUMENTS__EXTRACTORS": "1",
                "TMPDIR": str(scratch),
            },
        )
        try:
            return asyncio.run(_Lane(case, stack, site, sink, scratch).recover())
        finally:
            stack.stop()
            sink.close()


@contextmanager
def _site(case: Case) -> Iterator[Site]:
    with Site({f"/{number}": article(number) for number in range(PAGES)}) as site:
        links = "".join(f"<a href='/{number}'>{number}</a>" for number in range(PAGES))
        site.pages["/start"] = Page(article(99).read().decode().replace("<nav>", f"<nav>{links}"))
        site.pages["/sitemap.xml"] = sitemap(site.url(f"/{number}") for number in range(PAGES))
        if case.point == "sync.failed":
            site.answers["/0"] = [failure(503)]
        yield site


@dataclass
class _Lane:
    case: Case
    stack: Stack
    site: Site
    sink: WebhookSink
    scratch: Path

    async def recover(self) -> Recovery:
        with self.stack.assembly() as assembly:
            nightmill = await self.stack.nightmill(assembly)
            handler = {"kind": "webhook", "url": self.sink.url}
            await nightmill.documents.add_account("acme", "daily", change_handler=handler)
            await register_search_attributes(nightmill.temporal, SEARCH_ATTRIBUTES)
            doomed = self.stack.fork_worker(NIGHTMILL_FAIL_POINT=self.case.point)
            ids = [] if self.case.kind == "crawl" else [await self._add(nightmill, n) for n in range(PAGES)]
            work = asyncio.create_task(self._work(nightmill, ids))
            await asyncio.to_thread(doomed.wait, 60)
            killed_at = time.monotonic()
            self.stack.fork_worker()
            # Somebody else wants a page of the host whose turn the dead worker has.
            self.site.pages["/late"] = article(77)
            late = await nightmill.documents.add(self.site.url("/late"), account="acme", collection="late")
            assert (await nightmill.documents.wait(late)).result is SyncResult.UPDATED
            recovery = Recovery(doomed.returncode, [], [], Counter(), late_after=time.monotonic() - killed_at)
            async with asyncio.timeout(PATIENCE.total_seconds()):
                done = await work
                ids = ids or await self._crawled(nightmill)
                recovery.outcomes = [await nightmill.documents.wait(document_id) for document_id in ids]
            recovery.sweep = done if isinstance(done, SweepSummary) else None
            recovery.crawl = done if isinstance(done, CrawlProgress) else None
            recovery.rows = [(await nightmill.documents.get(document_id)).row for document_id in ids]
            found = [await nightmill.documents.content(document_id) for document_id in ids]
            recovery.contents = [one.content if one else "" for one in found]
        self.stack.stop()
        recovery.told = Counter(
            (headers["webhook-id"].partition(".")[0], headers["webhook-id"]) for headers, _ in self.sink.received
        )
        recovery.visits = Counter(visit.path for visit in self.site.log)
        recovery.most_at_once = self.site.most_at_once
        readers = await asyncio.to_thread(self._readers_left, doomed.pid)
        recovery.left_behind = [path.name for path in self.scratch.iterdir()] + readers
        return recovery

    async def _add(self, nightmill: Nightmill, number: int) -> str:
        return await nightmill.documents.add(self.site.url(f"/{number}"), account="acme", collection="docs", sync=False)

    async def _work(self, nightmill: Nightmill, ids: list[str]) -> SweepSummary | CrawlProgress | None:
        """Do what leads to the point."""
        if self.case.kind == "sweep":
            return await nightmill.documents.sweep()
        if self.case.kind == "crawl":
            start = "/sitemap.xml" if self.case.database == "postgresql" else "/start"
            crawl = await nightmill.documents.crawl(self.site.url(start), account="acme", collection="docs")
            return await nightmill.documents.wait_crawl(crawl)
        for document_id in ids:
            await nightmill.documents.sync_now(document_id)
        return None

    async def _crawled(self, nightmill: Nightmill) -> list[str]:
        found = await nightmill.documents.listed(DocumentFilter(collection="docs"))
        ids = [one.row.id for one in found]
        for document_id in ids:
            await nightmill.documents.sync_now(document_id)
        return ids

    @staticmethod
    def _readers_left(worker: int) -> list[str]:
        """Return the processes that read pages for a worker that is dead, once they have had time to notice."""
        deadline = time.monotonic() + 5
        while (left := _readers(worker)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left


def _readers(worker: int) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            if b"nightmill.documents.extraction_child" in words and str(worker).encode() in words:
                found.append(f"reader {entry.name}")
    return found


@pytest.fixture(scope="module")
def recoveries(
    request: pytest.FixtureRequest,
    temporal_server: TemporalServer,
    tmp_path_factory: pytest.TempPathFactory,
    migrated_sqlite: Path,
) -> Iterator[dict[Case, Future[Recovery]]]:
    """Start all cases that were selected; each test waits for its own."""
    folder = tmp_path_factory.mktemp("document-kills")
    pool = ThreadPoolExecutor(LANES, thread_name_prefix="lane")
    items = [item for item in request.session.items if item.path == request.path]
    selected: list[Case] = [item.callspec.params["case"] for item in items if isinstance(item, pytest.Function)]  # type: ignore[misc]
    urls = {}
    for case in selected:
        place = folder / str(case)
        place.mkdir()
        if case.database == "sqlite":
            shutil.copyfile(migrated_sqlite, place / "nightmill.db")
            urls[case] = f"sqlite:///{place / 'nightmill.db'}"
        else:
            postgres: Any = request.getfixturevalue("postgres")
            urls[case] = postgres.url(postgres.new_database(request.getfixturevalue("migrated_postgres")))
    yield {case: pool.submit(recover, case, temporal_server, folder / str(case), urls[case]) for case in selected}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] if case.point in NEIGHBOURS or case in OTHERS else [])
        for case in CASES
    ],
    ids=str,
)
def test_a_worker_killed_at_any_step_loses_and_doubles_nothing(
    recoveries: dict[Case, Future[Recovery]], case: Case
) -> None:
    recovery = recoveries[case].result()
    assert recovery.exit_code == -signal.SIGKILL, f"the worker never came to {case.point}"
    check_documents(recovery, case)
    if case.kind == "sweep":
        check_sweep(recovery)
    if case.kind == "crawl":
        check_crawl(recovery, case)


def check_documents(recovery: Recovery, case: Case) -> None:
    assert Counter(row.sync_status for row in recovery.rows) == {SyncStatus.SYNCED: len(recovery.rows)}
    assert all(row.handled_fingerprint == row.content_fingerprint is not None for row in recovery.rows)
    assert all("rooms to it" in content for content in recovery.contents)
    at_rest = [(row.sync_step, row.next_attempt_at, row.gate_at, row.queued_until) for row in recovery.rows]
    assert set(at_rest) == {(None, None, None, None)}
    # A kill is no failure: only the 503 that one page really answered is counted.
    spent = Counter((row.spent_transient, row.spent_unexpected, row.consecutive_failures) for row in recovery.rows)
    failed = 1 if case.point == "sync.failed" else 0
    assert spent == Counter({(0, 0, 0): len(recovery.rows) - failed, (1, 0, 0): failed})
    ids_of_changes = Counter(document_id for document_id, _ in recovery.told)
    assert set(ids_of_changes.values()) == {1}, "each change has one id"
    assert len(ids_of_changes) == len(recovery.rows) + 1
    # Calls that were answered as the worker died are made again, by the same ids: those of other pages, too.
    again = [calls for calls in recovery.told.values() if calls > 1]
    assert set(again) <= {2}
    assert again or case.point != "change.answered"
    assert recovery.most_at_once == 1, "the host is asked one page at a time, also across a kill"
    assert recovery.left_behind == []
    assert recovery.late_after < LEASE + RECOVERY, (
        f"{recovery.late_after:.1f} s until the host's turn was somebody else's"
    )


def check_sweep(recovery: Recovery) -> None:
    assert recovery.sweep is not None
    assert (recovery.sweep.enqueued, recovery.sweep.skipped) == (PAGES, 0)
    assert [recovery.visits[f"/{number}"] for number in range(PAGES)] == [1] * PAGES, "none is fetched twice"


def check_crawl(recovery: Recovery, case: Case) -> None:
    assert recovery.crawl is not None
    links = sorted(row.link.rpartition("/")[2] for row in recovery.rows)
    expected = [str(number) for number in range(PAGES)] + ["start"] * (case.database == "sqlite")
    assert links == expected
    assert recovery.crawl.added + recovery.crawl.known == len(expected)
    assert recovery.crawl.limit_hit is None
    assert recovery.crawl.ended_at is not None
