"""Slicings from a program, on a real Temporal server, with one worker for all of these tests."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import BreakerState, SlicingStatus
from nightmill.errors import InvalidInput, SlicingConflict, SlicingNotFound
from nightmill.sandbox import Sandbox
from nightmill.slicer.samples import SampleOptions, make_sample
from tests.lanes import running
from tests.small_pdfs import body, text_pdf
from tests.stack import Stack, TemporalServer

pytestmark = [pytest.mark.server, pytest.mark.timeout(90)]

PATIENCE = timedelta(seconds=60)
BOOK = ["ACUERDO No. 1", "ACUERDO No. 2", "ACUERDO No. 3"]

Story = Callable[[Nightmill, Path], Coroutine[Any, Any, None]]
Play = Callable[[Story], None]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[Stack]:
    """A Temporal server, a database, and settings for slicing."""
    folder = tmp_path_factory.mktemp("slicings")
    shutil.copyfile(migrated_sqlite, folder / "nightmill.db")
    server = TemporalServer(log=folder / "server.log")
    server.start()
    with Sandbox() as sandbox:
        yield Stack(
            folder,
            server,
            sandbox,
            database_url=f"sqlite:///{folder / 'nightmill.db'}",
            task_queue="client",
            extra={"NIGHTMILL_WORKER__QUEUES": "client-slicing"},
        )
    server.stop()


@pytest.fixture(scope="module")
def play(stack: Stack) -> Iterator[Play]:
    """Runs a story with a connected client and a folder that the worker may read."""
    loop = asyncio.new_event_loop()
    ready, over = threading.Event(), asyncio.Event()
    found: list[Nightmill] = []

    async def work() -> None:
        async with running(stack) as nightmill:
            found.append(nightmill)
            ready.set()
            await over.wait()

    def serve() -> None:
        try:
            loop.run_until_complete(work())
        finally:
            ready.set()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(60)
    assert found, "the worker did not start"
    yield lambda story: asyncio.run_coroutine_threadsafe(story(found[0], stack.folder), loop).result(80)
    loop.call_soon_threadsafe(over.set)
    thread.join(30)
    loop.close()


def book(path: Path, *, title: str = "") -> Path:
    """Write three pages with a bookmark each; the same title is the same document."""
    pages = [[f"# {heading}", title, *body()] for heading in BOOK]
    return text_pdf(path, pages, bookmarks=[(heading, page, 0) for page, heading in enumerate(BOOK)])


def gazette(path: Path) -> Path:
    """Write a gazette of two acts."""
    path.write_bytes(make_sample(SampleOptions(country="nicaragua", seed=3, acts=2)).pdf)
    return path


def test_a_pdf_is_sliced_waited_for_found_and_read(play: Play) -> None:
    async def story(nightmill: Nightmill, folder: Path) -> None:
        slicings = nightmill.slicings
        sha256 = await slicings.slice(book(folder / "book.pdf"), profile="outline", metadata={"desk": 7})
        assert sha256 == hashlib.sha256((folder / "book.pdf").read_bytes()).hexdigest()
        summary = await slicings.wait(sha256, "outline", timeout=PATIENCE)
        assert (summary.name, summary.page_count, summary.slices) == ("book.pdf", 3, 3)
        assert summary == await slicings.summary(sha256, "outline")
        progress = await slicings.progress(sha256, "outline")
        assert (progress.status, progress.of) == (summary.status, 3)
        row = await slicings.find(sha256[:8])
        assert (row.sha256, row.profile, row.user_metadata) == (sha256, "outline", {"desk": 7})
        heads = await slicings.heads(row)
        assert [(head.issue_id or head.name, head.start_page, head.end_page) for head in heads] == [
            (heading, page, page) for page, heading in enumerate(BOOK)
        ]
        assert [each.position async for each in slicings.slices(row)] == [0, 1, 2]
        assert b"".join([piece async for piece in slicings.read_file(heads[0].file_key or "")]).startswith(b"%PDF")
        with pytest.raises(SlicingConflict, match="nothing to cancel"):
            await slicings.cancel(sha256, "outline")

    play(story)


def test_a_pdf_that_the_worker_can_read_is_sliced_from_there_and_no_other_is(play: Play) -> None:
    async def story(nightmill: Nightmill, folder: Path) -> None:
        slicings = nightmill.slicings
        path = book(folder / "there.pdf", title="There")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        await slicings.slice_from(str(path), sha256, profile="outline")
        assert (await slicings.wait(sha256, "outline", timeout=PATIENCE)).slices == 3
        await slicings.slice_from("/etc/hostname", "0" * 64, profile="outline")
        refused = await slicings.wait("0" * 64, "outline", timeout=PATIENCE)
        assert (refused.status, refused.error_code) == (SlicingStatus.FAILED, "not_a_file")
        with pytest.raises(InvalidInput):
            await slicings.slice_from(str(path), "abc", profile="outline")

    play(story)


def test_what_cannot_be_used_is_refused_before_anything_is_started(play: Play) -> None:
    async def story(nightmill: Nightmill, folder: Path) -> None:
        slicings = nightmill.slicings
        path = book(folder / "refused.pdf", title="Refused")
        with pytest.raises(InvalidInput, match="there is no such file"):
            await slicings.slice(folder / "nowhere.pdf")
        with pytest.raises(InvalidInput, match="known are gazette"):
            await slicings.slice(path, profile="unknown")
        with pytest.raises(InvalidInput, match="notify"):
            await slicings.slice(path, notify="somebody")
        with pytest.raises(InvalidInput, match="metadata"):
            await slicings.slice(path, metadata={"long": "x" * 20_000})
        with pytest.raises(SlicingNotFound):
            await slicings.find(hashlib.sha256(path.read_bytes()).hexdigest()[:12])
        for ask in (slicings.progress, slicings.wait):
            with pytest.raises(SlicingNotFound):
                await ask("f" * 64, "outline")

    play(story)


def test_over_a_breaker_that_is_held_open_a_slicing_waits_and_can_be_canceled_or_goes_on(play: Play) -> None:
    async def story(nightmill: Nightmill, folder: Path) -> None:
        slicings = nightmill.slicings
        await slicings.open_breaker("outline", reason="a new version", by="ana")
        [breaker] = [each for each in await slicings.breakers() if each.profile == "outline"]
        assert (breaker.state, breaker.changed_by) == (BreakerState.HELD_OPEN, "ana")
        first, second = [
            await slicings.slice(book(folder / f"{name}.pdf", title=name), profile="outline")
            for name in ("first", "second")
        ]
        async with asyncio.timeout(40):
            for sha256 in (first, second):
                while (await slicings.progress(sha256, "outline")).status is not SlicingStatus.WAITING:
                    await asyncio.sleep(0.1)
        with pytest.raises(TimeoutError):
            await slicings.wait(first, "outline", timeout=timedelta(seconds=0.2))
        await slicings.cancel(first, "outline")
        assert (await slicings.wait(first, "outline", timeout=PATIENCE)).status is SlicingStatus.CANCELED
        await slicings.close_breaker("outline", reason="it works", by="ana")
        assert (await slicings.wait(second, "outline", timeout=PATIENCE)).slices == 3
        with pytest.raises(InvalidInput, match="known are"):
            await slicings.open_breaker("unknown", reason="x", by="ana")

    play(story)


def test_the_canary_says_how_the_slicer_is(play: Play) -> None:
    async def story(nightmill: Nightmill, folder: Path) -> None:
        outcome = await nightmill.slicings.check_health("gazette", timeout=PATIENCE)
        assert outcome is not None
        assert (outcome.profile, outcome.passed, outcome.message) == ("gazette", True, None)
        sha256 = await nightmill.slicings.slice(gazette(folder / "gazette.pdf"))
        assert (await nightmill.slicings.wait(sha256, timeout=PATIENCE)).slices >= 2
        with pytest.raises(InvalidInput, match="known are"):
            await nightmill.slicings.check_health("unknown")

    play(story)
