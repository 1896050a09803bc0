"""A worker killed with SIGKILL at every step of a slicing: all slices once, one word to the owner, nothing left behind.

Every lane is a Nightmill of its own, as in test_kills: a document is sliced by a worker that dies at a fail point, and
then by one that does not. The disk, the mailbox and the machine's processes say what really happened.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

import pytest

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import BreakerState, SlicingErrorCode, SlicingStatus
from nightmill.failpoints import SLICING_POINTS
from nightmill.slicing.isolation import Level
from nightmill.storage.slicing_models import SlicingRow
from tests.lanes import PATIENCE, Lane, in_a_lane, start_lanes, until
from tests.mailbox import Mailbox
from tests.slicing import (
    PAGES,
    all_of,
    breaker_of,
    history,
    mails_to,
    profile,
    row_of,
    scheduled,
    slicing_here,
    small_pdf,
    stored_files,
)
from tests.stack import TemporalServer
from tests.stubborn import SANDBOX_FIRST, Stay, left_of, offspring

pytestmark = [pytest.mark.server, pytest.mark.kill, pytest.mark.timeout(600)]

LANES = 8


@dataclass(frozen=True)
class Kill:
    """Where workers die, and how many of them."""

    point: str
    times: int = 1

    def __str__(self) -> str:
        return self.point if self.times == 1 else f"{self.point}-twice"

    @property
    def costs_attempts(self) -> bool:
        """Whether the worker dies while a program's attempt is under way, which it costs."""
        return self.point in OF_PROGRAMS

    @property
    def loses(self) -> bool:
        """Whether both attempts are lost."""
        return self.costs_attempts and self.times == 2


OF_PROGRAMS = {
    "slicing.inspected",
    "slicing.started",
    "slicing.running",
    "slicing.checked",
    "slicing.half_uploaded",
    "slicing.uploaded",
}
POINTS = [point for point in SLICING_POINTS if not point.startswith("breaker.")]
BREAKER_POINTS = [point for point in SLICING_POINTS if point.startswith("breaker.")]
# Nobody comes a second time to where it is recorded that the owner was told.
KILLS = [*map(Kill, POINTS), *(Kill(point, 2) for point in POINTS if point != "notice.recorded")]

# Hardly another state than at the point before or after.
NEIGHBOURS = {
    "slicing.fetched",
    "slicing.inspected",
    "slicing.checked",
    "slicing.uploaded",
    "slicing.finished",
    "notice.begun",
    "slicing.opened",
    "slicing.swept",
}
# Twice is another state where both attempts are lost, and at the mail.
TWICE = {"slicing.half_uploaded", "notice.sent"}


def marked(kill: Kill) -> list[pytest.MarkDecorator]:
    quick = kill.point not in NEIGHBOURS if kill.times == 1 else kill.point in TWICE
    return [] if quick else [pytest.mark.slow]


@pytest.fixture(scope="module")
def lanes(
    request: pytest.FixtureRequest,
    temporal_server: TemporalServer,
    tmp_path_factory: pytest.TempPathFactory,
    migrated_sqlite: Path,
) -> Iterator[dict[str, Future[None]]]:
    """More lanes than usual: most of their time they wait for the server to notice a death."""
    folder = tmp_path_factory.mktemp("slicing-kills")
    pool = ThreadPoolExecutor(LANES, thread_name_prefix="lane")
    yield start_lanes(request.session.items, request.module, temporal_server, folder, migrated_sqlite, pool)
    pool.shutdown(cancel_futures=True)


async def killed(lane: Lane, point: str, times: int = 1) -> None:
    """Run workers that die at a point, one after the other, and leave one running that does not."""
    for _ in range(times):
        doomed = lane.stack.fork_worker(NIGHTMILL_FAIL_POINT=point)
        code = await asyncio.to_thread(doomed.wait, 90)
        assert code == -signal.SIGKILL, f"the worker never came to {point}"
    lane.stack.fork_worker()


@pytest.mark.parametrize("kill", [pytest.param(kill, marks=marked(kill)) for kill in KILLS], ids=str)
@in_a_lane
async def test_a_worker_killed_at_any_step_loses_and_doubles_nothing(lane: Lane, kill: Kill) -> None:
    scratch = lane.stack.folder / "scratch"
    slicing_here(lane, {"cut": profile("cut")}, HEARTBEAT_TIMEOUT="3", SCRATCH=str(scratch))
    with Mailbox() as mailbox, lane.stack.assembly() as assembly:
        mailbox.notified_by(lane)
        nightmill = await lane.stack.nightmill(assembly)
        pdf = small_pdf(lane.stack.folder)
        sha256 = await nightmill.slicings.slice(pdf, profile="cut", notify="mailto:owner@example.org")
        await killed(lane, kill.point, kill.times)
        summary = await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
        row = row_of(nightmill, sha256)
        mails = mails_to(mailbox, "owner")
        check_told(mails, kill)
        assert breaker_of(nightmill).faults == [], "that a worker is lost is no fault of the slicer's"
        if kill.loses:
            assert (summary.status, summary.error_code) == (SlicingStatus.FAILED, SlicingErrorCode.TIMED_OUT)
            assert "its worker was lost" in (summary.message or "")
            assert (row.slice_count, stored_files(lane, sha256)) == (0, set())
        else:
            assert summary.status is SlicingStatus.SLICED, summary.message
            check_slices(nightmill, lane, row)
            # A look at the PDF that was lost is made again; it is no attempt of the slicer's.
            assert row.attempts == (2 if kill.costs_attempts and kill.point != "slicing.inspected" else 1)
        assert (lane.stack.folder / "files" / "slicings" / sha256 / "original.pdf").read_bytes() == pdf.read_bytes()
        assert row.needs_attention is None
    assert left_of(scratch) == []
    assert list(scratch.iterdir()) == [], "what dead workers left is swept at the next one's start"


def check_told(mails: list[EmailMessage], kill: Kill) -> None:
    """The owner is told once; once more, by the same id, for each worker that died before it had recorded that."""
    again = kill.times if kill.point == "notice.sent" else 0
    assert len(mails) == 1 + again
    assert len({mail["message-id"] for mail in mails}) == 1
    assert all(("could not be sliced" in mail["subject"]) is kill.loses for mail in mails)


def check_slices(nightmill: Nightmill, lane: Lane, row: SlicingRow) -> None:
    """Every page is one slice, with its file, and no other file is there."""
    slices = list(nightmill.assembly.slicing.slices.stream(row))
    assert [(each.position, each.start_page, each.end_page) for each in slices] == [(n, n, n) for n in range(PAGES)]
    files = {f"{row.run_id}/{number + 1:04}.pdf" for number in range(PAGES)}
    assert stored_files(lane, row.sha256, row.profile) == files | {f"{row.run_id}/result.jsonl"}
    for each in slices:
        content = b"".join(nightmill.assembly.files.read(each.file_key or ""))
        assert hashlib.sha256(content).hexdigest() == each.file_sha256
        assert content.endswith(b"%% page %d\n" % each.start_page)


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(Kill(point, times), marks=[pytest.mark.slow] if times > 1 else [])
        for times in (1, 2)
        for point in BREAKER_POINTS
    ],
    ids=str,
)
@in_a_lane
async def test_a_breaker_whose_worker_is_killed_counts_once_and_leaves_nobody_parked(lane: Lane, kill: Kill) -> None:
    name = str(kill).replace(
        ".", "-"
    )  # of the profile: the breaker's watch is named after it, and lanes share a server
    plan = lane.stack.folder / "plan"
    plan.write_text("exit")
    canary = small_pdf(lane.stack.folder, "canary")
    profiles = {name: profile(f"@{plan}", canary=str(canary))}
    slicing_here(lane, profiles, HEARTBEAT_TIMEOUT="3", BREAKER_FAULTS="1", COOL_DOWN="3")
    with Mailbox() as mailbox, lane.stack.assembly() as assembly:
        mailbox.notified_by(lane)
        nightmill = await lane.stack.nightmill(assembly)
        killing = asyncio.create_task(killed(lane, kill.point, kill.times))
        pdfs = [small_pdf(lane.stack.folder) for _ in range(3)]
        documents = [await nightmill.slicings.slice(pdfs[0], profile=name, notify="mailto:owner@example.org")]
        await until(lambda: breaker_of(nightmill, name).state is BreakerState.OPEN, within=PATIENCE)
        plan.write_text("cut")
        for pdf in pdfs[1:]:
            documents.append(await nightmill.slicings.slice(pdf, profile=name, notify="mailto:owner@example.org"))
        async with asyncio.timeout(PATIENCE.total_seconds()):
            await killing
        summaries = await all_of(nightmill, documents, name)
        await nightmill.temporal.get_workflow_handle(ids.health_workflow_id(name)).result()
        breaker = breaker_of(nightmill, name)
        for each in documents:
            check_slices(nightmill, lane, row_of(nightmill, each, name))
        parked = [row_of(nightmill, each, name) for each in documents[1:]]
    assert [each.status for each in summaries] == [SlicingStatus.SLICED] * 3
    assert [(fault["spent"], fault["opened"]) for fault in breaker.faults] == [(True, 1)], "one fault, counted once"
    assert (breaker.state, breaker.transitions) == (BreakerState.CLOSED, 2)
    assert [row.attempts for row in parked] == [1, 1], "what was parked costs no attempt"
    told = Counter(mail["message-id"] for mail in mails_to(mailbox, "ops"))
    assert len(told) == 2, "operators are told of the opening and of the closing"
    owners = Counter(mail["message-id"] for mail in mails_to(mailbox, "owner"))
    assert (len(owners), set(owners.values())) == (3, {1})


@pytest.mark.parametrize("level", SANDBOX_FIRST)
@in_a_lane
async def test_a_killed_worker_takes_its_programs_along_however_stubborn(lane: Lane, level: Level) -> None:
    stay = Stay(lane, level)
    with lane.stack.assembly() as assembly:
        nightmill = await lane.stack.nightmill(assembly)
        worker = lane.stack.fork_worker()
        sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut")
        await stay.stays()
        offsprings = offspring(worker.pid)
        assert len(offsprings) > len(left_of(stay.scratch)), "the supervisor, too"
        worker.kill()
        worker.wait(10)
        took = await stay.gone(offsprings)
        assert len(stay.kept()) == 1
        stay.plan("cut")
        lane.stack.fork_worker()
        summary = await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
        row = row_of(nightmill, sha256)
        faults = breaker_of(nightmill).faults
    assert took < 3, "the end of the pipe to the worker ends the tree, no timeout does"
    assert (summary.status, row.attempts, faults) == (SlicingStatus.SLICED, 2, [])
    assert stay.kept() == []


@pytest.mark.parametrize("level", SANDBOX_FIRST)
@in_a_lane
async def test_a_worker_that_shuts_down_ends_its_programs_and_hands_the_attempt_back(lane: Lane, level: Level) -> None:
    stay = Stay(lane, level)
    lane.set(WORKER__SHUTDOWN_GRACE="1")
    with lane.stack.assembly() as assembly:
        nightmill = await lane.stack.nightmill(assembly)
        worker = lane.stack.fork_worker()
        sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut")
        await stay.stays()
        offsprings = offspring(worker.pid)
        worker.terminate()
        began = time.monotonic()
        code = await asyncio.to_thread(worker.wait, 30)
        took = time.monotonic() - began
        left = left_of(stay.scratch), await stay.gone(offsprings), stay.kept()
        stay.plan("cut")
        lane.stack.fork_worker()
        summary = await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
        row = row_of(nightmill, sha256)
        found = await history(nightmill, sha256)
        faults = breaker_of(nightmill).faults
    assert code == 0
    assert took < 12, "the grace of the worker, that of the program, and some"
    assert (left[0], left[2]) == ([], []), "its processes and its folders are gone before it is"
    assert (summary.status, row.attempts, faults) == (SlicingStatus.SLICED, 1, [])
    assert len(scheduled(found, "slice_pdf")) == 2, "the same attempt, begun again"
