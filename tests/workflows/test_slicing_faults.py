"""Every row of the table of errors, by real programs: what is written, who is told, what is tried again and counted."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pikepdf
import pytest

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import EntryProblem, SlicingErrorCode, SlicingStatus, SlicingSummary
from nightmill.sandbox import Sandbox
from nightmill.slicing.faults import DiskFull
from nightmill.slicing.isolation import probe_sandbox
from nightmill.storage.slicing_models import SliceRow, SlicingRow
from tests.lanes import PATIENCE, Lane, in_a_lane, until
from tests.mailbox import Mailbox
from tests.slicing import (
    breaker_of,
    command,
    history,
    mails_to,
    profile,
    programs_run,
    row_of,
    scheduled,
    sliced,
    slicing_here,
    small_pdf,
    stored_files,
    text_of,
    until_status,
)
from tests.stack import Stack, TemporalServer, WebhookSink

pytestmark = pytest.mark.server

Given = Callable[[Path], Path]
"""Makes the PDF of a case in a folder."""


# --- documents that nobody can slice


def empty(folder: Path) -> Path:
    path = folder / "empty.pdf"
    path.touch()
    return path


def no_pdf(folder: Path) -> Path:
    path = folder / "page.pdf"
    path.write_text(f"<html>{folder}</html>")
    return path


def damaged(folder: Path) -> Path:
    path = folder / "damaged.pdf"
    path.write_bytes(b"%PDF-1.7\n" + str(folder).encode() * 20)
    return path


def encrypted(folder: Path) -> Path:
    path = folder / "encrypted.pdf"
    with pikepdf.open(small_pdf(folder)) as pdf:
        pdf.save(path, encryption=pikepdf.Encryption(user="secret", owner="secret"))
    return path


def too_long(folder: Path) -> Path:
    return small_pdf(folder, pages=12)


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        name: Also the profile's, the document's and the name of who is told.
        code: What is written.
        says: Part of the message.
        plan: What the slicer does; see `tests/slicers/slicer.py`.
        starts: How often the slicer is started.
        programs: How many of those were programs that ran; by default all.
        counted: Faults that the breaker counts.
        settings: Of the profile.
        given: Makes the PDF; by default a good one.
    """

    name: str
    code: SlicingErrorCode
    says: str
    plan: str = "cut"
    starts: int = 2
    programs: int | None = None
    counted: int = 2
    settings: Mapping[str, Any] = field(default_factory=dict)
    given: Given = small_pdf


def of_document(name: str, code: SlicingErrorCode, says: str, given: Given) -> Case:
    return Case(name, code, says, starts=0, counted=0, given=given)


def of_result(name: str, code: SlicingErrorCode, says: str, **more: Any) -> Case:
    return Case(name, code, says, plan=name, starts=1, counted=1, **more)


Code = SlicingErrorCode
CASES = [  # first those that take longest
    Case("start-to-close", Code.TIMED_OUT, "timed out after 5 s", plan="deaf",
         settings={"slicing_timeout": "PT5S", "wall": "PT50S"}),
    of_document("empty", Code.EMPTY_FILE, "the file is empty", empty),
    of_document("no-pdf", Code.NOT_A_PDF, "it looks like an HTML page", no_pdf),
    of_document("damaged", Code.DAMAGED_PDF, "", damaged),
    of_document("encrypted", Code.ENCRYPTED_PDF, "password", encrypted),
    of_document("too-long", Code.TOO_LARGE, "NIGHTMILL_SLICING__MAX_PAGES", too_long),
    Case("exit", Code.PROGRAM_FAILED, "exit code 3: the table of contents cannot be read", plan="exit"),
    Case("killed", Code.PROGRAM_KILLED, "SIGSEGV", plan="killed"),
    Case("memory", Code.OUT_OF_MEMORY, "ran out of memory", plan="memory", settings={"memory": 128 * 1024 * 1024}),
    Case("silence", Code.EMPTY_OUTPUT, "printed nothing", plan="silence"),
    Case("blank", Code.EMPTY_OUTPUT, "printed nothing", plan="blank"),
    Case("wall", Code.WALL_CLOCK, "ran longer than 1 s", plan="walk", settings={"wall": "PT1S"}),
    Case("cpu", Code.CPU_CLOCK, "more than 1 s of processor time", plan="spin", settings={"cpu": "PT1S"}),
    Case("stall", Code.STALL_CLOCK, "no progress for 1 s", plan="stall", settings={"stall": "PT1S"}),
    Case("missing", Code.PROGRAM_MISSING, "/no/such/slicer", programs=0, settings={"command": ["/no/such/slicer"]}),
    of_result("not-json", Code.INVALID_JSON, ""),
    of_result("chatter", Code.INVALID_JSON, "I am done"),
    of_result("list", Code.INVALID_RESULT, "a list"),
    of_result("other-pages", Code.INVALID_RESULT, "`page_count` is 2, and the document has 3 pages"),
    of_result("outside", Code.UNSAFE_PATH, ""),
    of_result("absolute", Code.UNSAFE_PATH, ""),
    of_result("link", Code.UNSAFE_PATH, ""),
    of_result("flood", Code.OUTPUT_FLOOD, "printed more than it may"),
    of_result("flood-errors", Code.OUTPUT_FLOOD, "more to standard error than it may"),
    of_result("fill", Code.OUTPUT_FLOOD, "more to its folder than it may", settings={"file_size": 65_536}),
    of_result("repeat", Code.OUTPUT_FLOOD, "more than may be kept", settings={"file_size": 65_536}),
]  # fmt: skip

SETTINGS = {
    "MAX_PAGES": "10",
    "MAX_STDOUT": str(1024 * 1024),
    "STDERR_TAIL": "16384",
    "CONCURRENCY": "6",
    "GRACE": "PT3S",
}


@dataclass(frozen=True)
class Ended:
    """What a case came to."""

    summary: SlicingSummary
    row: SlicingRow
    programs: list[str | None]
    faults: int
    mails: list[EmailMessage]
    files: set[str]


async def ended_of(nightmill: Nightmill, lane: Lane, mailbox: Mailbox, case: Case) -> Ended:
    """Run a case to its end."""
    folder = lane.stack.folder / case.name
    folder.mkdir()
    notify = f"mailto:{case.name}@example.org"
    summary = await sliced(nightmill, case.given(folder), case.name, notify=notify)
    row = row_of(nightmill, summary.sha256, case.name)
    return Ended(
        summary=summary,
        row=row,
        programs=programs_run(nightmill, row),
        faults=len(breaker_of(nightmill, case.name).faults),
        mails=mails_to(mailbox, case.name),
        files=stored_files(lane, summary.sha256, case.name),
    )


@pytest.fixture(scope="module")
def ends(
    request: pytest.FixtureRequest,
    temporal_server: TemporalServer,
    tmp_path_factory: pytest.TempPathFactory,
    migrated_sqlite: Path,
) -> Iterator[Mapping[str, Future[Ended]]]:
    """All cases that are selected, side by side in one worker: most of their time they wait for a second attempt."""
    request.getfixturevalue("lanes")  # they run meanwhile
    given = [getattr(item, "callspec", None) for item in request.session.items if item.module is request.module]  # type: ignore[attr-defined]
    cases = [one.params["case"] for one in given if one is not None and "case" in one.params]
    found: dict[str, Future[Ended]] = {case.name: Future() for case in cases}

    async def go() -> None:
        folder = tmp_path_factory.mktemp("table")
        shutil.copyfile(migrated_sqlite, folder / "nightmill.db")
        with Sandbox() as sandbox, Mailbox() as mailbox:
            stack = Stack(folder, temporal_server, sandbox, f"sqlite:///{folder / 'nightmill.db'}", "nightmill-table")
            sink = WebhookSink()
            lane = Lane(stack, sandbox, sink)
            profiles = {case.name: {**profile(case.plan), **case.settings} for case in cases}
            slicing_here(lane, profiles, **SETTINGS)
            mailbox.notified_by(lane)
            async with lane.running() as nightmill:
                await asyncio.gather(*(one(nightmill, lane, mailbox, case) for case in cases))
            sink.close()

    async def one(nightmill: Nightmill, lane: Lane, mailbox: Mailbox, case: Case) -> None:
        try:
            found[case.name].set_result(await ended_of(nightmill, lane, mailbox, case))
        except Exception as error:
            found[case.name].set_exception(error)

    with ThreadPoolExecutor(1, thread_name_prefix="table") as pool:
        done = pool.submit(lambda: asyncio.run(go()))
        done.add_done_callback(lambda done: _fail(found, done.exception()))
        yield found


def _fail(found: Mapping[str, Future[Ended]], error: BaseException | None) -> None:
    for one in found.values():
        if not one.done():
            one.set_exception(error or RuntimeError("the table has ended"))


def rows() -> list[Any]:
    """Return the cases; those that are much like another only where everything is tested."""
    alike = {"blank", "absolute", "flood-errors", "no-pdf", "chatter"}
    return [pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.name in alike else []) for case in CASES]


@pytest.mark.parametrize("case", rows())
def test_every_error_is_written_told_and_tried_as_the_table_says(case: Case, ends: Mapping[str, Future[Ended]]) -> None:
    ended = ends[case.name].result(PATIENCE.total_seconds())
    summary, row = ended.summary, ended.row
    assert (summary.status, summary.error_code) == (SlicingStatus.FAILED, case.code), summary.message
    assert case.says in (summary.message or "")
    assert (row.status, row.error_code, row.error) == (SlicingStatus.FAILED, case.code, summary.message)
    assert (row.slice_count, row.attempts) == (0, case.starts)
    if case.code is not Code.TIMED_OUT:  # there the program is ended when nobody waits for its record any more
        assert len(ended.programs) == (case.starts if case.programs is None else case.programs)
    assert ended.faults == case.counted
    [mail] = ended.mails
    assert "could not be sliced" in mail["subject"]
    assert f"Error: {case.code}" in text_of(mail)
    assert " ".join((summary.message or "").split())[:200].rstrip(".") in " ".join(text_of(mail).split())
    assert not {name for name in ended.files if not name.startswith("raw/")}, "nothing of a failed run is kept"


# --- what a second attempt, or a part of a result, can still save


@in_a_lane
async def test_a_fault_that_passes_costs_one_more_attempt_and_ends_the_row_of_faults(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("exit,cut")})
    async with lane.running() as nightmill:
        summary = await sliced(nightmill, small_pdf(lane.stack.folder))
        row = row_of(nightmill, summary.sha256)
        assert summary.status is SlicingStatus.SLICED
        assert programs_run(nightmill, row) == [SlicingErrorCode.PROGRAM_FAILED, None]
        assert [fault["spent"] for fault in breaker_of(nightmill).faults] == [True]


@in_a_lane
async def test_what_cannot_be_read_is_kept_for_who_looks_for_the_fault(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("not-json")})
    async with lane.running() as nightmill:
        summary = await sliced(nightmill, small_pdf(lane.stack.folder))
        row = row_of(nightmill, summary.sha256)
        raw = f"slicings/{summary.sha256}/cut/raw/{row.run_id}-slice-1.txt"
        assert b"".join(nightmill.assembly.files.read(raw)) == b'{"page_count": 3, "files": [}\n'


def slices_of(nightmill: Nightmill, row: SlicingRow) -> list[SliceRow]:
    return list(nightmill.assembly.slicing.slices.stream(row))


@in_a_lane
async def test_bad_entries_are_flagged_with_their_reasons_and_the_others_are_kept(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("some-bad")})
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            pdf = small_pdf(lane.stack.folder, pages=7)
            summary = await sliced(nightmill, pdf, notify="mailto:owner@example.org")
            row = row_of(nightmill, summary.sha256)
            slices = slices_of(nightmill, row)
            [mail] = mails_to(mailbox, "owner")
            faults = breaker_of(nightmill).faults
    assert (summary.status, summary.slices, summary.flagged) == (SlicingStatus.NEEDS_REVIEW, 7, 5)
    assert [(each.problem or "").partition(":")[0] for each in slices] == [
        EntryProblem.FILE_MISSING, EntryProblem.NOT_A_PDF, EntryProblem.PAGES_OUT_OF_RANGE, EntryProblem.TEXT_MISSING,
        EntryProblem.INVALID, "", "",
    ]  # fmt: skip
    assert [each.file_key is not None for each in slices] == [False, False, True, True, True, True, True]
    assert row.attempts == 1
    assert faults == []
    assert "is to be looked at" in mail["subject"]
    assert "Slices: 7, 5 with a problem" in text_of(mail)


@in_a_lane
async def test_a_document_without_slices_is_kept_and_its_owner_warned(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("no-files")})
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            summary = await sliced(nightmill, small_pdf(lane.stack.folder), notify="mailto:owner@example.org")
            row = row_of(nightmill, summary.sha256)
            [mail] = mails_to(mailbox, "owner")
            kept = (lane.stack.folder / "files" / "slicings" / summary.sha256 / "original.pdf").exists()
    assert (summary.status, summary.slices, summary.page_count) == (row.status, 0, 3)
    assert not summary.error_code
    assert row.attempts == 1
    assert "no slices found" in mail["subject"]
    assert kept


# --- the machine's faults: they are of one worker, and blame no slicer


@in_a_lane
async def test_a_folder_for_programs_that_cannot_be_made_is_told_after_two_attempts(lane: Lane) -> None:
    taken = lane.stack.folder / "taken"
    taken.write_text("a file where a folder is due")
    slicing_here(lane, {"cut": profile("cut")}, SCRATCH=str(taken))
    async with lane.running() as nightmill:
        summary = await sliced(nightmill, small_pdf(lane.stack.folder))
        faults = breaker_of(nightmill).faults
    assert (summary.status, summary.error_code) == (SlicingStatus.FAILED, SlicingErrorCode.OUTPUT_NOT_WRITABLE)
    assert str(taken) in (summary.message or "")
    assert faults == []


@in_a_lane
async def test_a_disk_without_room_is_told_after_two_attempts(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("cut")})
    async with lane.running() as nightmill:
        object.__setattr__(nightmill.assembly.slicing.scratch, "check_space", full)  # no disk of ours is so small
        began = asyncio.get_running_loop().time()
        summary = await sliced(nightmill, small_pdf(lane.stack.folder))
        took = asyncio.get_running_loop().time() - began
        faults = breaker_of(nightmill).faults
    assert (summary.status, summary.error_code) == (SlicingStatus.FAILED, SlicingErrorCode.DISK_FULL)
    assert took > 5, "it was tried once more"
    assert faults == []


def full(size: int) -> None:
    raise DiskFull(f"{size:,} bytes are needed, and 7 are free")


# --- storage and database


@in_a_lane
async def test_a_file_storage_that_is_away_for_a_while_costs_time_only(lane: Lane) -> None:
    gate = lane.stack.folder / "gate"
    slicing_here(lane, {"cut": profile(f"gate={gate}")})
    files, elsewhere = lane.stack.folder / "files", lane.stack.folder / "elsewhere"
    async with lane.running() as nightmill:
        sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut")
        await until_status(nightmill, sha256, SlicingStatus.SLICING)
        await asyncio.sleep(0.5)
        files.rename(elsewhere)
        files.write_text("no folder")
        gate.touch()
        await until(lambda: len(programs_run(nightmill, row_of(nightmill, sha256))) == 1)
        await asyncio.sleep(1)
        files.unlink()
        elsewhere.rename(files)
        summary = await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
        row = row_of(nightmill, sha256)
        faults = breaker_of(nightmill).faults
        runs = programs_run(nightmill, row)
    assert (summary.status, summary.slices) == (SlicingStatus.SLICED, 3)
    assert (row.attempts, set(runs), faults) == (1, {None}, [])


@in_a_lane
async def test_a_pdf_that_the_storage_has_lost_is_told_at_once(lane: Lane) -> None:
    gate = lane.stack.folder / "gate"
    slicing_here(lane, {"cut": profile(f"gate={gate}"), "other": profile("cut")}, CONCURRENCY="1")
    async with lane.running() as nightmill:
        holding = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut")
        await until_status(nightmill, holding, SlicingStatus.SLICING)
        sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="other")
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while not scheduled(await history(nightmill, sha256, "other"), "inspect_pdf"):
                await asyncio.sleep(0.1)
        (lane.stack.folder / "files" / "slicings" / sha256 / "original.pdf").unlink()
        gate.touch()
        summary = await nightmill.slicings.wait(sha256, "other", timeout=PATIENCE)
        await nightmill.slicings.wait(holding, "cut", timeout=PATIENCE)
    assert (summary.status, summary.error_code) == (SlicingStatus.FAILED, SlicingErrorCode.STORAGE_FAILED)
    assert "there is no such file" in (summary.message or "")


@pytest.fixture
def on_postgres(stack: Stack, postgres_url: str, webhook: WebhookSink) -> Lane:
    stack.database_url = postgres_url
    stack.extra = {"NIGHTMILL_WORKER__SHUTDOWN_GRACE": "2"}
    return Lane(stack, stack.sandbox, webhook)


@pytest.mark.slow
def test_a_postgresql_that_crashes_while_a_program_runs_costs_time_only(on_postgres: Lane, postgres: Any) -> None:
    lane = on_postgres
    gate = lane.stack.folder / "gate"
    slicing_here(lane, {"cut": profile(f"gate={gate}")})

    async def go() -> tuple[SlicingSummary, SlicingRow, list[SliceRow], int]:
        with Mailbox() as mailbox:
            mailbox.notified_by(lane)
            async with lane.running() as nightmill:
                pdf = small_pdf(lane.stack.folder)
                sha256 = await nightmill.slicings.slice(pdf, profile="cut", notify="mailto:owner@example.org")
                await until_status(nightmill, sha256, SlicingStatus.SLICING)
                await asyncio.to_thread(postgres.crash)
                gate.touch()
                await asyncio.sleep(3)
                await asyncio.to_thread(postgres.start)
                summary = await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
                row = row_of(nightmill, sha256)
                return summary, row, slices_of(nightmill, row), len(mails_to(mailbox, "owner"))

    summary, row, slices, mails = asyncio.run(go())
    assert summary.status is SlicingStatus.SLICED
    assert [each.position for each in slices] == [0, 1, 2]
    assert (row.attempts, mails) == (1, 1)


# --- the same in the sandbox


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        ("cut", None),
        ("killed", SlicingErrorCode.PROGRAM_KILLED),
    ],
)
@in_a_lane
async def test_the_sandbox_makes_no_difference_to_how_programs_end(
    lane: Lane, plan: str, code: SlicingErrorCode | None
) -> None:
    if (reason := await asyncio.to_thread(probe_sandbox)) is not None:
        pytest.skip(reason)
    readable = [str(Path(command(plan)[3]).parent)]
    slicing_here(lane, {"cut": profile(plan, read_paths=readable)}, ISOLATION="sandbox")
    async with lane.running() as nightmill:
        summary = await sliced(nightmill, small_pdf(lane.stack.folder))
    assert summary.error_code == code, summary.message
    assert summary.slices == (0 if code else 3)
